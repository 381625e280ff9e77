"""DPM-Solver++(2M): an exponential multistep integrator of the x0-prediction (Lu et al. 2022b, algorithm 2).

With l = ln(alpha / sigma), h = l_s - l_t, h' = l_t - l_{t'} of the step before, r = h' / h:

    D   = x0_t + (x0_t - x0_{t'}) / (2 r)
    x_s = (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) D

The first step, and the last one to pure data (h infinite), are first order (D = x0_t, which is DDIM).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.linear import combine
from score_lab.types import pytree_dataclass

__all__ = ["DPMSolverPP2M"]


@pytree_dataclass
class DPMSolverPP2M:
    """Second order, one call a step, one step of history: the carry is the last x0."""

    order = 2
    calls = 1
    memory = 1
    stochastic = False

    def init(self, x, steps, path):
        """No x0 yet."""
        return jax.tree.map(jnp.zeros_like, x)

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        path, (t_last, there) = denoise.path, denoise.before(1)
        p = denoise(x, t)
        l_last, l_t, l_s = (0.5 * path.log_snr(u) for u in (t_last, t, s))
        h = l_s - l_t
        second = there & jnp.isfinite(l_last) & jnp.isfinite(h)
        w = jnp.where(second, 0.5 * h / jnp.where(second, l_t - l_last, 1.0), 0.0)
        c = -path.alpha(s) * jnp.expm1(-h)
        return combine((path.sigma(s) / path.sigma(t), x), (c + c * w, p.x0), (-c * w, carry)), p.x0, p
