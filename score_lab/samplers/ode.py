"""Euler and Heun on the probability-flow ODE, in a chosen variable (see ``variables``).

    Euler  y_s = y_t + h k_1
    Heun   y_s = y_t + h (k_1 + k_2) / 2,    k_2 the slope at (y_t + h k_1, s)        (Karras et al. 2022, algorithm 1 without churn)

Heun's last step to pure data (sigma = 0) is Euler, as in EDM, so N steps cost 2N - 1 evaluations; ``at_data`` makes the second call there
too where the variable's slope is finite (what torchdiffeq's fixed-grid methods do on a flow).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.linear import combine
from score_lab.samplers.variables import Kappa, T
from score_lab.types import leaf, pytree_dataclass

__all__ = ["Euler", "Heun"]


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


@pytree_dataclass
class Heun:
    """Second order, two calls a step, one where the second would be at an infinite level."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 2
    calls = 2
    memory = 0
    stochastic = False

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """``y_s = y_t + h (k_1 + k_2) / 2``, written as Euler plus ``h (k_2 - k_1) / 2``."""
        path, u = denoise.path, self.variable
        p = denoise(x, t)
        x_euler = u.euler(path, x, t, s, p)
        second = u.finite(path, t) & u.finite(path, s)
        if not self.at_data:
            second &= path.sigma(s) > 0
        p_s = denoise(x_euler, s, where=second, otherwise=p)
        a, b = jnp.where(second, t, 0.5), jnp.where(second, s, 0.25)
        half = jnp.where(second, 0.5 * u.length(path, a, b), 0.0)
        return combine((1.0, x_euler), (half, u.slope(path, b, p_s)), (-half, u.slope(path, a, p))), carry, p_s
