"""Where inference looks: grids of noise levels.

A grid says where it starts and where it ends.  Ends are given as log-SNR here, as kappa in ``kappa``; None is the path's own end.
The path's end at t = 0 is data (kappa = 0) on every path but VE, whose sigma_min is not 0.  Every step moves: a repeated or reversed time
is refused.

    uniform time      t_i = t_start + i / N (t_end - t_start)
    quadratic         sqrt(t_i) = sqrt(t_start) + i / N (sqrt(t_end) - sqrt(t_start))     (DPM-Solver's time_quadratic; DDIM, D.3)
    uniform log-SNR   log_snr_i = start + i / N (end - start)

In other rooms of this floor: ``kappa`` (Karras, exponential, beta, EDM's), ``table`` (timesteps of a table), ``shift``
(around a grid), ``nodes`` (published lists), ``spectrum``; ``Churn`` renoises around any of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.steps import Grid, Steps
from score_lab.types import Array, leaf, pytree_dataclass, static

__all__ = [
    "Grid", "LevelsOf", "Quadratic", "Steps", "Times", "UniformLogSNR", "UniformTime", "ending", "level_range", "levels_at",
    "step_count", "times_of",
]  # fmt: skip

FINITE_START = -10.0
"""Where a grid in log-SNR starts on a path that reaches -inf; a step to data ends it where the path reaches +inf."""
FINITE_END = 10.0


def step_count(name: str, num_steps: Any, least: int = 1) -> int:
    """``num_steps`` as an int; ConfigError for what is not a whole number, or is less than ``least``."""
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < least:
        refuse(f"{name}.num_steps", num_steps, f"a whole number of steps, at least {least}")
    return int(num_steps)


@jax.jit
def _log_snrs(path: GaussianPath) -> Array:
    return path.log_snr(jnp.asarray([1.0, 0.0]))


@jax.jit
def levels_at(path: GaussianPath, t: Array) -> Array:
    """The log-SNRs of ``path`` at times."""
    return path.log_snr(t)


@jax.jit
def _time_of(path: GaussianPath, log_snr: Array) -> Array:
    return path.time_of(log_snr)


def level_range(path: GaussianPath) -> tuple[float, float]:
    """The path's lowest and highest log-SNR, at t = 1 and at t = 0."""
    low, high = np.asarray(_log_snrs(path), np.float64)
    return float(low), float(high)


def times_of(path: GaussianPath, log_snr: np.ndarray, field: str) -> np.ndarray:
    """The times of ``log_snr`` on ``path``, exactly 1 and 0 at its ends; ConfigError for a level that the path does not have."""
    low, high = level_range(path)
    levels = np.asarray(log_snr, np.float64)
    bad = ~((levels >= low - 1e-4) & (levels <= high + 1e-4))
    if bad.any():
        refuse(field, float(levels[bad.argmax()]), f"a log-SNR of {type(path).__name__}, from {low:.6g} to {high:.6g}")
    t = np.asarray(_time_of(path, jnp.asarray(levels, jnp.result_type(float))))
    return np.where(levels >= high, 0.0, np.where(levels <= low, 1.0, t))


def ending(steps: Steps, path: GaussianPath) -> str:
    """Where a grid ends on ``path``, in words: data and the level from which the last step denoises, the path's own end, or a level."""
    first, last = (float(v) for v in np.exp(-0.5 * np.asarray(levels_at(path, jnp.stack([steps.t[-1], steps.s[-1]])), np.float64)))
    if last == 0:
        return f"data, by a last step from kappa = {first:.4g}"
    return f"kappa = {last:.4g}" + (f", the end of {type(path).__name__}" if float(steps.s[-1]) == 0 else "")


def _time_ends(name: str, path: GaussianPath, start: float | None, end: float | None) -> np.ndarray:
    """The two times of the log-SNRs ``start`` and ``end``, None being the path's own end."""
    low, high = level_range(path)
    ends = np.array([low if start is None else start, high if end is None else end])
    return times_of(path, ends, f"{name}.start, end")


