"""The look at the train-versus-inference mismatch, for someone who has not read the papers.

    left     variance of the sampler's states over the variance of the states the network was trained on, R
    middle   the log-SNR that this variance amounts to, against the log-SNR that the network is told
    right    the difference of the two

Grey is the null: the same read-out on as many noised data.  A run's band is its interval over trajectories.  Where variance does not tell
a level there is no point, and a tick at the foot of the panel says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from score_lab.build import refuse
from score_lab.mismatch import Look, Reading
from score_lab.report.mismatch.levels import TOLD, inner
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_mismatch"]


def save_mismatch(file: str | Path, looks: Mapping[str, Look], path: str = "", title: str = "") -> Path:
    """The three panels for ``looks`` (name of the run, for example "DDIM 50" -> its ``Look``), runs of one path; ``path`` is its name."""
    if not looks:
        refuse("save_mismatch.looks", {}, "at least one run")
    fig = figure(13.2, 4.7)
    axes = fig.subplots(1, 3)
    null = max((look.null for look in looks.values()), key=lambda r: len(r.t))
    _ratio_panel(axes[0], looks, null)
    _level_panel(axes[1], looks, null, difference=False)
    _level_panel(axes[2], looks, null, difference=True)
    handles, names = axes[0].get_legend_handles_labels()
    legend = fig.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5), fontsize=9, frameon=False)
    legend.set_title(_footnote(looks))
    legend.get_title().set(fontsize=8.5, color=GREY)
    title = title or "Do a sampler's states have the noise level that the network is told?" + (f"  ({path} path)" if path else "")
    fig.suptitle(title, fontsize=12, color=INK, fontweight="bold")
    return save(fig, file)


def _footnote(looks: Mapping[str, Look]) -> str:
    """What bands, ticks and circles are, in words."""
    some = next(iter(looks.values())).sampler
    counts = sorted({look.sampler.n for look in looks.values()})
    kind = "for all calls at once" if some.simultaneous else "for each call"
    broken = sum(len(look.sampler.invalid) for look in looks.values())
    text = f"{' or '.join(map(str, counts))} trajectories; bands: 95 % {kind}; ticks at the foot: calls whose variance tells no level"
    trial = any(inner(look.sampler.log_snr).any() for look in looks.values())
    text += "; circles: calls inside a step" if trial else ""
    return text + (f"; {broken} trajectories not finite" if broken else "")


def _sorted(r: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Rows in ascending log-SNR and their x, infinite levels drawn one unit outside the finite ones."""
    fine = np.isfinite(r.log_snr)
    low, high = (r.log_snr[fine].min(), r.log_snr[fine].max()) if fine.any() else (0.0, 0.0)
    x = np.clip(r.log_snr, low - 1, high + 1)
    order = np.argsort(x, kind="stable")
    return order, x[order]


def _ratio_panel(ax: Axes, looks: Mapping[str, Look], null: Reading) -> None:
    tidy(ax, "Variance of the states, as trained = 1", TOLD, "variance in sampling / variance in training")
    order, x = _sorted(null)
    ax.fill_between(x, null.low[order], null.high[order], color=GREY, alpha=0.35, linewidth=0, label="noised data (no mismatch)")
    ax.axhline(1, color=GREY, linewidth=0.8)
    for k, (name, look) in enumerate(looks.items()):
        r, colour = look.sampler, COLOURS[k % len(COLOURS)]
        order, x = _sorted(r)
        trial = inner(r.log_snr)[order]
        ax.plot(x[trial], r.ratio[order][trial], "o", color=colour, fillstyle="none", markersize=3.5, linewidth=0)
        order, x = order[~trial], x[~trial]
        ax.fill_between(x, r.low[order], r.high[order], color=colour, alpha=0.18, linewidth=0)
        ax.plot(x, r.ratio[order], color=colour, linewidth=1.5, marker=".", markersize=4 if len(x) < 40 else 2.5, label=name)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high < 8 * low:  # within a factor of eight plain numbers read better than powers of ten
        ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))


def _level_panel(ax: Axes, looks: Mapping[str, Look], null: Reading, difference: bool) -> None:
    if difference:
        tidy(ax, "How far off the level is", TOLD, "log-SNR of the states − log-SNR told\n(below 0: noisier than told)")
        ax.axhline(0, color=GREY, linewidth=0.8)
    else:
        tidy(ax, "Noise level, read from the variance", TOLD, "log-SNR that the states' variance amounts to")
    readable = [(r.log_snr[r.flag == "ok"]) for r in [null, *(look.sampler for look in looks.values())]]
    if not any(len(v) for v in readable):
        text = "the variance tells no level\nanywhere on this path"
        ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY)
        ax.set(xlim=_reach(looks), yticks=[])
        return
    _level_band(ax, null, GREY, difference, alpha=0.35)
    for k, look in enumerate(looks.values()):
        r, colour = look.sampler, COLOURS[k % len(COLOURS)]
        _level_band(ax, r, colour, difference, alpha=0.18)
        ok, twice = r.flag == "ok", inner(r.log_snr)
        y = r.effective - difference * np.where(ok, r.log_snr, 0.0)
        trial, x = ok & twice, _by_level(r, ok & ~twice)
        ax.plot(r.log_snr[trial], y[trial], "o", color=colour, fillstyle="none", markersize=3.5, linewidth=0)
        ax.plot(r.log_snr[x], y[x], color=colour, linewidth=1.5, marker=".", markersize=4 if len(x) < 40 else 2.5)
        blind = r.log_snr[~ok & np.isfinite(r.log_snr)]
        if len(blind):
            height = np.full(len(blind), 0.012 + 0.02 * k)
            ax.plot(blind, height, "|", color=colour, markersize=6, transform=ax.get_xaxis_transform(), clip_on=False)
    ax.set_xlim(*_reach(looks))
    if not difference:
        ends = np.array(_reach(looks))
        ax.plot(ends, ends, color=GREY, linewidth=0.8, zorder=0)


def _by_level(r: Reading, where: np.ndarray) -> np.ndarray:
    """Indices of the calls ``where`` (K,), ascending in log-SNR."""
    chosen = np.flatnonzero(where)
    return chosen[np.argsort(r.log_snr[chosen], kind="stable")]


def _reach(looks: Mapping[str, Look]) -> tuple[float, float]:
    levels = np.concatenate([look.sampler.log_snr for look in looks.values()])
    levels = levels[np.isfinite(levels)]
    return (float(levels.min()) - 0.5, float(levels.max()) + 0.5) if len(levels) else (-1.0, 1.0)


def _level_band(ax: Axes, r: Reading, colour: str, difference: bool, alpha: float) -> None:
    """The interval of the effective level; an open end is drawn to the edge of what is finite."""
    ok = _by_level(r, (r.flag == "ok") & ~inner(r.log_snr))
    finite = np.concatenate([r.effective[ok], r.effective_low[ok], r.effective_high[ok]])
    finite = finite[np.isfinite(finite)]
    if not len(ok):
        return
    low, high = (np.clip(v[ok], finite.min(), finite.max()) for v in (r.effective_low, r.effective_high))
    shift = difference * r.log_snr[ok]
    ax.fill_between(r.log_snr[ok], low - shift, high - shift, color=colour, alpha=alpha, linewidth=0)
