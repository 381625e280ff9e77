"""Where a monotone read-out has a value: the interval on which it is monotone, and the root there, for many replicates at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["branch", "each", "solve"]


def branch(grid: np.ndarray, same: np.ndarray, nominal: float) -> tuple[float, float]:
    """The interval ``(low, high)`` around ``nominal`` on which a read-out is monotone, to the step of ``grid`` (m,), ascending; ``same``
    (m,): its slope there has the sign that it has at ``nominal``."""
    i = int(np.clip(np.searchsorted(grid, nominal), 1, len(grid) - 1))
    below, above = np.flatnonzero(~same[:i]), np.flatnonzero(~same[i:])
    low = grid[below[-1] + 1] if len(below) else grid[0]
    high = grid[i + above[0] - 1] if len(above) else grid[-1]
    return min(float(low), nominal), max(float(high), nominal)


def each(spline: Any, at: np.ndarray, rows: np.ndarray, derivative: int = 0) -> np.ndarray:
    """Of a spline of many curves (scipy's, coefficients (order, intervals, curves)) the curve ``rows[i]`` at ``at[i]``, or a derivative."""
    i = np.clip(np.searchsorted(spline.x, at, side="right") - 1, 0, len(spline.x) - 2)
    h, total = at - spline.x[i], np.zeros_like(at)
    for power, c in zip(reversed(range(len(spline.c))), spline.c, strict=True):
        if power >= derivative:
            total = total * h + math.perm(power, derivative) * c[i, rows]
    return total


def solve(slope: Callable, low: np.ndarray, high: np.ndarray, iterations: int = 60) -> np.ndarray:
    """The root of ``slope(l) -> (f, df/dl)`` between ``low`` and ``high``, where f falls from positive to negative: Newton, or the middle
    where that leaves the bracket.  All elements at once."""
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    at = 0.5 * (low + high)
    for _ in range(iterations):
        f, df = slope(at)
        low, high = np.where(f > 0, at, low), np.where(f < 0, at, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            new = at - f / df
        inside = np.isfinite(new) & (new >= low) & (new <= high)
        new = np.where(inside, new, 0.5 * (low + high))
        if np.abs(new - at).max(initial=0.0) < 1e-15:
            break
        at = new
    return at
