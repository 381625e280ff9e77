"""Spikes of the loss and of the gradient's norm: steps far above what the steps before them were.

    spike at step k:   x_k > median + threshold max(MAD, |median| / 100),      MAD = median |x - median|,   of the ``window`` steps before k

The hundredth keeps a loss that hardly moves from being all spikes.  Nothing is judged before the window is full.  Figures are looked at
where they are fetched anyway, so this never waits for the devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["WATCHED", "Spikes"]

WATCHED = ("loss", "grad_norm")
FLOOR = 0.01
"""The least MAD, as a fraction of the median."""


class Spikes:
    """The last ``window`` finite values of every watched figure; ``threshold`` 0 watches nothing.

    ``state`` is what a checkpoint holds, so that a run that goes on finds the same spikes.
    """

    def __init__(self, window: int, threshold: float, state: Mapping[str, Sequence[float]] | None = None):
        self.window, self.threshold = window, threshold
        self._last = {name: np.asarray((state or {}).get(name, ()), np.float64)[-window:] for name in WATCHED}

    @property
    def state(self) -> dict[str, list[float]]:
        """The windows, as lists."""
        return {name: values.tolist() for name, values in self._last.items()} if self.threshold else {}

    def found(self, steps: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[int, str]:
        """``{step: what about it}`` of the spikes among ``steps``, finite ones in order, which are then part of the window."""
        spikes: dict[int, list[str]] = {}
        if not self.threshold or not steps:
            return {}
        for name in WATCHED:
            new = np.array([figures[name] for _, figures in steps], np.float64)
            values = np.concatenate([self._last[name], new])
            self._last[name] = values[-self.window :]
            for k, (value, median, limit) in enumerate(zip(new, *self._limits(values, len(new)), strict=True)):
                if value > limit:
                    spikes.setdefault(steps[k][0], []).append(f"{name} {value:.4g} against a median of {median:.4g}")
        return {step: ", ".join(spikes[step]) for step in sorted(spikes)}

    def _limits(self, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The median of the window before each of the last ``count`` of ``values``, and what is a spike above it (infinity: unknown)."""
        medians, limits = np.full(count, np.nan), np.full(count, np.inf)
        full = min(count, max(0, len(values) - self.window))
        if full:
            windows = np.lib.stride_tricks.sliding_window_view(values[-(full + self.window) : -1], self.window)
            median = np.median(windows, axis=1)
            spread = np.median(np.abs(windows - median[:, None]), axis=1)
            medians[-full:] = median
            limits[-full:] = median + self.threshold * np.maximum(spread, FLOOR * np.abs(median))
        return medians, limits
