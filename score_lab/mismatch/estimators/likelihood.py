"""The effective SNR by maximum likelihood in Gaussian bands: the level whose law the sampler's states are most likely of (M3).

    lambda_eff = argmax_l E ln p_l(x)
    Gaussian bands:  l(lambda) = -1/2 sum_b [ n n_b ln V_b + S_b / V_b ],   S_b = sum_j ||c_b^(j)||^2
                     score U = n/2 sum_b n_b (q_b - 1) g_b,   q_b = S_b / (n n_b V_b),   g_b = d ln V_b / d lambda
                     Fisher per trajectory I(ln kappa) = 1/2 sum_b n_b (d ln V_b / d ln kappa)^2,   d / d ln kappa = -2 d / d lambda

The interval is the trajectory bootstrap's, which is the sandwich H^-1 J H^-1 / n to first order: the states need not be of any p_l.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.estimators.base import Effective, Resolution, spectra, trajectories
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.estimators.roots import solve
from score_lab.mismatch.replicates import OK
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

_BLOCK = 4_000_000
"""The most numbers of one array of the search over the grid."""

__all__ = ["MaximumLikelihood", "sandwich"]


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood(Resolution):
    """For Gaussian bands.  ``family`` "path" or "kept" (see base)."""

    family: str = "path"

    def read(self, record: BandRecord, spectrum: Spectrum, path: GaussianPath) -> Effective:
        """Of a record of ``BandRecorder``; bands of no variance at a level (s_b = 0 at sigma = 0) are not met inside the path."""
        record.check(spectrum)
        levels = Levels.of(path, record.t, self.family)
        E, count = record.means("state"), spectrum.count
        s2 = spectra(spectrum, E.shape[1] - 1)
        s2 = s2[:1] if not spectrum.se.any() else s2
        needed = trajectories(levels.information(spectrum), self.tol)
        found, flag = np.full(E.shape[:2], np.nan), np.full(len(E), OK, dtype=object)
        use = np.flatnonzero(np.isfinite(needed) & np.isfinite(E).all(axis=(1, 2)))
        for k in use:
            one = dataclasses.replace(levels, own=levels.own[k : k + 1])
            found[k], flag[k] = _gaussian(one, E[k], s2, count)
        flag[needed > record.n] = "unidentifiable"
        flag[~np.isfinite(E).all(axis=(1, 2))] = "not finite"
        return self.effective("maximum likelihood", record, levels, found, flag, needed)


def _gaussian(levels: Levels, E: np.ndarray, s2: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, str]:
    """Maximisers (R + 1,) of one call with energies (R + 1, B), infinite where that is an end of the curve, and the flag."""
    grid = np.linspace(levels.low, levels.high, max(3, int((levels.high - levels.low) / 0.1)))
    value = _on_grid(levels, grid, E, s2, count)
    best = np.argmax(value, axis=1)
    inside = (best > 0) & (best < len(grid) - 1)
    at = np.clip(best, 1, len(grid) - 2)

    def score(level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ln, g, h = levels.log_v(level[None, :, None], s2[None])
        q = E / count * np.exp(-ln[0])
        return ((q - 1) * g[0]) @ count, (-q * g[0] ** 2 + (q - 1) * h[0]) @ count

    low, high = grid[at - 1], grid[at + 1]
    ends = score(grid[np.zeros_like(best)])[0] > 0, score(grid[np.full_like(best, len(grid) - 1)])[0] < 0
    inside |= np.where(best == 0, ends[0], ends[1])  # the last tenth at an end may still hold the maximum
    low, high = np.where(best == 0, grid[0], low), np.where(best == len(grid) - 1, grid[-1], high)
    found = np.where(inside, solve(score, low, high), np.where(best == 0, -np.inf, np.inf))
    if inside[0]:
        return found, OK
    total = E[0].sum() - count @ np.exp(levels.log_v(grid[best[:1], None], s2[:1])[0][0])
    return found, "signal deficit" if total < 0 else "beyond the path"


def _on_grid(levels: Levels, grid: np.ndarray, E: np.ndarray, s2: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``-sum_b [n_b ln V_b + E_b / V_b]`` (R + 1, m).  Where every replicate has its own spectrum, as many at a time as ``_BLOCK`` holds.
    """
    at = grid[None, :, None]
    if len(s2) == 1:
        log_v = levels.log_v(at, s2[:, None, :])[0][0]
        return -(log_v @ count)[None, :] - E @ np.exp(-log_v).T
    size = max(1, _BLOCK // (len(grid) * len(count)))
    parts = []
    for first in range(0, len(s2), size):
        log_v = levels.log_v(at, s2[first : first + size, None, :])[0]
        parts.append(-(log_v @ count) - np.einsum("rb,rmb->rm", E[first : first + size], np.exp(-log_v)))
    return np.concatenate(parts)


def sandwich(record: BandRecord, spectrum: Spectrum, path: GaussianPath, found: Effective, family: str = "path") -> np.ndarray:
    """``H^-1 J H^-1 / n`` as a standard error of lambda_eff (K,), J from independent Gaussian bands of the variances found:
    ``J = 1/2 sum_b n_b q_b^2 g_b^2``, ``H = 1/2 sum_b n_b (q_b g_b^2 - (q_b - 1) g_b')``; ``1 / sqrt(n I)`` where all q_b = 1."""
    levels, count = Levels.of(path, record.t, family), spectrum.count
    at = np.where(np.isfinite(found.log_snr.value), found.log_snr.value, 0.0)
    levels = dataclasses.replace(levels, own=np.where(np.isfinite(levels.own), levels.own, 0.0))
    ln, g, h = levels.log_v(at[:, None], spectrum.variance[None])
    q = record.means("state")[:, 0] / count * np.exp(-ln)
    J, H = 0.5 * (q * g) ** 2 @ count, 0.5 * (q * g**2 - (q - 1) * h) @ count
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(found.flag == OK, np.sqrt(J / record.n) / np.abs(H), np.nan)
