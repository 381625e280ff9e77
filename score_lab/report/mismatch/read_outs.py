"""What the papers plot of the mismatch, regenerated, each with the null that they lack: what a perfect sampler would show.

    above    the read-out as the paper has it; grey what forward samples (or a closed form) show, dashed what the paper holds it against
    below    the excess over the null: 0 where a sampler does what it was trained for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from score_lab.mismatch.readouts import ReadOut
from score_lab.report.mismatch.levels import MOST, TOLD, Levels, draw_curve, focus, footnote, groups, heading, some, spread, words_of
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_read_outs"]

_ACROSS = 3
_FORWARD = "log-SNR of the forward samples\n(left: noise, right: data)"


def save_read_outs(file: str | Path, runs: Mapping[str, Sequence[ReadOut]], title: str = "") -> Path:
    """A pair of panels for each read-out that occurs, with the ``runs`` (name -> its read-outs) that have it, eight at most in a panel.

    Raises ConfigError where there is no read-out at all.
    """
    kinds: dict[tuple[str, str], dict[str, ReadOut]] = {}
    for run, reads in runs.items():
        for r in reads:
            kinds.setdefault((r.name, r.what), {})[run] = r
    some("save_read_outs.runs", kinds)
    panels = [(kind, {name: by[name] for name in part}) for kind, by in kinds.items() for part in groups(by, MOST)]
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    fig = figure(4.5 * across + 0.4, 5.6 * down + 0.9)
    axes = fig.subplots(2 * down, across, squeeze=False, height_ratios=(1.6, 1) * down)
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(runs)}
    for i, ((name, what), by) in enumerate(panels):
        above, below = axes[2 * (i // across), i % across], axes[2 * (i // across) + 1, i % across]
        _pair(above, below, name, what, by, colours)
    for i in range(len(panels), across * down):
        axes[2 * (i // across), i % across].set_visible(False)
        axes[2 * (i // across) + 1, i % across].set_visible(False)
    handles: dict[str, object] = {name: Line2D([], [], color=colour, marker=".") for name, colour in colours.items()}
    handles["null: a perfect sampler"] = Patch(color=GREY, alpha=0.45)
    if any(r.paper is not None for _, by in panels for r in by.values()):
        handles["what the paper holds it against"] = Line2D([], [], color=INK, linestyle="--", linewidth=1.2)
    told = [(_at(r), c) for _, by in panels for r in by.values() for c in (r.value, r.excess)]
    footnote(fig, handles, words_of(told, "forward samples, or a closed form of them"))
    heading(fig, title or "What papers plot of the mismatch, beside what a perfect sampler would show")
    return save(fig, file)


def _at(r: ReadOut) -> np.ndarray:
    """The levels of the calls (K,); where they are not known, calls are numbered."""
    return np.arange(len(r.value.value), dtype=np.float64) if r.log_snr is None else np.asarray(r.log_snr, np.float64)


def _pair(above: Axes, below: Axes, name: str, what: str, by: Mapping[str, ReadOut], colours: Mapping[str, str]) -> None:
    known = all(r.log_snr is not None for r in by.values())
    x = (_FORWARD if name == "P3" else TOLD) if known else "network call"
    tidy(above, f"{name}: {_broken(what)}", "", "as the paper plots it")
    tidy(below, "", x, "less the null")
    levels = Levels.of(_at(r) for r in by.values())
    below.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    for r in by.values():
        draw_curve(above, levels, _at(r), r.null, GREY, alpha=0.45, foot=None, linewidth=2.5, marker="")
    for k, (run, r) in enumerate(by.items()):
        draw_curve(above, levels, _at(r), r.value, colours[run], foot=k, label=run)
        draw_curve(below, levels, _at(r), r.excess, colours[run], foot=k, label=run)
        if r.paper is not None:
            order = np.argsort(_at(r), kind="stable")
            above.plot(levels.x(_at(r))[order], np.asarray(r.paper)[order], "--", color=INK, linewidth=1.2)
    spread(above, [c.value for r in by.values() for c in (r.value, r.null)])
    own = {run: r.value.value for run, r in by.items()}
    show = [r.null.value for r in by.values()] + [np.asarray(r.paper, np.float64) for r in by.values() if r.paper is not None]
    middle = float(np.nanmedian(np.concatenate([r.null.value for r in by.values()])))
    focus(above, own, colours, show, lambda v: np.abs(v - middle))
    focus(below, {run: r.excess.value for run, r in by.items()}, colours, [np.zeros(1)])
    levels.mark(above)
    levels.mark(below)


def _broken(text: str, most: int = 38) -> str:
    """``text`` in lines of at most about ``most`` letters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
