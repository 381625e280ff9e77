"""Euler-Maruyama on the reverse SDE with any diffusion multiplier m: 1 is the reverse SDE, 0 the probability-flow ODE.

    dx = [velocity - (m^2 / 2) g^2 score] dt + m g dw, backwards in t              (Song et al. 2021, eq. 6, 13; Ma et al. 2024, eq. 9)
    increment "g2h":    x_s = x - h velocity + (m^2 / 2) g^2 h score + m sqrt(g^2 h) z,      h = t - s
    increment "exact":  on y = x / alpha, whose diffusion integrates exactly, D = kappa_t^2 - kappa_s^2:
                        y_s = y + (1 + m^2) / 2 D score_y + m sqrt(D) z,      score_y = -eps / kappa_t

The last step to sigma_s = 0 returns the denoised state alpha_s x0.  From a level without signal (alpha_t = 0), where g is infinite, the
step is its limit: alpha_s x0 plus sigma_s times fresh noise (times the old eps where m = 0).
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.types import pytree_dataclass

__all__ = ["EulerMaruyama"]


@pytree_dataclass
class EulerMaruyama:
    """``multiplier`` m >= 0 of the diffusion g; ``increment`` "g2h" (g at t times the step) or "exact" (see the module)."""

    multiplier: float = 1.0
    increment: str = "g2h"
    order = 1
    calls = 1
    memory = 0
    stochastic = True

    def check(self) -> None:
        """``multiplier >= 0`` and a known increment."""
        if not self.multiplier >= 0:
            refuse("EulerMaruyama.multiplier", self.multiplier, ">= 0")
        if self.increment not in ("g2h", "exact"):
            refuse("EulerMaruyama.increment", self.increment, "g2h or exact", ("g2h", "exact"))

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step; its limits at sigma_s = 0 and alpha_t = 0."""
        p, path, m = denoise(x, t), denoise.path, self.multiplier
        alpha_s, sigma_s = path.alpha(s), path.sigma(s)
        regular = (path.alpha(t) > 0) & (sigma_s > 0)
        if self.increment == "g2h":
            regular &= jnp.isfinite(path.alpha_dot(t)) & jnp.isfinite(path.sigma_dot(t)) & jnp.isfinite(path.diffusion_squared(t))
        move = self._exact if self.increment == "exact" else self._g2h
        moved = move(path, jnp.where(regular, t, 0.5), jnp.where(regular, s, 0.25), m)
        limit = (0.0, alpha_s, jnp.where(m > 0, 0.0, sigma_s), jnp.where(m > 0, sigma_s, 0.0))
        c = [jnp.where(regular, a, b) for a, b in zip(moved, limit, strict=True)]
        return combine(*zip(c, (x, p.x0, p.eps, draw()), strict=True)), carry, p

    def _g2h(self, path, t, s, m):
        """Coefficients of (x, x0, eps, z)."""
        h = t - s
        G = path.diffusion_squared(t) * h
        return 1.0, -h * path.alpha_dot(t), -h * path.sigma_dot(t) - 0.5 * m**2 * G / path.sigma(t), m * jnp.sqrt(G)

    def _exact(self, path, t, s, m):
        """Coefficients of (x, x0, eps, z)."""
        alpha_s, kappa_t, kappa_s = path.alpha(s), path.kappa(t), path.kappa(s)
        D = kappa_t**2 - kappa_s**2
        return alpha_s / path.alpha(t), jnp.zeros_like(D), -0.5 * (1 + m**2) * alpha_s * D / kappa_t, m * alpha_s * jnp.sqrt(D)
