"""All runs of a study in one picture: how much variance, which level, and where in the spectrum.

    left     variance of the states over that of training, call by call (1: no mismatch)
    middle   how far off the level is, by one estimator, where it tells one
    right    the same ratio by band at the last call: the coarsest band at the left

Grey is what as many forward samples read.  Bands and bars are intervals over trajectories for all calls (and bands) at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from score_lab.build import refuse
from score_lab.mismatch import Curve
from score_lab.mismatch.study import Measured
from score_lab.report.mismatch.levels import TOLD, focus, heading
from score_lab.report.style import COLOURS, GREY, figure, save, tidy

__all__ = ["save_found"]


def save_found(file: str | Path, runs: Sequence[Measured], estimator: str = "", title: str = "") -> Path:
    """The three panels of ``runs`` (at most 8 can be told apart); ``estimator``: the name of the level's, by default the first that tells
    one anywhere.  Raises ConfigError for no runs."""
    if not runs:
        refuse("save_found.runs", list(runs), "at least one run")
    chosen = estimator or _teller(runs)
    fig = figure(13.2, 4.7)
    several = max(len(m.bands) for m in runs) > 1
    ratio, level, *rest = fig.subplots(1, 3 if several else 2)
    tidy(ratio, "Variance of the states, as trained = 1", TOLD, "variance in sampling / variance in training")
    tidy(level, f"How far off the level is\nby {chosen}", TOLD, "log-SNR of the states − log-SNR told\n(below 0: noisier than told)")
    null = max(runs, key=lambda m: len(m.log_snr))
    _fill(ratio, null.log_snr, null.total.null, ~null.inner, GREY, 0.35, np.exp)
    ratio.plot([], [], color=GREY, linewidth=5, alpha=0.35, label="noised data (no mismatch)")
    if chosen in null.effective_null:
        _fill(level, null.log_snr, null.effective_null[chosen].delta, ~null.inner, GREY, 0.35, lambda v: v)
    for i, m in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        _curve(ratio, m.log_snr, m.total.run, ~m.inner, colour, np.exp, m.subject.name)
        if chosen in m.effective:
            delta = m.effective[chosen].delta
            _curve(level, m.log_snr, delta, ~m.inner & (delta.flag == "ok"), colour, lambda v: v)
    for band in rest:
        _by_band(band, runs, null)
    colours = {m.subject.name: COLOURS[i % len(COLOURS)] for i, m in enumerate(runs)}
    by_call = {m.subject.name: np.exp(m.total.run.value[~m.inner & (m.total.run.flag == "ok")]) for m in runs}
    by_band = {m.subject.name: np.exp([p.run.value[m.last] for p in m.bands]) for m in runs}
    for ax, values in zip((ratio, *rest), (by_call, by_band), strict=False):
        ax.axhline(1, color=GREY, linewidth=0.8)
        ax.set_yscale("log")
        focus(ax, values, colours, [np.ones(1)], _decades)
        _plain_log(ax)
    level.axhline(0, color=GREY, linewidth=0.8)
    if not any(chosen in m.effective and (m.effective[chosen].flag == "ok").any() for m in runs):
        level.text(0.5, 0.5, "no level can be told\nat any call", transform=level.transAxes, ha="center", va="center", color=GREY)
    handles, names = ratio.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), fontsize=9, frameon=False)
    heading(fig, title or "Do the states have the noise level that the network is told?")
    return save(fig, file)


def _by_band(ax: Axes, runs: Sequence[Measured], null: Measured) -> None:
    """R of every band at the last call, the runs beside each other."""
    tidy(ax, "By band, at the last call", "band of the spectrum (0: coarsest)", "variance in sampling / variance in training")
    low, high = (np.exp([getattr(p.null, end)[null.last] for p in null.bands]) for end in ("low", "high"))
    ax.fill_between(np.arange(len(low)), low, high, color=GREY, alpha=0.35, linewidth=0)
    for i, m in enumerate(runs):
        x = np.arange(len(m.bands)) + 0.6 * (i / max(len(runs) - 1, 1) - 0.5) * (len(runs) > 1)
        value, low, high = (np.exp([getattr(p.run, n)[m.last] for p in m.bands]) for n in ("value", "low", "high"))
        ax.errorbar(x, value, [value - low, high - value], fmt=".", color=COLOURS[i % len(COLOURS)], markersize=5, elinewidth=1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _teller(runs: Sequence[Measured]) -> str:
    """The estimator that tells a level at the most calls of all runs."""
    names = list(dict.fromkeys(name for m in runs for name in m.effective))
    told = {n: sum(int((m.effective[n].flag == "ok").sum()) for m in runs if n in m.effective) for n in names}
    return max(told, key=lambda n: told[n]) if told else "no estimator"


def _curve(ax: Axes, level: np.ndarray, c: Curve, use: np.ndarray, colour: str, scale, label: str | None = None) -> None:
    _fill(ax, level, c, use, colour, 0.18, scale)
    rows = _rows(level, c, use)
    ax.plot(_finite(level)[rows], scale(c.value[rows]), color=colour, linewidth=1.5, marker=".", markersize=4, label=label)


def _fill(ax: Axes, level: np.ndarray, c: Curve, use: np.ndarray, colour: str, alpha: float, scale) -> None:
    rows = _rows(level, c, use)
    ax.fill_between(_finite(level)[rows], scale(c.low[rows]), scale(c.high[rows]), color=colour, alpha=alpha, linewidth=0)


def _rows(level: np.ndarray, c: Curve, use: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(use & (c.flag == "ok"))
    return rows[np.argsort(level[rows], kind="stable")]


def _finite(level: np.ndarray) -> np.ndarray:
    """Infinite levels one unit outside the finite ones."""
    fine = level[np.isfinite(level)]
    return np.clip(level, fine.min() - 1, fine.max() + 1) if len(fine) else np.zeros_like(level)


def _decades(v: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.abs(np.log(v))


def _plain_log(ax: Axes) -> None:
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high < 8 * low:
        ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
