"""Two programs timed in turn, and the ratio pair by pair, so that a comparison holds while the machine's speed drifts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

__all__ = ["Ratio", "interleaved", "table"]


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


def interleaved(
    name: str, a: Callable[[], None], b: Callable[[], None], pairs: int = 20, warmup: int = 2, bound: float | None = None
) -> Ratio:
    """Times ``a()`` and ``b()`` in turn, each of which blocks until its work is done; which goes first alternates."""
    for _ in range(warmup):
        a()
        b()
    times = np.empty((pairs, 2))
    for k in range(pairs):
        for which in (0, 1) if k % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (a, b)[which]()
            times[k, which] = time.perf_counter() - start
    ratios = np.sort(times[:, 0] / times[:, 1])
    rank = max(int(np.floor(0.5 * (pairs - 1.96 * np.sqrt(pairs)))), 0)
    return Ratio(
        name, *map(float, np.median(times, axis=0)), float(np.median(ratios)), float(ratios[rank]), float(ratios[-1 - rank]), pairs, bound
    )


def table(rows: list[Ratio], unit: str = "ms", scale: float = 1e3) -> str:
    """The rows as text: medians of both, the ratio with its interval, the bound and whether it holds."""
    lines = [f"{'':42s} {'A ' + unit:>10s} {'B ' + unit:>10s} {'A / B':>7s}   95 % interval   bound"]
    for r in rows:
        bound = "" if r.bound is None else f"<= {r.bound:g} {'holds' if r.holds else 'DOES NOT HOLD'}"
        lines.append(f"{r.name:42s} {r.a * scale:10.3f} {r.b * scale:10.3f} {r.ratio:7.3f}   {r.low:.3f} to {r.high:.3f}  {bound}")
    return "\n".join(lines)
