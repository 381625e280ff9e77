"""Coverage: where in log-SNR training looked, against the levels at which sampling asks the network.  It is no addend of the mismatch.

    p(lambda)     density of the training law over log-SNR,     |dP / dlambda| / (P(high) - P(low))
    [l, h]        its 0.1 % and 99.9 % quantiles: outside, the network answers from almost no examples
    relative_k    p(lambda_k) / max p,                              1 where training looked most, 0 beyond its support
    expected_k    M P(|lambda - lambda_k| <= 0.05),                 of M training examples those within 0.1 nat around call k

The last is exact for every law, since it takes differences of its distribution function.  An infinite level (pure noise, clean data) has no
density in log-SNR: it is outside, and nothing is expected there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.bands import BandRecord
from score_lab.objectives.time_laws import EVERYTHING, TAIL, TimeLaw
from score_lab.paths.base import GaussianPath

__all__ = ["WIDTH", "Coverage", "covered", "visited"]

WIDTH = 0.1
"""Nats of log-SNR within which training examples are counted."""
_FAR = 1e-4
"""The grid of the density reaches from this quantile to one less it."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Of calls at ``log_snr`` (K,): ``relative`` (K,) in [0, 1] and ``expected`` (K,) of ``examples`` training examples (NaN where their
    number is not known); ``low``, ``high`` the 0.1 % and 99.9 % levels; ``grid`` (G,), ``density`` (G,) for a figure."""

    log_snr: np.ndarray
    relative: np.ndarray
    expected: np.ndarray
    low: float
    high: float
    grid: np.ndarray
    density: np.ndarray
    examples: int | None = None

    @property
    def beyond(self) -> np.ndarray:
        """(K,) True for calls outside the 0.1 % to 99.9 % range (a float's rounding counts as inside)."""
        pad = 1e-6 * (1.0 + self.high - self.low)
        return (self.log_snr < self.low - pad) | (self.log_snr > self.high + pad)

    @property
    def outside(self) -> float:
        """The share of calls that are."""
        return float(self.beyond.mean())

    @property
    def least(self) -> tuple[float, float]:
        """The (log-SNR, expected examples within 0.1 nat) of the call at which training looked least."""
        k = int(np.argmin(self.relative if self.examples is None else self.expected))
        return float(self.log_snr[k]), float(self.expected[k])

    def words(self) -> str:
        """One sentence."""
        out, level = int(self.beyond.sum()), self.least[0]
        text = f"{out} of {len(self.log_snr)} calls are outside the levels of 99.8 % of training, {self.low:.2f} to {self.high:.2f}"
        if self.examples is None:
            return f"{text}; training looked least at {level:.2f}, {min(self.relative):.2g} of its densest"
        return f"{text}; fewest training examples within {WIDTH:g} nat of a call: {self.least[1]:.3g} of {self.examples}, at {level:.2f}"

    def records(self) -> list[dict[str, float]]:
        """One dict a call, for CSV and JSON."""
        rows = zip(self.log_snr, self.relative, self.expected, self.beyond, strict=True)
        return [
            {"call": k, "log_snr": float(at), "relative": float(r), "expected": float(e), "outside": bool(b)}
            for k, (at, r, e, b) in enumerate(rows)
        ]


def visited(record: Any) -> np.ndarray:
    """The log-SNRs (K,) that the network was told at the calls of a ``BandRecord`` or a ``NormRecord``: the mean over trajectories."""
    if isinstance(record, BandRecord):
        return record.means("fed")[:, 0]
    return record.kept().fed.mean(axis=1)


def covered(
    law: Any, path: GaussianPath, log_snr: np.ndarray, *, log_snr_range: tuple[float, float] = EVERYTHING, examples: int | None = None,
    points: int = 400,
) -> Coverage:  # fmt: skip
    """How the training law covers the calls at ``log_snr`` (K,).

    Args:
      law, path: of training, with the ``log_snr_range`` to which a bounded law was conditioned (the denoiser's).
      log_snr: the levels that sampling visits, on whatever path: log-SNR is common to all.
      examples: seen in training, steps x batch size; None: not known.

    Raises ConfigError for no call, a level that is NaN, or a law without the methods of ``TimeLaw``.
    """
    told = np.asarray(log_snr, np.float64)
    if told.ndim != 1 or not len(told) or np.isnan(told).any():
        refuse("covered.log_snr", told.tolist(), "the log-SNR of at least one call, none of them NaN")
    if not isinstance(law, TimeLaw):
        refuse("covered.law", type(law).__name__, "a TimeLaw of score_lab.objectives")
    with jax.enable_x64(True):
        return _coverage(law, path, told, log_snr_range, examples, points)


def _coverage(
    law: TimeLaw, path: GaussianPath, told: np.ndarray, log_snr_range: tuple[float, float], examples: int | None, points: int
) -> Coverage:
    """The same, in float64."""
    times = law.ends(path, log_snr_range)
    p_low, p_high = (float(p) for p in law.probabilities(*times, path))
    ends = jnp.clip(law.quantile(jnp.asarray([p_low, p_high]), path), *times)
    end_high, end_low = (float(v) for v in path.log_snr(ends))  # ``log_density`` goes on beyond them

    def above(level: np.ndarray) -> np.ndarray:
        """The conditional probability of a log-SNR of at least ``level``."""
        p = np.asarray(law.probability(path.time_of(jnp.asarray(level)), path), np.float64)
        return np.clip((p - p_low) / (p_high - p_low), 0.0, 1.0)

    def quantile(share: float) -> float:
        """The log-SNR below which the law has ``share``."""
        t = jnp.clip(law.quantile(jnp.asarray(p_low + (p_high - p_low) * (1.0 - share)), path), *times)
        return float(path.log_snr(t))

    def density(level: np.ndarray) -> np.ndarray:
        pad = 1e-6
        inside = np.isfinite(level) & (level >= end_low - pad) & (level <= end_high + pad)
        safe = jnp.asarray(np.where(inside, level, 0.5 * (low + high)))
        return np.where(inside, np.exp(np.asarray(law.log_density(safe, path, log_snr_range), np.float64)), 0.0)

    low, high = quantile(TAIL), quantile(1.0 - TAIL)
    grid = np.linspace(quantile(_FAR), quantile(1.0 - _FAR), points)
    p, own = density(grid), density(told)
    fine = np.isfinite(told)
    at = np.where(fine, told, 0.5 * (low + high))
    mass = np.where(fine, above(at - 0.5 * WIDTH) - above(at + 0.5 * WIDTH), 0.0)
    expected = np.full(len(told), np.nan) if examples is None else examples * mass
    return Coverage(told, own / max(p.max(), own.max()), expected, low, high, grid, p, examples)
