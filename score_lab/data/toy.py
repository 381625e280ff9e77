"""Point sets in the plane, generated from a seed: data whose density is known, for runs that take seconds.

    two_moons     label 0: (cos a, sin a); label 1: (1 - cos a, 1/2 - sin a); a uniform in [0, pi]; then (x - (1/2, 1/4)), plus std N(0, I)
    mixture       label k with probability weights[k]: means[k] + std N(0, I); by default eight means on the unit circle, equal weights
    checkerboard  uniform on the eight dark squares, side 1/2, of [-1, 1]^2; label: the square (std is not used)

Points are float32 (2,) and are not rescaled.  ``train`` and ``test`` come from two streams of the same seed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from score_lab.build import refuse
from score_lab.data.source import ArrayRecords, DataSpec, Records, Source, digest

__all__ = ["Toy"]

NAMES = ("two_moons", "mixture", "checkerboard")


@dataclasses.dataclass(frozen=True)
class Toy(Source):
    """``num_train`` and ``num_test`` points of the set ``name`` (see the module).

    Attributes:
      std: of the Gaussian noise on each point.
      means, weights: of the mixture alone: ((x, y), ...) and their probabilities; empty is the ring, equal weights.
      seed: of the points.
    """

    name: str = "two_moons"
    num_train: int = 16384
    num_test: int = 2048
    std: float = 0.1
    means: tuple = ()
    weights: tuple = ()
    seed: int = 0

    def check(self):
        """Raises ConfigError for an unknown set, counts below 1, or means and weights that do not fit."""
        if self.name not in NAMES:
            refuse("name", self.name, f"one of {', '.join(NAMES)}", NAMES)
        for field in ("num_train", "num_test"):
            if getattr(self, field) < 1:
                refuse(field, getattr(self, field), "at least 1")
        if not 0 <= self.std < float("inf"):
            refuse("std", self.std, "a finite number from 0")
        if self.seed < 0:
            refuse("seed", self.seed, "an int from 0")
        if self.name != "mixture" and (self.means or self.weights):
            refuse("means" if self.means else "weights", self.means or self.weights, f"() for {self.name}, which has none")
        if any(np.shape(mean) != (2,) for mean in self.means):
            refuse("means", self.means, "a tuple of (x, y)")
        count = len(self.means) or 8
        if self.weights and (len(self.weights) != count or min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6):
            refuse("weights", self.weights, f"{count} probabilities that add up to 1")

    def components(self) -> tuple[np.ndarray, np.ndarray, float]:
        """(weights (K,), means (K, 2), std) of the mixture, float64: what an exact denoiser of it needs."""
        if self.name != "mixture":
            refuse("name", self.name, "'mixture': the other sets have no components")
        angles = 2 * math.pi * np.arange(8) / 8
        means = np.array(self.means, float) if self.means else np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return np.array(self.weights, float) if self.weights else np.full(len(means), 1 / len(means)), means, self.std

    def _points(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (count, 2) and labels (count,)."""
        if self.name == "checkerboard":
            label = rng.integers(8, size=count)
            row, column = label // 2, 2 * (label % 2) + label // 2 % 2
            return np.stack([column, row], axis=1) / 2 - 1 + rng.random((count, 2)) / 2, label
        if self.name == "mixture":
            weights, means, _ = self.components()
            label = rng.choice(len(means), size=count, p=weights / weights.sum())
            centre = means[label]
        else:
            label, angle = rng.integers(2, size=count), math.pi * rng.random(count)
            x, y = np.cos(angle), np.sin(angle)
            centre = np.where(label[:, None] == 0, np.stack([x, y], axis=1), np.stack([1 - x, 0.5 - y], axis=1)) - np.array([0.5, 0.25])
        return centre + self.std * rng.standard_normal((count, 2)), label

    def _open(self, split: str) -> Records:
        count, stream = (self.num_train, 0) if split == "train" else (self.num_test, 1)
        points, label = self._points(np.random.default_rng([self.seed, stream]), count)
        return ArrayRecords(image=points.astype(np.float32), label=label.astype(np.int32))

    def _spec(self) -> DataSpec:
        classes = {"two_moons": 2, "checkerboard": 8}.get(self.name) or len(self.components()[0])
        return DataSpec((2,), classes, digest("toy", dataclasses.astuple(self)))
