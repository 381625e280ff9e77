"""What an estimator of the effective SNR is, and what all of them share: flags, levels of a family of laws, and when there is too little.

    read(record, spectrum, path) -> Effective(log_snr, delta = log_snr - nominal, flag, words)

An effective log-SNR is a projection of the sampler's states on a curve of laws p_l.  There are two such curves through a call's level:

    "path"   p_l = law of alpha_l x0 + sigma_l eps         the forward states of another level of the path
    "kept"   p_l = law of alpha_k (x0 + exp(-l / 2) eps)   the call's own signal with another amount of noise

On a path with alpha = 1 they are one.  On any other, states that were contaminated, x = x_t + tau xi, are on the second and not on the
first: kappa_eff^2 = kappa^2 + tau^2 / alpha^2 holds for "kept" (on "path" it holds of (alpha_eff / alpha) x).  Where no number exists there
is none (NaN) and ``flag`` says why; ``words`` say it in a sentence, with the number of trajectories that it would take if more would help:

    unidentifiable    n I(ln kappa) < 4 / tol^2, or two standard errors of ln kappa are more than tol, or the nominal level is infinite
    signal deficit    less variance than any law of the curve; of the regression: no signal is in the bands (g_s = 0)
    beyond the path   more variance than any law of the curve; of the regression: no noise is in the bands (g_n = 0)
    off the branch    the read-out is beyond the interval around the level on which it is monotone
    off the curve     no law of the curve fits the bands
    not finite        a trajectory is NaN or infinite
    failed its calibration    a probe that did not recover a known contamination around this level
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import OK, Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["FLAGS", "FAMILIES", "Effective", "Estimator", "Levels", "effective", "solve", "spectra", "too_few", "trajectories"]

FLAGS = (
    OK, "unidentifiable", "signal deficit", "beyond the path", "off the branch", "off the curve", "not finite", "failed its calibration",
)  # fmt: skip
FAMILIES = ("path", "kept")
_LIMIT, _STEP = 30.0, 0.01
"""Log-SNRs from -30 to 30, every 0.01."""


@dataclasses.dataclass(frozen=True)
class Effective:
    """``log_snr`` the effective one, ``delta`` less the nominal one, in nats (ln kappa is -1/2 of it), with intervals over trajectories;
    ``words`` (K,) a sentence for each flag that is not "ok"; ``signal_gain`` g_s and ``noise_gain`` g_n where the estimator tells them
    apart: v_b = g_s^2 alpha^2 s_b^2 + g_n^2 sigma^2."""

    name: str
    log_snr: Curve
    delta: Curve
    words: np.ndarray
    signal_gain: Curve | None = None
    noise_gain: Curve | None = None

    @property
    def flag(self) -> np.ndarray:
        """Of each call."""
        return self.delta.flag


@runtime_checkable
class Estimator(Protocol):
    """A frozen dataclass with its options as fields; one of any package."""

    def read(self, record: Any, spectrum: Spectrum, path: GaussianPath) -> Effective:
        """The effective log-SNR of every call of a record (of ``BandRecorder``, or of the recorder that the estimator names)."""


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


def solve(slope: Callable, low: np.ndarray, high: np.ndarray, iterations: int = 60) -> np.ndarray:
    """The root of ``slope(l) -> (f, df/dl)`` between ``low`` and ``high``, where f falls from positive to negative: Newton, or the middle
    where that leaves the bracket.  All elements at once."""
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    at = 0.5 * (low + high)
    for _ in range(iterations):
        f, df = slope(at)
        low, high = np.where(f > 0, at, low), np.where(f < 0, at, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            new = at - f / df
        inside = np.isfinite(new) & (new >= low) & (new <= high)
        new = np.where(inside, new, 0.5 * (low + high))
        if np.abs(new - at).max(initial=0.0) < 1e-15:
            break
        at = new
    return at


def spectra(spectrum: Spectrum, replicates: int, seed: int = 0) -> np.ndarray:
    """``s_b^2`` for the value and every replicate, (R + 1, B): the spectrum's own uncertainty is drawn with the trajectories'."""
    z = np.random.default_rng(seed).standard_normal((replicates + 1, len(spectrum.variance)))
    z[0] = 0.0
    return spectrum.variance * np.exp(spectrum.se * z - 0.5 * np.square(spectrum.se) * (z != 0))


def trajectories(information: Any, tol: float) -> np.ndarray:
    """How many resolve ln kappa to ``tol`` at two standard errors: ``n >= 4 / (tol^2 I)``; infinite where there is no information."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.ceil(4.0 / (tol**2 * np.asarray(information, np.float64))))


