"""Variables of the exponential Adams-Bashforth family: u = ln kappa, and the integral keeps its exponential weight exactly.

    zEAB   x_s = (alpha_s / alpha_t) x + alpha_s sum_j eps_j int e^u l_j du             ``EpsExponential``: log-rho DEIS, DPM-Solver
    xEAB   x_s = (sigma_s / sigma_t) x - sigma_s sum_j x0_j int e^-u l_j du             ``DataExponential``: DPM-Solver++
    REAB   x_s = (n_s / n_t) x + n_s sum_j f_j int l_j / (2 cosh u) du                  ``Rosenbrock``:  n^2 = alpha^2 + sigma^2,
           f = (alpha eps - sigma x0) / n                                                   linearised about unit data variance

the integrals from u_t to u_s (azula's names; Zhang & Chen 2022, eq. 15-16; Lu et al. 2022; Zheng et al. 2023; Hochbruck & Ostermann 2010).
Given to ``AdamsBashforth``.  ln kappa is infinite at both ends of most paths: a step from or to such a level is of first order.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from score_lab.linear import combine
from score_lab.samplers.lagrange import phi
from score_lab.samplers.variables import Angle
from score_lab.types import pytree_dataclass

__all__ = ["DataExponential", "EpsExponential", "Rosenbrock"]

GAUSS = tuple(0.5 * v for v in np.polynomial.legendre.leggauss(32))
"""Nodes in [-1/2, 1/2] and weights that sum to 1."""


def _log_kappa(path, t):
    return -0.5 * path.log_snr(t)


@pytree_dataclass
class EpsExponential:
    """zEAB: eps is extrapolated in ln kappa, with the weight e^u du = d kappa; Euler in it is DDIM."""

    def at(self, path, t):
        """``ln kappa``."""
        return _log_kappa(path, t)

    def finite(self, path, t):
        """Whether ln kappa is finite."""
        return jnp.isfinite(path.log_snr(t))

    def slope(self, path, t, p):
        """``eps``."""
        return p.eps

    def length(self, path, t, s):
        """``sigma_s - alpha_s kappa_t``: the integral of 1."""
        return path.sigma(s) - path.alpha(s) * path.kappa(t)

    def moments(self, path, t, s, n):
        """``alpha_s int e^u tau^i du = -sigma_s h i! phi_{i+1}(h)``, h = u_t - u_s."""
        h = self.at(path, t) - self.at(path, s)
        return [-path.sigma(s) * h * math.factorial(i) * v for i, v in enumerate(phi(n, h))]

    def euler(self, path, x, t, s, p):
        """``alpha_s x0 + sigma_s eps``."""
        return combine((path.alpha(s), p.x0), (path.sigma(s), p.eps))


@pytree_dataclass
class DataExponential:
    """xEAB: x0 is extrapolated in ln kappa, with the weight -e^-u du = d(1 / kappa); Euler in it is DDIM."""

    def at(self, path, t):
        """``ln kappa``."""
        return _log_kappa(path, t)

    def finite(self, path, t):
        """Whether ln kappa is finite."""
        return jnp.isfinite(path.log_snr(t))

    def slope(self, path, t, p):
        """``x0``."""
        return p.x0

    def length(self, path, t, s):
        """``alpha_s - sigma_s / kappa_t``: the integral of 1."""
        return path.alpha(s) - path.sigma(s) / path.kappa(t)

    def moments(self, path, t, s, n):
        """``-sigma_s int e^-u tau^i du = alpha_s h i! phi_{i+1}(-h)``, h = u_t - u_s."""
        h = self.at(path, t) - self.at(path, s)
        return [path.alpha(s) * h * math.factorial(i) * v for i, v in enumerate(phi(n, -h))]

    def euler(self, path, x, t, s, p):
        """``alpha_s x0 + sigma_s eps``."""
        return combine((path.alpha(s), p.x0), (path.sigma(s), p.eps))


@pytree_dataclass
class Rosenbrock:
    """REAB: ``f = (alpha eps - sigma x0) / n`` is extrapolated in ln kappa, with the weight du / (2 cosh u) = d atan(kappa).

    The integrals have no elementary form: 32 Gauss nodes, exact to rounding for steps up to five units of ln kappa.  ``as_released``
    has azula 0.11's: the trapezoidal rule on 256 intervals, and ``sqrt(alpha_s^2 + sigma_t^2)`` where n_s belongs, which makes every
    order 1.
    """

    as_released: bool = False

    def at(self, path, t):
        """``ln kappa``."""
        return _log_kappa(path, t)

    def finite(self, path, t):
        """Whether ln kappa is finite."""
        return jnp.isfinite(path.log_snr(t))

    def slope(self, path, t, p):
        """``(alpha eps - sigma x0) / n``."""
        return Angle().slope(path, t, p)

    def length(self, path, t, s):
        """``n_s (atan kappa_s - atan kappa_t)``: the integral of 1."""
        return Angle().length(path, t, s)

    def moments(self, path, t, s, n):
        """``n_s int tau^i / (2 cosh u) du``."""
        if self.as_released:
            tau, w = jnp.linspace(0.0, 1.0, 257), jnp.full(257, 1 / 256).at[jnp.array([0, 256])].set(1 / 512)
            norm = jnp.hypot(path.alpha(s), path.sigma(t))
        else:
            tau, w, norm = jnp.asarray(GAUSS[0] + 0.5), jnp.asarray(GAUSS[1]), path.norm(s)
        h = self.at(path, s) - self.at(path, t)
        y = w * h * norm / (2.0 * jnp.cosh(self.at(path, t) + h * tau))
        return [jnp.sum(y * tau**i) for i in range(n)]

    def euler(self, path, x, t, s, p):
        """``n_s [x / n_t + (atan kappa_s - atan kappa_t) f]``, with x = alpha x0 + sigma eps; finite everywhere."""
        if not self.as_released:
            return Angle().euler(path, x, t, s, p)
        inside = self.finite(path, t) & self.finite(path, s)
        a, b = jnp.where(inside, t, 0.5), jnp.where(inside, s, 0.25)
        d = jnp.where(inside, self.moments(path, a, b, 1)[0], self.length(path, t, s)) / path.norm(t)
        n = path.norm(s) / path.norm(t)
        return combine((n * path.alpha(t) - d * path.sigma(t), p.x0), (n * path.sigma(t) + d * path.alpha(t), p.eps))
