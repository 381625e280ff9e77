"""Adams-Bashforth of two steps on the probability-flow ODE, for unequal steps: the slope before is remembered, not computed again.

    x_s = x_t + h ((1 + w/2) velocity_t - w/2 velocity_before),    h = s - t,  w = h / h_before    (Hairer et al. 1993, III.5)
"""

import jax
import jax.numpy as jnp

from score_lab.linear import combine
from score_lab.types import pytree_dataclass


@pytree_dataclass
class AdamsBashforth2:
    """Second order, one call a step; the first step is Euler's."""

    order = 2
    calls = 1
    memory = 1
    stochastic = False

    def init(self, x, steps, path):
        """No slope before the first step: w = h / inf = 0."""
        return jax.tree.map(jnp.zeros_like, x), jnp.full_like(steps.start, jnp.inf)

    def step(self, denoise, x, t, s, draw, carry):
        """One step t -> s."""
        before, h_before = carry
        prediction = denoise(x, t)
        h = s - t
        half = 0.5 * h / h_before
        x_s = combine((1.0, x), (h * (1.0 + half), prediction.velocity), (-h * half, before))
        return x_s, (prediction.velocity, h), prediction
