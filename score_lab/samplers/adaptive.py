"""Adaptive Runge-Kutta solvers of the probability-flow ODE, by diffrax: the error and the number of steps are each sample's own.

    dy/du = slope(x, u),  x = y / scale;       |y_hat - y| / (atol + rtol |y|) <= 1 in the root mean square over one sample

``u`` is the integration variable (``variables``).  The default, Angle, is finite at both ends of every path: at alpha = 0 its slope is
-x0, at sigma = 0 eps.  The solver never steps past the grid's last level, and where that is of infinite log-SNR it stops at 20 (or at the
highest trained level) and one denoise step follows (``integrate``).  States at the grid's levels are the solver's dense output; the grid
moves no step.

    Dopri5    Dormand & Prince 1980, 5(4), 6 calls a step (the last is the next step's first): scipy's RK45, torchdiffeq's dopri5
    Tsit5     Tsitouras 2011, 5(4), 6 calls a step
    Kvaerno5  Kvaerno 2004, 5(4), stiffly accurate ESDIRK: of few dimensions d, since every step needs Jacobians of the slope

nfe, exactly what one sample alone is evaluated: 2 calls choose the first step, 6 are of each attempted step, and of each attempt from the
start 1 more, the first slope.  Kvaerno5: 6 stages of ``iterations`` each, the first slope one more stage, and diffrax takes two Jacobians
a step, at its start and at its second stage, 1 + d each (a forward derivative counted as one).  The machine's work is that of the slowest
sample times the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import optimistix

from score_lab.build import refuse
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.integrate import refuse_ends
from score_lab.samplers.variables import Angle
from score_lab.types import Array, PyTree, leaf, pytree_dataclass

__all__ = ["Dopri5", "Kvaerno5", "Tsit5", "first_step"]


class _Adaptive:
    """``integrate`` and ``check`` of the three; a subclass names its solver."""

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

    def integrate(self, denoise, x_T, steps, draw):
        """States at the grid's levels, attempted steps, evaluations: one diffrax solve for each sample."""
        path, variable = denoise.path, self.variable
        times, _ = denoise.times()
        levels = jax.vmap(lambda t: variable.at(path, t))(times)
        scales = jax.vmap(lambda t: variable.scale(path, t))(times)
        solver, stages, extra = self._solver()

        low, high = jnp.minimum(levels[0], levels[-1]), jnp.maximum(levels[0], levels[-1])

        def time(u):
            """Of a node; Kvaerno5's third lies 1.23 steps on, and that of the last step beyond the end, where no network was trained."""
            return variable.time(path, jnp.clip(u, low, high))

        def one(network, x):
            def slope(u, y, _):
                t = time(u)
                scaled = jax.tree.map(lambda a: a / variable.scale(path, t).astype(a.dtype), y)
                p = network(scaled, t)
                return jax.tree.map(lambda a, b: a.astype(b.dtype), variable.slope(path, t, p), y)

            def cost(u):
                """Evaluations that one call at ``u`` spends: what makes it of states is never run."""
                return network(jax.tree.map(jnp.zeros_like, x), time(u)).nfe

            size = sum(a.size for a in jax.tree.leaves(x))
            controller = _Counting(self.rtol, self.atol, cost=cost, nodes=stages, start=levels[0], **extra(size))
            y = jax.tree.map(lambda a: scales[0].astype(a.dtype) * a, x)
            first = first_step(lambda u, y: slope(u, y, None), levels[0], levels[-1], y, self.rtol, self.atol, self.order)
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(slope), solver, levels[0], levels[-1], first, y,
                stepsize_controller=controller, saveat=diffrax.SaveAt(ts=levels, controller_state=True),
                max_steps=self.max_steps, throw=False, adjoint=diffrax.ForwardMode(),
            )  # fmt: skip
            arrived = solution.result == diffrax.RESULTS.successful

            def back(a):
                scale = scales.astype(a.dtype).reshape((-1,) + (1,) * (a.ndim - 1))
                return jnp.where(arrived, a / scale, jnp.nan)

            return jax.tree.map(back, solution.ys), solution.stats["num_steps"], solution.controller_state[1]

        states, num_steps, nfe = denoise.each(one, x_T)
        return states, num_steps.astype(jnp.int32), nfe


