"""Which differences are real: all pairs of a set of results on common noise, corrected for their number.

    z_ij = (v_i - v_j) / sd(v*_i - v*_j),    p_ij = 2 Phi(-|z_ij|),    v* the draws of ``resampled`` (same samples drawn for i and j)
    Holm:   p_(1) <= ... <= p_(m):    adjusted p_(k) = max_{l <= k} min(1, (m - l + 1) p_(l))                           (Holm 1979)

A pair whose adjusted p is not below alpha is *not distinguishable* by this many samples: that is not a proof that the two are equal.  With
probability 1 - alpha no pair of equal results is called different.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from score_lab.build import refuse

__all__ = ["Pair", "Ranking", "holm"]


def holm(p: Sequence[float]) -> np.ndarray:
    """Adjusted p-values in the order given, (m,); they are compared with alpha directly."""
    p = np.asarray(p, np.float64)
    order, m = np.argsort(p, kind="stable"), len(p)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(np.maximum.accumulate((m - np.arange(m)) * p[order]), 1.0)
    return adjusted


@dataclasses.dataclass(frozen=True)
class Pair:
    """``difference`` = value of ``better`` minus value of ``worse`` (<= 0 where lower is better), its interval, raw and adjusted p."""

    better: str
    worse: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """``order``: names, best first; ``pairs``: all of them; ``unranked``: name -> why there is no number."""

    order: tuple[str, ...]
    pairs: tuple[Pair, ...]
    unranked: Mapping[str, str]
    alpha: float = 0.05

    @classmethod
    def of(
        cls, values: Mapping[str, np.ndarray], unranked: Mapping[str, str] | None = None, *, lower: bool = True, alpha: float = 0.05,
        level: float = 0.95,
    ) -> Ranking:  # fmt: skip
        """From ``name -> (B + 1,)``, value and draws of ``resampled`` with one W; ``lower`` says that less is better."""
        if not 0 < alpha < 1:
            refuse("ranking.alpha", alpha, "between 0 and 1")
        sign = 1.0 if lower else -1.0
        order = tuple(sorted(values, key=lambda name: sign * values[name][0]))
        couples = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
        normal, rows = NormalDist(), []
        for a, b in couples:
            change = values[a] - values[b]
            spread = float(np.std(change[1:], ddof=1))
            p = 1.0 if change[0] == 0 else 2 * normal.cdf(-abs(change[0]) / spread) if spread > 0 else 0.0
            half = normal.inv_cdf(0.5 + level / 2) * spread
            rows.append((float(change[0]), float(change[0] - half), float(change[0] + half), p))
        adjusted = holm([row[-1] for row in rows])
        pairs = tuple(Pair(a, b, *row, float(q)) for (a, b), row, q in zip(couples, rows, adjusted, strict=True))
        return cls(order, pairs, dict(unranked or {}), alpha)

    def same(self, name: str) -> list[str]:
        """The names, best first, that are not distinguishable from ``name``."""
        others = {p.worse if p.better == name else p.better for p in self.pairs if name in (p.better, p.worse) and p.adjusted >= self.alpha}
        return [other for other in self.order if other in others]

    def distinguished(self) -> int:
        """How many pairs differ."""
        return sum(pair.adjusted < self.alpha for pair in self.pairs)
