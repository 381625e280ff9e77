"""Two Gaussians, one for each side of classifier-free guidance: exact denoisers with and without a condition.

    D(x_t, t | label >= 0) = E_c[x0 | x_t],    D(x_t, t | label = -1) = E_u[x0 | x_t]            (``GaussianBands``, each of its own)

Guided, D_u + w (D_c - D_u) is affine in x_t, and diagonal in the basis that the two share: closed forms hold under guidance too.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.analytic.base import AnalyticDenoiser
from score_lab.analytic.gaussian import GaussianBands
from score_lab.linear import expand
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Cond, leaf, pytree_dataclass

__all__ = ["TwoSpectra"]


@pytree_dataclass
class TwoSpectra(AnalyticDenoiser):
    """Exact denoisers of two Gaussians, of ``conditional`` where ``cond["label"]`` is not negative and of ``unconditional`` where it is -1:
    what guidance combines, with closed forms on both sides."""

    conditional: GaussianBands = leaf()
    unconditional: GaussianBands = leaf()

    @property
    def path(self) -> GaussianPath:
        """The path of the states."""
        return self.conditional.path

    def posterior(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        """The posterior means of each row's Gaussian; without a condition, the conditional one's."""
        c, u = (part.posterior(x_t, alpha, sigma, None) for part in (self.conditional, self.unconditional))
        if not cond:
            return c
        chosen = expand(jnp.asarray(cond["label"]) >= 0, x_t)
        return tuple(jnp.where(chosen, a, b) for a, b in zip(c, u, strict=True))

    def on(self, path: GaussianPath, clip: bool | None = None) -> TwoSpectra:
        """Both on another path."""
        return TwoSpectra(self.conditional.on(path), self.unconditional.on(path))
