"""The variable in which a one-step solver integrates the probability-flow ODE.

Each writes the ODE as ``dy/du = p x0 + q eps`` for a scaled state ``y = x c(u)``:

    T       u = t,                y = x,          p = alpha',          q = sigma'
    Kappa   u = sigma / alpha,    y = x / alpha,  p = 0,               q = 1          (EDM's sigma)
    LogSNR  u = log_snr,          y = x,          p = alpha' / u',     q = sigma' / u'
    Straight  u = sigma / (alpha + sigma),  y = x / (alpha + sigma),   p = -1,            q = 1          (the linear flow's t)
    Angle     u = atan2(sigma, alpha),      y = x / norm,              p = -sigma / norm, q = alpha / norm,   norm^2 = alpha^2 + sigma^2

Euler in t and Euler in kappa are different methods; Euler in kappa is DDIM.  With k = p x0 + q eps, every explicit method is Euler plus
multiples of ``length (k_2 - k_1)``, ``length = (u_s - u_t) / c_s``, which stays finite where Euler itself is written in x0 and eps (see
``runge_kutta``).  A step from or to a level where the variable or its slope is infinite is taken by DDIM, its limit.  All of it holds for
s > t too (encoding).

Adaptive solvers choose their own levels, so they also need the inverse, ``time(path, u)``, and ``scale(path, t) = y / x``.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.denoiser import Prediction
from score_lab.linear import combine
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, PyTree, pytree_dataclass

__all__ = ["Angle", "Kappa", "LogSNR", "Straight", "T"]


def _euler_or_ddim(path: GaussianPath, x: PyTree, s: Array, p: Prediction, inside: Array, c_0: Array, c_e: Array) -> PyTree:
    """``x + c_0 x0 + c_e eps`` where ``inside``, else ``alpha_s x0 + sigma_s eps``: the choice is made among scalars."""
    terms = (
        (jnp.where(inside, 1.0, 0.0), x),
        (jnp.where(inside, c_0, path.alpha(s)), p.x0),
        (jnp.where(inside, c_e, path.sigma(s)), p.eps),
    )
    return combine(*terms)


@pytree_dataclass
class T:
    """The path's own t."""

    def at(self, path: GaussianPath, t: Array) -> Array:
        """``t``."""
        return t

    def time(self, path: GaussianPath, u: Array) -> Array:
        """``u``."""
        return u

    def scale(self, path: GaussianPath, t: Array) -> Array:
        """``1``."""
        return jnp.ones_like(t)

    def slope(self, path: GaussianPath, t: Array, p: Prediction) -> PyTree:
        """``alpha' x0 + sigma' eps``."""
        return combine((path.alpha_dot(t), p.x0), (path.sigma_dot(t), p.eps))

    def length(self, path: GaussianPath, t: Array, s: Array) -> Array:
        """``s - t``."""
        return s - t

    def between(self, path: GaussianPath, t: Array, s: Array, c: Array | float) -> Array:
        """``t + c (s - t)``."""
        return jnp.where(c == 1, s, t + c * (s - t))

    def finite(self, path: GaussianPath, t: Array) -> Array:
        """Whether the slope is finite at t."""
        return jnp.isfinite(path.alpha_dot(t)) & jnp.isfinite(path.sigma_dot(t))

    def euler(self, path: GaussianPath, x: PyTree, t: Array, s: Array, p: Prediction) -> PyTree:
        """``x + (s - t) (alpha' x0 + sigma' eps)``; DDIM where a derivative is infinite at t."""
        inside = self.finite(path, t)
        a = jnp.where(inside, t, 0.5)
        return _euler_or_ddim(path, x, s, p, inside, (s - t) * path.alpha_dot(a), (s - t) * path.sigma_dot(a))


@pytree_dataclass
class Kappa:
    """``kappa = sigma / alpha`` on ``x / alpha``."""

    def at(self, path: GaussianPath, t: Array) -> Array:
        """``kappa``."""
        return path.kappa(t)

    def time(self, path: GaussianPath, u: Array) -> Array:
        """The time of kappa ``u``."""
        return path.time_of_kappa(u)

    def scale(self, path: GaussianPath, t: Array) -> Array:
        """``1 / alpha``."""
        return 1.0 / path.alpha(t)

    def slope(self, path: GaussianPath, t: Array, p: Prediction) -> PyTree:
        """``eps``."""
        return p.eps

    def length(self, path: GaussianPath, t: Array, s: Array) -> Array:
        """``alpha_s (kappa_s - kappa_t) = sigma_s - alpha_s kappa_t``."""
        return path.sigma(s) - path.alpha(s) * path.kappa(t)

    def between(self, path: GaussianPath, t: Array, s: Array, c: Array | float) -> Array:
        """The time of ``kappa_t + c (kappa_s - kappa_t)``."""
        return jnp.where(c == 1, s, path.time_of_kappa(path.kappa(t) + c * (path.kappa(s) - path.kappa(t))))

    def finite(self, path: GaussianPath, t: Array) -> Array:
        """Whether kappa is finite at t."""
        return path.alpha(t) > 0

    def euler(self, path: GaussianPath, x: PyTree, t: Array, s: Array, p: Prediction) -> PyTree:
        """``(alpha_s / alpha_t) x + alpha_s (kappa_s - kappa_t) eps = alpha_s x0 + sigma_s eps``: DDIM."""
        return combine((path.alpha(s), p.x0), (path.sigma(s), p.eps))


