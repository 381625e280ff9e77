"""Where inference looks: grids of noise levels.

A grid says where it starts and where it ends.  Ends are given as log-SNR (or kappa for Karras); None is the path's own end.  The path's
end at t = 0 is data (kappa = 0) on every path but VE, whose sigma_min is not 0.  Every step moves: a repeated or reversed time is refused.

    uniform time      t_i = t_start + i / N (t_end - t_start)
    uniform log-SNR   log_snr_i = start + i / N (end - start)
    Karras            kappa_i = (kappa_max^(1/rho) + i / (N - 1) (kappa_min^(1/rho) - kappa_max^(1/rho)))^rho, then 0
                      (Karras et al. 2022, eq. 5)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.steps import Grid, Steps
from score_lab.types import Array, pytree_dataclass, static

__all__ = ["Grid", "Karras", "Steps", "Times", "UniformLogSNR", "UniformTime"]

FINITE_START = -10.0
"""Where a grid in log-SNR starts on a path that reaches -inf; a step to data ends it where the path reaches +inf."""
FINITE_END = 10.0


def _count(name: str, num_steps: Any, least: int = 1) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < least:
        refuse(f"{name}.num_steps", num_steps, f"a whole number of steps, at least {least}")
    return int(num_steps)


@jax.jit
def _log_snrs(path: GaussianPath) -> Array:
    return path.log_snr(jnp.asarray([1.0, 0.0]))


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


@pytree_dataclass
class UniformTime:
    """``num_steps`` equal steps in t between the log-SNRs ``start`` and ``end`` (None: the path's ends, t = 1 and t = 0)."""

    num_steps: int
    start: float | None = None
    end: float | None = None

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n, (low, high) = _count("UniformTime", self.num_steps), level_range(path)
        start, end = (low if self.start is None else self.start), (high if self.end is None else self.end)
        t0, t1 = times_of(path, np.array([start, end]), "UniformTime.start, end")
        w = np.arange(n + 1) / n
        return Steps.of(t0 * (1 - w) + t1 * w)


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
        n = _count("UniformLogSNR", self.num_steps, 2 if extra else 1)
        if not (np.isfinite(start) and np.isfinite(end)):
            refuse("UniformLogSNR.start, end", (start, end), "finite log-SNRs")
        times = times_of(path, np.linspace(start, end, n + 1 - extra), "UniformLogSNR.start, end")
        return Steps.of(np.append(times, 0.0) if extra else times)


@pytree_dataclass
class Karras:
    """``kappa_i = (kappa_max^(1/rho) + i/(N-1) (kappa_min^(1/rho) - kappa_max^(1/rho)))^rho`` and, with ``to_data``, a last step to t = 0.

    ``sigma_min``, ``sigma_max`` are noise levels kappa = sigma / alpha; None: 0.002 and 80, or the path's own ends where these are
    narrower. ``num_steps`` counts all steps: N = num_steps nodes before the 0 with ``to_data``, num_steps + 1 without, or where sigma_min
    is the path's own t = 0. """

    num_steps: int
    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n = _count("Karras", self.num_steps)
        if not self.rho > 0:
            refuse("Karras.rho", self.rho, "> 0")
        low, high = (np.exp(-0.5 * v) for v in reversed(level_range(path)))  # kappa at t = 0 and t = 1
        small = max(0.002, low) if self.sigma_min is None else self.sigma_min
        large = min(80.0, high) if self.sigma_max is None else self.sigma_max
        if not (0 < small < large and low <= small * (1 + 1e-5) and large <= high * (1 + 1e-5)):
            allowed = f"0 < sigma_min < sigma_max inside the path's kappa, [{low:.4g}, {high:.4g}]"
            refuse("Karras.sigma_min, sigma_max", (small, large), allowed)
        extra = self.to_data and small > low
        w = np.linspace(0.0, 1.0, n if extra else n + 1)
        kappa = (large ** (1 / self.rho) * (1 - w) + small ** (1 / self.rho) * w) ** self.rho
        kappa[0] = large
        kappa[-1] = small if len(kappa) > 1 else large
        times = times_of(path, -2.0 * np.log(kappa), "Karras.sigma_min, sigma_max")
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
