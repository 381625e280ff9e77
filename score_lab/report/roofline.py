"""The roofline of a device with the programs that were timed on it, and the batch at which sampling turns from one bound to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from score_lab.build import refuse
from score_lab.cost import Measured, reached, turning_point
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_roofline"]


def save_roofline(file: str | Path, series: Mapping[str, Sequence[Measured]], title: str = "what bounds it") -> Path:
    """Operations a second against operations per byte, both axes logarithmic, under the two roofs of the first point's peaks.

    ``series``: points by name, batches ascending; each point is labelled with its batch.  The legend has the batch at which a series of
    several crosses the ridge, and which part of the roof it reaches.  Raises ConfigError where there is no point whose intensity is known.
    """
    shown = {name: [p for p in points if np.isfinite(p.intensity)] for name, points in series.items()}
    every = [point for points in shown.values() for point in points]
    if not every:
        refuse("save_roofline.series", len(series), "at least one point of known intensity")
    peaks = every[0].peaks
    fig = figure(6.6, 4.4)
    ax = tidy(fig.subplots(), title, "intensity, FLOP per byte moved", "GFLOP/s per device")
    low, high = min(p.intensity for p in every), max(p.intensity for p in every)
    reach = np.geomspace(min(low, peaks.ridge) / 2, max(high, peaks.ridge) * 3, 200)
    per_device = 1e9 * peaks.devices
    ax.plot(reach, np.minimum(peaks.flops, reach * peaks.bandwidth) / per_device, color=INK, linewidth=1.4)
    ax.axvline(peaks.ridge, color=GREY, linewidth=0.8, linestyle=":")
    roof = f"ridge {peaks.ridge:.3g} FLOP/byte: {peaks.flops / per_device:.3g} GFLOP/s over {peaks.bandwidth / per_device:.3g} GB/s"
    ax.text(0.015, 0.985, roof, transform=ax.transAxes, verticalalignment="top", fontsize=8.5, color=INK)
    for k, (name, points) in enumerate(shown.items()):
        colour = COLOURS[k % len(COLOURS)]
        x, y = [p.intensity for p in points], [p.rate / (1e9 * p.peaks.devices) for p in points]
        ax.plot(x, y, color=colour, linewidth=1.0, marker="o", markersize=4.5, label=_label(name, points))
        for point, at, rate in zip(points, x, y, strict=True):
            ax.annotate(str(point.batch), (at, rate), xytext=(4, -9), textcoords="offset points", fontsize=7.5, color=colour)
    rates = [p.rate / (1e9 * p.peaks.devices) for p in every]
    bottom, top = min(*rates, reach[0] * peaks.bandwidth / per_device) / 1.6, max(*rates, peaks.flops / per_device)
    ax.set(xscale="log", yscale="log", xlim=(reach[0], reach[-1]), ylim=(bottom, top * (top / bottom) ** 0.12))  # room for the words
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=8.5, frameon=False, loc="best")
    return save(fig, file)


def _label(name: str, points: Sequence[Measured]) -> str:
    turn, part = turning_point(points), reached(points)
    words = [*([] if turn is None else [f"compute-bound from a batch of about {turn:.2g}"]), *([part] if part else [])]
    return f"{name}: {', '.join(words)}" if words else name
