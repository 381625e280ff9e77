"""Feature spaces in which distances are taken, each with a digest of how it was made.

    Pixels   f(x) = vec(x)
    PCA      f(x) = W (vec(x) - m),  W the first k eigenvectors of the training covariance (not whitened)

A digest is the SHA-256 of everything that a number depends on: two statistics are comparable only if their extractors' digests agree.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from score_lab.build import refuse

__all__ = ["PCA", "Pixels", "digest"]


def digest(*parts: object) -> str:
    """SHA-256, 16 hex digits, over arrays (type, shape and bytes) and anything else (its ``repr``)."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype.str}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).tobytes())
        else:
            sha.update(repr(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The values themselves, flattened to (n, d) float64."""

    @property
    def name(self) -> str:
        """``pixels``."""
        return "pixels"

    @property
    def digest(self) -> str:
        """Of the name: there is nothing else in it."""
        return digest("Pixels")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, *shape) -> (n, d)."""
        return np.asarray(x, np.float64).reshape(len(x), -1)


@dataclasses.dataclass(frozen=True)
class PCA:
    """Principal components of a training set: ``mean`` (d,), ``components`` (k, d) orthonormal rows, ``share`` of the variance in them."""

    mean: np.ndarray
    components: np.ndarray
    share: float

    @classmethod
    def fit(cls, x: np.ndarray, components: int = 32) -> PCA:
        """Eigenvectors of the covariance of ``x`` (n, *shape), largest first; the sign of each makes its largest entry positive.

        Raises ConfigError unless 1 <= components <= min(n - 1, d).
        """
        rows = Pixels()(x)
        most = min(len(rows) - 1, rows.shape[1])
        if not 1 <= components <= most:
            refuse("PCA.components", components, f"1 to {most}, for {len(rows)} rows of {rows.shape[1]} values")
        mean = rows.mean(axis=0)
        _, singular, axes = np.linalg.svd(rows - mean, full_matrices=False)
        axes = axes[:components]
        sign = np.sign(axes[np.arange(components), np.abs(axes).argmax(axis=1)])
        return cls(mean, axes * sign[:, None], float((singular[:components] ** 2).sum() / (singular**2).sum()))

    @property
    def name(self) -> str:
        """For example ``PCA 32 (97 % of the variance)``."""
        return f"PCA {len(self.components)} ({100 * self.share:.0f} % of the variance)"

    @property
    def digest(self) -> str:
        """Of the mean and the components."""
        return digest("PCA", self.mean, self.components)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, *shape) -> (n, k)."""
        return (Pixels()(x) - self.mean) @ self.components.T