def too_few(tol: float, d_eff: float = 1.0, d_lnv: float = 1.0) -> float:
    """How many trajectories resolve a variance to the relative ``tol`` at two standard errors: ``n d_eff >= 8 / tol^2`` (1 %: 8e4), or what
    it says of ln kappa, with ``d_lnv`` = |d ln V / d ln kappa|.  ``d_eff = (sum v)^2 / sum v^2``.  ConfigError unless tol, d_eff > 0."""
    if not (tol > 0 and d_eff > 0):
        refuse("too_few.tol, d_eff", (tol, d_eff), "both > 0")
    return float(np.ceil(8.0 / (tol**2 * d_eff * d_lnv**2))) if d_lnv else float("inf")


def effective(
    name: str, record: Any, levels: Levels, found: np.ndarray, flag: np.ndarray, needed: np.ndarray, tol: float, *,
    gains: tuple[np.ndarray, np.ndarray] | None = None, level: float = 0.95, simultaneous: bool = True,
) -> Effective:  # fmt: skip
    """Of levels ``found`` (K, R + 1) with flags so far; ``needed`` (K,) trajectories for ``tol`` in ln kappa.  What is not resolved to
    ``tol`` (two standard errors of ln kappa, which is one of lambda) is flagged here."""
    flag = np.array(flag, dtype=object)
    with np.errstate(invalid="ignore"):
        delta = found - levels.log_snr[:, None]
    whole = np.isfinite(delta).all(axis=1)
    spread = np.where(whole, np.where(whole[:, None], delta, 0.0)[:, 1:].std(axis=1, ddof=1), np.inf)
    vague = (flag == OK) & np.isfinite(found[:, 0]) & ~(spread <= tol)
    flag[vague] = "unidentifiable"
    options = {"flag": flag, "level": level, "simultaneous": simultaneous}
    parts = [curve(g, **options) for g in gains] if gains else [None, None]
    curves = curve(found, **options), curve(delta, **options)
    words = np.array([_words(f, record.n, m, s, tol) for f, m, s in zip(curves[1].flag, needed, spread, strict=True)], dtype=object)
    return Effective(name, *curves, words, *parts)


_SENTENCES = {
    "signal deficit": "less variance than any level of the curve has: no amount of noise explains it",
    "beyond the path": "more variance than any level of the curve has",
    "off the branch": "beyond the levels around the label on which the read-out is monotone",
    "off the curve": "no signal and noise of the data's spectrum fit the bands: read the ratios R_b",
    "failed its calibration": "the probe did not recover a known contamination around this level: train it longer, or on more data",
    "not finite": "a trajectory is NaN or infinite, or no law of the curve was found",
}


def _words(flag: str, n: int, needed: float, spread: float, tol: float) -> str:
    if flag != "unidentifiable":
        return _SENTENCES.get(flag, "")
    if not np.isfinite(needed):
        return "no number of trajectories resolves the level: the read-out does not depend on it here"
    if needed <= n and np.isfinite(spread):
        needed = np.ceil(n * (spread / tol) ** 2)
    more = f"about {max(needed, n + 1):.0f} would" if np.isfinite(spread) or needed > n else "some replicates have no level at all"
    return f"too few trajectories: {n} do not resolve ln kappa to {tol:g} at two standard errors, {more}"
