"""An exact denoiser made wrong by a known amount: what a decomposition must find again.

    D = mu + (1 + eta) (D* - mu) + tau sqrt(2) cos(10^4 x_t)

The cosine turns some thousand times over the states' spread, so it does not correlate with D* and has mean square tau^2: independent noise,
fresh at every call, and yet a function of the state, as a network's error is.  In a DDIM step over the angle d, per band,

    gain    r = cos d + eta sin d cot phi                          noise    R' = cos^2 d R + sin^2 d tau^2 / MMSE
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from score_lab.analytic.base import AnalyticDenoiser
from score_lab.linear import expand
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Cond, leaf, pytree_dataclass

__all__ = ["Misspecified"]

_TURNS = 1e4


@pytree_dataclass
class Misspecified(AnalyticDenoiser):
    """``denoiser`` (exact) with gain 1 + ``eta`` about ``mean`` (a number, or of one state's shape) and noise of deviation ``tau``."""

    denoiser: AnalyticDenoiser = leaf()
    mean: Array | float = leaf(default=0.0)
    eta: float = 0.0
    tau: float = 0.0

    @property
    def path(self) -> GaussianPath:
        """The path of the states."""
        return self.denoiser.path

    def posterior(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        """What the exact posterior mean is made into, and the noise that goes with it; at sigma = 0 that is the exact one."""
        x0, eps = self.denoiser.posterior(x_t, alpha, sigma, cond)
        mean = jnp.asarray(self.mean, x_t.dtype)
        off = self.eta * (x0 - (mean[None] if mean.ndim else mean)) + self.tau * jnp.sqrt(2.0).astype(x_t.dtype) * jnp.cos(_TURNS * x_t)
        a, s = expand(alpha, x_t), expand(sigma, x_t)
        return x0 + off, eps - jnp.where(s > 0, a / jnp.where(s > 0, s, 1.0), 0.0) * off

    def on(self, path: GaussianPath, clip: bool | None = None) -> Misspecified:
        """The same error on another path."""
        return dataclasses.replace(self, denoiser=self.denoiser.on(path))
