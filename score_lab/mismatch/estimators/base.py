"""What an estimator of the effective SNR is, and what all of them share: flags, intervals, and when there is too little to read.

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
from typing import Any, Protocol, runtime_checkable

import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.replicates import OK, Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["FLAGS", "Effective", "Estimator", "Resolution", "spectra", "too_few", "trajectories"]

FLAGS = (
    OK, "unidentifiable", "signal deficit", "beyond the path", "off the branch", "off the curve", "not finite", "failed its calibration",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Effective:
    """``log_snr`` the effective one, ``delta`` less the nominal one, in nats (ln kappa is -1/2 of it), with intervals over trajectories;
    ``words`` (K,) a sentence for each flag that is not "ok"; ``needed`` (K,) the trajectories that an unidentifiable level would take
    (infinite: no number would do, or none is known; NaN: not the question); ``signal_gain`` g_s and ``noise_gain`` g_n where the estimator
    tells them apart: v_b = g_s^2 alpha^2 s_b^2 + g_n^2 sigma^2."""

    name: str
    log_snr: Curve
    delta: Curve
    words: np.ndarray
    signal_gain: Curve | None = None
    noise_gain: Curve | None = None
    needed: np.ndarray | None = None

    @property
    def flag(self) -> np.ndarray:
        """Of each call."""
        return self.delta.flag


@runtime_checkable
class Estimator(Protocol):
    """A frozen dataclass with its options as fields; one of any package."""

    def read(self, record: Any, spectrum: Spectrum, path: GaussianPath) -> Effective:
        """The effective log-SNR of every call of a record (of ``BandRecorder``, or of the recorder that the estimator names)."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolution:
    """Base of the estimators of this room: ``tol`` in ln kappa, that two standard errors may be, ``level`` and ``simultaneous`` of the
    intervals; all by name."""

    tol: float = 0.1
    level: float = 0.95
    simultaneous: bool = True

    def effective(
        self, name: str, record: Any, levels: Levels, found: np.ndarray, flag: np.ndarray, needed: np.ndarray,
        gains: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Effective:  # fmt: skip
        """Of levels ``found`` (K, R + 1) with flags so far; ``needed`` (K,) trajectories for ``tol``; ``gains`` g_s, g_n (K, R + 1).  What
        is not resolved to ``tol`` (two standard errors of ln kappa, which is one of lambda) is flagged here."""
        flag, tol = np.array(flag, dtype=object), self.tol
        with np.errstate(invalid="ignore"):
            delta = found - levels.log_snr[:, None]
        whole = np.isfinite(delta).all(axis=1)
        spread = np.where(whole, np.where(whole[:, None], delta, 0.0)[:, 1:].std(axis=1, ddof=1), np.inf)
        vague = (flag == OK) & np.isfinite(found[:, 0]) & ~(spread <= tol)
        flag[vague] = "unidentifiable"
        parts = [self.curve(g, flag) for g in gains] if gains else [None, None]
        curves = self.curve(found, flag), self.curve(delta, flag)
        words = np.array([_words(f, record.n, m, s, tol) for f, m, s in zip(curves[1].flag, needed, spread, strict=True)], dtype=object)
        more = np.array([_more(f, record.n, m, s, tol) for f, m, s in zip(curves[1].flag, needed, spread, strict=True)])
        return Effective(name, *curves, words, *parts, needed=more)

    def curve(self, draws: np.ndarray, flag: np.ndarray) -> Curve:
        """``replicates.curve`` of ``draws`` (K, R + 1) with these intervals."""
        return curve(draws, flag=flag, level=self.level, simultaneous=self.simultaneous)


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
    needed = _more(flag, n, needed, spread, tol)
    more = f"about {needed:.0f} would" if np.isfinite(needed) else "some replicates have no level at all"
    return f"too few trajectories: {n} do not resolve ln kappa to {tol:g} at two standard errors, {more}"


def _more(flag: str, n: int, needed: float, spread: float, tol: float) -> float:
    """The trajectories that an unidentifiable level would take: what the information asks for, or the spread found."""
    if flag != "unidentifiable":
        return float("nan")
    if needed <= n:
        needed = np.ceil(n * (spread / tol) ** 2)
    return float(max(needed, n + 1))
