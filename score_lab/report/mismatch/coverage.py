"""Where in log-SNR training looked, and the levels at which sampling asks the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from score_lab.build import refuse
from score_lab.objectives.time_laws import TAIL
from score_lab.report.mismatch.levels import Levels, footnote, heading, some
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_coverage"]


def save_coverage(file: str | Path, runs: Mapping[str, np.ndarray], density: tuple[np.ndarray, np.ndarray], title: str = "") -> Path:
    """Above the density of training, below a row for each of ``runs`` (name -> log-SNR of its calls): a mark a call, a cross where 99.8 %
    of training did not look.

    Args:
      density: (log-SNR, training density there), ascending, covering the law to 0.1 % on either side at least (``Coverage.grid``,
        ``Coverage.density``).

    Raises ConfigError for no run at all, or a density of no mass.
    """
    some("save_coverage.runs", runs)
    grid, p = (np.asarray(v, np.float64) for v in density)
    pieces = 0.5 * (p[1:] + p[:-1]) * np.diff(grid)
    if grid.shape != p.shape or not len(pieces) or not pieces.sum() > 0 or (np.diff(grid) <= 0).any():
        refuse("save_coverage.density", (grid.shape, p.shape), "levels in ascending order and a density of some mass at each")
    share = np.concatenate([[0.0], np.cumsum(pieces)])
    missing = max(0.0, 1.0 - share[-1])  # beyond the grid, as much on either side
    low, high = (float(np.interp(q, share + 0.5 * missing, grid)) for q in (TAIL, 1.0 - TAIL))
    levels = Levels.of([grid, *runs.values()])
    fig = figure(9.5, 3.6 + 0.3 * len(runs))
    above, below = fig.subplots(2, 1, sharex=True, height_ratios=(2.2, 0.35 + 0.28 * len(runs)))
    tidy(above, "Where training looked", "", "density per nat of log-SNR")
    above.fill_between(grid, 0, p, color=GREY, alpha=0.35, linewidth=0)
    above.plot(grid, p, color=GREY, linewidth=1.2)
    above.set_ylim(0, 1.08 * p.max())
    tidy(below, "Where sampling asks the network", "log-SNR that the network is told (left: noise, right: data)", "")
    for k, told in enumerate(runs.values()):
        told = np.asarray(told, np.float64)
        out = (told < low) | (told > high)
        colour = COLOURS[k % len(COLOURS)]
        below.plot(levels.x(told[~out]), np.full((~out).sum(), k), "|", color=colour, markersize=10, markeredgewidth=1.4)
        below.plot(levels.x(told[out]), np.full(out.sum(), k), "x", color=colour, markersize=6, markeredgewidth=1.8)
    names = [f"{name}  ({_outside(told, low, high)} outside)" for name, told in runs.items()]
    below.set_yticks(range(len(runs)), names)
    below.set_ylim(len(runs) - 0.4, -0.6)
    below.grid(False, axis="y")
    for ax in (above, below):
        ax.axvspan(low, high, color=COLOURS[5], alpha=0.13, linewidth=0, zorder=0)
        levels.mark(ax)
    handles = {
        "training density": Patch(color=GREY, alpha=0.35),
        f"99.8 % of training: {low:.1f} to {high:.1f}": Patch(color=COLOURS[5], alpha=0.2),
        "call": Line2D([], [], color=INK, marker="|", markersize=10, linewidth=0),
        "call outside": Line2D([], [], color=INK, marker="x", linewidth=0),
    }  # fmt: skip
    ends = [word for there, word in ((levels.noise, "−∞: pure noise"), (levels.data, "∞: clean data")) if there]
    footnote(fig, handles, "; ".join(["a call outside is answered from almost no training examples", *ends]))
    heading(fig, title or "Does sampling ask where training looked?")
    return save(fig, file)


def _outside(told: np.ndarray, low: float, high: float) -> str:
    told = np.asarray(told, np.float64)
    return f"{int(((told < low) | (told > high)).sum())}/{len(told)}"
