"""Are the samples as varied as the data, and none of them a copy?

    variance ratio   sum_c tr C_c(samples) / sum_c tr C_c(data),     C_c the covariance within class c: 1 for the data, < 1 for prototypes
    nearest ratio    med_i min_j |x_i - train_j| / med_k min_j |test_k - train_j|:     < 1 for memorised or averaged samples
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation.estimate import Estimate, centred, finite_rows, resample

__all__ = ["nearest_distances", "nearest_ratio", "variance_ratio"]


def _within(rows: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> float:
    """``sum_c tr C_c`` over ``classes``, unbiased."""
    return float(sum(rows[labels == c].var(axis=0, ddof=1).sum() for c in classes))


def variance_ratio(
    samples: np.ndarray, labels: np.ndarray | None, data: np.ndarray, data_labels: np.ndarray | None, *,
    repeats: int = 200, seed: int = 0, level: float = 0.95,
) -> Estimate:  # fmt: skip
    """The total variance within classes, each class counted once, over the data's; without labels, the plain ratio of total variances.

    Shapes (n, *shape) and (n,).  The interval resamples the samples within their classes (the data are the fixed reference).
    Raises ConfigError if a class of the samples has fewer than two samples, or fewer than two examples in the data.
    """
    rows, bad = finite_rows(samples)
    reference, _ = finite_rows(data, "data")
    labels = np.zeros(len(rows), int) if labels is None else np.asarray(labels)
    data_labels = np.zeros(len(reference), int) if data_labels is None else np.asarray(data_labels)
    classes = np.unique(labels)
    for name, have in (("samples", labels), ("data", data_labels)):
        few = [int(c) for c in classes if np.count_nonzero(have == c) < 2]
        if few:
            refuse(f"variance_ratio.{name}", f"class {few[0]} with fewer than 2 examples", "at least 2 of every class that was sampled")
    if bad:
        return Estimate.missing(len(rows), bad, "samples not finite")
    per_class = {c: np.square(rows[labels == c]).sum(axis=1) for c in classes}
    floor = _within(reference, data_labels, classes)
    value = _within(rows, labels, classes) / floor
    rng, drawn = np.random.default_rng(seed), np.empty(repeats)
    for k in range(repeats):
        drawn[k] = sum(_resampled_variance(rng, rows[labels == c], per_class[c]) for c in classes) / floor
    low, high = centred(value, drawn, level)
    return Estimate(value, low, high, len(rows))


def _resampled_variance(rng: np.random.Generator, rows: np.ndarray, squares: np.ndarray) -> float:
    """``tr C`` of rows drawn with replacement, from counts: ``(sum w |x|^2 - |sum w x|^2 / n) / (n - 1)``."""
    n = len(rows)
    weight = np.bincount(resample(rng, n), minlength=n).astype(np.float64)
    return float((weight @ squares - np.square(weight @ rows).sum() / n) / (n - 1))


def nearest_distances(x: np.ndarray, reference: np.ndarray, chunk: int = 512) -> np.ndarray:
    """``min_j |x_i - reference_j|`` for every row, (n,), exact, ``chunk`` rows at a time."""
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (x, reference))
    return np.concatenate([cdist(a[i : i + chunk], b).min(axis=1) for i in range(0, len(a), chunk)])


def nearest_ratio(
    samples: np.ndarray, train: np.ndarray, test_to_train: np.ndarray, *, repeats: int = 1000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """The samples' median distance to their nearest training example, over that of held-out examples.

    ``test_to_train`` is ``nearest_distances(test, train)``, computed once.  The interval resamples both sets.
    """
    rows, bad = finite_rows(samples)
    if bad:
        return Estimate.missing(len(rows), bad, "samples not finite")
    own = nearest_distances(rows, train)
    rng = np.random.default_rng(seed)
    medians = [np.median(v[rng.integers(len(v), size=(repeats, len(v)))], axis=1) for v in (own, test_to_train)]
    low, high = np.quantile(medians[0] / medians[1], [0.5 - level / 2, 0.5 + level / 2])
    estimate = Estimate(float(np.median(own) / np.median(test_to_train)), float(low), float(high), len(rows))
    return dataclasses.replace(estimate, note=f"held-out median distance {np.median(test_to_train):.4g}, n = {len(test_to_train)}")
