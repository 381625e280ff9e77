"""Programs timed in turn, and their differences and ratios round by round, so that a comparison holds while the machine's speed drifts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

__all__ = ["MISSED", "Ratio", "heading", "in_turn", "interleaved", "interval", "line", "verdict"]

MISSED = "DOES NOT HOLD"
"""What a line says whose bound is missed: the exit status of the run is then 1."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median seconds of A and B, and the median of their paired ratios A / B with its 95 % interval (order statistics of the sign test)."""

    name: str
    a: float
    b: float
    ratio: float
    low: float
    high: float
    pairs: int
    bound: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the interval of the median ratio reaches the bound."""
        return self.bound is None or self.low <= self.bound


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % interval, by the order statistics of the sign test."""
    ordered = np.sort(values)
    n = len(ordered)
    rank = max(int(np.floor(0.5 * (n - 1.96 * np.sqrt(n)))), 0)
    return float(np.median(ordered)), float(ordered[rank]), float(ordered[-1 - rank])


def verdict(median: float, low: float, bound: float) -> str:
    """"HOLDS" where the median's 95 % interval, which begins at ``low``, reaches the bound; it says so if the median itself does not."""
    if not low <= bound:
        return MISSED
    return "HOLDS" if median <= bound else "HOLDS, by its interval alone"


def in_turn(programs: dict[str, Callable[[], object]], rounds: int, warmup: int = 2, pause: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds of every program in every round.  Each blocks until its work is done; every other round visits them in reverse order.

    ``pause`` seconds pass before each is timed: what a framework's idle threads need to stop spinning on the cores of the next one.
    """
    for _ in range(warmup):
        for run in programs.values():
            run()
    times = {name: np.empty(rounds) for name in programs}
    order = list(programs.items())
    for k in range(rounds):
        for name, run in order if k % 2 == 0 else order[::-1]:
            if pause:
                time.sleep(pause)
            start = time.perf_counter()
            run()
            times[name][k] = time.perf_counter() - start
    return times


def interleaved(
    name: str,
    a: Callable[[], object],
    b: Callable[[], object],
    pairs: int = 20,
    warmup: int = 2,
    bound: float | None = None,
    pause: float = 0.0,
) -> Ratio:
    """``a()`` and ``b()`` in turn (see ``in_turn``), and the median of their ratio."""
    times = in_turn({"a": a, "b": b}, pairs, warmup, pause)
    a_median, b_median = (float(np.median(times[which])) for which in "ab")
    return Ratio(name, a_median, b_median, *interval(times["a"] / times["b"]), pairs, bound)


def heading(unit: str = "ms") -> str:
    """What stands above the lines of ratios."""
    return f"{'':44s} {'A ' + unit:>10s} {'B ' + unit:>10s} {'A / B':>7s}   95 % interval   bound"


def line(r: Ratio, scale: float = 1e3) -> str:
    """A ratio as text: medians of both, the ratio with its interval, the bound and whether it holds."""
    bound = "" if r.bound is None else f"<= {r.bound:g} {verdict(r.ratio, r.low, r.bound)}"
    return f"{r.name:44s} {r.a * scale:10.3f} {r.b * scale:10.3f} {r.ratio:7.3f}   {r.low:.3f} to {r.high:.3f}  {bound}"
