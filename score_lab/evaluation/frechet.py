"""Frechet distance between Gaussians fitted in a feature space, beside the floor that perfect samples would read.

    FD(a, b) = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))          (Dowson & Landau 1982; Heusel et al. 2017)

C is the unbiased covariance.  FD of finite sets is biased upwards by O(d / n), so the floor is FD(train, test) and the ratio compares
**equal n**: with n samples and m held-out examples both sides are FD of min(n, m) rows to the training set, the larger set averaged over
random subsets of that size.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation.estimate import Estimate, bootstrap, finite_rows
from score_lab.evaluation.features import digest

__all__ = ["Frechet", "Statistics", "frechet_distance"]

SUBSETS = 4
"""Random subsets over which the larger of two sets is averaged."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """``mean`` (k,), ``covariance`` (k, k) of ``n`` rows; digests of the feature space (``extractor``) and of data, preprocessing and
    extractor.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int
    extractor: str
    digest: str

    @classmethod
    def of(cls, x: np.ndarray, extractor: Any, preprocessing: str = "[-1, 1]") -> Statistics:
        """Of ``x`` (n, *shape) in ``extractor``'s space; ``preprocessing`` says in words what was done to ``x`` and is in the digest."""
        rows, bad = finite_rows(x, "statistics")
        if bad or len(rows) < 2:
            refuse("statistics", f"row {bad[0]} is not finite" if bad else len(rows), "at least 2 rows, all finite")
        mean, covariance = _moments(extractor(x))
        return cls(mean, covariance, len(rows), extractor.digest, digest(np.asarray(x), preprocessing, extractor.digest))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _distance(mean_a, cov_a, root_a, mean_b, cov_b) -> float:
    inner = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    cross = np.sqrt(np.maximum(inner, 0.0)).sum()
    return float(max(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross, 0.0))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """FD of two statistics of one feature space; ConfigError names the digests if the spaces differ."""
    if a.extractor != b.extractor:
        refuse("frechet_distance: extractors", (a.extractor, b.extractor), "statistics of one feature space")
    return _distance(a.mean, a.covariance, _root(a.covariance), b.mean, b.covariance)


@dataclasses.dataclass(frozen=True)
class Frechet:
    """A fixed reference: ``train`` statistics with the ``root`` of their covariance, the ``held_out`` features (m, k) and their strata.

    ``ratio(samples)`` is the criterion's number, ``distance(samples)`` the plain distance at the samples' own n.
    """

    extractor: Any
    train: Statistics
    root: np.ndarray
    held_out: np.ndarray
    strata: np.ndarray
    repeats: int = 200
    seed: int = 0

    @classmethod
    def fit(
        cls, train: np.ndarray, test: np.ndarray, extractor: Any, test_labels: np.ndarray | None = None, *,
        preprocessing: str = "[-1, 1]", repeats: int = 200, seed: int = 0,
    ) -> Frechet:  # fmt: skip
        """The reference for samples of the distribution of ``train`` and ``test``, (n, *shape) both.

        ``test_labels`` (m,) where the held-out set has a fixed number of every class: then it is resampled within classes.
        """
        statistics = Statistics.of(train, extractor, preprocessing)
        return cls(extractor, statistics, _root(statistics.covariance), extractor(test), _strata(test_labels, len(test)), repeats, seed)

    def _to_train(self, features: np.ndarray) -> float:
        return _distance(self.train.mean, self.train.covariance, self.root, *_moments(features))

    @cached_property
    def floor(self) -> Estimate:
        """FD(train, test), n the number of held-out examples."""
        estimate = bootstrap(lambda rows: self._to_train(self.held_out[rows]), self.strata, repeats=self.repeats, seed=self.seed)
        return dataclasses.replace(estimate, note=f"FD of {len(self.held_out)} held-out examples to {self.train.n} training examples")

    def distance(self, samples: np.ndarray, labels: np.ndarray | None = None) -> Estimate:
        """FD(train, samples) at the samples' own n, in features squared; ``labels`` (n,) if these were asked for in turn."""
        rows, bad = finite_rows(samples)
        if bad or len(rows) < 2:
            return Estimate.missing(len(rows), bad, "samples not finite" if bad else "needs 2 samples")
        features, strata = self.extractor(samples), _strata(labels, len(rows))
        estimate = bootstrap(lambda r: self._to_train(features[r]), strata, repeats=self.repeats, seed=self.seed)
        return dataclasses.replace(estimate, note=f"{self.extractor.name}; reference {self.train.digest}")

    def ratio(self, samples: np.ndarray, labels: np.ndarray | None = None) -> Estimate:
        """FD(train, samples) / FD(train, test) at equal n; the interval resamples both sets, the samples within ``labels`` (n,) if given.
        """
        rows, bad = finite_rows(samples)
        m = min(len(rows), len(self.held_out))
        if bad or m < 2:
            return Estimate.missing(len(rows), bad, "samples not finite" if bad else "needs 2 samples and 2 held-out examples")
        features, strata, rng = self.extractor(samples), _strata(labels, len(rows)), np.random.default_rng(self.seed)

        def distance(values: np.ndarray, strata: np.ndarray, drawn: np.ndarray) -> float:
            subsets = [drawn[_subset(rng, strata[drawn], m)] for _ in range(SUBSETS)] if len(drawn) > m else [drawn]
            return float(np.mean([self._to_train(values[s]) for s in subsets]))

        estimate = bootstrap(
            lambda a, b: distance(features, strata, a) / distance(self.held_out, self.strata, b),
            strata, self.strata, repeats=self.repeats // 2, seed=self.seed,
        )  # fmt: skip
        return dataclasses.replace(estimate, note=f"equal n = {m} on both sides, {self.extractor.name}; reference {self.train.digest}")


def _strata(labels: np.ndarray | None, n: int) -> np.ndarray:
    return np.zeros(n, int) if labels is None else np.asarray(labels)


def _subset(rng: np.random.Generator, strata: np.ndarray, m: int) -> np.ndarray:
    """``m`` of the rows at random, every stratum in its proportion: a systematic sample of the rows sorted by stratum, shuffled within."""
    n = len(strata)
    order = np.lexsort((rng.random(n), strata))
    return order[((np.arange(m) + rng.random()) * n / m).astype(int)]
