"""Adaptive Runge-Kutta solvers of the probability-flow ODE: the error and the number of steps are each sample's own.

    dy/du = slope(x, u),  x = y / scale;     |y_hat - y| / (atol + rtol max(|y_before|, |y|)) < 1 in the root mean square over one sample

``u`` is the integration variable (``variables``).  The default, Angle, is finite at both ends of every path: at alpha = 0 its slope is
-x0, at sigma = 0 eps.  The solver never steps past the grid's last level, and where that is of infinite log-SNR it stops at 20 (or at the
highest trained level); its last call is at its last state, so it also gives the denoise step that follows there (``integrate``).  States at
the grid's levels are the solver's dense output; the grid moves no step.

The solvers are in explicit_pairs.py (Dopri5, Tsit5) and kvaerno.py (Kvaerno5).

nfe of a sample: the first slope, 1 call that finds the first step (first_step.py), and those of each attempted step (``Plan``).  The
machine's work is that of the slowest sample times the batch.

Tableaus, step-size controller and dense output are diffrax's.  The loop is not: its body is one call of the network, whichever stage of
whichever attempt that is for, so that the program holds the network once (a recorder's calls apart).  diffrax's, with a first step before
it and a denoise step after it, holds the network three times and takes twice as long to compile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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

__all__ = ["Adaptive", "Attempt", "Plan", "put_row", "row"]


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


@dataclasses.dataclass(frozen=True)
class _Ode:
    """What one run solves: the ``network`` of one sample, ``(y, t) -> (dy/du, denoise step, nfe)`` over rows (n, d), at the times of
    ``variable``; the ``levels`` of the grid, ascending as ``u`` does; ``near``, beyond which a step is the last; ``only``, whether there is
    nothing to solve and one call is to be made."""

    path: Any
    variable: Any
    sign: Array
    levels: Array
    network: Callable
    plan: Plan

    @property
    def begin(self) -> Array:
        return self.levels[0]

    @property
    def end(self) -> Array:
        return self.levels[-1]

    @property
    def near(self) -> Array:
        return self.end - 100.0 * jnp.finfo(self.levels.dtype).eps * jnp.abs(self.end)  # what is left is too short for dense output

    @property
    def only(self) -> Array:
        return self.end == self.begin

    def time(self, u: Array) -> Array:
        """The time at ``u``; the network is asked at no level beyond the ends."""
        return self.variable.time(self.path, self.sign * jnp.clip(u, self.begin, self.end))


@pytree_dataclass
class Adaptive:
    """The loop of the adaptive Runge-Kutta solvers: a subclass names diffrax's ``solver`` and the calls of an attempt.

    ``rtol``, ``atol`` of one sample's root mean square; a sample that needs more than ``max_steps`` attempts is NaN; ``variable`` is u.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    variable: Any = leaf(default=Angle())

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
        """The calls of an attempt on states of ``d`` numbers."""
        raise NotImplementedError

    def begin(self, y: Array) -> PyTree:
        """What the solver carries of its own from call to call."""
        return ()

    def ahead(self, c: Attempt, h: Array) -> Array | float:
        """What call ``c.call`` adds to y + h sum w k."""
        return 0.0

    def took(self, c: Attempt, h: Array, f: Array) -> Attempt:
        """The attempt when call ``c.call`` has given the slope ``f`` (n, d)."""
        raise NotImplementedError

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
        of_grid, scales = jax.vmap(lambda t: (variable.at(path, t), variable.scale(path, t)))(times)
        sign = jnp.where(of_grid[-1] < of_grid[0], -1.0, 1.0).astype(of_grid.dtype)
        _, restore = ravel_pytree(jax.tree.map(lambda a: a[0], x_T))
        y = jax.vmap(lambda v: ravel_pytree(v)[0])(x_T)
        y = scales[0].astype(y.dtype) * y

        def one(network, y, t):
            p = network(restore(y / variable.scale(path, t).astype(y.dtype)), t)
            slope, denoised = (ravel_pytree(v)[0].astype(y.dtype) for v in (variable.slope(path, t, p), p.at(steps.s[-1])))
            return sign.astype(y.dtype) * slope, denoised, p.nfe

        ode = _Ode(path, variable, sign, sign * of_grid, lambda y, t: denoise.each(one, y, t), self.plan(y.shape[1]))
        zero, u = jnp.zeros((n,), jnp.int32), jnp.broadcast_to(ode.begin, (n,))
        start = Attempt(
            call=jnp.int32(0), u=u, to=jnp.full_like(u, ode.end), y=y, k=jnp.zeros((self.solver.tableau.num_stages, *y.shape), y.dtype),
            own=self.begin(y), seen=y, denoised=y, attempts=zero, nfe=zero,
            states=jnp.broadcast_to(y[:, None], (n, len(times), y.shape[1])),
        )  # fmt: skip
        done = jax.lax.while_loop(lambda c: self._active(c, ode).any() | (c.call == 0), lambda c: self._attempt(c, ode), start)
        states = jnp.where(_column(done.u == ode.end, done.states), done.states / scales.astype(y.dtype)[None, :, None], jnp.nan)
        states, denoised = jax.vmap(jax.vmap(restore))(states), jax.vmap(restore)(done.denoised)
        return Integrated(states=states, num_steps=done.attempts, nfe=done.nfe, denoised=denoised)

    def _active(self, c: Attempt, ode: _Ode) -> Array:
        """Which samples go on; a step that is NaN, or too short to move, is the last."""
        return (c.u < ode.end) & (c.attempts < self.max_steps) & (c.to > c.u)

    def _call(self, c: Attempt, ode: _Ode) -> Attempt:
        """One call of the network, whatever it is for; after the first the Euler step's length is known, then the first step's."""
        weights, node = row(jnp.asarray(ode.plan.weights, c.y.dtype), c.call), row(jnp.asarray(ode.plan.node, c.u.dtype), c.call)
        h = _column(c.to - c.u, c.y)
        u = jnp.where(node == 1, c.to, c.u + node * (c.to - c.u))
        f, denoised, spent = ode.network(c.y + h * jnp.tensordot(weights, c.k, 1) + self.ahead(c, h), ode.time(u))
        c = self.took(c, h, f)
        most, d0, d1 = jnp.full_like(c.u, ode.end - ode.begin), self.size(c.y, c.y), self.size(c.k[0], c.y)
        first = c.u + first_length(c.to - c.u, d1, self.size(c.k[1] - c.k[0], c.y), most, self.order)
        first = jnp.where(first > ode.near, ode.end, first)
        to = jnp.where(c.call == 0, c.u + euler_length(d0, d1, most), jnp.where(c.call == 1, first, c.to))
        asked = (self._active(c, ode) & self.asks(c)) | (ode.only & (c.call == 0))
        return c._replace(call=c.call + 1, to=jnp.where(ode.only, c.to, to), seen=denoised, nfe=c.nfe + jnp.where(asked, spent, 0))

    def _attempt(self, c: Attempt, ode: _Ode) -> Attempt:
        """The calls of an attempt, and diffrax's verdict on it; without an error to judge it by it is refused, and tried shorter."""
        tableau, end = self.solver.tableau, ode.end
        controller = diffrax.PIDController(self.rtol, self.atol)
        _, memory = controller.init(None, ode.begin, end, None, end, None, None, self.order)  # of an I controller, which remembers nothing
        c = jax.lax.while_loop(lambda c: c.call < len(ode.plan.node), lambda c: self._call(c, ode), c)
        going, h = self._active(c, ode), _column(c.to - c.u, c.y)
        new, error = (h * jnp.tensordot(jnp.asarray(b, c.y.dtype), c.k, 1) for b in (tableau.b_sol, tableau.b_error))
        new, error = c.y + new, jnp.where(self.converged(c)[:, None] & ~jnp.isnan(error), error, jnp.inf)

        def judged(u, to, y0, y1, error):
            keep, start, stop, _, _, _ = controller.adapt_step_size(u, to, y0, y1, None, error, self.order, memory)
            return keep, jnp.where(stop > ode.near, jnp.where(keep, end, start + 0.5 * (end - start)), stop)

        keep, stop = jax.vmap(judged)(c.u, c.to, c.y, new, error)
        keep = keep & going
        return c._replace(
            call=jnp.where((keep & (c.to < end)).any(), 2, ode.plan.retry).astype(jnp.int32), u=jnp.where(keep, c.to, c.u),
            to=jnp.where(going, stop, c.to), y=select(keep, new, c.y), own=self.decided(c, keep),
            k=put_row(jnp.zeros_like(c.k), select(keep, c.k[-1], c.k[0]), 0), denoised=select(keep | ode.only, c.seen, c.denoised),
            states=self._saved(c, keep, new, ode.levels), attempts=c.attempts + going,
        )  # fmt: skip

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
