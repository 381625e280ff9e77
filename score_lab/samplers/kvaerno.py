"""Kvaerno's implicit 5(4) for stiff problems of few dimensions: stiffly accurate ESDIRK, gamma = 0.26 (Kvaerno 2004; diffrax's tableau).

A stage k = f(u_i, y + h sum_j a_ij k_j + h gamma k) is solved by Newton's iteration with one Jacobian a step (the chord method),

    k <- k - (1 - h gamma J)^-1 (k - f(...)),       from the predictor sum_j alpha_ij k_j,       J = df/dy at the start of the step

``iterations`` times, never fewer.  J is taken by differences, as scipy's implicit solvers take it, a column a call: sqrt(eps) (1 + |y_j|)
is an error of the iteration's rate only.  A stage whose last correction is more than ``CONVERGED`` of the tolerance refuses the step, and
the next is a fifth of it.  A refused step keeps its J.

nfe of a sample: the first slope and 1 call that finds the first step (first_step.py); 1 + d for the J of every step begun; 6 ``iterations``
of every attempt.  The machine's work is more: where one sample begins a new step, all wait for its Jacobian.  The denoise step is that of
the last iteration, whose state is the last one to a tenth of the tolerance.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.samplers.adaptive import Adaptive, Attempt, Plan, put_row, row
from score_lab.types import Array, pytree_dataclass

__all__ = ["Kvaerno5"]

CONVERGED = 0.1
"""Of the tolerance, in its norm."""


class _Newton(NamedTuple):
    """Of every sample: the slope ``base`` at the start of the step, the Jacobian (n, d, d), whether it is ``known`` for this start, the
    attempt's (1 - h gamma J)^-1, the iterate ``z`` and whether all stages have converged so far."""

    base: Array
    jacobian: Array
    known: Array
    inverse: Array
    z: Array
    good: Array


