"""Coarse to fine, measured: how much of every band the denoiser has resolved, level by level, and where it is half.

    w_b = E ||a_b||^2 / (n_b s_b^2),  a = Q^T (x0_theta - mu)          the resolved fraction of band b
    cos^2 phi_b = 1 / (1 + kappa^2 / s_b^2)                            what it is for Gaussian bands and an exact denoiser
    half resolved at kappa = s_b:  lambda_b = -2 ln s_b;  for s_f ~ f^(-beta/2) the front is f*(kappa) = (kappa_0 / kappa)^(2 / beta)

It is a property of (spectrum, white noise) and not of diffusion as such: of white data all bands are half resolved at one level, of 1/f
data the low frequencies first, and of data in which a Gaussian knows less than the denoiser does, earlier than predicted.  Read from the
record of a run it is what the sampler's states resolve; from the record of forward samples (``forward``), what the network does.

Source: section 1 of the mathematics; Dieleman 2024 (diffusion as spectral autoregression) for the story, Falck et al. 2025 for its limits.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.measures import crossings, resolved
from score_lab.mismatch.replicates import Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["Layers", "layers"]


@dataclasses.dataclass(frozen=True)
class Layers:
    """What a figure needs, rows by falling noise: ``log_snr`` (K,); ``fraction``, a ``Curve`` over the K rows for each of the B bands;
    ``gaussian`` (K, B), cos^2 phi_b, to be drawn over them; ``variance`` s_b^2 (B,);

    ``predicted`` (B,), -2 ln s_b (infinite where s_b = 0); ``half``, a ``Curve`` over the B bands: the log-SNR at which each is half
    resolved, with intervals for all bands at once, flagged "never half resolved" or "half resolved throughout" where it is not among the
    levels seen, "no variance" where s_b = 0; ``shift``, the same less ``predicted``: negative is earlier, at more noise.
    """

    log_snr: np.ndarray
    fraction: list[Curve]
    gaussian: np.ndarray
    variance: np.ndarray
    predicted: np.ndarray
    half: Curve
    shift: Curve

    @property
    def front(self) -> np.ndarray:
        """(K,) the number of bands of the spectrum that are at least half resolved at each level."""
        return np.sum([np.nan_to_num(f.value) >= 0.5 for f in self.fraction], axis=0)

    @property
    def coarse_to_fine(self) -> float:
        """How far the half-resolved levels of the bands that have one lie apart: their range in nats of log-SNR; 0 of white data."""
        found = self.half.value[np.isfinite(self.half.value)]
        return float(np.ptp(found)) if len(found) else float("nan")

    def records(self) -> list[dict]:
        """One dict of Python numbers per band, for CSV and JSON."""
        names = ("value", "se", "low", "high")
        return [
            {"band": b, "variance": float(self.variance[b]), "predicted": float(self.predicted[b]), "flag": str(self.half.flag[b])}
            | {f"half_{n}": float(getattr(self.half, n)[b]) for n in names}
            | {f"shift_{n}": float(getattr(self.shift, n)[b]) for n in names}
            for b in range(len(self.variance))
        ]


def layers(record: BandRecord, spectrum: Spectrum, path: GaussianPath, **options) -> Layers:
    """The layers of a record; ``options`` of ``curve`` (``level``, ``simultaneous``).

    Calls at the same level (a corrector's, a restart's) are rows of the fractions; of the half-resolved level they are averaged.  Raises
    ConfigError for a record of fewer than two different finite levels.
    """
    record.check(spectrum)
    order = np.argsort(record.log_snr, kind="stable")
    level = record.log_snr[order]
    if len(distinct := np.unique(level[np.isfinite(level)])) < 2:
        refuse("layers.record", f"{len(distinct)} different finite level(s)", "at least 2: a level is found between two others")
    kept = dataclasses.replace(
        record, t=record.t[order], log_snr=level, banded={name: v[order] for name, v in record.banded.items()},
        plotted={name: v[order] for name, v in record.plotted.items()}, mean=record.mean[order], invalid=record.invalid[order],
        first=record.first[order], blocks=None, sizes=None,
    )  # fmt: skip
    means = kept.means("x0") / spectrum.count
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.stack([means[level == v].mean(axis=0) for v in distinct]) / spectrum.variance
        predicted = -np.log(spectrum.variance)
    flag, draws = [], []
    for b, s2 in enumerate(spectrum.variance):
        found = crossings(w[..., b], distinct)
        if s2 == 0:
            words = "no variance"
        elif not np.isfinite(w[:, 0, b]).all():
            words = "not finite"
        elif np.isfinite(found[0]):
            words = "ok"
        else:
            words = "half resolved throughout" if w[0, 0, b] >= 0.5 else "never half resolved"
        flag.append(words)
        draws.append(found)
    draws, flag = np.array(draws), np.array(flag, dtype=object)
    half = curve(draws, flag=flag, **options)
    shift = curve(draws - np.where(np.isfinite(predicted), predicted, 0.0)[:, None], flag=flag, **options)
    gaussian = np.cos(spectrum.phi(path, kept.t)) ** 2
    return Layers(level, resolved(kept, spectrum, **options), gaussian, spectrum.variance, predicted, half, shift)
