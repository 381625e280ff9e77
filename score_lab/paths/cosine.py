"""Paths whose angle runs at constant speed: ``u = pi t / 2``.

    trigonometric: alpha = cos u, sigma = sin u                                  (Albergo & Vanden-Eijnden 2023, GVP; TrigFlow)
    cosine:        kappa = tan(u) exp(-shift / 2), alpha^2 + sigma^2 = 1         (Nichol & Dhariwal 2021 without their offset;
                   log_snr = -2 ln tan u + shift                                  Hoogeboom et al. 2023, eq. 4-5: shift = 2 ln(64 / d))

Both ends are exact: alpha(1) = 0 and sigma(0) = 0 to the last bit.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.paths.base import GaussianPath
from score_lab.types import Time, pytree_dataclass

__all__ = ["Cosine", "Trigonometric"]


def _sin(t: Time) -> Time:
    return jnp.sin(0.5 * jnp.pi * t)


def _time(log_tangent: Time) -> Time:
    """``t`` with ``ln tan(pi t / 2) = log_tangent``; exactly 1 at infinity, where pi / 2 in floating point may round to more."""
    return jnp.where(jnp.isposinf(log_tangent), 1.0, jnp.minimum((2.0 / jnp.pi) * jnp.arctan(jnp.exp(log_tangent)), 1.0))


@pytree_dataclass
class Trigonometric(GaussianPath):
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``."""

    def alpha(self, t: Time) -> Time:
        """``cos(pi t / 2)``, written as a sine of ``1 - t`` so that it is 0 at t = 1."""
        return _sin(1.0 - t)

    def sigma(self, t: Time) -> Time:
        """``sin(pi t / 2)``."""
        return _sin(t)

    def time_of(self, log_snr: Time) -> Time:
        """``(2 / pi) atan(exp(-log_snr / 2))``."""
        return _time(-0.5 * jnp.asarray(log_snr))

    def drift(self, t: Time) -> Time:
        """``-(pi / 2) tan(pi t / 2)``; -inf at t = 1."""
        return -0.5 * jnp.pi * _sin(t) / _sin(1.0 - t)

    def diffusion_squared(self, t: Time) -> Time:
        """``pi tan(pi t / 2)``, because alpha^2 + sigma^2 = 1."""
        return -2.0 * self.drift(t)

    def prior_std(self, t: Time = 1.0) -> Time:
        """1: the path keeps unit variance."""
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float)))


@pytree_dataclass
class Cosine(GaussianPath):
    """``log_snr = -2 ln tan(pi t / 2) + shift``, variance preserving.

    ``shift`` in nats of log-SNR: ``2 ln(64 / d)`` keeps the noise of a d x d image equal to that of a 64 x 64 one.
    """

    shift: float = 0.0

    def _parts(self, t: Time) -> tuple[Time, Time, Time]:
        c, s = _sin(1.0 - t), _sin(t) * jnp.exp(-0.5 * self.shift)
        return c, s, jnp.hypot(c, s)

    def alpha(self, t: Time) -> Time:
        """``1 / sqrt(1 + kappa^2)``."""
        c, _, norm = self._parts(t)
        return c / norm

    def sigma(self, t: Time) -> Time:
        """``kappa / sqrt(1 + kappa^2)``."""
        _, s, norm = self._parts(t)
        return s / norm

    def log_snr(self, t: Time) -> Time:
        """``-2 ln tan(pi t / 2) + shift``."""
        return 2.0 * (jnp.log(_sin(1.0 - t)) - jnp.log(_sin(t))) + self.shift

    def time_of(self, log_snr: Time) -> Time:
        """``(2 / pi) atan(exp((shift - log_snr) / 2))``."""
        return _time(0.5 * (self.shift - jnp.asarray(log_snr)))

    def diffusion_squared(self, t: Time) -> Time:
        """``-sigma^2 dlog_snr/dt = pi (sigma^2 / sin cos)``, written without the 0/0 at t = 0."""
        c, s, norm = self._parts(t)
        return jnp.pi * s * jnp.exp(-0.5 * self.shift) / (norm**2 * c)

    def prior_std(self, t: Time = 1.0) -> Time:
        """1: the path keeps unit variance."""
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float)))
