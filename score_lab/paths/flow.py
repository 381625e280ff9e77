"""The linear flow (rectified flow, conditional OT): a straight line between data and noise.

    alpha = 1 - t, sigma = t, velocity = eps - x0        (Lipman et al. 2023, eq. 20-23, with their time reversed; Liu et al. 2023)
    log_snr = 2 ln((1 - t) / t),  t = 1 / (1 + exp(log_snr / 2))
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.paths.base import GaussianPath
from score_lab.types import Time, pytree_dataclass

__all__ = ["LinearFlow"]


@pytree_dataclass
class LinearFlow(GaussianPath):
    """``alpha = 1 - t``, ``sigma = t``."""

    def alpha(self, t: Time) -> Time:
        """``1 - t``."""
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        """``t``."""
        return 1.0 * t

    def time_of(self, log_snr: Time) -> Time:
        """``sigmoid(-log_snr / 2)``."""
        return jax.nn.sigmoid(-0.5 * jnp.asarray(log_snr))

    def diffusion_squared(self, t: Time) -> Time:
        """``2 t / (1 - t)``."""
        return jnp.where(t < 1, 2.0 * t / jnp.where(t < 1, 1.0 - t, 1.0), jnp.inf)
