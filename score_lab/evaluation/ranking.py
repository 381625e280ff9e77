"""Which differences are real: all pairs of a set of results on common noise, at one level for all of them.

    z_ij = (v_i - v_j) / s_ij,    s_ij = sd(v*_i - v*_j),        v* the draws of ``resampled`` (same samples drawn for i and j)
    c: the 1 - alpha quantile of max_ij |Z_ij|,    Z_ij = (g_i - g_j) / s_ij,  g ~ t_B-1(0, cov v*)  (Hothorn, Bretz & Westfall 2008)
    v_i - v_j -+ c s_ij                                          all of them hold at once with probability 1 - alpha

A pair differs if its interval does not hold 0 **and** the difference is more than ``least``, the resolution: with common noise s_ij can be
as small as rounding, and then a difference of 1e-6 of the value is told apart by any number of samples though nobody could use it.  What
does not differ is *not distinguishable*: that is not a proof that the two are equal.

Values that are means over M models (training seeds) stand for models that were not trained.  With d_m that of model m, d the mean,
b^2 = sum_m (d_m - d)^2 / (M - 1) / M, k pairs and B draws of the samples given the models,

    d -+ (t_M-1^2 b^2 + t_B-1^2 s^2)^(1/2),        t_f the 1 - alpha / (2 k) quantile of Student's law with f degrees of freedom

holds d's expectation with probability >= 1 - alpha / k, for normal d_m whose own error is a share u of the whole and that of the samples,
which may be common to all models, the rest: it misses with 1 - E F(u t_M-1^2 X + (1 - u) t_B-1^2 Y), F the law of chi^2_1, X and Y those
of mean squares, and F is concave, so in u the expectation is least at u = 0 or u = 1, where it is Student's own (the argument of Cochran
1964's t'; Bonferroni's inequality then gives all k).  b has only M - 1 degrees of freedom in every pair, so that no quantile of the largest
|Z|, which takes the s_ij for known, is one of these: t_2 at 95 % is 4.3 for one pair and 23 for 27, the normal's 1.96 and 3.1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import scipy.stats

from score_lab.build import refuse

__all__ = ["Pair", "Ranking", "compared"]

DRAWS = 10_000
"""Of the largest |Z|."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """``difference`` = value of ``better`` minus value of ``worse`` (<= 0 where lower is better), the interval that holds for all pairs at
    once, p of this pair alone and ``adjusted`` for all of them, and the resolution ``least`` that a difference must exceed."""

    better: Hashable
    worse: Hashable
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
    values: Mapping[Hashable, np.ndarray], pairs: Sequence[tuple[Hashable, Hashable]], *, alpha: float = 0.05,
    least: Callable[[float], float] = lambda value: 0.0, models: Mapping[Hashable, np.ndarray] | None = None,
) -> list[Pair]:  # fmt: skip
    """``difference`` = value of the first minus value of the second name of every pair, in their order, with intervals that hold for all of
    ``pairs`` at once; ``better`` and ``worse`` are the first and the second, whichever is better.  ``values`` as of ``Ranking.of``.

    ``models``: name -> (M,) the values of every model, in one order of models, where ``values`` are their means and the draws those of the
    samples given the models.  With M > 1 the intervals are then those of the module for models that were not trained."""
    if not 0 < alpha < 1:
        refuse("compared.alpha", alpha, "between 0 and 1")
    if not pairs:
        return []
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    drawn = np.stack([np.asarray(values[name], np.float64) for name in names])
    i, j = (np.array([names.index(pair[k]) for pair in pairs]) for k in range(2))
    change = drawn[i] - drawn[j]
    spread = np.std(change[:, 1:], axis=1, ddof=1)
    value = lambda name: float(drawn[names.index(name), 0])  # noqa: E731
    made = lambda half, p, adjusted: [  # noqa: E731
        Pair(a, b, float(d), float(d - h), float(d + h), float(q), float(r), least(value(b)))
        for (a, b), d, h, q, r in zip(pairs, change[:, 0], half, p, adjusted, strict=True)
    ]
    count = 1 if models is None else len(models[names[0]])
    if count > 1:
        apart = np.stack([np.asarray(models[a], np.float64) - np.asarray(models[b], np.float64) for a, b in pairs])
        between = np.std(apart, axis=1, ddof=1) / np.sqrt(count)
        freedom = (count - 1, drawn.shape[1] - 2)
        p = _student_p(change[:, 0], between, spread, freedom)
        half = _half(np.full(len(pairs), alpha / len(pairs)), between, spread, freedom)
        return made(half, p, np.minimum(len(pairs) * p, 1.0))
    z = np.divide(np.abs(change[:, 0]), spread, out=np.where(change[:, 0] == 0, 0.0, np.inf), where=spread > 0)
    p = np.array([2 * NormalDist().cdf(-value) for value in z])
    largest = _largest(drawn[:, 1:], i, j, spread)
    c = min(float(np.quantile(largest, 1 - alpha)), NormalDist().inv_cdf(1 - alpha / (2 * len(pairs))))
    beyond = 1 - np.searchsorted(np.sort(largest), z) / len(largest)
    adjusted = np.minimum(np.maximum(beyond, p), np.minimum(len(pairs) * p, 1.0))
    return made(c * spread, p, adjusted)


def _half(alpha: np.ndarray, between: np.ndarray, within: np.ndarray, freedom: tuple[int, int]) -> np.ndarray:
    """``(t_M-1^2 b^2 + t_B-1^2 s^2)^(1/2)`` at every pair's own level ``alpha``; ``freedom`` M - 1 and B - 1."""
    t = [scipy.stats.t.isf(alpha / 2, f) for f in freedom]
    return np.hypot(t[0] * between, t[1] * within)


@functools.cache
def _levels(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels p from e^-40 to 1, and Student's two-sided quantile at each."""
    p = np.exp(np.linspace(-40.0, 0.0, 401))
    return p, scipy.stats.t.isf(p / 2, freedom)


def _student_p(difference: np.ndarray, between: np.ndarray, within: np.ndarray, freedom: tuple[int, int]) -> np.ndarray:
    """The level at which ``_half`` is the size of the difference, read off 401 levels; 1 for no difference, 0 without spread."""
    (levels, t_models), (_, t_draws) = (_levels(f) for f in freedom)
    size, found = np.abs(difference), []
    for d, b, s in zip(size, between, within, strict=True):
        half = np.hypot(t_models * b, t_draws * s)  # falls with the level, to 0 at 1
        found.append(np.exp(np.interp(-d, -half, np.log(levels))) if b or s else float(d == 0))
    return np.where(size == 0, 1.0, found)
