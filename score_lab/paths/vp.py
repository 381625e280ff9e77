"""Variance-preserving and sub-variance-preserving SDEs with linear beta.

    B(t) = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2
    VP:     alpha = exp(-B/2), sigma^2 = 1 - exp(-B)        (Song et al. 2021, eq. 33)
    sub-VP: alpha = exp(-B/2), sigma   = 1 - exp(-B)        (Song et al. 2021, eq. 38)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.types import Time, pytree_dataclass

__all__ = ["VP", "SubVP"]


@pytree_dataclass
class _LinearBeta(GaussianPath):
    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: Time) -> Time:
        """``beta_min + (beta_max - beta_min) t``."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Time) -> Time:
        """``B(t)``."""
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def time_of_integral(self, B: Time) -> Time:
        """The root t in [0, 1] of ``B(t) = B``, without cancellation."""
        slope = self.beta_max - self.beta_min
        total = self.integral(1.0)
        B = jnp.clip(B, 0.0, total)
        root = 2.0 * B / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2.0 * slope * B))
        return jnp.where(B >= total, 1.0, root)

    def alpha(self, t: Time) -> Time:
        """``exp(-B/2)``."""
        return jnp.exp(-0.5 * self.integral(t))

    def drift(self, t: Time) -> Time:
        """``-beta / 2``."""
        return -0.5 * self.beta(t)

    def check(self) -> None:
        """Positive betas that do not decrease, then the contract of every path."""
        if not 0 < self.beta_min <= self.beta_max < float("inf"):
            refuse(f"{type(self).__name__}.beta_min, beta_max", (self.beta_min, self.beta_max), "0 < beta_min <= beta_max < inf")
        super().check()


@pytree_dataclass
class VP(_LinearBeta):
    """``alpha = exp(-B/2)``, ``sigma = sqrt(1 - exp(-B))``: beta runs linearly from beta_min to beta_max (Song et al. 2021, eq. 33)."""

    def sigma(self, t: Time) -> Time:
        """``sqrt(1 - exp(-B))``."""
        return jnp.sqrt(-jnp.expm1(-self.integral(t)))

    def log_snr(self, t: Time) -> Time:
        """``-ln(exp(B) - 1)``."""
        B = self.integral(t)
        return -(B + jnp.log(-jnp.expm1(-B)))

    def time_of(self, log_snr: Time) -> Time:
        """``B = ln(1 + exp(-log_snr))``, then the quadratic."""
        return self.time_of_integral(jax.nn.softplus(-jnp.asarray(log_snr)))

    def diffusion_squared(self, t: Time) -> Time:
        """``beta``."""
        return self.beta(t)

    def prior_std(self, t: Time = 1.0) -> Time:
        """1: the path keeps unit variance."""
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float)))


@pytree_dataclass
class SubVP(_LinearBeta):
    """``alpha = exp(-B/2)``, ``sigma = 1 - exp(-B)`` (Song et al. 2021, eq. 38)."""

    def sigma(self, t: Time) -> Time:
        """``1 - exp(-B)``."""
        return -jnp.expm1(-self.integral(t))

    def log_snr(self, t: Time) -> Time:
        """``-2 ln(2 sinh(B/2))``, because ``kappa = (1 - exp(-B)) exp(B/2)``."""
        B = self.integral(t)
        return -(B + 2.0 * jnp.log(-jnp.expm1(-B)))

    def time_of(self, log_snr: Time) -> Time:
        """``B = 2 asinh(kappa / 2)``; for large kappa ``2 ln kappa`` plus what is left, so that nothing overflows."""
        log_kappa = -0.5 * jnp.asarray(log_snr)
        small = 2.0 * jnp.arcsinh(0.5 * jnp.exp(jnp.minimum(log_kappa, 20.0)))
        large = 2.0 * (log_kappa + jnp.exp(-2.0 * jnp.maximum(log_kappa, 20.0)))
        return self.time_of_integral(jnp.where(log_kappa < 20.0, small, large))

    def sigma_dot(self, t: Time) -> Time:
        """``beta exp(-B)``."""
        return self.beta(t) * jnp.exp(-self.integral(t))

    def diffusion_squared(self, t: Time) -> Time:
        """``beta (1 - exp(-2B))`` (Song et al. 2021, eq. 37)."""
        return -self.beta(t) * jnp.expm1(-2.0 * self.integral(t))
