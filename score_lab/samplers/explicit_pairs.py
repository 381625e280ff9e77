"""Explicit embedded pairs of order 5(4) whose last stage is at the new state, so that its slope is the next step's first.

    y_new = y + h sum_i b_i k_i,     error = h sum_i e_i k_i,     k_i = f(u + c_i h, y + h sum_{j<i} a_ij k_j),     i = 1, ..., 7

    Dopri5    Dormand & Prince 1980: scipy's RK45, torchdiffeq's dopri5
    Tsit5     Tsitouras 2011

6 calls of each attempted step: nfe is scipy's.  The tableaus are diffrax's, the loop is adaptive.py's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import diffrax
import jax.numpy as jnp
import numpy as np

from score_lab.samplers.adaptive import Adaptive, Attempt, Plan, put_row
from score_lab.types import Array, pytree_dataclass

__all__ = ["Dopri5", "Tsit5"]


class _Pair(Adaptive):
    """The calls of a pair: a subclass names diffrax's ``solver``."""

    calls = 6

    def plan(self, d: int) -> Plan:
        """The slope at the start, an Euler step ahead, the stages but the first; ``d`` does not matter."""
        tableau = self.solver.tableau
        weights = np.zeros((tableau.num_stages + 1, tableau.num_stages))
        weights[1, 0] = 1.0
        for i, stage in enumerate(tableau.a_lower):
            weights[i + 2, : i + 1] = stage
        return Plan(weights, np.asarray([0.0, 1.0, *tableau.c]), retry=2)

    def took(self, c: Attempt, h: Array, f: Array) -> Attempt:
        """k_1, then the slope of the Euler step where k_2 will be, then k_2 to k_7."""
        return c._replace(k=put_row(c.k, f, jnp.maximum(c.call - (c.call > 1), 0)))


@pytree_dataclass
class Dopri5(_Pair):
    """Dormand-Prince 5(4) (Dormand & Prince 1980); fields as ``Adaptive``."""

    solver: ClassVar[Any] = diffrax.Dopri5


@pytree_dataclass
class Tsit5(_Pair):
    """Tsitouras 5(4) (Tsitouras 2011); fields as ``Adaptive``."""

    solver: ClassVar[Any] = diffrax.Tsit5
