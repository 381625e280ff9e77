"""Energy distance between two sets of points: a distance of laws that no moment matching can fool.

    E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|  >= 0,  = 0 only for equal laws                 (Szekely & Rizzo 2013, eq. 5)

estimated without bias (pairs i != j only), so that equal laws read 0 on average and may read a little less.
``scipy.stats.energy_distance``, for one dimension, is the square root of the same with the pairs i = j counted.
"""

from __future__ import annotations

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation.estimate import Estimate, centred, finite_rows, resample

__all__ = ["energy_distance"]


def _weighted(a: np.ndarray, b: np.ndarray, weights_a: np.ndarray, weights_b: np.ndarray, chunk: int) -> np.ndarray:
    """``sum_ij u_i |a_i - b_j| v_j`` for every column pair (u, v) of the weights, (columns,), ``chunk`` rows of a at a time."""
    from scipy.spatial.distance import cdist

    total = np.zeros(weights_a.shape[1])
    for i in range(0, len(a), chunk):
        total += np.einsum("ik,ik->k", weights_a[i : i + chunk], cdist(a[i : i + chunk], b) @ weights_b)
    return total


def energy_distance(
    samples: np.ndarray, reference: np.ndarray, *, repeats: int = 100, seed: int = 0, level: float = 0.95, chunk: int = 1024
) -> Estimate:
    """E(samples, reference) of (n, *shape) and (m, *shape), exact, with the centred bootstrap interval over both sets.

    At equal laws the estimator is degenerate and the interval is wider than it need be, never narrower. Raises ConfigError for points of
    different dimension or fewer than two points.
    """
    x, bad = finite_rows(samples)
    y, bad_y = finite_rows(reference, "reference")
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2 or bad_y:
        refuse("energy_distance", (x.shape, y.shape), "two sets of at least 2 finite points of one dimension")
    if bad:
        return Estimate.missing(len(x), bad, "samples not finite")
    rng = np.random.default_rng(seed)
    u, v = (np.stack([np.ones(n)] + [np.bincount(resample(rng, n), minlength=n) for _ in range(repeats)], axis=1) for n in (len(x), len(y)))
    cross = _weighted(x, y, u, v, chunk) / (len(x) * len(y))
    inner_x, inner_y = (_weighted(z, z, w, w, chunk) / (len(z) * (len(z) - 1)) for z, w in ((x, u), (y, v)))
    values = 2 * cross - inner_x - inner_y
    low, high = centred(values[0], values[1:], level)
    return Estimate(float(values[0]), low, high, len(x))
