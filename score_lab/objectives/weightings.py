"""How hard each noise level is trained: ``ln w(log_snr)`` on the loss in eps,  L = E_t[ w(log_snr(t)) ||eps_hat - eps||^2 / d ].

Losses of other rows are multiples of it.  With ``y = a x0 + b eps`` and ``det = a sigma - b alpha`` (targets.py),

    ||eps_hat - eps||^2 = (alpha / det)^2 ||y_hat - y||^2,      so that      L = E_t[ exp(ln w + 2 ln |alpha / det|) ||y_hat - y||^2 / d ]

The logarithms are added before exp: neither w nor (alpha / det)^2 needs to be finite at the ends, their product does.  The pair (alpha,
sigma) of that factor is read at the log-SNR clipped to +-40, so that the ends come out as limits: exact to a relative e^-20 where the limit
is finite, and as the value at +-40 where it is not (the x0 row at t = 0 under ``Simple``).

``Simple`` in eps, ``X0Uniform`` in x0, ``VUniform`` in v, ``VelocityUniform`` in eps - x0, ``FUniform`` in F: each is uniform there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.types import Time, pytree_dataclass

__all__ = [
    "LIMIT", "FUniform", "Likelihood", "MinSNR", "Sigmoid", "Simple", "VUniform", "VelocityUniform", "Weighting", "X0Uniform",
    "clipped_log_snr", "log_row_factor", "row_of",
]  # fmt: skip

LIMIT = 40.0
"""Levels beyond this log-SNR count as the limit of their end."""


@runtime_checkable
class Weighting(Protocol):
    """A weight as a function of the noise level alone."""

    def log_weight(self, log_snr: Time) -> Time:
        """``ln w`` on the loss in eps, finite for finite log_snr, same shape."""


@pytree_dataclass
class Simple:
    """``w = 1``: DDPM's simple loss (Ho et al. 2020, eq. 14)."""

    def log_weight(self, log_snr: Time) -> Time:
        """0."""
        return jnp.zeros_like(log_snr)


@pytree_dataclass
class X0Uniform:
    """``w = kappa^2 = 1 / SNR``: the loss ``||x0_hat - x0||^2``."""

    def log_weight(self, log_snr: Time) -> Time:
        """``-log_snr``."""
        return -log_snr


@pytree_dataclass
class VUniform:
    """``w = 1 + kappa^2``: the loss ``||v_hat - v||^2`` on variance-preserving paths, SNR + 1 on x0 (Salimans & Ho 2022, section 4)."""

    def log_weight(self, log_snr: Time) -> Time:
        """``softplus(-log_snr)``."""
        return jax.nn.softplus(-log_snr)


@pytree_dataclass
class VelocityUniform:
    """``w = (1 + kappa)^2``: the flow matching loss ``||velocity_hat - (eps - x0)||^2`` of the linear flow (Lipman et al. 2023, eq. 23)."""

    def log_weight(self, log_snr: Time) -> Time:
        """``2 softplus(-log_snr / 2)``."""
        return 2.0 * jax.nn.softplus(-0.5 * log_snr)


@pytree_dataclass
class FUniform:
    """``w = (kappa^2 + sigma_data^2) / sigma_data^2``.

    On x0 that is EDM's ``(kappa^2 + sigma_data^2) / (kappa sigma_data)^2`` (Karras et al. 2022, table 1).
    """

    sigma_data: float = 0.5

    def log_weight(self, log_snr: Time) -> Time:
        """``ln(1 + kappa^2 / sigma_data^2)``."""
        return jax.nn.softplus(-log_snr - 2.0 * jnp.log(self.sigma_data))

    def check(self) -> None:
        """``sigma_data > 0``."""
        if not self.sigma_data > 0:
            refuse("FUniform.sigma_data", self.sigma_data, "> 0")


@pytree_dataclass
class MinSNR:
    """``w = min(SNR, gamma) / SNR``: ``min(SNR, gamma)`` on x0 (Hang et al. 2023, eq. 5)."""

    gamma: float = 5.0

    def log_weight(self, log_snr: Time) -> Time:
        """``min(0, ln gamma - log_snr)``."""
        return jnp.minimum(jnp.log(self.gamma) - log_snr, 0.0)

    def check(self) -> None:
        """``gamma > 0``."""
        if not self.gamma > 0:
            refuse("MinSNR.gamma", self.gamma, "> 0")


@pytree_dataclass
class Sigmoid:
    """``w = sigmoid(bias - log_snr)`` (Kingma & Gao 2023, section 5, bias 2).

    Hoogeboom et al. 2024 write ``sigmoid(log_snr - bias)`` on x0, which is e^-bias times this.  Their integral is over log_snr: use it
    with ``per_log_snr=True``.
    """

    bias: float = 2.0

    def log_weight(self, log_snr: Time) -> Time:
        """``ln sigmoid(bias - log_snr)``."""
        return jax.nn.log_sigmoid(self.bias - log_snr)


@pytree_dataclass
class Likelihood:
    """``w = 1/2`` in the integral over log_snr: the evidence bound in nats per dimension (Kingma et al. 2021, eq. 13; Song et al. 2021b).

    ``L = 1/2 int E||eps_hat - eps||^2 / d  dlog_snr``, which is score matching weighted by ``g^2``.  It needs ``per_log_snr=True``.
    """

    def log_weight(self, log_snr: Time) -> Time:
        """``-ln 2``."""
        return jnp.full_like(log_snr, -jnp.log(2.0))


def clipped_log_snr(path: GaussianPath, t: Time) -> Time:
    """``log_snr(t)`` clipped to +-40, with a gradient of 0, never NaN, where it is infinite."""
    log_snr = jax.lax.stop_gradient(path.log_snr(t))
    inside = path.log_snr(jnp.where(jnp.isfinite(log_snr), t, 0.5))
    return jnp.clip(jnp.where(jnp.isfinite(log_snr), inside, log_snr), -LIMIT, LIMIT)


def row_of(row: Callable[[Time], tuple[Time, Time]], path: GaussianPath, t: Time) -> tuple[Time, Time]:
    """``row(t)``, but at log-SNR 40 where ``t`` is nearer to the data: rows that diverge there (score, VP's velocity) are finite."""
    nearest = path.time_of(jnp.asarray(LIMIT, t.dtype))
    return row(jnp.where(path.log_snr(t) > LIMIT, nearest, t))


def log_row_factor(row: tuple[Time, Time], path: GaussianPath, t: Time) -> Time:
    """``2 ln |alpha / det|``, from the row's loss to eps's: ``hypot(alpha, sigma)`` of ``t``, their ratio at the clipped log-SNR."""
    (a, b), log_snr, norm = row, clipped_log_snr(path, t), path.norm(t)
    alpha, sigma = (norm * jnp.exp(0.5 * jax.nn.log_sigmoid(s)) for s in (log_snr, -log_snr))
    return 2.0 * (jnp.log(alpha) - jnp.log(jnp.abs(a * sigma - b * alpha)))
