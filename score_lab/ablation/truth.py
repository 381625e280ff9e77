"""What samples are measured against: labelled or unlabelled images of a data set, held-out points, or a law that is known exactly.

    images    agreement, frechet, kid, variance        in a given feature space (``spaces``), the classifier of ``evaluation.Reference``
    points    energy, mmd, w2                          against held-out points, or exact draws of the law
    all       snr_gap, R_last                          the effective minus the nominal log-SNR of the states at a network call

Every measure gives its value and its bootstrap draws with one W for all solvers, so that differences are paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from score_lab.ablation.spaces import feature_space
from score_lab.evaluation import (
    Discrepancy,
    Estimate,
    Frechet,
    Reference,
    Wasserstein,
    digest,
    estimate_of,
    resampling,
    weighted_frechet,
    weighted_mean,
    weighted_variance,
)
from score_lab.evaluation.estimate import finite_rows
from score_lab.mismatch import DataMoments, NormRecord, Spectrum, first_look
from score_lab.mismatch.measures import band_kl
from score_lab.paths.base import GaussianPath

__all__ = ["COLUMNS", "Images", "Measured", "Points", "snr_gap", "solver_error"]

COLUMNS = {
    "frechet": "Frechet distance",
    "kid": "KID",
    "agreement": "label agreement",
    "variance": "within-class variance ratio",
    "band_kl": "KL of the bands' variances, in nats a value",
    "energy": "energy distance",
    "mmd": "MMD^2",
    "w2": "W2",
    "solver_error": "solver error",
    "snr_gap": "effective minus nominal log-SNR at the last call that tells",
    "R_last": "variance of the last call's states over the path's",
}
HIGHER = ("agreement",)
"""Columns in which more is better."""
RANKABLE = ("frechet", "kid", "agreement", "energy", "mmd", "w2", "band_kl", "solver_error")
MOST_KID, MOST_POINTS = 2000, 4000
"""Reference examples that enter a kernel's sums."""
UNBIASED = (
    "KID, energy distance and MMD^2 are unbiased: of samples of the data's own law they are 0 in the mean, so half of the time below; a "
    "negative value is no distance that can be told, not a better one than 0"
)
"""What a negative distance means, for pages."""


@dataclasses.dataclass
class Measured:
    """``estimates`` of every column, and the ``draws`` (B + 1,) of those that can be compared in pairs."""

    estimates: dict[str, Estimate] = dataclasses.field(default_factory=dict)
    draws: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def add(self, column: str, values: np.ndarray, n: int, note: str = "", least: float = 0.0) -> None:
        """A column from its value and draws."""
        self.estimates[column], self.draws[column] = estimate_of(values, n, least=least, note=note), values


