"""The pictures of an ablation: quality against the budget, and the same noise down the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from score_lab.build import refuse
from score_lab.evaluation import Estimate
from score_lab.report.samples import tile, to_rgb
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_quality", "save_same_noise"]

_STYLES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "^", "D")


def save_quality(
    file: str | Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]],
    levels: Mapping[str, Mapping[str, float]] | None = None, *, log_y: Sequence[str] = (), ticks: Sequence[float] = (), title: str = "",
) -> Path:  # fmt: skip
    """A panel for each column: NFE (log) against the value, one line with its band per solver.

    Args:
      panels: column -> solver -> [(nfe that was counted, estimate), ...]; what is not finite is left out.
      levels: column -> {name: value}, drawn as grey lines (a floor, the exact solution).
      log_y: columns with a logarithmic axis, linear around 0 where values are not all above 0.
      ticks: of the NFE axis; empty: the NFE that occur.

    Raises ConfigError for no panel at all.
    """
    if not panels:
        refuse("save_quality.panels", 0, "at least one column")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    fig = figure(5.4 * columns, 3.5 * rows + 0.22 * len(names) / 2 + 0.3)
    axes = np.ravel(fig.subplots(rows, columns, squeeze=False))
    for ax, (column, lines) in zip(axes, panels.items(), strict=False):
        tidy(ax, column, "network evaluations per sample (counted)", "")
        ax.set_xscale("log")
        seen, values = set(), []
        for name, points in lines.items():
            k = names.index(name)
            fine = sorted(((x, e) for x, e in points if np.isfinite(e.value)), key=lambda point: point[0])
            if not fine:
                continue
            x, value, low, high = (np.array(v, float) for v in zip(*((x, e.value, e.low, e.high) for x, e in fine), strict=True))
            seen.update(x.tolist())
            values += value.tolist()
            colour, turn = COLOURS[k % len(COLOURS)], k // len(COLOURS)
            line = _STYLES[turn % len(_STYLES)]
            ax.plot(x, value, line, color=colour, linewidth=1.5, marker=_MARKS[turn % len(_MARKS)], markersize=3.5, label=name)
            if column in log_y:
                low = np.maximum(low, value / 10)
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for name, value in (levels or {}).get(column, {}).items():
            ax.axhline(value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
            ax.annotate(name, (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7.5, color=GREY)
        marks = _apart(sorted(ticks or seen))
        ax.set_xticks(marks, [f"{v:g}" for v in marks])
        ax.minorticks_off()
        if column in log_y and values:
            _scale(ax, np.array(values), [*(levels or {}).get(column, {}).values()])
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    handles = {}
    for ax in axes[: len(panels)]:
        handles |= {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    fig.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    if title:
        fig.suptitle(title, fontsize=11.5, color=INK, fontweight="bold")
    return save(fig, file)


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
    width = 0.42 * columns
    fig = figure(width + 0.5 + 0.078 * max(map(len, rows)), width * canvas.shape[0] / canvas.shape[1] + (0.5 if title else 0.15))
    ax = fig.subplots()
    step = canvas.shape[0] / len(rows)
    ax.imshow(canvas, interpolation="nearest")
    ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(rows))], list(rows), fontsize=8.5, color=INK)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10.5, color=INK, loc="left")
    return save(fig, file)
