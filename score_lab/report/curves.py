"""Curves and points: the loss of a run from its ``metrics.jsonl``, and samples of a low-dimensional set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import LogFormatter

from score_lab.build import refuse
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_loss", "save_scatter"]


class _Plain(LogFormatter):
    """``0.03`` where matplotlib would write ``3e-02``; the ticks that it leaves blank stay blank."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def save_loss(file: str | Path, metrics: Sequence[Mapping[str, float]], title: str = "loss") -> Path:
    """The training and the held-out loss against the step, on a logarithmic scale.

    ``metrics`` are the lines of a run's ``metrics.jsonl`` (``score_lab.training.metrics.read_metrics(workdir)``): ``step`` with ``loss``,
    ``eval/loss`` or both. Raises ConfigError if no line holds a loss.
    """
    fig = figure(6.4, 3.4)
    ax = tidy(fig.subplots(), title, "training step", "loss per example")
    drawn = 0
    for k, (name, label) in enumerate((("loss", "training"), ("eval/loss", "held-out, fixed noise levels"))):
        points = np.array([(m["step"], m[name]) for m in metrics if name in m and np.isfinite(m[name]) and m[name] > 0]).reshape(-1, 2)
        if len(points):
            ax.plot(*points.T, color=COLOURS[k], linewidth=1.6, marker="o" if len(points) < 20 else None, markersize=3.5, label=label)
            drawn += 1
    if not drawn:
        refuse("save_loss.metrics", f"{len(metrics)} lines", "lines with a step and a positive loss or eval/loss")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(_Plain(labelOnlyBase=False, minor_thresholds=(2, 0.7)))
    ax.yaxis.set_minor_formatter(_Plain(labelOnlyBase=False, minor_thresholds=(2, 0.7)))
    ax.tick_params(axis="y", which="minor", labelsize=8)
    ax.legend(fontsize=8.5, frameon=False)
    return save(fig, file)


def save_scatter(file: str | Path, panels: Mapping[str, np.ndarray], reference: np.ndarray | None = None, title: str = "") -> Path:
    """Points (n, 2) of each of ``panels``, over ``reference`` data in grey, on one scale.  Points that are not finite are counted in the
    panel's title.
    """
    fig = figure(0.2 + 2.9 * len(panels), 3.4 if title else 3.1)
    axes = fig.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    everything = np.concatenate([np.asarray(p, float) for p in (*panels.values(), *([] if reference is None else [reference]))])
    if everything.ndim != 2 or everything.shape[1] != 2:
        refuse("save_scatter.panels", everything.shape, "points (n, 2)")
    reach = np.nanquantile(np.abs(np.where(np.isfinite(everything), everything, np.nan)), 0.998) * 1.08
    for k, (ax, (name, points)) in enumerate(zip(axes, panels.items(), strict=True)):
        fine = np.isfinite(points).all(axis=1)
        broken = "" if fine.all() else f" ({int((~fine).sum())} not finite)"
        tidy(ax, name + broken)
        if reference is not None:
            ax.scatter(*np.asarray(reference).T, s=3, color=GREY, alpha=0.25, linewidths=0)
        ax.scatter(*np.asarray(points)[fine].T, s=3.5, color=COLOURS[k % len(COLOURS)], alpha=0.6, linewidths=0)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    if title:
        fig.suptitle(title, fontsize=11.5, color=INK, fontweight="bold")
    return save(fig, file)
