"""Adaptive Runge-Kutta solvers of the probability-flow ODE: the error and the number of steps are each sample's own.

    dy/du = slope(x, u),  x = y / scale;     |y_hat - y| / (atol + rtol max(|y_before|, |y|)) < 1 in the root mean square over one sample

``u`` is the integration variable (``variables``).  The default, Angle, is finite at both ends of every path: at alpha = 0 its slope is
-x0, at sigma = 0 eps.  The solver never steps past the grid's last level, and where that is of infinite log-SNR it stops at 20 (or at the
highest trained level); its last call is at its last state, so it also gives the denoise step that follows there (``integrate``).  States at
the grid's levels are the solver's dense output; the grid moves no step.

    Dopri5    Dormand & Prince 1980, 5(4), 6 calls a step (the last is the next step's first): scipy's RK45, torchdiffeq's dopri5
    Tsit5     Tsitouras 2011, 5(4), 6 calls a step
    Kvaerno5  implicit: kvaerno.py

nfe of a sample: the first slope, 1 call that finds the first step (first_step.py), and 6 of each attempted step, as scipy's.  The
machine's work is that of the slowest sample times the batch.

Tableaus, step-size controller and dense output are diffrax's.  The loop is not: its body is one call of the network, whichever stage of
whichever attempt that is for, so that the program holds the network once (a recorder's calls apart).  diffrax's, with a first step before
it and a denoise step after it, holds the network three times and takes twice as long to compile.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from score_lab.build import refuse
from score_lab.linear import select
from score_lab.samplers.base import Integrated
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.first_step import euler_length, first_length
from score_lab.samplers.integrate import refuse_ends
from score_lab.samplers.variables import Angle
from score_lab.types import Array, PyTree, leaf, pytree_dataclass

__all__ = ["Adaptive", "Attempt", "Dopri5", "Plan", "Tsit5", "put_row", "row"]

@dataclasses.dataclass(frozen=True)
class Plan:
    """The calls of a first attempt in their order, the slope at the start and an Euler step ahead first: ``weights`` (R, S) of the slopes
    that are known by then, ``node`` (R,); a later attempt begins with the third call, or with ``retry`` where none goes on from a new
    state."""

    weights: np.ndarray
    node: np.ndarray
    retry: int


class Attempt(NamedTuple):
    """Of all samples ``call``, the row of ``Plan`` that comes next; of every sample its state y (n, d) at ``u``, the end ``to`` of the
    attempt and what is known of it: the slopes ``k`` (S, n, d), the solver's ``own``, the denoise steps ``seen`` from the last call's state
    and ``denoised`` from the last accepted one, the states at the grid's levels (n, N + 1, d), and what it has cost.  ``u`` and ``to``
    ascend: they are the variable, or less the variable where that falls."""

    call: Array
    u: Array
    to: Array
    y: Array
    k: Array
    own: PyTree
    seen: Array
    denoised: Array
    states: Array
    attempts: Array
    nfe: Array


class Adaptive:
    """The loop of the adaptive Runge-Kutta solvers: a subclass names diffrax's ``solver`` and the calls of an attempt."""

    solver: ClassVar[Any]
    memory = 0
    stochastic = False
    order = 5
    calls = 6

    def check(self) -> None:
        """``rtol``, ``atol`` positive, ``max_steps`` at least 1."""
        name = type(self).__name__
        check_numbers(self, "rtol", "atol", positive=True)
        if self.max_steps < 1:
            refuse(f"{name}.max_steps", self.max_steps, "a whole number, at least 1")
        if not all(hasattr(self.variable, method) for method in ("at", "time", "scale", "slope")):
            refuse(f"{name}.variable", self.variable, "Angle, T, LogSNR or Kappa, or what has at, time, scale and slope")

    def check_steps(self, steps, path) -> None:
        """Refuses a grid that renoises, and one at whose start the variable is infinite."""
        self.check()
        refuse_ends(self, steps, path, self.variable)

    def plan(self, d: int) -> Plan:
        """The calls of an attempt on ``d`` numbers: of an explicit pair whose last stage is the next step's first, its stages."""
        del d
        tableau = self.solver.tableau
        weights = np.zeros((tableau.num_stages + 1, tableau.num_stages))
        weights[1, 0] = 1.0
        for i, stage in enumerate(tableau.a_lower):
            weights[i + 2, : i + 1] = stage
        return Plan(weights, np.asarray([0.0, 1.0, *tableau.c]), retry=2)

    def begin(self, y: Array) -> PyTree:
        """What the solver carries of its own from call to call."""
        return ()

    def ahead(self, c: Attempt, h: Array) -> Array | float:
        """What call ``c.call`` adds to y + h sum w k."""
        return 0.0

    def took(self, c: Attempt, h: Array, f: Array) -> Attempt:
        """The attempt when call ``c.call`` has given the slope ``f``: here k's."""
        return c._replace(k=put_row(c.k, f, c.call - (c.call > 1)))

    def asks(self, c: Attempt) -> Array | bool:
        """Which samples need call ``c.call``."""
        return True

    def converged(self, c: Attempt) -> Array:
        """Which samples have an error to be judged by."""
        return jnp.ones_like(c.u, bool)

    def decided(self, c: Attempt, keep: Array) -> PyTree:
        """``own`` for the next attempt."""
        return c.own

    def integrate(self, denoise, x_T, steps, draw):
        """``Integrated``, with the denoise step."""
        path, variable, n = denoise.path, self.variable, jax.tree.leaves(x_T)[0].shape[0]
        times, _ = denoise.times()
        times = times if denoise.recorded else times[jnp.asarray((0, -1))]
        of_grid = jax.vmap(lambda t: variable.at(path, t))(times)
        scales = jax.vmap(lambda t: variable.scale(path, t))(times)
        sign = jnp.where(of_grid[-1] < of_grid[0], -1.0, 1.0).astype(of_grid.dtype)
        levels = sign * of_grid
        begin, end = levels[0], levels[-1]
        near = end - 100.0 * jnp.finfo(levels.dtype).eps * jnp.abs(end)  # what is left beyond is too short for a step
        only = end == begin  # nothing but the denoise step, of one call
        _, restore = ravel_pytree(jax.tree.map(lambda a: a[0], x_T))
        y = jax.vmap(lambda v: ravel_pytree(v)[0])(x_T)
        y = scales[0].astype(y.dtype) * y
        tableau, plan = self.solver.tableau, self.plan(y.shape[1])
        weights, node = jnp.asarray(plan.weights, y.dtype), jnp.asarray(plan.node, end.dtype)
        controller = diffrax.PIDController(self.rtol, self.atol)
        _, inner = controller.init(None, begin, end, None, end, None, None, self.order)  # of an I controller, which remembers nothing

        def active(c: Attempt) -> Array:
            return (c.u < end) & (c.attempts < self.max_steps) & (c.to > c.u)  # a step that is NaN, or too short to move, is the last

        def call(c: Attempt) -> Attempt:
            h, place = _column(c.to - c.u, y), row(node, c.call)
            u = jnp.where(place == 1, c.to, c.u + place * (c.to - c.u))
            at = c.y + h * jnp.tensordot(row(weights, c.call), c.k, 1) + self.ahead(c, h)
            t = variable.time(path, sign * jnp.clip(u, begin, end))
            f, denoised, spent = denoise.each(one, at, t)
            c = self.took(c, h, f)
            most, d0, d1 = jnp.full_like(c.u, end - begin), self.size(c.y, c.y), self.size(c.k[0], c.y)
            first = c.u + first_length(c.to - c.u, d1, self.size(c.k[1] - c.k[0], c.y), most, self.order)
            first = jnp.where(first > near, end, first)
            to = jnp.where(c.call == 0, c.u + euler_length(d0, d1, most), jnp.where(c.call == 1, first, c.to))
            to = jnp.where(only, c.to, to)
            asked = (active(c) & self.asks(c)) | (only & (c.call == 0))
            return c._replace(call=c.call + 1, to=to, seen=denoised, nfe=c.nfe + jnp.where(asked, spent, 0))

        def one(network, y, t):
            """Of one sample the slope, the denoise step and what they cost."""
            p = network(restore(y / variable.scale(path, t).astype(y.dtype)), t)
            slope, denoised = (ravel_pytree(v)[0].astype(y.dtype) for v in (variable.slope(path, t, p), p.at(steps.s[-1])))
            return sign.astype(y.dtype) * slope, denoised, p.nfe

        def attempt(c: Attempt) -> Attempt:
            c = jax.lax.while_loop(lambda c: c.call < len(plan.node), call, c)
            going, h = active(c), _column(c.to - c.u, y)
            new, error = (h * jnp.tensordot(jnp.asarray(b, y.dtype), c.k, 1) for b in (tableau.b_sol, tableau.b_error))
            new, error = c.y + new, jnp.where(self.converged(c)[:, None] & ~jnp.isnan(error), error, jnp.inf)  # refused, and tried shorter

            def judged(u, to, y0, y1, error):
                keep, start, stop, _, _, _ = controller.adapt_step_size(u, to, y0, y1, None, error, self.order, inner)
                return keep, jnp.where(stop > near, jnp.where(keep, end, start + 0.5 * (end - start)), stop)

            keep, stop = jax.vmap(judged)(c.u, c.to, c.y, new, error)
            keep = keep & going
            states = self._saved(c, keep, new, levels)
            return c._replace(
                call=jnp.where((keep & (c.to < end)).any(), 2, plan.retry).astype(jnp.int32), u=jnp.where(keep, c.to, c.u),
                to=jnp.where(going, stop, c.to), y=select(keep, new, c.y), own=self.decided(c, keep),
                k=put_row(jnp.zeros_like(c.k), select(keep, c.k[-1], c.k[0]), 0), denoised=select(keep | only, c.seen, c.denoised),
                states=states, attempts=c.attempts + going,
            )  # fmt: skip

        zero, level = jnp.zeros((n,), jnp.int32), jnp.broadcast_to(begin, (n,))
        start = Attempt(
            call=jnp.int32(0), u=level, to=jnp.full_like(level, end), y=y, k=jnp.zeros((tableau.num_stages, *y.shape), y.dtype),
            own=self.begin(y), seen=y, denoised=y,
            states=jnp.broadcast_to(y[:, None], (n, len(times), y.shape[1])), attempts=zero, nfe=zero,
        )  # fmt: skip
        done = jax.lax.while_loop(lambda c: active(c).any() | (c.call == 0), attempt, start)
        states = jnp.where(_column(done.u == end, done.states), done.states / scales.astype(y.dtype)[None, :, None], jnp.nan)
        states = jax.vmap(jax.vmap(restore))(states)
        return Integrated(states=states, num_steps=done.attempts, nfe=done.nfe, denoised=jax.vmap(restore)(done.denoised))

    def size(self, v: Array, y: Array) -> Array:
        """The root mean square of ``v`` (n, d) in units of the tolerance at ``y``."""
        return jnp.sqrt(jnp.mean(jnp.square(v / (self.atol + self.rtol * jnp.abs(y))), axis=1))

    def _saved(self, c: Attempt, keep: Array, new: Array, levels: Array) -> Array:
        """The states at the grid's levels, with an accepted step's dense output at those that lie in it."""

        def one(u, to, y0, y1, k):
            made = getattr(self.solver.interpolation_cls, "from_k", self.solver.interpolation_cls)(t0=u, t1=to, y0=y0, y1=y1, k=k)
            return jax.vmap(made.evaluate)(levels).astype(y1.dtype)

        states = jax.vmap(one, (0, 0, 0, 0, 1))(c.u, c.to, c.y, new, c.k * _column(c.to - c.u, new)[None])
        u, to = c.u[:, None], c.to[:, None]
        states = jnp.where((levels[None] == to)[..., None], new[:, None], states)
        return jnp.where((keep[:, None] & (levels[None] > u) & (levels[None] <= to))[..., None], states, c.states)


def row(rows: Array, k: Array) -> Array:
    """``rows[k]``."""
    return jax.lax.dynamic_index_in_dim(rows, k, keepdims=False)


def put_row(rows: Array, new: Array, k: Array | int) -> Array:
    """``rows`` with ``new`` for ``rows[k]``."""
    return jax.lax.dynamic_update_index_in_dim(rows, new, k, 0)


def _column(v: Array, like: Array) -> Array:
    """``v`` (n,) with ones appended up to the rank of ``like``, numbers in its precision."""
    v = v.astype(like.dtype) if jnp.issubdtype(v.dtype, jnp.inexact) else v
    return v.reshape(v.shape + (1,) * (like.ndim - 1))


@pytree_dataclass
class Dopri5(Adaptive):
    """Dormand-Prince 5(4).  ``rtol``, ``atol`` of one sample's root mean square; a sample that needs more than ``max_steps`` is NaN."""

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    variable: Any = leaf(default=Angle())

    solver: ClassVar[Any] = diffrax.Dopri5


@pytree_dataclass
class Tsit5(Adaptive):
    """Tsitouras 5(4); fields as ``Dopri5``."""

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    variable: Any = leaf(default=Angle())

    solver: ClassVar[Any] = diffrax.Tsit5