@dataclasses.dataclass(frozen=True)
class Images:
    """Of a data set; ``floor``: held-out images, their labels; ``moments`` and ``data`` for the mismatch."""

    reference: Reference
    kid: Discrepancy
    floor: tuple[np.ndarray, np.ndarray | None]
    moments: DataMoments
    data: np.ndarray
    digest: str
    energy: Discrepancy | None = None
    spectrum: Spectrum | None = None
    floor_name = "held-out data"

    @property
    def columns(self) -> tuple[str, ...]:
        """What can be measured, the default to rank by first; energy distance and the bands' KL where the ``spectrum`` is given."""
        return ("frechet", "kid", "agreement", "variance", *(() if self.spectrum is None else ("energy", "band_kl")))

    @classmethod
    def of(
        cls, train: np.ndarray, labels: np.ndarray | None, test: np.ndarray, test_labels: np.ndarray | None, features: Any = "PCA",
        spectrum: Spectrum | None = None,
    ) -> Images:  # fmt: skip
        """From the two splits of a data set, (n, *shape) and (n,); ``features``: see ``spaces``; ``spectrum`` of the training data."""
        reference = Reference.fit(train, labels, test, test_labels)
        space = feature_space(features, np.asarray(train))
        if space.digest != reference.frechet.extractor.digest:
            reference = dataclasses.replace(reference, frechet=Frechet.fit(train, test, space, test_labels))
        features = reference.frechet.extractor(train)
        rows = np.unique(np.linspace(0, len(features) - 1, min(MOST_KID, len(features))).astype(int))
        stamp = digest(np.asarray(train), np.asarray(test), reference.frechet.extractor.digest)
        energy = None
        if spectrum is not None:
            stamp = digest(stamp, spectrum.digest, spectrum.band)
            energy = Discrepancy.energy(np.asarray(train, np.float64).reshape(len(train), -1)[rows])
        kid = Discrepancy.kid(features[rows])
        return cls(reference, kid, (test, test_labels), DataMoments.of(train), train, stamp, energy, spectrum)

    def measure(self, x: np.ndarray, labels: np.ndarray | None, repeats: int) -> Measured:
        """The columns for ``x`` (n, *shape) that were asked to show ``labels`` (n,)."""
        rows, bad = finite_rows(x)
        found, r = Measured(), self.reference
        conditional = labels is not None and r.classifier is not None
        if conditional:
            found.estimates["agreement"] = r.classifier.agreement(x, labels)
        if bad:
            for column in (c for c in self.columns if c != "agreement"):
                found.estimates[column] = Estimate.missing(len(rows), bad, "samples not finite")
            return found
        W = resampling(len(rows), repeats, labels)
        if conditional:
            found.draws["agreement"] = weighted_mean((r.classifier.model.predict(rows) == labels).astype(float), W)
        f = r.frechet
        features = f.extractor(x)
        found.add("frechet", weighted_frechet(features, W, f.train.mean, f.train.covariance, f.root), len(rows), f.extractor.name)
        found.add("kid", self.kid(features, W), len(rows), f.extractor.name, least=-np.inf)
        own, data = (labels, r.labels) if conditional else (np.zeros(len(rows), int), np.zeros(len(r.train), int))
        everything = np.asarray(r.train, np.float64).reshape(len(r.train), -1)
        within = weighted_variance(everything, data, np.ones((1, len(data))))[0]
        found.add("variance", weighted_variance(rows, own, W) / within, len(rows))
        if self.spectrum is not None:
            found.add("energy", self.energy(rows, W), len(rows), "of the values themselves", least=-np.inf)
            found.add("band_kl", bands_kl(x, self.spectrum, W), len(rows))
        return found

    def describe(self) -> list[str]:
        """What the numbers stand on."""
        f, lines = self.reference.frechet, []
        if self.reference.accuracy is not None:
            accuracy = self.reference.accuracy
            lines.append(f"agreement: classifier {accuracy.note}, held-out accuracy {accuracy}, n = {accuracy.n}")
        return [
            *lines,
            f"frechet, kid: in {f.extractor.name} of {f.train.n} training images (statistics {f.train.digest}); KID (cubic kernel, "
            f"unbiased) to {len(self.kid.reference)} of them; a Frechet distance falls with n, so compare rows of one n only",
            UNBIASED,
            "variance: total variance within classes over the training data's; 1 for the data",
        ]


