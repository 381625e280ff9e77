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
k-diffusion's ``sample_dpm_adaptive``, but for the error, which is each sample's (``together``: the batch's, as there).  Where a denoise
step remains, its call is the first of an attempt that is not made.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine, expand, select, square_norm
from score_lab.samplers.ancestral import up_and_down
from score_lab.samplers.base import Integrated
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.integrate import refuse_ends
from score_lab.samplers.multipliers import nought
from score_lab.samplers.variables import LogSNR
from score_lab.types import Array, PyTree, pytree_dataclass, static

__all__ = ["DPMAdaptive"]

_NEAR = 1e-5
"""A remainder of l below this is taken with the step before it."""


class _State(NamedTuple):
    """Of every sample: its state and level, the proposed step, inverse errors, the grid level it heads for, what it has cost, and the
    denoise step from where the last attempt began; of all, whether that is where they ended."""

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
    denoised: PyTree
    finished: Array


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
    draws: bool = static(default=True, repr=False)
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with eta = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not nought(self.eta)

    def specialise(self) -> DPMAdaptive:
        """The form without draws where eta is 0."""
        return dataclasses.replace(self, eta=0.0, draws=False) if self.draws and float(self.eta) == 0.0 else self

    @property
    def calls(self) -> int:
        """Of an attempted step."""
        return self.order

    @property
    def _nodes(self) -> tuple[float, ...]:
        """0, r1 and, of order 3, r2 = 2 r1."""
        return (0.0, 0.5) if self.order == 2 else (0.0, 1 / 3, 2 / 3)

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
        """``Integrated``."""
        path, n = denoise.path, jax.tree.leaves(x_T)[0].shape[0]
        times, rest = denoise.times()
        levels = 0.5 * path.log_snr(times)
        size = sum(a[0].size for a in jax.tree.leaves(x_T))

        def active(c: _State) -> Array:
            return (c.node < len(times)) & (c.attempts < self.max_steps) & jnp.isfinite(c.h)

        def attempt(c: _State) -> _State:
            going, goal = active(c), levels[jnp.minimum(c.node, len(times) - 1)]
            t = jnp.where(c.level + c.h >= goal - _NEAR, goal, c.level + c.h)
            down, up = self._ancestral(c.level, t, levels[-1])
            last = ~active(c).any()
            slopes, denoised, spent = self._called(denoise, c.y, c.level, down - c.level, steps.s[-1], jnp.where(last, 1, self.order))
            low, high = self._pair(slopes, c.y, down, down - c.level)
            error = self._error(low, high, c.y_prev, size)
            inverse = 1.0 / (error + 1e-8)
            first = c.inverse[:, 0] == 0
            errors = jnp.where(first[:, None], inverse[:, None], c.inverse).at[:, 0].set(inverse)
            factor = self._factor(errors)
            accept = going & (factor >= self.accept_safety)
            errors = jnp.where(accept[:, None], errors[:, jnp.array([0, 0, 1])], errors)
            if self.draws:
                z = draw(c.accepted[0] if self.together else jnp.max(c.attempts))
                high = combine((1.0, high), (self.s_noise * up, z))
            y = select(accept, high, c.y)
            level = jnp.where(accept, t, c.level)
            there = accept & (level >= goal)
            made = going | (last & (c.node == len(times)))
            return _State(
                y=y, y_prev=select(accept, low, c.y_prev), level=level, h=jnp.where(going, c.h * factor, c.h),
                inverse=jnp.where(going[:, None], errors, c.inverse), node=c.node + there,
                states=jax.tree.map(lambda kept, a: _put(kept, a, c.node, there), c.states, y),
                attempts=c.attempts + going, accepted=c.accepted + accept, nfe=c.nfe + jnp.where(made, spent, 0), denoised=denoised,
                finished=last | c.finished,
            )  # fmt: skip

        y = combine((1.0 / path.alpha(times[0]), x_T))
        zero = jnp.zeros((n,), jnp.int32)
        kept = jax.tree.map(lambda a: jnp.full((n, len(times)) + a.shape[1:], jnp.nan, a.dtype).at[:, 0].set(a), y)
        level = jnp.broadcast_to(levels[0], (n,))
        start = _State(
            y=y, y_prev=y, level=level, h=jnp.full_like(level, self.h_init), inverse=jnp.zeros((n, 3), level.dtype), node=zero + 1,
            states=kept, attempts=zero, accepted=zero, nfe=zero, denoised=y, finished=~rest,
        )  # fmt: skip
        end = jax.lax.while_loop(lambda c: active(c).any() | ~c.finished, attempt, start)
        alpha = path.alpha(times)
        states = jax.tree.map(lambda a: alpha.astype(a.dtype).reshape((1, -1) + (1,) * (a.ndim - 2)) * a, end.states)
        return Integrated(states=states, num_steps=end.attempts, nfe=end.nfe, denoised=end.denoised)

    def _called(self, denoise, y, l, h, s, count) -> tuple[PyTree, PyTree, Array]:  # noqa: E741
        """eps at y and at the inner states, (order, n, ...), by ``count`` calls from level ``l`` on; the denoise step to ``s`` from y; and
        what they cost.  One call, written once, whose weights of the slopes so far are those of u1 and of u2."""
        path, r = denoise.path, jnp.asarray(self._nodes, l.dtype)

        def call(j, carry):
            slopes, denoised, spent = carry
            level, rh = l + r[j] * h, r[j] * h
            inner = jnp.where(j == 2, 2.0 * (jnp.expm1(rh) / jnp.where(rh == 0, 1.0, rh) - 1.0), 0.0)
            change = jax.tree.map(lambda e: e[1] - e[0], slopes)
            first, scale = jax.tree.map(lambda e: e[0], slopes), -jnp.exp(-level)
            at = combine((1.0, y), (scale * jnp.expm1(rh), first), (scale * inner, change))
            t = path.time_of(2.0 * level)
            p = denoise(combine((path.alpha(t), at)), t)
            slopes = jax.tree.map(lambda e, new: jax.lax.dynamic_update_index_in_dim(e, new.astype(e.dtype), j, 0), slopes, p.eps)
            step = jax.tree.map(lambda new, a: jnp.where(j == 0, new.astype(a.dtype), a), p.at(s), denoised)
            return slopes, step, spent + jnp.asarray(p.nfe, jnp.int32)

        none = jax.tree.map(lambda a: jnp.zeros((self.order, *a.shape), a.dtype), y)
        return jax.lax.fori_loop(0, count, call, (none, y, jnp.zeros(l.shape, jnp.int32)))

    def _pair(self, slopes, y, t, h) -> tuple[PyTree, PyTree]:
        """The low- and the high-order state at level ``t``, a step ``h`` on."""
        e, sigma = jax.tree.map(lambda e: e[0], slopes), jnp.exp(-t)
        d1, d2 = (jax.tree.map(lambda e, k=k: e[k] - e[0], slopes) for k in (1, self.order - 1))
        one = combine((1.0, y), (-sigma * jnp.expm1(h), e))
        two = combine((1.0, one), (-sigma / (2 * self._nodes[1]) * jnp.expm1(h), d1))
        if self.order == 2:
            return one, two
        return two, combine((1.0, one), (-sigma / self._nodes[2] * (jnp.expm1(h) / h - 1.0), d2))

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
