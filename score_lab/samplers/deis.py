"""DEIS: exponential Adams-Bashforth of the noise prediction with the polynomial in t (Zhang & Chen 2022, eq. 14-15, algorithm 1).

    t-AB     x_s = (alpha_s / alpha_t) x + alpha_s sum_j eps_j C_j,    C_j = int_t^s kappa'(tau) l_j(tau) dtau
    rho-AB   the polynomial in rho = kappa:      AdamsBashforth(Kappa(), order), which is LMS
    log-rho  the polynomial in ln kappa:         AdamsBashforth(EpsExponential(), order), diffusers' DEISMultistepScheduler

(their Psi and (1/2) Psi G^2 L^-T dtau are alpha_s / alpha_t and alpha_s d kappa on every path).  By parts no derivative is needed and the
end sigma_s = 0 is finite:

    int_t^s kappa' (tau - t)^i dtau = kappa_s (s - t)^i - i int_t^s kappa (tau - t)^{i-1} dtau        (i >= 1)

by 32 Gauss nodes in sqrt(tau), in which kappa ~ sqrt(tau) of VP paths is smooth at data too.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.adams import AdamsBashforth
from score_lab.samplers.exponential import GAUSS, EpsExponential
from score_lab.samplers.variables import Kappa
from score_lab.types import pytree_dataclass

__all__ = ["EpsInTime", "deis"]


@pytree_dataclass
class EpsInTime:
    """t-AB: eps is extrapolated in the path's own t, with the weight d kappa; Euler in it is DDIM."""

    def at(self, path, t):
        """``t``."""
        return t

    def finite(self, path, t):
        """Whether kappa is finite."""
        return path.alpha(t) > 0

    def slope(self, path, t, p):
        """``eps``."""
        return p.eps

    def length(self, path, t, s):
        """``sigma_s - alpha_s kappa_t``: the integral of 1."""
        return path.sigma(s) - path.alpha(s) * path.kappa(t)

    def moments(self, path, t, s, n):
        """``alpha_s int kappa' tau^i dt`` with tau = (time - t) / (s - t)."""
        r, q = jnp.sqrt(t), jnp.sqrt(s)
        v = r + (q - r) * jnp.asarray(GAUSS[0] + 0.5)
        tau, dtau = (v**2 - t) / (s - t), jnp.asarray(GAUSS[1]) * 2.0 * v * (q - r) / (s - t)
        kappa = path.kappa(v**2)
        later = [path.sigma(s) - path.alpha(s) * i * jnp.sum(dtau * kappa * tau ** (i - 1)) for i in range(1, n)]
        return [self.length(path, t, s), *later]

    def euler(self, path, x, t, s, p):
        """``alpha_s x0 + sigma_s eps``."""
        return combine((path.alpha(s), p.x0), (path.sigma(s), p.eps))


def deis(order: int = 3, form: str = "t", final_orders: tuple[int, ...] = ()) -> AdamsBashforth:
    """DEIS of orders 1 to 4 in the paper's form ``t`` or ``rho``, or diffusers' ``log_rho`` (see the module)."""
    forms = {"t": EpsInTime(), "rho": Kappa(), "log_rho": EpsExponential()}
    if form not in forms:
        refuse("deis.form", form, ", ".join(forms), forms)
    return AdamsBashforth(forms[form], order, final_orders)