@dataclasses.dataclass(frozen=True)
class Points:
    """Of points in a few dimensions: ``reference`` (m, d) to measure against, ``floor`` (n, d) of the same law and its labels."""

    energy: Discrepancy
    mmd: Discrepancy
    wasserstein: Wasserstein
    floor: tuple[np.ndarray, np.ndarray | None]
    moments: DataMoments
    data: np.ndarray
    digest: str
    known: bool
    spectrum: Spectrum | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What can be measured, the default to rank by first; the bands' KL where the ``spectrum`` is given."""
        return ("energy", "mmd", "w2", *(() if self.spectrum is None else ("band_kl",)))

    @property
    def floor_name(self) -> str:
        """What the floor's row is called."""
        return "exact samples" if self.known else "training data"

    @classmethod
    def of(
        cls, reference: np.ndarray, floor: np.ndarray, labels: np.ndarray | None, *, known: bool, block: int = 250,
        spectrum: Spectrum | None = None,
    ) -> Points:  # fmt: skip
        """``reference``: exact draws or held-out data; ``floor``: other exact draws, or training data: what the law itself reads."""
        rows = np.asarray(reference, np.float64).reshape(len(reference), -1)
        part, block = rows[:MOST_POINTS], max(10, min(block, len(floor) // 8))
        stamp = digest(rows, np.asarray(floor), block)
        return cls(
            Discrepancy.energy(part), Discrepancy.mmd(part), Wasserstein(rows, block), (floor, labels), DataMoments.of(reference),
            np.asarray(reference), stamp if spectrum is None else digest(stamp, spectrum.digest), known, spectrum,
        )  # fmt: skip

    @classmethod
    def exact(
        cls, denoiser: Any, n: int, cond: Mapping[str, np.ndarray] | None, seed: int = 1_000_003, spectrum: Spectrum | None = None
    ) -> Points:
        """Two independent sets of n draws of the law that ``denoiser.sample(key, index, cond)`` knows."""
        index = jax.numpy.arange(n, dtype=jax.numpy.int32)
        sets = [np.asarray(denoiser.sample(jax.random.key(seed + k), index, cond)) for k in range(2)]
        return cls.of(sets[0], sets[1], None if cond is None else cond["label"], known=True, spectrum=spectrum)

    def measure(self, x: np.ndarray, labels: np.ndarray | None, repeats: int) -> Measured:
        """The columns for ``x`` (n, *shape)."""
        rows, bad = finite_rows(x)
        found = Measured()
        if bad:
            found.estimates = {column: Estimate.missing(len(rows), bad, "samples not finite") for column in self.columns}
            return found
        W = resampling(len(rows), repeats, labels)
        found.add("energy", self.energy(rows, W), len(rows), least=-np.inf)
        found.add("mmd", self.mmd(rows, W), len(rows), self.mmd.name, least=-np.inf)
        blocks = self.wasserstein.blocks(len(rows))
        if blocks >= 2:
            found.add("w2", self.wasserstein(rows, repeats), len(rows), f"exact, on {blocks} blocks of {self.wasserstein.block}")
        if self.spectrum is not None:
            found.add("band_kl", bands_kl(x, self.spectrum, W), len(rows))
        return found

    def describe(self) -> list[str]:
        """What the numbers stand on."""
        law = "exact draws of the law" if self.known else "held-out data"
        return [
            f"energy, mmd: to {len(self.energy.reference)} {law}, unbiased (equal laws read 0 on average); mmd is {self.mmd.name}",
            f"w2: exact assignment on blocks of {self.wasserstein.block} samples and as many {law}; equal laws read what the row "
            f"'{self.floor_name}' reads, not 0",
        ]


def bands_kl(x: np.ndarray, spectrum: Spectrum, W: np.ndarray) -> np.ndarray:
    """``1 / (2 d) sum_b n_b (q_b - 1 - ln q_b)``, q_b the mean square of the samples x (n, *shape) about the data's mean over s_b^2, for
    every row of W (B + 1, n): a moment, and about B / (n d) for samples of the data's own spectrum."""
    c = spectrum.basis.analyse(jax.numpy.asarray(np.asarray(x) - spectrum.mean, jax.numpy.float32))
    v = W @ np.asarray(spectrum.energies(c), np.float64) / (W.sum(axis=1)[:, None] * spectrum.count)
    alive = spectrum.variance > 0
    return band_kl(v[:, alive], spectrum.variance[alive], spectrum.count[alive]) / spectrum.d


def solver_error(x: np.ndarray, reference: np.ndarray, repeats: int) -> Measured:
    """``sqrt(mean |x - reference|^2 / d)``: the distance of each sample to the solution of its own noise, (n, *shape) both."""
    rows, bad = finite_rows(x)
    other, broken = finite_rows(reference, "reference")
    found = Measured()
    if bad or broken:
        note = "samples not finite" if bad else "the reference solution is not finite"
        found.estimates["solver_error"] = Estimate.missing(len(rows), bad, note)
        return found
    squares = np.square(rows - other).mean(axis=1)
    found.add("solver_error", np.sqrt(weighted_mean(squares, resampling(len(rows), repeats))), len(rows))
    return found


def snr_gap(t: np.ndarray, square: np.ndarray, path: GaussianPath, moments: DataMoments, data: np.ndarray) -> dict[str, Estimate]:
    """``R_last`` at the last network call, and ``snr_gap`` at the last one whose level total variance tells, from the times (K,) of calls
    and the squared norms (K, n) there.

    At the last call itself it mostly does not: near data, total variance is that of the data whatever the noise.  The note of the gap
    says at which log-SNR it was read; where no call can be read it is missing with the flag of ``mismatch.read`` for the last one.
    """
    n = min(square.shape[1], len(data))
    square = np.asarray(square, np.float64)[:, :n]
    t, made = np.asarray(t, np.float64), np.ones(len(square), bool)
    record = NormRecord(t=t, square=square, fed=0 * square, made=made, d=np.asarray(moments.d))
    if n < 2:
        return {}
    look = first_look(record, path, moments, data)
    r, null = look.sampler, look.null

    def note(k: int) -> str:
        level = f"log-SNR {round(float(r.log_snr[k]), 2) + 0.0:g}"  # of -0.0 too
        return f"{level}; forward samples read R = {null.ratio[k]:.3g} [{null.low[k]:.3g}, {null.high[k]:.3g}]"

    told = np.flatnonzero(r.flag == "ok")
    gap = Estimate.missing(n, r.invalid, f"{r.flag[-1]}; {note(-1)}")
    if len(told):
        k = int(told[-1])
        ends = (float(v[k]) - float(r.log_snr[k]) for v in (r.effective, r.effective_low, r.effective_high))
        gap = Estimate(*ends, n, r.invalid, f"at {note(k)}")
    return {"R_last": Estimate(float(r.ratio[-1]), float(r.low[-1]), float(r.high[-1]), n, r.invalid, note(-1)), "snr_gap": gap}

