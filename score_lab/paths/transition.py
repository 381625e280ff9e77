"""The variances of a step t -> s, s < t: of the forward transition, of its posterior, and the two bounds of a learned reverse variance.

    beta       = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 = sigma_t^2 delta        of x_t given x_s          (Ho et al. 2020, eq. 2)
    beta_tilde = sigma_s^2 delta                                                       of x_s given x_t and x0   (Ho et al. 2020, eq. 7)
    delta      = 1 - exp(log_snr_t - log_snr_s) = 1 - (kappa_s / kappa_t)^2

A learned variance of x_s lies between beta_tilde and beta (Nichol & Dhariwal 2021, eq. 15).  beta counts in units of x_t: as a variance of
x_s it is taken as ``sigma_t^2 delta (alpha_s^2 + sigma_s^2) / (alpha_t^2 + sigma_t^2)``, which is beta on variance-preserving paths and the
same statement on every other path.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.linear import expand
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, PyTree, Time

__all__ = ["interpolate_log_variance", "kept_std", "log_variance_bounds", "transition_variances"]


def transition_variances(path: GaussianPath, t: Time, s: Time) -> tuple[Time, Time]:
    """``(beta, beta_tilde)`` of the step t -> s."""
    ratio = path.alpha(t) / path.alpha(s)
    beta = jnp.maximum(path.sigma(t) ** 2 - (ratio * path.sigma(s)) ** 2, 0.0)
    return beta, (path.sigma(s) / path.sigma(t)) ** 2 * beta


def kept_std(path: GaussianPath, t: Time, s: Time, eta: float | Array) -> Time:
    """``sqrt(sigma_s^2 - eta^2 beta_tilde)``, eta in [0, 1]: what stays of eps where noise of variance eta^2 beta_tilde is drawn.

    As ``sigma_s sqrt(1 - eta^2 + eta^2 (kappa_s / kappa_t)^2)``, a sum: the difference is the root of a rounding where it should be 0
    (eta = 1 from alpha_t = 0) or small, 2e-4 sigma_s in float32.
    """
    return path.sigma(s) * jnp.sqrt((1.0 - eta) * (1.0 + eta) + (eta * path.kappa(s) / path.kappa(t)) ** 2)


def log_variance_bounds(path: GaussianPath, t: Time, s: Time, first: float | Array) -> tuple[Time, Time]:
    """``(ln beta_tilde, ln beta)`` of the step t -> s.

    At s = 0, where beta_tilde is 0, it is that of the step from 2 ``first`` to ``first``, the grid's last but one (their released code).
    """

    def log_delta(t: Time, s: Time) -> Time:
        return jnp.log(-jnp.expm1(path.log_snr(t) - path.log_snr(s)))

    end = s < 0.5 * first
    t_low, s_low = jnp.where(end, 2 * first, t), jnp.where(end, first, s)
    low = log_delta(t_low, s_low) + 2.0 * jnp.log(path.sigma(s_low))
    high = log_delta(t, s) + 2.0 * (jnp.log(path.sigma(t)) + jnp.log(path.norm(s)) - jnp.log(path.norm(t)))
    return low, high


def interpolate_log_variance(variance: PyTree, low: Time, high: Time) -> PyTree:
    """Eq. 15: from ``low`` at -1 to ``high`` at +1, the network's output entry by entry."""
    return jax.tree.map(lambda v: expand(0.5 * (low + high), v) + 0.5 * expand(high - low, v) * v, variance)
