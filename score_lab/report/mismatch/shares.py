"""The picture of corrections: how much of the way from N to 2N evaluations each goes, and what it leaves of the mismatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation import Estimate
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_shares"]

LEFT, RIGHT = -1.0, 2.5
"""Shares beyond are drawn at the edge, as a triangle."""


def save_shares(
    file: str | Path, shares: Mapping[str, Mapping[str, Mapping[str, Mapping[int, Estimate]]]],
    mismatch: Mapping[str, Mapping[str, Mapping[int, Estimate]]] | None = None, *, title: str = "",
) -> Path:  # fmt: skip
    """One row of panels for each measure, one column for each sampler; corrections down the axis, budgets by colour.

    Args:
      shares: measure -> sampler -> correction -> {budget: share}; 0: nothing gained, 1: the quality of twice the steps.
      mismatch: sampler -> correction (and "none") -> {budget: ln R}, the last row of panels.

    Raises ConfigError where there is nothing to draw.
    """
    samplers = list(dict.fromkeys(s for by in shares.values() for s in by))
    if not samplers:
        refuse("save_shares.shares", 0, "at least one measure of one sampler")
    names = list(dict.fromkeys(n for by in shares.values() for rows in by.values() for n in rows))
    budgets = sorted({b for by in shares.values() for rows in by.values() for cells in rows.values() for b in cells})
    kinds: list[tuple[str, Mapping]] = [(f"share of N to 2N: {measure}", by) for measure, by in shares.items()]
    if mismatch:
        kinds.append(("ln R at the last call", mismatch))
        names = list(dict.fromkeys([*names, *(n for rows in mismatch.values() for n in rows)]))
    height = 0.21 * len(names) + 0.75
    fig = figure(4.1 * len(samplers) + 1.6, height * len(kinds) + 0.5)
    axes = fig.subplots(len(kinds), len(samplers), squeeze=False, sharey=True)
    for i, (label, by) in enumerate(kinds):
        for j, sampler in enumerate(samplers):
            ax, share = axes[i, j], i < len(shares)
            tidy(ax, f"{sampler}" if i == 0 else "", label)
            for x, style in ((0.0, "-"), (1.0, (0, (4, 3)))) if share else ((0.0, "-"),):
                ax.axvline(x, color=INK if x else GREY, linewidth=1.0, linestyle=style)
            _dots(ax, by.get(sampler, {}), names, budgets, share)
            ax.set_yticks(range(len(names)), names, fontsize=7.5)
            ax.set_ylim(len(names) - 0.5, -0.5)
            if share:
                ax.set_xlim(LEFT - 0.12, RIGHT + 0.12)
    dot = {"marker": "o", "linestyle": "", "markersize": 4}
    marks = [axes[0, 0].plot([], [], color=COLOURS[k % len(COLOURS)], label=f"{b} NFE", **dot)[0] for k, b in enumerate(budgets)]
    fig.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)
    if title:
        fig.suptitle(title, fontsize=11, color=INK)
    return save(fig, file)


def _dots(ax, rows: Mapping[str, Mapping[int, Estimate]], names: Sequence[str], budgets: Sequence[int], share: bool) -> None:
    """One dot with its interval for every correction and budget."""
    for name, cells in rows.items():
        for budget, e in cells.items():
            if not np.isfinite(e.value) or budget not in budgets:
                continue
            k = budgets.index(budget)
            y, colour = names.index(name) + 0.24 * (k - (len(budgets) - 1) / 2), COLOURS[k % len(COLOURS)]
            low, high = (np.clip(v, LEFT, RIGHT) if share else v for v in (e.low, e.high))
            value = float(np.clip(e.value, LEFT, RIGHT)) if share else e.value
            mark = "o" if value == e.value else "<" if value == LEFT else ">"
            ax.plot([low, high], [y, y], color=colour, linewidth=1.0, alpha=0.6)
            ax.plot([value], [y], mark, color=colour, markersize=3.4)
