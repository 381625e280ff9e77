"""Where in the spectrum, and when, a sampler's states have too little variance or too much: ln R by band over the levels.

One panel a run, all on one scale: a line for each band, coarse dark and fine light, and all bands together in black.  0 is what the network
was trained on; -0.1 is about a tenth less variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from score_lab.mismatch import Curve
from score_lab.report.mismatch.levels import TOLD, Levels, draw_curve, far, footnote, heading, shades, some, words_of
from score_lab.report.style import GREY, INK, figure, save, tidy

__all__ = ["band_bar", "save_log_ratios"]

_FEW = 6
"""Bands whose intervals are drawn; of more they hide each other."""


def save_log_ratios(
    file: str | Path, runs: Mapping[str, tuple[np.ndarray, Sequence[Curve], Curve, Sequence[Curve], Curve]], title: str = ""
) -> Path:
    """ln R of every band and of all together, one panel a run.

    Args:
      runs: name -> (nominal log-SNR of its calls (K,), ``ln R_b`` by band from coarse to fine, ``ln R`` in total, and the same two of the
        null: forward samples at the same calls).

    The grey is where the null's intervals reach, over all bands.  Panels share an axis, but for runs that are far beyond the others, which
    have one of their own and say so.  Raises ConfigError for no run at all.
    """
    some("save_log_ratios.runs", runs)
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    fig = figure(1.0 + 4.4 * columns, 1.1 + 3.6 * rows)
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax, (name, found) in zip(axes.flat, runs.items(), strict=False):
        tidy(ax, name, TOLD, "ln (variance in sampling / in training)" if ax in axes[:, 0] else "")
        _panel(ax, *found)
    away = far({name: _size([*bands, total]) for name, (_, bands, total, *_) in runs.items()})
    panels = dict(zip(runs, axes.flat, strict=False))
    ends = np.array([panels[name].get_ylim() for name in runs if name not in away])
    for name, ax in panels.items():
        if name in away:
            ax.set_title(f"{name} (an axis of its own)", fontsize=11, color=INK, loc="left", fontweight="bold")
        else:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
    for ax in axes.flat[len(runs) :]:
        ax.set_visible(False)
    band_bar(fig, axes)
    many = any(len(bands) > _FEW for _, bands, *_ in runs.values())
    told = [(at, c) for at, bands, total, *_ in runs.values() for c in [*bands, total]]
    text = words_of(told, "forward samples, over all bands", "shade around the black line" if many else "shades")
    black = Line2D([], [], color=INK, linewidth=2.2, marker=".")
    footnote(fig, {"all bands together": black, "forward samples (no mismatch)": Patch(color=GREY, alpha=0.35)}, text)
    heading(fig, title or "Variance of a sampler's states by band: below 0 too little, above 0 too much")
    return save(fig, file)


def _size(curves: Sequence[Curve]) -> float:
    """How far from 0 the curves go."""
    values = np.concatenate([c.value[np.isfinite(c.value)] for c in curves])
    return float(np.abs(values).max()) if len(values) else 0.0


def _panel(ax: Axes, told: np.ndarray, bands: Sequence[Curve], total: Curve, null: Sequence[Curve], null_total: Curve) -> None:
    levels = Levels.of([told])
    order = np.argsort(told, kind="stable")
    every = [c for c in [*null, null_total] if np.isfinite(c.low).any()]
    if every:
        low = np.fmin.reduce([np.where(np.isfinite(c.low), c.low, np.nan) for c in every])
        high = np.fmax.reduce([np.where(np.isfinite(c.high), c.high, np.nan) for c in every])
        ax.fill_between(levels.x(told)[order], low[order], high[order], color=GREY, alpha=0.35, linewidth=0)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    for b, (c, colour) in enumerate(zip(bands, shades(len(bands))[0], strict=True)):
        alpha = 0.15 if len(bands) <= _FEW else 0.0
        draw_curve(ax, levels, told, c, colour, alpha=alpha, linewidth=1.2, marker="", foot=b, label=f"band {b}", circles=False)
    draw_curve(ax, levels, told, total, INK, linewidth=2.2, alpha=0.2, foot=None, label="all bands")
    levels.mark(ax)


def band_bar(fig: Figure, axes: np.ndarray) -> None:
    """The colours of the bands beside ``axes``, in words."""
    bar = fig.colorbar(ScalarMappable(Normalize(0, 1), shades(1)[1]), ax=axes, shrink=0.7, aspect=30, pad=0.01)
    bar.set_ticks([0, 1], labels=["coarsest\nband", "finest\nband"], fontsize=8.5, color=INK)
    bar.outline.set_visible(False)