@pytree_dataclass
class UniformTime:
    """``num_steps`` equal steps in t between the log-SNRs ``start`` and ``end`` (None: the path's ends, t = 1 and t = 0)."""

    num_steps: int
    start: float | None = None
    end: float | None = None

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n = step_count("UniformTime", self.num_steps)
        t0, t1 = _time_ends("UniformTime", path, self.start, self.end)
        w = np.arange(n + 1) / n
        return Steps.of(t0 * (1 - w) + t1 * w)


@pytree_dataclass
class Quadratic:
    """``num_steps`` steps, equal in sqrt(t), between the log-SNRs ``start`` and ``end`` (None: the path's ends, t = 1 and t = 0).

    The table's form of it, of the DDIM code, is ``Timesteps(spacing="quadratic")``.
    """

    num_steps: int
    start: float | None = None
    end: float | None = None

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n = step_count("Quadratic", self.num_steps)
        t0, t1 = _time_ends("Quadratic", path, self.start, self.end)
        w = np.arange(n + 1) / n
        times = (np.sqrt(t0) * (1 - w) + np.sqrt(t1) * w) ** 2
        times[0], times[-1] = t0, t1
        return Steps.of(times)


@pytree_dataclass
class UniformLogSNR:
    """``num_steps`` steps, equal in log-SNR from ``start`` to ``end``; with ``to_data`` the last of them goes from ``end`` to the path's
    t = 0.

    None: the path's own end where that is finite (and then there is no further step), else -10 and +10.
    """

    num_steps: int
    start: float | None = None
    end: float | None = None
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        low, high = level_range(path)
        start = self.start if self.start is not None else low if np.isfinite(low) else FINITE_START
        end = self.end if self.end is not None else high if np.isfinite(high) else FINITE_END
        extra = self.to_data and end < high
        n = step_count("UniformLogSNR", self.num_steps, 2 if extra else 1)
        if not (np.isfinite(start) and np.isfinite(end)):
            refuse("UniformLogSNR.start, end", (start, end), "finite log-SNRs")
        times = times_of(path, np.linspace(start, end, n + 1 - extra), "UniformLogSNR.start, end")
        return Steps.of(np.append(times, 0.0) if extra else times)


@pytree_dataclass
class Times:
    """One's own descending list: ``values`` are times, or with ``of="log_snr"`` / ``"kappa"`` levels (ascending / descending)."""

    values: tuple = static()
    of: str = "t"

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        known = ("t", "log_snr", "kappa")
        if self.of not in known:
            refuse("Times.of", self.of, ", ".join(known), known)
        values = np.asarray(self.values, np.float64)
        if values.ndim != 1 or len(values) < 2:
            refuse("Times.values", self.values, "at least 2 values")
        if self.of == "t":
            return Steps.of(values)
        if self.of == "kappa":
            if not (values >= 0).all():
                refuse("Times.values", self.values, "kappa >= 0")
            with np.errstate(divide="ignore"):
                values = -2.0 * np.log(values)
        return Steps.of(times_of(path, values, "Times.values"))


@pytree_dataclass
class LevelsOf:
    """The levels (log-SNRs) that ``grid`` has on ``source``, on whatever path is sampled: a beta table's timesteps on EDM, VP's times on a
    flow.  A level that the sampled path does not have is refused."""

    grid: Grid = leaf()
    source: GaussianPath = leaf()

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``, renoising ones too."""
        inner = self.grid.steps(self.source)

        def moved(t: Array) -> Array:
            t = jnp.atleast_1d(t)
            return jnp.asarray(times_of(path, np.asarray(levels_at(self.source, t), np.float64), "LevelsOf.grid"), t.dtype)

        t, s, r, start = (moved(v) for v in (inner.t, inner.s, inner.r, inner.start))
        return dataclasses.replace(inner, t=t, s=s, r=r, start=start[0])
