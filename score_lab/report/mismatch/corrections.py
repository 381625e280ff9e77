"""What each correction does: mismatch and quality, before and after, at equal network evaluations.

A grey ring is before, a full dot after, the line between them the change.  Thick and coloured where the interval of the change excludes 0:
blue for better, vermilion for worse; thin and grey where no difference can be told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from score_lab.evaluation import Estimate
from score_lab.report.mismatch.levels import footnote, heading, some
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["Corrected", "save_corrections"]

_BETTER, _WORSE = COLOURS[0], COLOURS[1]


@dataclasses.dataclass(frozen=True)
class Corrected:
    """One row: ``name`` of the correction; ``mismatch`` and ``quality``, each (before, after, change = after - before).

    The change is an ``Estimate`` of its own, of paired differences on common random numbers, or None where it was not measured: then
    nothing is said of significance.
    """

    name: str
    mismatch: tuple[Estimate, Estimate, Estimate | None]
    quality: tuple[Estimate, Estimate, Estimate | None]


def save_corrections(
    file: str | Path, rows: Sequence[Corrected], *, mismatch: str = "mismatch", quality: str = "distance to data", ideal: float = 0.0,
    floors: tuple[Estimate | None, Estimate | None] = (None, None), lower: bool = True, title: str = "",
) -> Path:  # fmt: skip
    """Two panels of ``rows``, the mismatch and the quality.

    Args:
      mismatch, quality: what they are, in words.
      ideal: the mismatch of a perfect sampler; better is nearer to it.
      floors: the null of either, drawn grey: forward samples' mismatch, the quality of data against data.
      lower: whether a lower quality number is better (a distance).

    Raises ConfigError for no row at all.
    """
    some("save_corrections.rows", rows)
    fig = figure(11.5, 1.9 + 0.36 * len(rows))
    left, right = fig.subplots(1, 2, sharey=True)
    tidy(left, "Mismatch", mismatch, "")
    tidy(right, f"Quality ({'lower' if lower else 'higher'} is better)", quality, "")
    left.axvline(ideal, color=GREY, linewidth=0.8, zorder=0)
    for ax, floor in zip((left, right), floors, strict=True):
        if floor is not None and np.isfinite(floor.value):
            ax.axvspan(floor.low, floor.high, color=GREY, alpha=0.3, linewidth=0, zorder=0)
            ax.axvline(floor.value, color=GREY, linewidth=1.0, zorder=0)
    for k, row in enumerate(rows):
        before, after, change = row.mismatch
        nearer = abs(after.value - ideal) < abs(before.value - ideal)
        _dumbbell(left, k, before, after, _colour(change, nearer))
        before, after, change = row.quality
        _dumbbell(right, k, before, after, _colour(change, (after.value < before.value) == lower))
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    for ax in (left, right):
        ax.margins(x=0.08)
    handles: dict[str, object] = {
        "before": Line2D([], [], color=GREY, marker="o", fillstyle="none", linewidth=0),
        "after, better": Line2D([], [], color=_BETTER, marker="o", linewidth=2.6),
        "after, worse": Line2D([], [], color=_WORSE, marker="D", linewidth=2.6),
        "after, no difference can be told": Line2D([], [], color=GREY, marker="o", linewidth=1),
    }
    if any(row.mismatch[2] is None or row.quality[2] is None for row in rows):
        handles["after, difference not tested"] = Line2D([], [], color=INK, marker="o", linewidth=1, linestyle=":")
    if any(f is not None for f in floors):
        handles["what a perfect sampler shows"] = Patch(color=GREY, alpha=0.3)
    text = "whiskers: 95 %; coloured: the interval of the paired change excludes 0; cross: no number"
    footnote(fig, handles, text, columns=6)
    heading(fig, title or "What do corrections change, at equal network evaluations?")
    return save(fig, file)


def _colour(change: Estimate | None, better: bool) -> str:
    """Of the change: told apart, or not, or not tested."""
    if change is None:
        return INK
    if not (np.isfinite(change.low) and np.isfinite(change.high)) or change.low <= 0 <= change.high:
        return GREY
    return _BETTER if better else _WORSE


def _dumbbell(ax: Axes, row: int, before: Estimate, after: Estimate, colour: str) -> None:
    """From before (ring) to after (dot; a diamond where it is worse), each with its interval just above and below the row."""
    told = colour in (_BETTER, _WORSE)
    if np.isfinite(before.value) and np.isfinite(after.value):
        style = {"linewidth": 2.6 if told else 1.0, "linestyle": ":" if colour == INK else "-", "alpha": 0.8}
        ax.plot([before.value, after.value], [row, row], color=colour, **style)
    for e, shade, shift, mark in ((before, GREY, -0.12, "o"), (after, colour, 0.12, "D" if colour == _WORSE else "o")):
        if not np.isfinite(e.value):
            ax.plot(0.02, row + shift, "x", color=shade, markersize=6, transform=ax.get_yaxis_transform())
            continue
        if np.isfinite(e.low) and np.isfinite(e.high):
            ax.plot([e.low, e.high], [row + shift] * 2, color=shade, linewidth=1.0, alpha=0.9)
        fill = "none" if e is before else "full"
        ax.plot(e.value, row, mark, color=shade, fillstyle=fill, markersize=6 if e is before else 5.5, zorder=3)