@pytree_dataclass
class LogSNR:
    """``log_snr`` on ``x``."""

    def at(self, path: GaussianPath, t: Array) -> Array:
        """``log_snr``."""
        return path.log_snr(t)

    def time(self, path: GaussianPath, u: Array) -> Array:
        """The time of log-SNR ``u``."""
        return path.time_of(u)

    def scale(self, path: GaussianPath, t: Array) -> Array:
        """``1``."""
        return jnp.ones_like(t)

    def slope(self, path: GaussianPath, t: Array, p: Prediction) -> PyTree:
        """``(alpha' x0 + sigma' eps) / log_snr'``."""
        rate = path.log_snr_dot(t)
        return combine((path.alpha_dot(t) / rate, p.x0), (path.sigma_dot(t) / rate, p.eps))

    def length(self, path: GaussianPath, t: Array, s: Array) -> Array:
        """``log_snr_s - log_snr_t``."""
        return path.log_snr(s) - path.log_snr(t)

    def between(self, path: GaussianPath, t: Array, s: Array, c: Array | float) -> Array:
        """The time of ``log_snr_t + c (log_snr_s - log_snr_t)``."""
        return jnp.where(c == 1, s, path.time_of(path.log_snr(t) + c * (path.log_snr(s) - path.log_snr(t))))

    def finite(self, path: GaussianPath, t: Array) -> Array:
        """Whether log_snr and the derivatives are finite at t."""
        rates = (path.log_snr_dot(t), path.alpha_dot(t), path.sigma_dot(t))
        return jnp.isfinite(path.log_snr(t)) & jnp.isfinite(rates[0]) & jnp.isfinite(rates[1]) & jnp.isfinite(rates[2])

    def euler(self, path: GaussianPath, x: PyTree, t: Array, s: Array, p: Prediction) -> PyTree:
        """``x + (log_snr_s - log_snr_t) slope``; DDIM where either level is infinite."""
        inside = self.finite(path, t) & jnp.isfinite(path.log_snr(s))
        a, b = jnp.where(inside, t, 0.5), jnp.where(inside, s, 0.25)
        h = self.length(path, a, b) / path.log_snr_dot(a)
        return _euler_or_ddim(path, x, s, p, inside, h * path.alpha_dot(a), h * path.sigma_dot(a))


@pytree_dataclass
class Straight:
    """``sigma / (alpha + sigma)`` on ``x / (alpha + sigma)``: the time of the linear flow, on any path; finite at both ends."""

    def at(self, path: GaussianPath, t: Array) -> Array:
        """``sigma / (alpha + sigma)``."""
        return path.sigma(t) / (path.alpha(t) + path.sigma(t))

    def time(self, path: GaussianPath, u: Array) -> Array:
        """The time of log-SNR ``2 ln (1 - u) / u``; outside [0, 1] the nearest end."""
        return path.time_of(2.0 * (jnp.log(jnp.maximum(1.0 - u, 0.0)) - jnp.log(jnp.maximum(u, 0.0))))

    def scale(self, path: GaussianPath, t: Array) -> Array:
        """``1 / (alpha + sigma)``."""
        return 1.0 / (path.alpha(t) + path.sigma(t))

    def slope(self, path: GaussianPath, t: Array, p: Prediction) -> PyTree:
        """``eps - x0``."""
        return combine((1.0, p.eps), (-1.0, p.x0))

    def length(self, path: GaussianPath, t: Array, s: Array) -> Array:
        """``(alpha_s + sigma_s) (u_s - u_t)``."""
        return path.sigma(s) - (path.alpha(s) + path.sigma(s)) * self.at(path, t)

    def finite(self, path: GaussianPath, t: Array) -> Array:
        """Always."""
        return jnp.isfinite(t)

    def euler(self, path: GaussianPath, x: PyTree, t: Array, s: Array, p: Prediction) -> PyTree:
        """``alpha_s x0 + sigma_s eps``: DDIM."""
        return combine((path.alpha(s), p.x0), (path.sigma(s), p.eps))


@pytree_dataclass
class Angle:
    """``phi = atan2(sigma, alpha)`` on ``x / norm``, norm^2 = alpha^2 + sigma^2: the trigonometric flow's time; finite at both ends."""

    def at(self, path: GaussianPath, t: Array) -> Array:
        """``atan2(sigma, alpha)``."""
        return jnp.arctan2(path.sigma(t), path.alpha(t))

    def time(self, path: GaussianPath, u: Array) -> Array:
        """The time of log-SNR ``2 ln cot u``; outside [0, pi / 2] the nearest end."""
        return path.time_of(2.0 * (jnp.log(jnp.maximum(jnp.cos(u), 0.0)) - jnp.log(jnp.maximum(jnp.sin(u), 0.0))))

    def scale(self, path: GaussianPath, t: Array) -> Array:
        """``1 / norm``."""
        return 1.0 / path.norm(t)

    def slope(self, path: GaussianPath, t: Array, p: Prediction) -> PyTree:
        """``(alpha eps - sigma x0) / norm``."""
        return combine((path.alpha(t) / path.norm(t), p.eps), (-path.sigma(t) / path.norm(t), p.x0))

    def length(self, path: GaussianPath, t: Array, s: Array) -> Array:
        """``norm_s (phi_s - phi_t)``."""
        return path.norm(s) * (self.at(path, s) - self.at(path, t))

    def finite(self, path: GaussianPath, t: Array) -> Array:
        """Always."""
        return jnp.isfinite(t)

    def euler(self, path: GaussianPath, x: PyTree, t: Array, s: Array, p: Prediction) -> PyTree:
        """``norm_s [x / norm_t + (phi_s - phi_t) slope]``, with x = alpha x0 + sigma eps."""
        n, d = path.norm(s) / path.norm(t), self.length(path, t, s) / path.norm(t)
        return combine((n * path.alpha(t) - d * path.sigma(t), p.x0), (n * path.sigma(t) + d * path.alpha(t), p.eps))
