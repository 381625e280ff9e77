"""P1, P3 and P4 as their papers draw them, against time, with the null and the interval that they lack.

    P1  Ning et al. 2024, "||eps||_2": mean norm of the predicted noise at every step, training and sampling
    P3  Yu et al. 2026, figure 1b: mean squared norm under one label, forward samples of all times; one curve for each label
    P4  Yu et al. 2026, figures 1c and 6: mean squared norms of the predicted noise and of the predicted image, forward and reverse

The papers draw the training curve as a line without an error and the sampling curve beside it.  Here the grey band is what as many forward
samples show, for all steps at once: a sampling curve inside it is no finding.  In P3 the dashed line is the value at the label's own time,
the only one that means "as told", and the dotted one what Gaussian data of the same spectrum show under an exact denoiser: how the
read-out turns into a level is a property of the data and the network, and the curve is not monotone everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from score_lab.mismatch import Curve
from score_lab.mismatch.readouts import ReadOut
from score_lab.report.mismatch.levels import MOST, focus, footnote, groups, heading, some, spread
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["AS_DRAWN", "save_as_drawn"]

AS_DRAWN = ("P1", "P3", "P4")
"""Whose figures are regenerated."""
_TIME = "time t (0: data, 1: noise)"
_Y = {
    "P1": "mean over samples of ‖ε‖", "P3": "mean over samples of ‖ε(x, label)‖²", "norm of eps": "mean over samples of ‖ε‖²",
    "norm of x0": "mean over samples of ‖x0‖²",
}  # fmt: skip


def save_as_drawn(file: str | Path, runs: Mapping[str, Sequence[ReadOut]], title: str = "") -> Path:
    """One panel for each figure that the read-outs of ``runs`` (name -> its read-outs) allow, eight runs at most in a panel; P3, which is
    of the network and no run, once, of the run with the most times.

    Raises ConfigError where there is neither P1 nor P3 nor P4 with its times.
    """
    kinds: dict[tuple[str, str], dict[str, ReadOut]] = {}
    windows: dict[str, list[ReadOut]] = {}
    for run, reads in runs.items():
        for r in reads:
            if r.t is None or r.name not in AS_DRAWN:
                continue
            if r.name == "P3":
                windows.setdefault(run, []).append(r)
            else:
                kinds.setdefault((r.name, r.what), {})[run] = r
    some("save_as_drawn.runs", [*kinds, *windows])
    panels: list[tuple[tuple[str, str], dict[str, ReadOut]] | None] = [
        (kind, {name: by[name] for name in part}) for kind, by in kinds.items() for part in groups(by, MOST)
    ]
    panels += [None] if windows else []
    across = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    down = -(-len(panels) // across)
    fig = figure(4.6 * across + 0.6, 3.9 * down + 1.1)
    axes = fig.subplots(down, across, squeeze=False).ravel()
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(runs)}
    for ax, panel in zip(axes, panels, strict=False):
        if panel is None:
            _windows(ax, max(windows.values(), key=lambda rs: len(rs[0].t)))
        else:
            (name, what), by = panel
            _forward_and_reverse(ax, name, what, by, colours)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    shown = {run for panel in panels if panel is not None for run in panel[1]}
    handles: dict[str, object] = {n: Line2D([], [], color=c, marker=".") for n, c in colours.items() if n in shown}
    if shown:
        handles["training (the null)"] = Patch(color=GREY, alpha=0.45)
    if any(r.paper is not None for panel in panels if panel for r in panel[1].values()):
        handles["the data's own"] = Line2D([], [], color=INK, linestyle="--", linewidth=1.2)
    footnote(fig, handles, _words(bool(shown), bool(windows)), 2 * across)
    heading(fig, title or "Published figures of the mismatch, drawn again with the null that they lack")
    return save(fig, file)


def _words(shown: bool, windows: bool) -> str:
    found = ["coloured: sampling; bands: 95 % over trajectories, for all times at once"]
    found += ["a sampling curve inside the grey band cannot be told from no mismatch"] if shown else []
    found += ["P3 is of the network alone: forward samples of every time, told the one time of the vertical line"] if windows else []
    return "; ".join(found)


def _forward_and_reverse(ax: Axes, name: str, what: str, by: Mapping[str, ReadOut], colours: Mapping[str, str]) -> None:
    image = "image" in what
    tidy(ax, f"{name}: {what}", _TIME, _Y["norm of x0" if image else "P1" if name == "P1" else "norm of eps"])
    for r in by.values():
        _line(ax, r.t, r.null, GREY, 0.4, "", 2.0)
    for run, r in by.items():
        _line(ax, r.t, r.value, colours[run], 0.2, ".", 1.4)
        if r.paper is not None:
            ax.axhline(float(np.ravel(r.paper)[0]), color=INK, linestyle="--", linewidth=1.2)
    spread(ax, [c.value for r in by.values() for c in (r.value, r.null)])
    show = [r.null.value for r in by.values()] + [np.asarray(r.paper, np.float64) for r in by.values() if r.paper is not None]
    middle = float(np.nanmedian(np.concatenate([r.null.value for r in by.values()])))
    focus(ax, {run: r.value.value for run, r in by.items()}, colours, show, lambda v: np.abs(v - middle))


def _windows(ax: Axes, reads: Sequence[ReadOut]) -> None:
    """One curve for each label; at its own time the value that means "as told"."""
    tidy(ax, "P3: squared norm of the predicted noise\nunder one label", "time t of the forward samples (0: data, 1: noise)", _Y["P3"])
    for k, r in enumerate(reads):
        colour = COLOURS[k % len(COLOURS)]
        _line(ax, r.t, r.value, colour, 0.2, ".", 1.4, label=f"told t = {r.label:.2f}" if r.label is not None else r.what)
        ax.axhline(float(r.null.value[0]), color=colour, linestyle="--", linewidth=1.0)
        if r.label is not None:
            ax.axvline(r.label, 0, 0.78, color=colour, linestyle="-", linewidth=0.8, alpha=0.5)
        if r.gaussian is not None:
            order = np.argsort(r.t, kind="stable")
            ax.plot(r.t[order], r.gaussian[order], ":", color=colour, linewidth=1.3)
    ax.plot([], [], "--", color=GREY, linewidth=1.0, label="as told (the null)")
    if any(r.gaussian is not None for r in reads):
        ax.plot([], [], ":", color=GREY, linewidth=1.3, label="Gaussian of the data's spectrum")
    spread(ax, [r.value.value for r in reads])
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 8 if ax.get_yscale() == "log" else high + 0.45 * (high - low))  # room for the names
    ax.legend(loc="upper left", fontsize=8.5, frameon=False, ncols=2)


def _line(ax: Axes, t: np.ndarray, c: Curve, colour: str, alpha: float, marker: str, width: float, label: str | None = None) -> None:
    """A curve over times, in their order; calls inside a step (a time that comes twice) are left out, as the papers do, but the last."""
    t = np.asarray(t, np.float64)
    rows = np.flatnonzero((np.append(t[:-1] != t[1:], True)) & (c.flag == "ok") & np.isfinite(c.value))
    rows = rows[np.argsort(t[rows], kind="stable")]
    ax.fill_between(t[rows], c.low[rows], c.high[rows], color=colour, alpha=alpha, linewidth=0)
    ax.plot(t[rows], c.value[rows], color=colour, linewidth=width, marker=marker, markersize=4, label=label)
