"""The effective SNR by spectral regression: how much signal and how much noise of the data's spectrum is in the bands.

    v_b = g_s^2 alpha^2 s_b^2 + g_n^2 sigma^2,   v_b ~ v_b chi^2 / (n n_b):   a Gamma GLM with identity link, weights n n_b / (2 v_b^2)
    A = g_s^2 alpha^2,  B = g_n^2 sigma^2,   lambda_eff = ln(A / B),   Delta lambda = 2 ln(g_s / g_n)
    Fisher scoring on (a, b) = (g_s^2, g_n^2):   X = (alpha^2 s_b^2, sigma^2),   (X^T W X) step = X^T W (v - X (a, b))
    off the curve: deviance / (B - 2) > 2 and too large for chance, in units of what the bands vary by (bootstrap)
    unidentifiable: condition number of X^T W X > 1e6, in these units: the bands cannot tell signal from noise

It is the projection on scale and level together (M4).  It needs bands of different s_b, and the true spectrum.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.estimators.base import Effective, Resolution, spectra
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import OK
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["SpectralRegression", "fit"]

_FLOOR = 1e-9
"""The least g^2 on the way; one that ends there is 0."""


@dataclasses.dataclass(frozen=True)
class SpectralRegression(Resolution):
    """``deviance``: the most per degree of freedom (inf: never off the curve); ``condition``: the largest condition number."""

    deviance: float = 2.0
    condition: float = 1e6

    def read(self, record: BandRecord, spectrum: Spectrum, path: GaussianPath) -> Effective:
        """Of a record of ``BandRecorder``; the gains are curves of their own."""
        record.check(spectrum)
        levels = Levels.of(path, record.t)
        alpha, sigma, _ = on_host(path, record.t)
        v = record.means("state") / spectrum.count
        s2 = spectra(spectrum, v.shape[1] - 1)
        whole = np.isfinite(v).all(axis=(1, 2))
        usable = whole & (alpha > 0) & (sigma > 0)
        signal = np.where(usable, alpha**2, 1.0)[:, None, None] * s2[None]
        noise = np.where(usable, sigma**2, 1.0)[:, None, None] * np.ones_like(s2)[None]
        a, b, condition = fit(np.where(usable[:, None, None], v, signal + noise), signal, noise, spectrum.count)
        with np.errstate(divide="ignore"):
            found = np.log(a) - np.log(b) + levels.log_snr[:, None]
        flag = np.full(len(v), OK, dtype=object)
        off = self._off(v, a[:, 0], b[:, 0], signal, noise, record.n, spectrum)
        flag[off] = "off the curve"
        flag[a[:, 0] == 0] = "signal deficit"
        flag[b[:, 0] == 0] = "beyond the path"
        blind = ~usable | (condition > self.condition)
        flag[blind] = "unidentifiable"
        flag[~whole] = "not finite"
        needed = np.where(blind, np.inf, 0.0)
        found = self.effective("spectral regression", record, levels, found, flag, needed, (np.sqrt(a), np.sqrt(b)))
        for name, words in (("signal deficit", "no signal is in the bands"), ("beyond the path", "no noise is in the bands")):
            found.words[found.flag == name] = f"{words}: their variances have the shape of the other alone"
        alike = usable & (condition > self.condition) & (found.flag == "unidentifiable")
        for k in np.flatnonzero(alike):
            found.words[k] = (
                f"the bands cannot tell signal from noise: condition number {condition[k]:.2g}, at most {self.condition:g}; no number of "
                "trajectories helps"
            )
        return found

    def _off(self, v, a, b, signal, noise, n, spectrum) -> np.ndarray:
        """(K,): the deviance of the fit is too large."""
        from scipy.stats import chi2

        freedom = len(spectrum.variance) - 2
        if freedom < 1 or not np.isfinite(self.deviance):
            return np.zeros(len(v), bool)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.var(np.log(v) - np.log(signal + noise), axis=1, where=np.arange(v.shape[1])[None, :, None] > 0)
            q = v[:, 0] / (a[:, None] * signal[:, 0] + b[:, None] * noise[:, 0])
            total = (2 / np.maximum(spread, 2 / (n * spectrum.count)) * (q - 1 - np.log(q))).sum(axis=1)
        return (total > self.deviance * freedom) & (total > chi2.isf(1e-3, freedom))


def fit(v: np.ndarray, signal: np.ndarray, noise: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(a, b, condition)``: a, b >= 0 that minimise ``sum_b n_b [v / V + ln V]``, V = a signal + b noise, over arrays (..., B); the
    condition number (K,) of X^T W X at (1, 1), of the first replicate.  Fisher scoring, halved where it does not descend."""
    w = count / (signal[:, 0] + noise[:, 0]) ** 2
    aa, ab, bb = ((w * p * q).sum(-1) for p, q in ((signal[:, 0],) * 2, (signal[:, 0], noise[:, 0]), (noise[:, 0],) * 2))
    root = np.hypot(aa - bb, 2 * ab)
    with np.errstate(divide="ignore"):
        condition = (aa + bb + root) / np.maximum(2 * (aa * bb - ab**2) / (aa + bb + root), 1e-14 * (aa + bb))

    def loss(a, b):
        V = a[..., None] * signal + b[..., None] * noise
        return (count * (v / V + np.log(V))).sum(-1)

    a, b = np.ones(v.shape[:-1]), np.ones(v.shape[:-1])
    value = loss(a, b)
    for _ in range(40):
        V = a[..., None] * signal + b[..., None] * noise
        w, r = count / V**2, v - V
        aa, ab, bb, ra, rb = ((w * x).sum(-1) for x in (signal**2, signal * noise, noise**2, signal * r, noise * r))
        det = np.maximum(aa * bb - ab**2, 1e-14 * aa * bb)
        da, db = (bb * ra - ab * rb) / det, (aa * rb - ab * ra) / det
        da = np.where((b <= _FLOOR) & (rb < 0), ra / aa, da)  # on an edge, along it
        db = np.where((a <= _FLOOR) & (ra < 0), rb / bb, db)
        size, moved = np.ones_like(a), np.zeros(a.shape, bool)
        na, nb, best = a, b, value
        for _ in range(6):
            ta, tb = np.maximum(a + size * da, _FLOOR), np.maximum(b + size * db, _FLOOR)
            t = loss(ta, tb)
            better = ~moved & (t <= value)
            na, nb, best, moved = np.where(better, ta, na), np.where(better, tb, nb), np.where(better, t, best), moved | better
            size = size * np.where(moved, 1.0, 0.5)
            if moved.all():
                break
        done = np.abs(na - a).max() + np.abs(nb - b).max() < 1e-13
        a, b, value = na, nb, best
        if done:
            break
    return np.where(a <= 2 * _FLOOR, 0.0, a), np.where(b <= 2 * _FLOOR, 0.0, b), condition
