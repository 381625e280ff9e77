"""A measured number and its interval.

    Wilson     the p with |p_hat - p| <= z sqrt(p (1 - p) / n)                        (Wilson 1927)
    centred    [v - q_hi, v - q_lo], q the quantiles of v* - mean(v*)                 (Davison & Hinkley 1997, section 5.2.1, centred)
    standard   v -+ z sd(v*), not below 0

v* is the statistic of rows drawn with replacement.  It carries the statistic's finite-sample bias once more than v does, and neither form
lets that bias in: what an interval is about is E v **at this n**, bias included.  A Frechet distance of 1000 samples is compared with one
of 1000, never with one of 50000.  For distances the standard form is used: with 60 to 360 rows it held E v in 94 to 100 % of repetitions,
quantiles (of v* or ln v*) in 88 to 100.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from score_lab.build import refuse

__all__ = ["Estimate", "bootstrap", "centred", "finite_rows", "proportion", "resample", "wilson"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """``value`` with the ends ``low`` and ``high`` of its interval (95 % unless said otherwise), from ``n`` samples.

    ``invalid`` are the indices of the samples that were not finite: they are named and never averaged away (``value`` is NaN, or they
    count as wrong). ``note`` says in words what a reader must know of the number.
    """

    value: float
    low: float
    high: float
    n: int
    invalid: tuple[int, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """``0.975 [0.964, 0.983]`` (the value alone where there is no interval), and what was not finite."""
        interval = "" if math.isnan(self.low) and math.isnan(self.high) else f" [{self.low:.3g}, {self.high:.3g}]"
        text = f"{self.value:.3g}{interval}" if math.isfinite(self.value) else "nan"
        return text + (f" ({len(self.invalid)} not finite, first: {self.invalid[0]})" if self.invalid else "")

    @classmethod
    def missing(cls, n: int, invalid: tuple[int, ...] = (), note: str = "") -> Estimate:
        """No number: NaN with the reason."""
        return cls(math.nan, math.nan, math.nan, n, invalid, note)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion: ``(p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)``."""
    if not 0 <= successes <= n or n < 1:
        refuse("wilson(successes, n)", (successes, n), "0 <= successes <= n, n >= 1")
    z, p = NormalDist().inv_cdf(0.5 + level / 2), successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def proportion(correct: np.ndarray, invalid: tuple[int, ...] = (), note: str = "") -> Estimate:
    """The share of True in ``correct`` (n,), with Wilson's interval."""
    hits, n = int(np.count_nonzero(correct)), len(correct)
    return Estimate(hits / n, *wilson(hits, n), n, invalid, note)


def resample(rng: np.random.Generator, n: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Indices (n,) drawn with replacement from 0..n-1, within each value of ``strata`` (n,) if given."""
    if strata is None or not np.any(strata != strata[0]):
        return rng.integers(n, size=n)
    rows = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    return np.concatenate([rng.choice(row, size=len(row)) for row in rows])


def centred(value: float, replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """``[v - q_hi, v - q_lo]`` with the quantiles of ``replicates - mean(replicates)``."""
    low, high = np.quantile(np.asarray(replicates) - np.mean(replicates), [0.5 - level / 2, 0.5 + level / 2])
    return float(value - high), float(value - low)


def bootstrap(statistic: Callable[..., float], *strata: np.ndarray, repeats: int = 200, seed: int = 0, level: float = 0.95) -> Estimate:
    """``statistic(rows_1, rows_2, ...) >= 0`` of independent sets, each resampled within its strata, with the standard interval.

    One array (n_i,) of strata per set (all equal: none): a set with a fixed number of examples of every class varies less than a random
    one.  ``statistic`` takes one index array per set.  ``n`` of the estimate is that of the first set.
    """
    rng, z = np.random.default_rng(seed), NormalDist().inv_cdf(0.5 + level / 2)
    value = float(statistic(*(np.arange(len(s)) for s in strata)))
    spread = z * float(np.std([statistic(*(resample(rng, len(s), s) for s in strata)) for _ in range(repeats)], ddof=1))
    return Estimate(value, max(0.0, value - spread), value + spread, len(strata[0]))


def finite_rows(x: np.ndarray, field: str = "samples") -> tuple[np.ndarray, tuple[int, ...]]:
    """``x`` as float64 rows (n, d), and the indices of the rows that are not finite.  Raises ConfigError for no rows at all."""
    x = np.asarray(x)
    if x.ndim < 2 or len(x) < 1:
        refuse(f"{field}.shape", x.shape, "(n, *shape) with n >= 1")
    rows = x.reshape(len(x), -1).astype(np.float64)
    return rows, tuple(int(i) for i in np.flatnonzero(~np.isfinite(rows).all(axis=1)))
