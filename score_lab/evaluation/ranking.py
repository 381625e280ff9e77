"""Which differences are real: all pairs of a set of results on common noise, at one level for all of them.

    z_ij = (v_i - v_j) / s_ij,    s_ij = sd(v*_i - v*_j),        v* the draws of ``resampled`` (same samples drawn for i and j)
    c: the 1 - alpha quantile of max_ij |Z_ij|,    Z_ij = (g_i - g_j) / s_ij,  g ~ t_B-1(0, cov v*)  (Hothorn, Bretz & Westfall 2008)
    v_i - v_j -+ c s_ij                                          all of them hold at once with probability 1 - alpha

A pair differs if its interval does not hold 0 **and** the difference is more than ``least``, the resolution: with common noise s_ij can be
as small as rounding, and then a difference of 1e-6 of the value is told apart by any number of samples though nobody could use it.  What
does not differ is *not distinguishable*: that is not a proof that the two are equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from score_lab.build import refuse

__all__ = ["Pair", "Ranking", "compared"]

DRAWS = 10_000
"""Of the largest |Z|."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """``difference`` = value of ``better`` minus value of ``worse`` (<= 0 where lower is better), the interval that holds for all pairs at
    once, p of this pair alone and ``adjusted`` for all of them, and the resolution ``least`` that a difference must exceed."""

    better: str
    worse: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    least: float = 0.0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does."""
        return self.low > 0 or self.high < 0

    @property
    def differs(self) -> bool:
        """Whether the interval does not hold 0 and the difference is more than the resolution."""
        return self.excludes_zero and abs(self.difference) > self.least


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
        least: Callable[[float], float] = lambda value: 0.0,
    ) -> Ranking:  # fmt: skip
        """From ``name -> (B + 1,)``, value and draws of ``resampled`` with one W; ``lower`` says that less is better, ``least`` gives the
        resolution beside the better value of a pair."""
        if not 0 < alpha < 1:
            refuse("ranking.alpha", alpha, "between 0 and 1")
        sign = 1.0 if lower else -1.0
        order = tuple(sorted(values, key=lambda name: sign * values[name][0]))
        i, j = np.triu_indices(len(order), 1)
        if not len(i):
            return cls(order, (), dict(unranked or {}), alpha)
        drawn = np.stack([np.asarray(values[name], np.float64) for name in order])
        change = drawn[i] - drawn[j]
        spread = np.std(change[:, 1:], axis=1, ddof=1)
        z = np.divide(np.abs(change[:, 0]), spread, out=np.where(change[:, 0] == 0, 0.0, np.inf), where=spread > 0)
        p = np.array([2 * NormalDist().cdf(-value) for value in z])
        largest = _largest(drawn[:, 1:], i, j, spread)
        c = min(float(np.quantile(largest, 1 - alpha)), NormalDist().inv_cdf(1 - alpha / (2 * len(i))))  # Bonferroni's is the most
        beyond = 1 - np.searchsorted(np.sort(largest), z) / len(largest)
        adjusted = np.minimum(np.maximum(beyond, p), np.minimum(len(i) * p, 1.0))
        rows = zip(i, j, change[:, 0], spread, p, adjusted, strict=True)
        pairs = tuple(
            Pair(order[a], order[b], float(d), float(d - c * s), float(d + c * s), float(one), float(all_), least(float(drawn[a, 0])))
            for a, b, d, s, one, all_ in rows
        )
        return cls(order, pairs, dict(unranked or {}), alpha)

    def same(self, name: str) -> list[str]:
        """The names, best first, that are not distinguishable from ``name``."""
        others = {p.worse if p.better == name else p.better for p in self.pairs if name in (p.better, p.worse) and not p.differs}
        return [other for other in self.order if other in others]

    def to_best(self, name: str) -> Pair | None:
        """The pair of the best and ``name``; None for the best itself."""
        return next((p for p in self.pairs if p.better == self.order[0] and p.worse == name), None)

    def distinguished(self) -> int:
        """How many pairs differ."""
        return sum(pair.differs for pair in self.pairs)


def _largest(drawn: np.ndarray, i: np.ndarray, j: np.ndarray, spread: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws of the largest |Z| of all pairs (i, j), from the draws (k, B) of the values; a pair without spread is never the largest."""
    rng, found = np.random.default_rng(seed), []
    values, vectors = np.linalg.eigh(np.cov(drawn))
    root, freedom = vectors * np.sqrt(np.maximum(values, 0.0)), drawn.shape[1] - 1
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    for _ in range(0, DRAWS, 1000):
        g = rng.standard_normal((1000, len(drawn))) @ root.T
        g /= np.sqrt(rng.chisquare(freedom, (1000, 1)) / freedom)  # the s_ij are known from B draws only
        found.append((np.abs(g[:, i] - g[:, j]) * scale).max(axis=1))
    return np.concatenate(found)


def compared(
    values: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], *, alpha: float = 0.05,
    least: Callable[[float], float] = lambda value: 0.0,
) -> list[Pair]:  # fmt: skip
    """``difference`` = value of the first minus value of the second name of every pair, in their order, with intervals that hold for all of
    ``pairs`` at once; ``better`` and ``worse`` are the first and the second, whichever is better.  ``values`` as of ``Ranking.of``."""
    if not 0 < alpha < 1:
        refuse("compared.alpha", alpha, "between 0 and 1")
    if not pairs:
        return []
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    drawn = np.stack([np.asarray(values[name], np.float64) for name in names])
    i, j = (np.array([names.index(pair[k]) for pair in pairs]) for k in range(2))
    change = drawn[i] - drawn[j]
    spread = np.std(change[:, 1:], axis=1, ddof=1)
    z = np.divide(np.abs(change[:, 0]), spread, out=np.where(change[:, 0] == 0, 0.0, np.inf), where=spread > 0)
    p = np.array([2 * NormalDist().cdf(-value) for value in z])
    largest = _largest(drawn[:, 1:], i, j, spread)
    c = min(float(np.quantile(largest, 1 - alpha)), NormalDist().inv_cdf(1 - alpha / (2 * len(pairs))))
    beyond = 1 - np.searchsorted(np.sort(largest), z) / len(largest)
    adjusted = np.minimum(np.maximum(beyond, p), np.minimum(len(pairs) * p, 1.0))
    rows = zip(pairs, change[:, 0], spread, p, adjusted, strict=True)
    value = lambda name: float(drawn[names.index(name), 0])  # noqa: E731
    return [Pair(a, b, float(d), float(d - c * s), float(d + c * s), float(q), float(r), least(value(b))) for (a, b), d, s, q, r in rows]
