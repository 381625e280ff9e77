"""DPM-Solver-12 and -23: adaptive steps in log-SNR by an embedded pair (Lu et al. 2022, algorithms 3, 4 and appendix C).

In y = x / alpha, sigma = kappa = e^-l, l = ln(alpha / sigma), h = l_t - l_s:

    order 1   y_t = y_s - sigma_t (e^h - 1) eps(y_s, s)                                                                  (3.7)
    order 2   u = y_s - sigma_s1 (e^(r1 h) - 1) eps,    y_t = order 1 - sigma_t / (2 r1) (e^h - 1) (eps(u, s1) - eps)           (4.1)
    order 3   u1 as there;  u2 = y_s - sigma_s2 (e^(r2 h) - 1) eps - sigma_s2 r2 / r1 ((e^(r2 h) - 1) / (r2 h) - 1) (eps(u1, s1) - eps)
              y_t = order 1 - sigma_t / r2 ((e^h - 1) / h - 1) (eps(u2, s2) - eps),    r1 = 1/3, r2 = 2/3                (4.2, 4.3)
    error     rms((y_low - y_high) / max(atol, rtol max(|y_low|, |y_prev|))),    y_prev the last accepted low-order state     (app. C)
    step size h <- h limiter(e_0^-b1 e_1^-b2 e_2^-b3),    limiter(f) = 1 + atan(f - 1), accepted if that is >= accept_safety

The step size is k-diffusion's PID controller; eta > 0 takes each step to a lower level and adds fresh noise, as its ancestral samplers do.
A step ends at the next level of the grid at the latest, so the states there are the solver's own: on a grid of one step this is
k-diffusion's ``sample_dpm_adaptive``, but for the error, which is each sample's (``together``: the batch's, as there).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine, expand, select, square_norm
from score_lab.samplers.ancestral import up_and_down
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.integrate import refuse_ends
from score_lab.samplers.variables import LogSNR
from score_lab.types import Array, PyTree, pytree_dataclass

__all__ = ["DPMAdaptive"]

_NEAR = 1e-5
"""A remainder of l below this is taken with the step before it."""


class _State(NamedTuple):
    """Of every sample: its state and level, the proposed step, inverse errors, the grid level it heads for, what it has cost."""

    y: PyTree
    y_prev: PyTree
    level: Array
    h: Array
    inverse: Array
    node: Array
    states: PyTree
    attempts: Array
    accepted: Array
    nfe: Array


@pytree_dataclass
class DPMAdaptive:
    """``order`` 2 (pair 1, 2) or 3 (pair 2, 3) calls a step; tolerances of ``y = x / alpha`` (a VE state); ``h_init`` in l.

    A sample that needs more than ``max_steps`` attempts is NaN.  ``together``: one step size for the batch; then a sample depends on its
    batch-mates, and noise is keyed by accepted steps in place of attempts.
    """

    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81
    eta: float = 0.0
    s_noise: float = 1.0
    together: bool = False
    max_steps: int = 1000
    memory = 0
    stochastic = True

    @property
    def calls(self) -> int:
        """Of an attempted step."""
        return self.order

    def check(self) -> None:
        """Fields in their ranges."""
        if self.order not in (2, 3):
            refuse("DPMAdaptive.order", self.order, "2 or 3")
        check_numbers(self, "rtol", "atol", "h_init", "accept_safety", positive=True)
        check_numbers(self, "eta", "s_noise")
        if self.max_steps < 1:
            refuse("DPMAdaptive.max_steps", self.max_steps, "a whole number, at least 1")

    def check_steps(self, steps, path) -> None:
        """Refuses a grid that renoises, ascends or starts at an infinite log-SNR."""
        self.check()
        refuse_ends(self, steps, path, LogSNR())
        if not bool((steps.s < steps.t).all()):
            refuse("grid", "a grid that ascends", "one that descends: DPMAdaptive does not encode (Dopri5 and Tsit5 do)")

    def integrate(self, denoise, x_T, steps, draw):
        """States at the grid's levels, attempted steps, evaluations."""
        path, n = denoise.path, jax.tree.leaves(x_T)[0].shape[0]
        times, _ = denoise.times()
        levels = 0.5 * path.log_snr(times)
        size = sum(a[0].size for a in jax.tree.leaves(x_T))

        def eps(y, level):
            t = path.time_of(2.0 * level)
            p = denoise(combine((path.alpha(t), y)), t)
            return jax.tree.map(lambda a, b: a.astype(b.dtype), p.eps, y), jnp.asarray(p.nfe, jnp.int32)

        def active(c: _State) -> Array:
            return (c.node < len(times)) & (c.attempts < self.max_steps) & jnp.isfinite(c.h)

        def attempt(c: _State) -> _State:
            going, goal = active(c), levels[jnp.minimum(c.node, len(times) - 1)]
            t = jnp.where(c.level + c.h >= goal - _NEAR, goal, c.level + c.h)
            down, up = self._ancestral(c.level, t, levels[-1])
            low, high, spent = self._pair(eps, c.y, c.level, down)
            error = self._error(low, high, c.y_prev, size)
            inverse = 1.0 / (error + 1e-8)
            first = c.inverse[:, 0] == 0
            errors = jnp.where(first[:, None], inverse[:, None], c.inverse).at[:, 0].set(inverse)
            factor = self._factor(errors)
            accept = going & (factor >= self.accept_safety)
            errors = jnp.where(accept[:, None], errors[:, jnp.array([0, 0, 1])], errors)
            z = draw(c.accepted[0] if self.together else jnp.max(c.attempts))
            noisy = combine((1.0, high), (self.s_noise * up, z))
            y = select(accept, noisy, c.y)
            level = jnp.where(accept, t, c.level)
            there = accept & (level >= goal)
            return _State(
                y=y, y_prev=select(accept, low, c.y_prev), level=level, h=jnp.where(going, c.h * factor, c.h),
                inverse=jnp.where(going[:, None], errors, c.inverse), node=c.node + there,
                states=jax.tree.map(lambda kept, a: _put(kept, a, c.node, there), c.states, y),
                attempts=c.attempts + going, accepted=c.accepted + accept, nfe=c.nfe + jnp.where(going, spent, 0),
            )  # fmt: skip

        y = combine((1.0 / path.alpha(times[0]), x_T))
        zero = jnp.zeros((n,), jnp.int32)
        kept = jax.tree.map(lambda a: jnp.full((n, len(times)) + a.shape[1:], jnp.nan, a.dtype).at[:, 0].set(a), y)
        level = jnp.broadcast_to(levels[0], (n,))
        start = _State(
            y=y, y_prev=y, level=level, h=jnp.full_like(level, self.h_init), inverse=jnp.zeros((n, 3), level.dtype), node=zero + 1,
            states=kept, attempts=zero, accepted=zero, nfe=zero,
        )  # fmt: skip
        end = jax.lax.while_loop(lambda c: active(c).any(), attempt, start)
        alpha = path.alpha(times)
        states = jax.tree.map(lambda a: alpha.astype(a.dtype).reshape((1, -1) + (1,) * (a.ndim - 2)) * a, end.states)
        return states, end.attempts, end.nfe

    def _pair(self, eps, y, s, t) -> tuple[PyTree, PyTree, Array]:
        """The low- and the high-order state at ``t``, and the evaluations spent."""
        h, sigma = t - s, jnp.exp(-t)
        e, spent = eps(y, s)

        def inner(r, *terms):
            level = s + r * h
            more, cost = eps(combine((1.0, y), (-jnp.exp(-level) * jnp.expm1(r * h), e), *terms), level)
            return combine((1.0, more), (-1.0, e)), cost

        one = combine((1.0, y), (-sigma * jnp.expm1(h), e))
        r1 = 0.5 if self.order == 2 else 1 / 3
        d1, cost = inner(r1)
        two = combine((1.0, one), (-sigma / (2 * r1) * jnp.expm1(h), d1))
        if self.order == 2:
            return one, two, spent + cost
        r2 = 2 / 3
        d2, last = inner(r2, (-jnp.exp(-(s + r2 * h)) * (r2 / r1) * (jnp.expm1(r2 * h) / (r2 * h) - 1.0), d1))
        three = combine((1.0, one), (-sigma / r2 * (jnp.expm1(h) / h - 1.0), d2))
        return two, three, spent + cost + last

    def _ancestral(self, s, t, end) -> tuple[Array, Array]:
        """The level stepped to and the standard deviation of the noise that leads from there back up to ``t``."""
        up, low = up_and_down(jnp.exp(-s), jnp.exp(-t), self.eta, jnp.exp(-end))
        return jnp.where(up > 0, jnp.minimum(end, -jnp.log(low)), t), up

    def _error(self, low, high, prev, size) -> Array:
        def one(a, b, c):
            return (a - b) / jnp.maximum(self.atol, self.rtol * jnp.maximum(jnp.abs(a), jnp.abs(c)))

        square = square_norm(jax.tree.map(one, low, high, prev)) / size
        return jnp.sqrt(jnp.broadcast_to(jnp.mean(square), square.shape) if self.together else square)

    def _factor(self, inverse) -> Array:
        """What h is multiplied with, from the inverse errors of this attempt and the two accepted before it."""
        order = jnp.where(self.eta > 0, 1.5, float(self.order))
        b1 = (self.pcoeff + self.icoeff + self.dcoeff) / order
        b2, b3 = -(self.pcoeff + 2.0 * self.dcoeff) / order, self.dcoeff / order
        factor = inverse[:, 0] ** b1 * inverse[:, 1] ** b2 * inverse[:, 2] ** b3
        return 1.0 + jnp.arctan(factor - 1.0)


def _put(kept: Array, a: Array, node: Array, there: Array) -> Array:
    """``kept[i, node[i]] = a[i]`` where ``there[i]``."""
    rows = jnp.arange(len(node))
    at = jnp.minimum(node, kept.shape[1] - 1)
    return kept.at[rows, at].set(jnp.where(expand(there, a), a, kept[rows, at]))
