"""The data's mean and total variance, and what they say of the states of a Gaussian path.

    s^2 = tr C / d,    V(t) = alpha^2 s^2 + sigma^2,    E ||x_t - alpha mu||^2 = d V(t)
    d_eff(t) = (sum_b v_b)^2 / sum_b v_b^2,    v_b = alpha^2 s_b^2 + sigma^2,    s_b^2 the eigenvalues of C

d_eff needs no eigenvalues: sum v_b = d V and sum v_b^2 = alpha^4 tr C^2 + 2 alpha^2 sigma^2 tr C + d sigma^4.  It is the number of
independent Gaussian values that would fluctuate as much: se(ln R) = sqrt(2 / (n d_eff)) for n trajectories of a Gaussian law.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.build import refuse

__all__ = ["DataMoments"]


@dataclasses.dataclass(frozen=True)
class DataMoments:
    """``mean`` (*shape); ``s2`` = tr C / d; ``s4`` = tr C^2 / d; ``d`` values per example; ``n`` examples they were measured on (0: given).
    """

    mean: np.ndarray
    s2: float
    s4: float
    d: int
    n: int = 0

    @classmethod
    def of(cls, x: np.ndarray) -> DataMoments:
        """Measured on examples ``x`` (n, *shape).  tr C^2 is freed of its finite-sample excess (exactly so for a Gaussian).

        Raises ConfigError for fewer than three examples, or values that are not finite.
        """
        x = np.asarray(x)
        rows = x.reshape(len(x), -1).astype(np.float64)
        n, d = rows.shape
        if n < 3 or not np.isfinite(rows).all():
            refuse("data moments", x.shape, "at least 3 examples, all finite")
        mean = rows.mean(axis=0)
        rows = rows - mean
        trace = np.square(rows).sum() / (n - 1)
        gram = rows @ rows.T if n < d else rows.T @ rows
        square, m = np.square(gram).sum() / (n - 1) ** 2, n - 1
        square = max(m**2 / ((m - 1) * (m + 2)) * (square - trace**2 / m), trace**2 / d)
        return cls(mean.reshape(x.shape[1:]), float(trace / d), float(square / d), d, n)

    @classmethod
    def isotropic(cls, s2: float, shape: tuple[int, ...], mean: float = 0.0) -> DataMoments:
        """Of N(mean, s2 I)."""
        return cls(np.full(shape, mean), s2, s2**2, int(np.prod(shape)))

    def variance(self, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """``V = alpha^2 s^2 + sigma^2``."""
        return alpha**2 * self.s2 + sigma**2

    def d_eff(self, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """``(sum v_b)^2 / sum v_b^2``, between 1 and d."""
        squares = alpha**4 * self.s4 + 2 * alpha**2 * sigma**2 * self.s2 + sigma**4
        return self.d * self.variance(alpha, sigma) ** 2 / squares
