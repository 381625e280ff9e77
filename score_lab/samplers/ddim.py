"""DDIM and DDPM: x0 and eps put together again at the next level, with fresh noise in place of a part of eps.

    sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2,    beta_tilde = sigma_s^2 sigma_{t|s}^2 / sigma_t^2
    DDIM(eta):  x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 beta_tilde) eps + eta sqrt(beta_tilde) z            (Song et al. 2021, eq. 12, 16)
    DDPM:       x_s = alpha_s x0 + (alpha_t / alpha_s) (sigma_s^2 / sigma_t) eps + sqrt(nv) z                  (Ho et al. 2020, eq. 7, 11)

    nv = beta_tilde (DDIM with eta = 1), beta = sigma_{t|s}^2, or learned between the two  (Nichol & Dhariwal 2021, eq. 15)

The last step to sigma_s = 0 adds no noise, as in Ho et al. 2020, algorithm 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.paths.transition import interpolate_log_variance, log_variance_bounds, transition_variances
from score_lab.types import pytree_dataclass

__all__ = ["DDIM", "DDPM"]


@pytree_dataclass
class DDIM:
    """``x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 beta_tilde) eps + eta sqrt(beta_tilde) z``; eta in [0, 1], 0 deterministic, 1 DDPM's
    beta_tilde."""

    eta: float = 0.0
    draws: bool = True
    order = 1
    calls = 1
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with eta = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not (isinstance(self.eta, int | float) and self.eta == 0)

    def specialise(self) -> DDIM:
        """The form without draws where eta is 0."""
        return DDIM(0.0, draws=False) if self.draws and float(self.eta) == 0.0 else self

    def check(self) -> None:
        """``0 <= eta <= 1``: more would make a variance negative."""
        if not 0 <= self.eta <= 1:
            refuse("DDIM.eta", self.eta, "0 <= eta <= 1, so that sigma_s^2 - eta^2 beta_tilde is not negative")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p, path = denoise(x, t), denoise.path
        alpha_s, sigma_s = path.alpha(s), path.sigma(s)
        if not self.draws:
            return combine((alpha_s, p.x0), (sigma_s, p.eps)), carry, p
        _, beta_tilde = transition_variances(path, t, s)
        fresh, kept = self.eta * jnp.sqrt(beta_tilde), jnp.sqrt(jnp.maximum(sigma_s**2 - self.eta**2 * beta_tilde, 0.0))
        return combine((alpha_s, p.x0), (kept, p.eps), (fresh, draw())), carry, p


@pytree_dataclass
class DDPM:
    """Ancestral sampling with noise variance ``beta_tilde``, ``beta`` or ``learned`` (needs a network with ``aux["variance"]`` in [-1,
    1])."""

    variance: str = "beta_tilde"
    order = 1
    calls = 1
    memory = 0
    stochastic = True

    def check(self) -> None:
        """A known variance."""
        known = ("beta_tilde", "beta", "learned")
        if self.variance not in known:
            refuse("DDPM.variance", self.variance, ", ".join(known), known)

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """``x_s = mean + sqrt(nv) z``."""
        p, path = denoise(x, t), denoise.path
        beta, beta_tilde = transition_variances(path, t, s)
        mean = combine((path.alpha(s), p.x0), (path.alpha(t) / path.alpha(s) * path.sigma(s) ** 2 / path.sigma(t), p.eps))
        alive = path.sigma(s) > 0
        if self.variance == "learned":
            if not (isinstance(p.aux, dict) and "variance" in p.aux):
                refuse("DDPM.variance", self.variance, "beta or beta_tilde: the network has no variance output (learned_variance=True)")
            bounds = log_variance_bounds(path, t, jnp.where(alive, s, 0.5 * t), 0.0)
            log_variance = interpolate_log_variance(p.aux["variance"], *bounds)
            fresh = jax.tree.map(lambda v, z: jnp.exp(0.5 * v) * z, log_variance, draw())
            return combine((1.0, mean), (jnp.where(alive, 1.0, 0.0), fresh)), carry, p
        variance = {"beta": beta, "beta_tilde": beta_tilde}[self.variance]
        return combine((1.0, mean), (jnp.where(alive, jnp.sqrt(variance), 0.0), draw())), carry, p

