"""The spectrum-aware grid: nodes where the data's own bands turn from signal into noise.

    tan phi_b = kappa / s_b,     d phi_b / d ln kappa = sin(2 phi_b) / 2 = sech(ln kappa - ln s_b) / 2
    density of nodes in ln kappa  ~  [sum_b w_b sin^2 2 phi_b]^(1/2),    from sigma_max to sigma_min, and a last step to data

A step of DDIM loses -ln R_b = -2 ln cos(Delta phi_b) ~ (Delta phi_b)^2 of the log-variance of a Gaussian band of standard deviation s_b;
to leading order in 1 / N this density makes sum_b w_b (-ln R_b) least (Cauchy-Schwarz).  With one band the steps in phi are equal.
Related: Benita et al. 2025 (spectral analysis of schedules); Pierret & Galerne 2025 (exact errors for Gaussian data).
"""

from __future__ import annotations

import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.grids.kappa import between
from score_lab.samplers.steps import Steps
from score_lab.types import Array, leaf, pytree_dataclass

__all__ = ["SpectrumAware"]

_CELLS = 512
_X, _W = np.polynomial.legendre.leggauss(6)


def equal_shares(v0: float, v1: float, shares: np.ndarray, density) -> np.ndarray:
    """The v at which ``int_{v0}^{v} density`` is ``shares`` of the whole, to rounding: six Gauss points a cell, then Newton inside it."""

    def integral(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``int_a^b density`` for vectors a and b."""
        half = 0.5 * (b - a)
        return half * (density(0.5 * (a + b)[:, None] + half[:, None] * _X) * _W).sum(1)

    knots = np.linspace(v0, v1, _CELLS + 1)
    mass = np.append(0.0, np.cumsum(integral(knots[:-1], knots[1:])))
    wanted = shares * mass[-1]
    k = np.clip(np.searchsorted(mass * np.sign(v1 - v0), wanted * np.sign(v1 - v0), side="right") - 1, 0, _CELLS - 1)
    v = knots[k] + (wanted - mass[k]) / (mass[k + 1] - mass[k]) * (knots[k + 1] - knots[k])
    for _ in range(4):
        v = v - (mass[k] + integral(knots[k], v) - wanted) / density(v)
    return v


@pytree_dataclass
class SpectrumAware:
    """Nodes of density ``[sum_b w_b sin^2 2 phi_b]^(1/2)`` in ln kappa (see the module).

    Fields:
      variances: (bands,) the data's variances s_b^2, for example of its DCT coefficients.
      weights: (bands,) w_b >= 0, all equal by default; the number of coefficients in each band, where bands hold several.
      num_steps, sigma_min, sigma_max, to_data: as in ``Karras``.
    """

    num_steps: int
    variances: Array = leaf(default=(1.0,))
    weights: Array | None = leaf(default=None)
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        variances = np.asarray(self.variances, np.float64).ravel()
        if not (len(variances) and (variances > 0).all() and np.isfinite(variances).all()):
            refuse("SpectrumAware.variances", _short(self.variances), "at least one band's variance, all > 0")
        weights = np.ones_like(variances) if self.weights is None else np.asarray(self.weights, np.float64).ravel()
        if weights.shape != variances.shape or not ((weights >= 0).all() and 0 < weights.sum() < np.inf):
            refuse("SpectrumAware.weights", _short(self.weights), f"{len(variances)} weights >= 0, one a band, not all 0")
        ln_s, first = np.unique(0.5 * np.log(variances), return_inverse=True)
        weights = np.bincount(first.ravel(), weights)

        def density(v: np.ndarray) -> np.ndarray:
            return np.sqrt((weights / np.cosh(np.minimum(np.abs(v[..., None] - ln_s), 300.0)) ** 2).sum(-1))

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            u = np.exp(equal_shares(np.log(large), np.log(small), w, density))
            u[0], u[-1] = large, small if len(u) > 1 else large
            return u

        return between("SpectrumAware", path, self.num_steps, self.sigma_min, self.sigma_max, self.to_data, nodes)


def _short(values: object) -> object:
    """The values themselves where they are few, else their number and range."""
    v = np.asarray(values, np.float64).ravel()
    return values if len(v) <= 8 else f"{len(v)} values in [{v.min():.4g}, {v.max():.4g}]"
