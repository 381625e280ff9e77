"""The pictures of an ablation: quality against the budget, and the same noise down the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from score_lab.build import refuse
from score_lab.evaluation import Estimate
from score_lab.report.samples import tile, to_rgb
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_quality", "save_same_noise"]

_STYLES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "^", "D")
_WIDE = 5.4
"""Inches of a panel."""


def save_quality(
    file: str | Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]],
    levels: Mapping[str, Mapping[str, float]] | None = None, *, log_y: Sequence[str] = (), ticks: Sequence[float] = (), title: str = "",
    off: Mapping[str, Sequence[tuple[str, float]]] | None = None,
) -> Path:  # fmt: skip
    """A panel for each column: NFE (log) against the value, one line with its band per solver.

    Args:
      panels: column -> solver -> [(nfe that was counted, estimate), ...]; what is not finite is left out.
      levels: column -> {name: value}, drawn as grey lines (a floor, the exact solution).
      log_y: columns with a logarithmic axis, linear around 0 where values are not all above 0.
      ticks: of the NFE axis; empty: the NFE that occur.
      off: column -> [(solver, nfe), ...] that diverged: a cross at the upper edge, which the axis does not follow.

    Raises ConfigError for no panel at all.
    """
    if not panels:
        refuse("save_quality.panels", 0, "at least one column")
    levels, off = levels or {}, off or {}
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    names = [*(name for lines in panels.values() for name in lines), *(name for points in off.values() for name, _ in points)]
    look = {name: _look(k) for k, name in enumerate(dict.fromkeys(names))}
    across = max(1, int(_WIDE * columns / (0.6 + 0.072 * max(map(len, look), default=1))))  # columns of the legend that fit
    fig = figure(_WIDE * columns, 3.5 * rows + 0.22 * -(-len(look) // across) + 0.3)
    axes = np.ravel(fig.subplots(rows, columns, squeeze=False))
    for ax, (column, lines) in zip(axes, panels.items(), strict=False):
        tidy(ax, column, "network evaluations per sample (counted)", "")
        ax.set_xscale("log")
        seen, values = _curves(ax, lines, look, column in log_y)
        _levels(ax, levels.get(column, {}))
        seen |= _diverged(ax, off.get(column, ()), look)
        marks = _apart(sorted(ticks if len(ticks) > 1 else seen))
        ax.set_xticks(marks, [f"{v:g}" for v in marks])
        ax.minorticks_off()
        if column in log_y and values:
            _scale(ax, np.array(values), [*levels.get(column, {}).values()])
            ax.tick_params(which="both", labelsize=8.5)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    drawn = {line.get_label(): line for ax in axes[::-1] for line in ax.lines[::-1]}  # the first of each name
    shown = [name for name in look if name in drawn]
    fig.legend([drawn[name] for name in shown], shown, loc="outside lower center", ncols=across, fontsize=8.5, frameon=False)
    if title:
        fig.suptitle(title, fontsize=11.5, color=INK, fontweight="bold")
    return save(fig, file)


def _look(k: int) -> dict[str, str]:
    """Colour, line and mark of the solver number ``k``: no two alike among the first 32."""
    turn = k // len(COLOURS)
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": _STYLES[turn % len(_STYLES)], "marker": _MARKS[turn % len(_MARKS)]}


def _curves(
    ax: Axes, lines: Mapping[str, Sequence[tuple[float, Estimate]]], look: Mapping[str, Mapping[str, str]], log: bool
) -> tuple[set[float], list[float]]:
    """Each solver's line with its band, a bar where it is one point (cut a decade below the line on a logarithmic axis); the NFE and the
    values that were drawn."""
    seen, values = set(), []
    for name, points in lines.items():
        fine = sorted(((x, e) for x, e in points if np.isfinite(e.value)), key=lambda point: point[0])
        if not fine:
            continue
        x, value, low, high = (np.array(v, float) for v in zip(*((x, e.value, e.low, e.high) for x, e in fine), strict=True))
        seen.update(x.tolist())
        values += value.tolist()
        ax.plot(x, value, linewidth=1.5, markersize=3.5, label=name, **look[name])
        low = np.maximum(low, value / 10) if log else low
        if len(x) == 1:  # a band has no width there
            ax.vlines(x, low, high, color=look[name]["color"], alpha=0.5, linewidth=1.5)
        ax.fill_between(x, low, high, color=look[name]["color"], alpha=0.15, linewidth=0)
    return seen, values


def _levels(ax: Axes, levels: Mapping[str, float]) -> None:
    """Grey lines with their names: the highest above its line, the next below and on the left, so that no two overlap."""
    for place, (name, value) in enumerate(sorted(levels.items(), key=lambda level: -level[1])):
        ax.axhline(value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        at, side, above = ((1.0, value), "right", "bottom") if place % 2 == 0 else ((0.01, value), "left", "top")
        ax.annotate(name, at, xycoords=("axes fraction", "data"), va=above, ha=side, fontsize=7.5, color=GREY)


def _diverged(ax: Axes, points: Sequence[tuple[str, float]], look: Mapping[str, Mapping[str, str]]) -> set[float]:
    """A cross at the upper edge for every (solver, nfe); the NFE that were drawn."""
    for name, x in points:
        ax.plot([x], [0.97], "x", color=look[name]["color"], markersize=6, markeredgewidth=1.8, label=name,
                transform=ax.get_xaxis_transform(), clip_on=False, zorder=5)  # fmt: skip
    if points:
        ax.annotate("x: diverged", (0.99, 0.9), xycoords="axes fraction", ha="right", va="top", fontsize=7.5, color=GREY)
    return {x for _, x in points}


def _scale(ax: Axes, values: np.ndarray, levels: Sequence[float]) -> None:
    """A logarithmic axis (linear around 0 where values are not above it) that a solver far off does not stretch: 30 medians are its top."""
    size = np.abs(values[values != 0])
    if not len(size):
        return
    if min(values.min(), *levels, np.inf) > 0:
        ax.set_yscale("log")
    else:
        ax.set_yscale("symlog", linthresh=float(np.quantile(size, 0.3)))
    if values.max() > 100 * np.median(size):
        top = 30 * float(np.median(size))
        lowest = min(values.min(), *levels) if levels else values.min()
        ax.set_ylim(bottom=0.7 * lowest if lowest > 0 else max(1.4 * lowest, -top), top=top)
        ax.annotate("further off: not drawn", (0.99, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=7.5, color=GREY)


def _apart(values: list[float]) -> list[float]:
    """Those of the ascending ``values`` that are at least 12 % apart, so that their labels do not touch."""
    kept: list[float] = []
    for value in values:
        if not kept or value > 1.12 * kept[-1]:
            kept.append(value)
    return kept


def save_same_noise(file: str | Path, rows: Mapping[str, np.ndarray], *, columns: int = 16, title: str = "") -> Path:
    """A row of pictures per name, images (n, h, w, c) in [-1, 1]: column j of every row started from the same noise."""
    if not rows:
        refuse("save_same_noise.rows", 0, "at least one row")
    columns = min(columns, *(len(x) for x in rows.values()))
    grid = np.stack([to_rgb(np.asarray(x)[:columns]) for x in rows.values()])
    canvas = tile(grid)
    wide, gap, above = 0.42 * columns, 0.12, 0.4 if title else 0.08
    high, left = wide * canvas.shape[0] / canvas.shape[1], 2 * gap + max(TextPath((0, 0), n, 8.5).get_extents().width for n in rows) / 72
    fig = figure(left + wide + gap, high + above + 0.08)
    fig.set_layout_engine("none")  # which cuts the names beside a picture of fixed shape
    width, height = fig.get_size_inches()
    ax = fig.add_axes((left / width, 0.08 / height, wide / width, high / height))
    step = canvas.shape[0] / len(rows)
    ax.imshow(canvas, interpolation="nearest")
    ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(rows))], list(rows), fontsize=8.5, color=INK)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10.5, color=INK, loc="left")
    return save(fig, file)
