"""The effective SNR by total variance: the level whose forward states have the variance of the sampler's.

    R = mean ||x - alpha mu||^2 / (d V),    V(l) = alpha_l^2 (s^2 + exp(-l)),    lambda_eff: V(lambda_eff) = R V(lambda)
    se(ln R) = sqrt(2 / (n d_eff)),    I(ln kappa) = d_eff / 2 (d ln V / d ln kappa)^2

One number for all bands: on a VP path of data with unit variance V is 1 at every level and nothing can be read; with alpha = 1 it is
sigma_eff^2 = v - s^2, which does not exist where v < s^2.  V is inverted on the monotone branch around the nominal level.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.estimators.base import Effective, Resolution, spectra, trajectories
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.estimators.roots import branch, solve
from score_lab.mismatch.replicates import OK
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["TotalVariance"]


@dataclasses.dataclass(frozen=True)
class TotalVariance(Resolution):
    """``family`` "path" or "kept" (see base)."""

    family: str = "path"

    def read(self, record: BandRecord, spectrum: Spectrum, path: GaussianPath) -> Effective:
        """Of a record of ``BandRecorder``."""
        record.check(spectrum)
        levels = Levels.of(path, record.t, self.family)
        v = record.means("state").sum(axis=-1) / spectrum.d
        s2 = spectra(spectrum, v.shape[1] - 1) @ spectrum.count / spectrum.d
        found, flag, needed = np.full(v.shape, np.nan), np.full(len(v), OK, dtype=object), np.full(len(v), np.inf)
        for k in np.flatnonzero(levels.finite):
            one = dataclasses.replace(levels, own=levels.own[k : k + 1])
            found[k], flag[k], needed[k] = _one(one, levels.log_snr[k], v[k], s2, spectrum, self.tol)
        flag[needed > record.n] = "unidentifiable"
        flag[~np.isfinite(v).all(axis=1)] = "not finite"
        return self.effective("total variance", record, levels, found, flag, needed)


def _one(levels: Levels, nominal: float, v: np.ndarray, s2: np.ndarray, spectrum: Spectrum, tol: float) -> tuple[np.ndarray, str, float]:
    """Levels (R + 1,), the flag and the trajectories needed, of one call."""
    grid = np.linspace(levels.low, levels.high, 2401)
    log_v, slope, _ = levels.log_v(grid[None], s2[0])
    _, here, _ = levels.log_v(np.array([[nominal]]), s2[0])
    V_b = np.exp(levels.log_v(np.array([nominal]), spectrum.variance)[0])
    d_eff = (spectrum.count @ V_b) ** 2 / (spectrum.count @ V_b**2)
    per_kappa = 2.0 * abs(float(here[0, 0]))
    needed = float(trajectories(0.5 * d_eff * per_kappa**2, tol)) if per_kappa > 1e-7 else np.inf
    if not np.isfinite(needed) or not np.isfinite(v).all():
        return np.full(v.shape, np.nan), OK, needed
    sign = float(np.sign(here[0, 0]))
    low, high = branch(grid, np.sign(slope[0]) == sign, nominal)
    ends = [levels.log_v(np.full((1, len(s2)), end), s2[None])[0][0] for end in (low, high)]
    least, most = np.minimum(*ends), np.maximum(*ends)
    log_target = np.log(v)
    slack = 1e-12

    def rest(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, d, _ = levels.log_v(at[None], s2[None])
        return -sign * (value[0] - log_target), -sign * d[0]

    found = solve(rest, np.full(v.shape, low), np.full(v.shape, high))
    found = np.where((log_target < least - slack) | (log_target > most + slack), np.inf, found)
    if log_target[0] < least[0] - slack:
        return found, "signal deficit", needed
    return found, "beyond the path" if log_target[0] > most[0] + slack else OK, needed
