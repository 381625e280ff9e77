"""What bounds a program that was timed: the roofline model (Williams, Waterman, Patterson 2009).

    intensity I = operations / bytes moved,      roof(I) = min(peak, I bandwidth),      ridge = peak / bandwidth
    memory-bound where I < ridge, compute-bound above

Bytes are XLA's (score_lab/cost/program.py), which knows no caches: on a CPU, whose caches hold a small network, I is too low and a
program can lie above its roof.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from score_lab.cost.peaks import Peaks

__all__ = ["FAR_BELOW", "Measured", "reached", "turning_point"]

FAR_BELOW = 1 / 3
"""Of the roof, below which neither operations nor bytes are what a program spends its time on."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program that took ``seconds`` for ``flops`` operations and ``moved`` bytes on the devices of ``peaks``; ``batch`` examples."""

    name: str
    batch: int
    seconds: float
    flops: float
    moved: float
    peaks: Peaks

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds

    @property
    def utilisation(self) -> float:
        """Operations a second over the measured peak (MFU)."""
        return self.rate / self.peaks.flops

    @property
    def intensity(self) -> float:
        """Operations per byte moved."""
        return self.flops / self.moved

    @property
    def bound(self) -> str:
        """``"compute"`` or ``"memory"``; ``"unknown"`` where XLA does not tell the bytes."""
        if math.isnan(self.intensity):
            return "unknown"
        return "compute" if self.intensity >= self.peaks.ridge else "memory"

    @property
    def of_roof(self) -> float:
        """Operations a second over what the roof allows at this intensity; NaN where that is not known."""
        return self.rate / min(self.intensity * self.peaks.bandwidth, self.peaks.flops) if not math.isnan(self.intensity) else math.nan


def turning_point(points: Sequence[Measured]) -> float | None:
    """The batch size at which the intensity of ``points`` reaches the ridge, between two of them in logarithms; None where they all lie on
    one side of it.  Points are of one program, batches ascending."""
    for small, large in zip(points, points[1:], strict=False):
        if small.bound == "memory" and large.bound == "compute":
            share = math.log(small.peaks.ridge / small.intensity) / math.log(large.intensity / small.intensity)
            return small.batch * (large.batch / small.batch) ** share
    return None


def reached(points: Sequence[Measured]) -> str:
    """Which part of the roof ``points`` reach, ``"7 to 12 % of the roof"``; "" where the intensity of none is known."""
    shares = sorted(100 * p.of_roof for p in points if not math.isnan(p.of_roof))
    if not shares:
        return ""
    least, most = (f"{share:.0f}" if share >= 1 else f"{share:.1g}" for share in (shares[0], shares[-1]))
    return f"{most if least == most else f'{least} to {most}'} % of the roof"
