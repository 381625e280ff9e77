"""Time-Shift: the next state's variance decides which time it is taken for (Li et al. 2024), as published, as released, and corrected.

    paper      after the step t -> s:  t_s = argmin over |tau - s| <= window / 2 of |var(x_s) - sigma_tau^2|,  the next step starts at t_s
    released   before the step:        s'  = the same with var(x_t);  the step goes to s', the next one starts at s
    corrected  as the paper, with      |mean (x_s - alpha_s mu)^2 - V(tau)|,    V = alpha^2 s^2 + sigma^2

    normalise  x_s <- centre + (x_s - centre) sqrt(sigma_s^2 / var),  or V in place of sigma^2: the released code's normalize_variance,
               before the time is looked for, which then is s

var is the unbiased variance over one sample's values; only s > cutoff (released: t > cutoff) are shifted.  sigma^2 alone is the variance
of data that have none, so the first two shift forward samples too.  Every form is refused where the variance of the data's own states, V,
says nothing of the level: where it is not monotone (the linear flow below t = s^2 / (1 + s^2)), or constant (VP and s = 1).  The first two
take more variance for more noise, so they are refused where V falls with t as well (VP and s > 1).  ``anywhere`` has these two anyway.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.linear import batch_of, expand
from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.nominal import step_at
from score_lab.types import Array, leaf, pytree_dataclass

__all__ = ["TimeShift"]

FORMS = ("paper", "released", "corrected")
BISECTIONS = 60


@pytree_dataclass
class TimeShift(Around):
    """``window`` and ``cutoff`` in t (the paper's steps of 1000, over 1000); ``s2`` of the data, by which every form is judged, and
    ``mean``, which only "corrected" uses; ``normalise``: the state is given the variance of its time in place of a time for its variance;
    ``anywhere`` allows the paper's and the released form where the variance of the data's states says nothing of their level.

    Around a one-step sampler of one call: every sample has a time of its own.  A recorder sees the grid's times, and as the level fed the
    one that was told.
    """

    sampler: Any = leaf()
    window: float = 0.03
    cutoff: float = 0.3
    form: str = "corrected"
    s2: float = 1.0
    mean: Any = leaf(default=0.0)
    normalise: bool = False
    anywhere: bool = False
    memoryless = True
    most_calls = 1
    wraps = "sampler"

    def check_steps(self, steps: Any, path: Any) -> None:
        """A known form, 0 < window, 0 <= cutoff < 1; a monotone V on all that is shifted, which rises with t for the literal forms."""
        super().check_steps(steps, path)
        if self.form not in FORMS:
            refuse("TimeShift.form", self.form, ", ".join(FORMS), FORMS)
        if not (self.window > 0 and 0 <= self.cutoff < 1):
            refuse("TimeShift.window, cutoff", (self.window, self.cutoff), "window > 0 and 0 <= cutoff < 1, in t")
        if not self.s2 >= 0:
            refuse("TimeShift.s2", self.s2, ">= 0, the data's variance")
        literal = self.form != "corrected"
        if literal and self.anywhere:
            return
        t = np.linspace(max(self.cutoff - 0.5 * self.window, 0.0), 1.0, 513)
        log_v = np.log(np.maximum(np.asarray(self._of_data(path, jnp.asarray(t)), np.float64), 1e-300))
        turns, or_so = np.diff(log_v), ", or anywhere=True" if literal else ""
        if np.ptp(log_v) < 1e-3:
            allowed = f"another path: unidentifiable on {type(path).__name__}, where V is the same at all times"
            refuse("TimeShift.s2", self.s2, f"{allowed}{or_so}")
        if literal and turns[-1] <= 0:
            where = f"{type(path).__name__}, where the variance of data of {self.s2:.3g} falls with the noise"
            refuse("TimeShift.form", self.form, f"form='corrected' on {where}{or_so}")
        wrong = np.sign(turns) != np.sign(turns[-1])
        if wrong.any():
            least = t[1:][wrong].max() + 0.5 * self.window
            allowed = f"cutoff >= {least:.3g}: below it V is not monotone and one variance has two times"
            refuse("TimeShift.cutoff", self.cutoff, f"{allowed}{or_so}")

    def init(self, x, steps, path):
        """The times of the samples, and the inner sampler's carry."""
        return jnp.broadcast_to(steps.t[0], (batch_of(x),)), self.sampler.init(x, steps, path)

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step, from the time that the state was taken for or, as released, to another."""
        path, (at, inner) = denoise.path, carry
        if self.normalise:
            x_s, inner, p = self.sampler.step(denoise, x, t, s, draw, inner)
            on = (s > self.cutoff) & (path.sigma(s) > 0)
            found, centre = self._variance(path, x_s, s), self._centre(path, x_s, s)
            factor = jnp.where(on, jnp.sqrt(self._level(path, s) / jnp.where(found > 0, found, 1.0)), 1.0)
            return centre + expand(factor, x_s) * (x_s - centre), (at, inner), p
        if self.form == "released":
            low, high = s - 0.5 * self.window, jnp.minimum(s + 0.5 * self.window, t)
            to = jnp.where(t > self.cutoff, self.match(path, x, s, jnp.maximum(low, 0.0), high), s)
            x_s, inner, p = step_at(self.sampler, denoise, x, t, to, draw, inner, shown=(x, t))
            return x_s, (at, inner), p
        x_s, inner, p = step_at(self.sampler, denoise, x, at, s, draw, inner, shown=(x, t))
        last = denoise.steps.s.shape[0] - 1
        after = denoise.steps.s[jnp.minimum(denoise.step + 1, last)]
        low, high = jnp.maximum(s - 0.5 * self.window, after), jnp.minimum(s + 0.5 * self.window, 1.0)
        found = jnp.where((s > self.cutoff) & (path.sigma(s) > 0), self.match(path, x_s, s, low, high), s)
        return x_s, (found.astype(at.dtype), inner), p

    def match(self, path: Any, x: Array, s: Any, low: Any, high: Any) -> Array:
        """The times (batch,) in [low, high] whose variance is the nearest to that of x, a state at s."""
        v = self._variance(path, x, s)
        rising = self._level(path, high) >= self._level(path, low)

        def halve(_, ends):
            a, b = ends
            middle = 0.5 * (a + b)
            beyond = (self._level(path, middle) < v) == rising
            return jnp.where(beyond, middle, a), jnp.where(beyond, b, middle)

        ends = tuple(jnp.broadcast_to(jnp.asarray(e, v.dtype), v.shape) for e in (low, high))
        a, b = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
        return 0.5 * (a + b)

    def _of_data(self, path: Any, t: Any) -> Any:
        """V: the variance of the data's states at t."""
        return path.sigma(t) ** 2 + self.s2 * path.alpha(t) ** 2

    def _level(self, path: Any, t: Any) -> Any:
        """The variance that this form takes for that of a state at t."""
        return self._of_data(path, t) if self.form == "corrected" else path.sigma(t) ** 2

    def _centre(self, path: Any, x: Array, s: Any) -> Array:
        """What deviations are from: each sample's own mean, or alpha_s mu."""
        if self.form != "corrected":
            return jnp.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)
        mean = jnp.asarray(self.mean, x.dtype)
        return path.alpha(s).astype(x.dtype) * (mean[None] if mean.ndim else jnp.full((1,) * x.ndim, mean))

    def _variance(self, path: Any, x: Array, s: Any) -> Array:
        """The variance that every state has: unbiased, or about alpha_s mu."""
        d = x[0].size - (self.form != "corrected")
        return jnp.sum(jnp.square(x - self._centre(path, x, s)).reshape(len(x), -1), axis=1) / d
