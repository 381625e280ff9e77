"""Mean, variance and ``sigma_data`` of a split, in one pass over ``x0``.

Chunks of ``n`` examples with mean ``m`` and sum of squares ``S`` about it are merged with what came before (``N``, ``M``, ``Q``) by
    M' = M + (m - M) n/(N + n),    Q' = Q + S + (m - M)^2 N n/(N + n)          (Chan, Golub, LeVeque 1979, eq. 2.1)
in float64, per dimension.  Variances are those of the empirical distribution (divided by N).
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from score_lab.build import refuse
from score_lab.data.source import Source, gather

__all__ = ["Statistics", "statistics"]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Moments of ``count`` examples ``x0`` of ``shape``.

    Attributes:
      mean, variance: per dimension, float64 (*shape).
      count: examples.
      fingerprint: sixteen hex digits of a hash of the source's fingerprint and of every byte of ``x0``, in order.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: int
    fingerprint: str

    @property
    def total_variance(self) -> float:
        """The sum over dimensions: E||x0 - mean||^2."""
        return float(self.variance.sum())

    def sigma_data(self, about: str = "zero") -> float:
        """The root mean square, over examples and dimensions, of ``x0`` about what is subtracted from it.

        ``zero``: nothing; ``mean``: its mean, one number; ``mean_example``: its mean per dimension.  Digits at 8x8: 0.85, 0.75, 0.54.
        """
        mean = self.mean.mean()
        square = {"zero": self.mean**2, "mean": (self.mean - mean) ** 2, "mean_example": np.zeros_like(self.mean)}
        if about not in square:
            refuse("about", about, f"one of {', '.join(square)}", square)
        return float(np.sqrt((self.variance + square[about]).mean()))


def statistics(source: Source, split: str = "train", chunk: int = 1024) -> Statistics:
    """The Statistics of ``split`` as ``source.preprocess`` gives it, unflipped, in order, ``chunk`` examples at a time."""
    records, shape = source(split), source.spec.shape
    if not len(records):
        refuse("split", split, "a split with at least one example")
    total = hashlib.sha256(source.spec.fingerprint.encode())
    count, mean, squares = 0, np.zeros(shape), np.zeros(shape)
    for start in range(0, len(records), chunk):
        x0 = source.preprocess(gather(records, np.arange(start, min(start + chunk, len(records)))))["x0"]
        total.update(np.ascontiguousarray(x0).data)
        wide, n = x0.astype(np.float64), len(x0)
        centre = wide.mean(axis=0)
        shift = centre - mean
        squares += ((wide - centre[None]) ** 2).sum(axis=0) + shift**2 * (count * n / (count + n))
        mean = mean + shift * (n / (count + n))
        count += n
    return Statistics(mean, squares / count, count, total.hexdigest()[:16])
