"""Euler on the probability-flow ODE, in a chosen variable (see ``variables``): ``y_s = y_t + h k_1``.  The simplest sampler there is."""

from __future__ import annotations

from typing import Any

from score_lab.samplers.variables import T
from score_lab.types import leaf, pytree_dataclass

__all__ = ["Euler"]


@pytree_dataclass
class Euler:
    """First order, one call a step.  In ``Kappa`` it is DDIM; in ``T`` on a linear flow it is the same method again."""

    variable: Any = leaf(default=T())
    order = 1
    calls = 1
    memory = 0
    stochastic = False

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """``y_s = y_t + h k_1``."""
        p = denoise(x, t)
        return self.variable.euler(denoise.path, x, t, s, p), carry, p
