"""Variance-exploding paths, alpha = 1.

    VE:  sigma = sigma_min (sigma_max / sigma_min)^t     (geometric; Song et al. 2021, eq. 31 without the -sigma_min^2 at 0)
    EDM: sigma = sigma_max t                             (Karras et al. 2022: sigma itself is the time)

VE ends at sigma_min, not at 0: its log-SNR at t = 0 is finite.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.types import Time, pytree_dataclass

__all__ = ["EDM", "VE"]


@pytree_dataclass
class VE(GaussianPath):
    """``alpha = 1``, ``sigma = sigma_min (sigma_max / sigma_min)^t``."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t: Time) -> Time:
        """1."""
        return jnp.ones_like(t)

    def sigma(self, t: Time) -> Time:
        """``sigma_min (sigma_max / sigma_min)^t``."""
        return jnp.exp((1.0 - t) * jnp.log(self.sigma_min) + t * jnp.log(self.sigma_max))

    def log_snr(self, t: Time) -> Time:
        """``-2 ln sigma``, linear in t."""
        return -2.0 * ((1.0 - t) * jnp.log(self.sigma_min) + t * jnp.log(self.sigma_max))

    def time_of(self, log_snr: Time) -> Time:
        """``(ln sigma - ln sigma_min) / (ln sigma_max - ln sigma_min)``."""
        low = jnp.log(self.sigma_min)
        t = (-0.5 * jnp.asarray(log_snr) - low) / (jnp.log(self.sigma_max) - low)
        return jnp.clip(t, 0.0, 1.0)

    def diffusion_squared(self, t: Time) -> Time:
        """``2 sigma^2 ln(sigma_max / sigma_min)``."""
        return 2.0 * self.sigma(t) ** 2 * jnp.log(self.sigma_max / self.sigma_min)

    def check(self) -> None:
        """``0 < sigma_min < sigma_max``, then the contract of every path."""
        if not 0 < self.sigma_min < self.sigma_max < float("inf"):
            refuse("VE.sigma_min, sigma_max", (self.sigma_min, self.sigma_max), "0 < sigma_min < sigma_max < inf")
        super().check()


@pytree_dataclass
class EDM(GaussianPath):
    """``alpha = 1``, ``sigma = sigma_max t`` (Karras et al. 2022, table 1): Euler in t is Euler in sigma."""

    sigma_max: float = 80.0

    def alpha(self, t: Time) -> Time:
        """1."""
        return jnp.ones_like(t)

    def sigma(self, t: Time) -> Time:
        """``sigma_max t``."""
        return self.sigma_max * t

    def time_of(self, log_snr: Time) -> Time:
        """``exp(-log_snr / 2) / sigma_max``."""
        return jnp.clip(jnp.exp(-0.5 * jnp.asarray(log_snr)) / self.sigma_max, 0.0, 1.0)

    def diffusion_squared(self, t: Time) -> Time:
        """``2 sigma_max^2 t``."""
        return 2.0 * self.sigma_max**2 * t

    def check(self) -> None:
        """``0 < sigma_max < inf``, then the contract of every path."""
        if not 0 < self.sigma_max < float("inf"):
            refuse("EDM.sigma_max", self.sigma_max, "> 0 and finite")
        super().check()