@pytree_dataclass
class Kvaerno5(Adaptive):
    """Kvaerno 5(4) for stiff problems of at most ``LARGEST`` dimensions, ``iterations`` of each stage; other fields as ``Adaptive``."""

    iterations: int = 4

    solver: ClassVar[Any] = diffrax.Kvaerno5
    LARGEST: ClassVar[int] = 256

    @property
    def calls(self) -> int:
        """Evaluations of an attempt beside those of its Jacobian."""
        return 6 * self.iterations

    def check(self) -> None:
        """``iterations`` from 2 to 10, and what ``Adaptive`` asks."""
        super().check()
        if not 2 <= self.iterations <= 10:
            refuse("Kvaerno5.iterations", self.iterations, "a whole number from 2 to 10")

    def integrate(self, denoise, x_T, steps, draw):
        """``Integrated``; ConfigError for a state of too many dimensions."""
        size = sum(a[0].size for a in jax.tree.leaves(x_T))
        if size > self.LARGEST:
            refuse("Kvaerno5", f"a state of {size} dimensions", f"at most {self.LARGEST} (its Jacobian is dense); Dopri5 or Tsit5")
        return super().integrate(denoise, x_T, steps, draw)

    def plan(self, d: int) -> Plan:
        """The slope at the start, an Euler step ahead; 1 + d calls of the Jacobian; ``iterations`` of each stage but the first."""
        tableau, first = self.solver.tableau, 2 + 1 + d
        stages = np.repeat(np.arange(1, tableau.num_stages), self.iterations)
        weights = np.zeros((first + len(stages), tableau.num_stages))
        weights[1, 0] = 1.0
        for k, stage in enumerate(stages):
            weights[first + k, :stage] = tableau.a_lower[stage - 1]
        node = np.concatenate([[0.0, 1.0], np.zeros(1 + d), tableau.c[stages - 1]])
        return Plan(weights, node, retry=first)

    def begin(self, y: Array) -> _Newton:
        """Nothing is known."""
        n, d = y.shape
        none, square = jnp.zeros((n,), bool), jnp.zeros((n, d, d), y.dtype)
        return _Newton(base=jnp.zeros_like(y), jacobian=square, known=none, inverse=square, z=jnp.zeros_like(y), good=~none)

    def ahead(self, c: Attempt, h: Array) -> Array:
        """The Jacobian's difference; h gamma k of a stage's iterate."""
        column = jnp.arange(c.y.shape[1]) == c.call - 3
        difference = jnp.where(column[None], _difference(c.y), 0.0)
        return jnp.where(c.call < _stages(c), difference, self._gamma(c.y) * h * self._iterate(c))

    def asks(self, c: Attempt) -> Array:
        """All, but the Jacobian of those that have it."""
        return ~c.own.known | (c.call < 2) | (c.call >= _stages(c))

    def took(self, c: Attempt, h: Array, f: Array) -> Attempt:
        """The first two slopes; a column of the Jacobian; an iteration."""
        which = jnp.where(c.call < 2, 0, jnp.where(c.call == 2, 1, jnp.where(c.call < _stages(c), 2, 3)))
        return jax.lax.switch(which, (self._slope, self._base, self._jacobian, self._iteration), c, h, f)

    def converged(self, c: Attempt) -> Array:
        """Where all stages have converged."""
        return c.own.good

    def decided(self, c: Attempt, keep: Array) -> _Newton:
        """The Jacobian of a refused step is kept."""
        return c.own._replace(known=~keep, good=jnp.ones_like(keep))

    def _slope(self, c: Attempt, h: Array, f: Array) -> Attempt:
        return c._replace(k=put_row(c.k, f, c.call))

    def _base(self, c: Attempt, h: Array, f: Array) -> Attempt:
        return c._replace(own=c.own._replace(base=jnp.where(c.own.known[:, None], c.own.base, f)))

    def _jacobian(self, c: Attempt, h: Array, f: Array) -> Attempt:
        at, own = c.call - 3, c.own
        column = (f - own.base) / jax.lax.dynamic_slice_in_dim(_difference(c.y), at, 1, 1)
        column = jnp.where(own.known[:, None], jax.lax.dynamic_index_in_dim(own.jacobian, at, 2, keepdims=False), column)
        return c._replace(own=own._replace(jacobian=jax.lax.dynamic_update_index_in_dim(own.jacobian, column, at, 2)))

    def _iteration(self, c: Attempt, h: Array, f: Array) -> Attempt:
        own, gamma, number = c.own, self._gamma(c.y), c.call - _stages(c)
        one = jnp.eye(c.y.shape[1], dtype=c.y.dtype)[None]
        inverse = jax.lax.cond(number == 0, lambda: jnp.linalg.inv(one - gamma * h[:, :, None] * own.jacobian), lambda: own.inverse)
        z = self._iterate(c)
        change = jnp.einsum("nij,nj->ni", inverse, z - f)
        z, last = z - change, number % self.iterations == self.iterations - 1
        converged = self.size(gamma * h * change, c.y) <= CONVERGED
        stage = 1 + number // self.iterations
        k = put_row(c.k, jnp.where(last, z, row(c.k, stage)), stage)
        return c._replace(k=k, own=own._replace(inverse=inverse, z=z, good=own.good & (converged | ~last)))

    def _iterate(self, c: Attempt) -> Array:
        """z, of a stage's first iteration what its predictor says."""
        tableau, number = self.solver.tableau, jnp.maximum(c.call - _stages(c), 0)
        predictor = np.zeros((tableau.num_stages - 1, tableau.num_stages))
        for i, weights in enumerate(tableau.a_predictor):
            predictor[i, : i + 1] = weights
        said = jnp.tensordot(row(jnp.asarray(predictor, c.y.dtype), number // self.iterations), c.k, 1)
        return jnp.where(number % self.iterations == 0, said, c.own.z)

    def _gamma(self, y: Array) -> Array:
        return jnp.asarray(self.solver.tableau.a_diagonal[-1], y.dtype)


def _stages(c: Attempt) -> int:
    """The first call of an attempt's stages: two for the first step, 1 + d for the Jacobian are before it."""
    return 2 + 1 + c.y.shape[1]


def _difference(y: Array) -> Array:
    """What every number of ``y`` is moved by for a column of the Jacobian: about half of its digits."""
    return jnp.sqrt(jnp.finfo(y.dtype).eps) * (1.0 + jnp.abs(y))
