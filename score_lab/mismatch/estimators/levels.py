"""The two curves of laws through a call's level, on which an effective log-SNR is a point.

    "path"   p_l = law of alpha_l x0 + sigma_l eps         the forward states of another level of the path
    "kept"   p_l = law of alpha_k (x0 + exp(-l / 2) eps)   the call's own signal with another amount of noise
    both     V(l) = alpha_l^2 (s^2 + exp(-l)),   d ln V / dl = 2 d ln alpha / dl - sin^2 phi
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["FAMILIES", "Levels"]

FAMILIES = ("path", "kept")
_LIMIT, _STEP = 30.0, 0.01
"""Log-SNRs from -30 to 30, every 0.01."""


@dataclasses.dataclass(frozen=True)
class Levels:
    """``ln alpha`` over the levels of a family: a spline on the path, constant for "kept".  ``low``, ``high``: the levels that it has."""

    t: np.ndarray
    log_snr: np.ndarray
    low: float
    high: float
    spline: Any
    own: np.ndarray

    @classmethod
    def of(cls, path: GaussianPath, t: np.ndarray, family: str = "path") -> Levels:
        """For calls at times ``t`` (K,)."""
        from scipy.interpolate import CubicSpline

        if family not in FAMILIES:
            refuse("family", family, ", ".join(FAMILIES), FAMILIES)
        ends = on_host(path, np.array([1.0, 0.0]))[2] if family == "path" else (-_LIMIT, _LIMIT)
        low, high = max(ends[0], -_LIMIT), min(ends[1], _LIMIT)
        alpha, _, level = on_host(path, t)
        with np.errstate(divide="ignore"):
            own = np.log(alpha)
        if family == "kept":
            return cls(np.asarray(t), level, low, high, None, own)
        grid = np.linspace(low, high, max(8, int((high - low) / _STEP)))
        with jax.enable_x64(True):
            there = np.asarray(path.time_of(jax.numpy.asarray(grid)), np.float64)
        return cls(np.asarray(t), level, low, high, CubicSpline(grid, np.log(on_host(path, there)[0])), own)

    @property
    def finite(self) -> np.ndarray:
        """(K,): the nominal level is one of the family's."""
        return np.isfinite(self.log_snr) & np.isfinite(self.own)

    def log_alpha(self, level: np.ndarray, derivative: int = 0) -> np.ndarray:
        """``ln alpha`` at levels (K, ...), or its derivative in the level."""
        if self.spline is not None:
            return self.spline(level, derivative)
        if derivative:
            return np.zeros_like(level)
        return np.broadcast_to(self.own.reshape(-1, *(1,) * (np.ndim(level) - 1)), np.shape(level))

    def log_v(self, level: np.ndarray, s2: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``ln V``, ``d ln V / dl``, ``d^2 ln V / dl^2`` with V = alpha_l^2 (s^2 + exp(-l)), for levels (K, ...) and variances ``s2``
        of a shape that broadcasts with them.  ``-d/dl ln (s^2 + e^-l) = sin^2 phi =: w`` and ``dw/dl = -w (1 - w)``."""
        level = np.asarray(level, np.float64)
        k2 = np.exp(-level)
        w = k2 / (s2 + k2)
        return 2 * self.log_alpha(level) + np.log(s2 + k2), 2 * self.log_alpha(level, 1) - w, 2 * self.log_alpha(level, 2) + w * (1 - w)

    def information(self, spectrum: Spectrum) -> np.ndarray:
        """Fisher's I(ln kappa) of one trajectory of Gaussian bands at the nominal levels, ``1/2 sum_b n_b (d ln V_b / d ln kappa)^2`` (K,);
        0 where the nominal level is infinite or of no information to rounding."""
        at = np.clip(np.where(self.finite, self.log_snr, 0.0), self.low, self.high)[:, None]
        own = dataclasses.replace(self, own=np.where(np.isfinite(self.own), self.own, 0.0))
        slope = -2.0 * own.log_v(at, spectrum.variance[None, :])[1]
        found = 0.5 * (np.square(slope) @ spectrum.count)
        return np.where(self.finite & (found > 1e-12 * spectrum.d), found, 0.0)
