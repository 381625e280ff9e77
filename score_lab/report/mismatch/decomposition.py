"""What causes the mismatch of the last states: the parts of ln R with their intervals, in total and band by band.

    left     the whole and its parts, which add up to it; a part whose interval holds 0 is pale: it cannot be told from nothing
    right    each part over the bands, from coarse to fine, on one scale
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from score_lab.mismatch import Curve, Decomposition
from score_lab.report.mismatch.levels import footnote, heading, some
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["MEANING", "save_decomposition"]

MEANING = {
    "whole": "the run as it is",
    "prior": "the prior instead of noised data",
    "discretisation": "too few steps",
    "model": "the network",
    "guidance": "guidance",
    "draws": "these trajectories, by chance",
    "interaction": "what causes do together",
}
"""The parts in words."""
_COLOUR = {"whole": INK, "draws": GREY} | dict(
    zip(("prior", "discretisation", "model", "guidance", "interaction"), COLOURS, strict=False)
)  # fmt: skip


def save_decomposition(file: str | Path, runs: Mapping[str, Decomposition], title: str = "") -> Path:
    """A row for each of ``runs`` (name -> its ``Decomposition``); parts that are 0 by construction are left out.

    Raises ConfigError for no run at all.
    """
    some("save_decomposition.runs", runs)
    shown = {name: _parts(d) for name, d in runs.items()}
    parts = [p for p in MEANING if any(p in found for found in shown.values())]
    fig = figure(4.6 + 1.75 * len(parts), 1.0 + 3.2 * len(runs))
    grid = fig.subplots(len(runs), 1 + len(parts), squeeze=False, width_ratios=(2.2, *(1,) * len(parts)))
    for axes, (name, found) in zip(grid, shown.items(), strict=True):
        _total(axes[0], f"{name}, {runs[name].N} steps", found)
        bands = [np.concatenate([c.value[:-1], c.low[:-1], c.high[:-1]]) for c in found.values()]
        fine = np.concatenate([*bands, [0.0]])
        fine = fine[np.isfinite(fine)]
        reach = (fine.min() - 0.05 * np.ptp(fine) - 1e-3, fine.max() + 0.05 * np.ptp(fine) + 1e-3)
        for k, (ax, part) in enumerate(zip(axes[1:], parts, strict=True)):
            if part in found:
                _by_band(ax, part, found[part], reach, first=k == 0)
            else:
                ax.set_visible(False)
    notes = [f"{d.cube.n} trajectories" for d in runs.values()]
    text = "; ".join([
        "ln R = ln (variance of the last states / of training): −0.1 is about a tenth too little",
        "bars: 95 % over " + " or ".join(dict.fromkeys(notes)) + " (for all bands at once)",
        "pale: the interval holds 0",
        "cross: no number",
        *(["there is no exact denoiser: chance is part of the network's"] if not all(d.exact for d in runs.values()) else []),
        *(["grey: what chance alone does"] if "draws" in parts else []),
    ])  # fmt: skip
    footnote(fig, {f"{p}: {MEANING[p]}": Patch(color=_COLOUR[p]) for p in parts}, text, columns=4)
    heading(fig, title or "What causes the mismatch of a sampler's last states?")
    return save(fig, file)


def _parts(d: Decomposition) -> dict[str, Curve]:
    """The whole and the parts that are not 0 by construction."""
    every = {"whole": d.whole} | {name: d.parts[name] for name in MEANING if name in d.parts}
    return {name: c for name, c in every.items() if name == "whole" or not (c.value == 0).all() or (c.se > 0).any()}


def _total(ax: Axes, name: str, found: Mapping[str, Curve]) -> None:
    tidy(ax, name, "ln R, all bands together", "")
    ax.axvline(0, color=GREY, linewidth=0.8)
    for row, (part, c) in enumerate(found.items()):
        _bar(ax, row, c, -1, _COLOUR[part], flat=True)
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.grid(False, axis="y")


def _by_band(ax: Axes, part: str, c: Curve, reach: tuple[float, float], first: bool) -> None:
    count = len(c.value) - 1
    tidy(ax, part, "band (0: coarsest)", "ln R by band" if first else "")
    ax.axhline(0, color=GREY, linewidth=0.8)
    for b in range(count):
        _bar(ax, b, c, b, _COLOUR[part], flat=False)
    ax.set(ylim=reach, xlim=(-0.7, count - 0.3))
    ax.set_xticks(sorted({0, (count - 1) // 2, count - 1}))
    if not first:
        ax.tick_params(labelleft=False)


def _bar(ax: Axes, at: int, c: Curve, i: int, colour: str, flat: bool) -> None:
    """Bar number ``at`` of element ``i`` with its interval; pale where the interval holds 0, a cross where there is no number."""
    value, low, high = c.value[i], c.low[i], c.high[i]
    if not np.isfinite(value):
        ax.plot(*((0, at) if flat else (at, 0)), "x", color=GREY, markersize=6)
        return
    real = not low <= 0 <= high
    draw = ax.barh if flat else ax.bar
    draw(at, value, 0.62, color=colour, alpha=0.9 if real else 0.3, linewidth=0)
    ends = np.nan_to_num([[value - low], [high - value]], nan=0.0, posinf=1e3)
    error = {"xerr" if flat else "yerr": ends}
    ax.errorbar(*((value, at) if flat else (at, value)), **error, color=INK, elinewidth=1.1, capsize=2.5 if flat else 0, linewidth=0)