def first_step(slope: Callable, start: Array, end: Array, y: PyTree, rtol: float | Array, atol: float | Array, order: int) -> Array:
    """The first step (Hairer, Norsett & Wanner 1993, II.4; scipy's) from the sizes d0, d1, d2 of the state and of its first two
    derivatives; an Euler step of 1 % of the state finds the last.  Two calls of ``slope(u, y)``.  (diffrax 0.7's own is 0.01, whatever
    the variable.)"""
    scale = jax.tree.map(lambda a: atol + rtol * jnp.abs(a), y)
    size = sum(a.size for a in jax.tree.leaves(y))

    def rms(v):
        return jnp.sqrt(sum(jnp.sum((a / b) ** 2) for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(scale), strict=True)) / size)

    def euler(f, h):
        return jax.tree.map(lambda a, b: a + h.astype(a.dtype) * jnp.sign(end - start).astype(a.dtype) * b, y, f)

    def look(_, carry):  # twice, written once: at the start, then h0 further
        h0, f0, _ = carry
        f = slope(start + h0 * jnp.sign(end - start), euler(f0, h0))
        d0, d1 = rms(y), rms(f)
        h = jnp.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / jnp.where(d1 > 0, d1, 1.0)).astype(h0.dtype)
        return jnp.where(h0 > 0, h0, jnp.minimum(h, jnp.abs(end - start))), jax.tree.map(lambda a, b: jnp.where(h0 > 0, a, b), f0, f), f

    zero = jax.tree.map(jnp.zeros_like, y)
    h0, f0, f1 = jax.lax.fori_loop(0, 2, look, (jnp.zeros_like(start), zero, zero))
    most = jnp.maximum(rms(f0), rms(jax.tree.map(jnp.subtract, f1, f0)) / h0)
    h1 = jnp.where(most <= 1e-15, jnp.maximum(1e-6, 1e-3 * h0), (0.01 / jnp.maximum(most, 1e-15)) ** (1 / order))
    return jnp.sign(end - start) * jnp.minimum(jnp.minimum(100.0 * h0, h1), jnp.abs(end - start)).astype(start.dtype)


class _Counting(diffrax.PIDController):
    """diffrax's controller, which sees every attempted step, and so can count what it spent: ``cost`` at each of the step's
    nodes, ``first`` times at ``start`` for each attempt from there, and for two Jacobians of ``derivatives`` columns, if any."""

    cost: Any = None
    nodes: tuple = ()
    start: Any = 0.0
    first: int = 1
    derivatives: int = 0
    direction: Any = 1

    def wrap(self, direction):
        """diffrax integrates upwards and tells its controller -u where u falls."""
        return dataclasses.replace(self, direction=direction)

    def init(self, terms, t0, t1, y0, dt0, func, args, error_order):
        """``first_step`` took two calls close to the start."""
        first, state = super().init(terms, t0, t1, y0, dt0, func, args, error_order)
        return first, (state, jnp.int32(2) * self.cost(self.direction * t0))

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        """The inner controller's decision, and the step's calls counted."""
        state, nfe = controller_state
        keep, t0_next, t1_next, jump, state, result = super().adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        times = self.direction * (t0 + jnp.asarray((0.0, *self.nodes), t0.dtype) * (t1 - t0))
        costs = jax.vmap(self.cost)(times)
        spent = jnp.sum(costs[1:], dtype=jnp.int32) + jnp.where(times[0] == self.start, jnp.int32(self.first) * costs[0], 0)
        if self.derivatives:
            spent = spent + jnp.int32(1 + self.derivatives) * (costs[0] + costs[1])
        return keep, t0_next, t1_next, jump, (state, nfe + spent), result


