"""Statistics of one set of samples under many resamplings at once, so that two sets drawn from the same noise can be compared in pairs.

    W (B + 1, n):   row 0 is ones, row b counts how often bootstrap b draws each sample
    statistic(x, W) -> (B + 1,):   the value, then B draws

The unit is one sample (one trajectory).  W depends on n, the strata and the seed alone, so sample i of every solver, which started from the
same noise, is drawn equally often, and ``a[1:] - b[1:]`` are the draws of a *paired* difference.

    Frechet      |m - m_0|^2 + tr(C + C_0 - 2 (C_0^(1/2) C C_0^(1/2))^(1/2))                                  (Heusel et al. 2017)
    MMD^2        mean_{i != j} k(x_i, x_j) - 2 mean k(x_i, y_j) + mean_{i != j} k(y_i, y_j)                   (Gretton et al. 2012, eq. 3)
    KID          MMD^2 with k(x, y) = (x.y / k + 1)^3 in a feature space of k values                          (Binkowski et al. 2018, eq. 4)
    energy       MMD^2 with k(x, y) = -|x - y|                                                               (Szekely & Rizzo 2013, eq. 5)
    W2           sqrt(mean of W2^2 over blocks of m samples and m reference points, each the exact assignment) (Villani 2009, eq. 6.1)

The reference is fixed: intervals speak of the samples.  A sample drawn twice makes no pair with itself, so the draws of MMD^2 are unbiased
too.  W2 is at block size m, where even equal laws read more than 0: its floor is that of two sets of the reference's law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation.estimate import Estimate, resample

__all__ = ["Discrepancy", "Wasserstein", "estimate_of", "resampling", "weighted_frechet", "weighted_mean", "weighted_variance"]

CHUNK = 2048
"""Rows of a kernel matrix that exist at once."""


def resampling(n: int, repeats: int = 200, strata: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """W (repeats + 1, n), float64: ones, then counts of n draws with replacement, within each value of ``strata`` (n,) if given."""
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(resample(rng, n, strata), minlength=n) for _ in range(repeats)]
    return np.stack([np.ones(n), *drawn]).astype(np.float64)


def estimate_of(values: np.ndarray, n: int, *, level: float = 0.95, least: float = 0.0, note: str = "") -> Estimate:
    """``values[0]`` with the standard interval of the draws ``values[1:]``, not below ``least``."""
    spread = NormalDist().inv_cdf(0.5 + level / 2) * float(np.std(values[1:], ddof=1))
    value = float(values[0])
    return Estimate(value, max(least, value - spread), value + spread, n, note=note)


def weighted_mean(values: np.ndarray, W: np.ndarray) -> np.ndarray:
    """The mean of ``values`` (n,), (B + 1,)."""
    return W @ values / W.sum(axis=1)


def weighted_frechet(features: np.ndarray, W: np.ndarray, mean: np.ndarray, covariance: np.ndarray, root: np.ndarray) -> np.ndarray:
    """FD of ``features`` (n, k) to the Gaussian of ``mean``, ``covariance`` and its symmetric ``root``, (B + 1,)."""
    n, k = features.shape
    features = features - mean
    first, second = W @ features / n, np.zeros((len(W), k * k))
    rows = max(1, CHUNK * 512 // (k * k))
    for i in range(0, n, rows):
        part = features[i : i + rows]
        second += W[:, i : i + rows] @ (part[:, :, None] * part[:, None, :]).reshape(len(part), -1)
    inner = (second.reshape(-1, k, k) - n * first[:, :, None] * first[:, None, :]) / (n - 1)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ inner @ root), 0.0)).sum(axis=1)
    trace = np.trace(inner, axis1=1, axis2=2) + np.trace(covariance)
    return np.maximum(np.square(first).sum(axis=1) + trace - 2 * cross, 0.0)


def weighted_variance(rows: np.ndarray, labels: np.ndarray, W: np.ndarray) -> np.ndarray:
    """``sum_c tr C_c`` over the classes c of ``labels`` (n,), unbiased, of ``rows`` (n, d), (B + 1,); W must resample within classes."""
    total = np.zeros(len(W))
    for c in np.unique(labels):
        x, w = rows[labels == c], W[:, labels == c]
        x, m = x - x.mean(axis=0), w.sum(axis=1)
        total += (w @ np.square(x).sum(axis=1) - np.square(w @ x).sum(axis=1) / m) / (m - 1)
    return total


@dataclasses.dataclass(frozen=True)
class Discrepancy:
    """MMD^2 to the ``reference`` points (m, k) under ``kernel(x, y) -> (n, m)``; ``inner`` is the mean over pairs of them."""

    name: str
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reference: np.ndarray
    inner: float

    @classmethod
    def of(cls, name: str, kernel: Callable, reference: np.ndarray) -> Discrepancy:
        """Any kernel; at least two reference points."""
        if len(reference) < 2:
            refuse(f"{name}.reference", len(reference), "at least 2 points")
        return cls(name, kernel, reference, float(_pairs(kernel, reference, np.ones((1, len(reference))))[0]))

    @classmethod
    def kid(cls, features: np.ndarray) -> Discrepancy:
        """The cubic polynomial kernel on features (m, k)."""
        return cls.of("KID", lambda x, y: (x @ y.T / x.shape[1] + 1.0) ** 3, features)

    @classmethod
    def energy(cls, points: np.ndarray) -> Discrepancy:
        """Minus the Euclidean distance."""
        return cls.of("energy distance", lambda x, y: -_distances(x, y), points)

    @classmethod
    def mmd(cls, points: np.ndarray, bandwidth: float | None = None) -> Discrepancy:
        """``exp(-|x - y|^2 / (2 bandwidth^2))``; the bandwidth is the median distance between (at most 1000) reference points."""
        if bandwidth is None:
            part = points[:1000]
            bandwidth = float(np.median(_distances(part, part)[np.triu_indices(len(part), 1)]))
        name = f"MMD^2 (Gaussian, bandwidth {bandwidth:.3g})"
        return cls.of(name, lambda x, y: np.exp(-0.5 * (_distances(x, y) / bandwidth) ** 2), points)

    def __call__(self, x: np.ndarray, W: np.ndarray) -> np.ndarray:
        """The discrepancy of ``x`` (n, k), (B + 1,); unbiased, so that equal laws may read a little below 0."""
        across = np.concatenate([self.kernel(x[i : i + CHUNK], self.reference).mean(axis=1) for i in range(0, len(x), CHUNK)])
        return _pairs(self.kernel, x, W) - 2 * weighted_mean(across, W) + self.inner


def _pairs(kernel: Callable, x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """``sum_{i != j} w_i w_j k(x_i, x_j) / sum_{i != j} w_i w_j`` for every row w of W."""
    total = np.zeros(len(W))
    for i in range(0, len(x), CHUNK):
        k = kernel(x[i : i + CHUNK], x)
        k[np.arange(len(k)), i + np.arange(len(k))] = 0.0
        total += np.einsum("bi,bi->b", W[:, i : i + CHUNK], W @ k.T)
    return total / (W.sum(axis=1) ** 2 - np.square(W).sum(axis=1))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x, y)


@dataclasses.dataclass(frozen=True)
class Wasserstein:
    """W2 on blocks: rows of ``reference`` (at least n, k) are matched block by block with as many samples."""

    reference: np.ndarray
    block: int = 250

    def blocks(self, n: int) -> int:
        """How many whole blocks n samples make."""
        return min(n, len(self.reference)) // self.block

    def __call__(self, x: np.ndarray, repeats: int = 200, seed: int = 0) -> np.ndarray:
        """W2 of ``x`` (n, k), then draws that resample whole blocks, spread by sqrt(b / (b - 1)) for b blocks, (repeats + 1,).

        Raises ConfigError for fewer than two blocks.
        """
        from scipy.optimize import linear_sum_assignment

        count, squares = self.blocks(len(x)), []
        if count < 2:
            refuse("W2", f"{len(x)} samples, {len(self.reference)} reference points", f"at least {2 * self.block} of both")
        for b in range(count):
            part = slice(b * self.block, (b + 1) * self.block)
            cost = np.square(_distances(x[part], self.reference[part]))
            squares.append(cost[linear_sum_assignment(cost)].mean())
        drawn = weighted_mean(np.asarray(squares), resampling(count, repeats, seed=seed))
        drawn[1:] = np.maximum(drawn[0] + (drawn[1:] - drawn[0]) * np.sqrt(count / (count - 1)), 0.0)
        return np.sqrt(drawn)