class _Chord(diffrax.VeryChord):
    """diffrax's chord iteration, always ``iterations`` times: diffrax gives up a stage whose second step is longer than its first, which
    the rounding of a small first step also does, and how often it was evaluated is then not known."""

    iterations: int = 4

    def step(self, fn, y, args, options, state, tags):
        """diffrax's step; one that is not finite is not taken, and has not converged."""
        new, found, aux = super().step(fn, y, args, options, state, tags)
        finite = jnp.all(jnp.asarray([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(new)]))
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, y)
        return new, dataclasses.replace(found, diffsize=jnp.where(finite, found.diffsize, jnp.inf)), aux

    def terminate(self, fn, y, args, options, state, tags):
        """At ``iterations``; what diffrax says then is whether it converged."""
        _, result = super().terminate(fn, y, args, options, state, tags)
        done = state.step >= self.iterations
        return done, optimistix.RESULTS.where(done, result, optimistix.RESULTS.successful)


@pytree_dataclass
class Dopri5(_Adaptive):
    """Dormand-Prince 5(4).  ``rtol``, ``atol`` of one sample's root mean square; a sample that needs more than ``max_steps`` is NaN."""

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    variable: Any = leaf(default=Angle())

    def _solver(self) -> tuple[Any, tuple[float, ...], Callable[[int], dict[str, int]]]:
        return diffrax.Dopri5(), _nodes(diffrax.Dopri5), _explicit


@pytree_dataclass
class Tsit5(_Adaptive):
    """Tsitouras 5(4); fields as ``Dopri5``."""

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    variable: Any = leaf(default=Angle())

    def _solver(self) -> tuple[Any, tuple[float, ...], Callable[[int], dict[str, int]]]:
        return diffrax.Tsit5(), _nodes(diffrax.Tsit5), _explicit


@pytree_dataclass
class Kvaerno5(_Adaptive):
    """Kvaerno 5(4) for stiff problems of at most ``LARGEST`` dimensions; other fields as ``Dopri5``.

    ``iterations`` of the chord method, never fewer, solve each stage; a step of which a stage has not converged then is refused and tried
    again with a smaller one (diffrax).
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    variable: Any = leaf(default=Angle())
    iterations: int = 4

    LARGEST: ClassVar[int] = 256

    @property
    def calls(self) -> int:
        """Evaluations of a step beside those of its Jacobians."""
        return 6 * self.iterations

    def check(self) -> None:
        """``iterations`` from 2 to 10, and what ``Dopri5`` asks."""
        super().check()
        if not 2 <= self.iterations <= 10:
            refuse("Kvaerno5.iterations", self.iterations, "a whole number from 2 to 10")

    def integrate(self, denoise, x_T, steps, draw):
        """As the others; ConfigError for a state of too many dimensions."""
        size = sum(a[0].size for a in jax.tree.leaves(x_T))
        if size > self.LARGEST:
            refuse("Kvaerno5", f"a state of {size} dimensions", f"at most {self.LARGEST} (its Jacobian is dense); Dopri5 or Tsit5")
        return super().integrate(denoise, x_T, steps, draw)

    def _solver(self) -> tuple[Any, tuple[float, ...], Callable[[int], dict[str, int]]]:
        finder = diffrax.with_stepsize_controller_tols(_Chord)(iterations=self.iterations)
        solver = diffrax.Kvaerno5(root_finder=finder, root_find_max_steps=self.iterations + 1)
        extra = lambda size: {"first": self.iterations, "derivatives": size}  # noqa: E731
        return solver, _nodes(diffrax.Kvaerno5) * self.iterations, extra


def _nodes(solver: Any) -> tuple[float, ...]:
    """The nodes c_2, c_3, ... of a solver whose first stage is the last step's last."""
    return tuple(float(c) for c in solver.tableau.c)


def _explicit(size: int) -> dict[str, int]:
    """What a solver without Jacobians counts besides its nodes, for a state of ``size`` numbers: the first slope."""
    return {"first": 1}
