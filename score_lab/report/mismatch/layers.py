"""Coarse to fine: how much of each band is resolved, level by level, and whether that is when the spectrum alone says.

    left     resolved fraction of every band (lines), and cos^2 phi_b, what it is for Gaussian bands and an exact denoiser (dashed)
    right    the level at which each band is half resolved, measured against predicted (-2 ln s_b): below the diagonal it is resolved
             earlier, at more noise, than a Gaussian of this spectrum would be
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from score_lab.mismatch import Layers
from score_lab.report.mismatch.levels import TOLD, Levels, draw_curve, footnote, heading, nothing, shades, some, words_of
from score_lab.report.mismatch.log_ratios import band_bar
from score_lab.report.style import GREY, INK, figure, save, tidy

__all__ = ["save_layers"]

_TOP = 1.6
"""Where the axis of fractions ends: a fraction of more than that is drawn at the edge."""


def save_layers(file: str | Path, runs: Mapping[str, Layers], title: str = "") -> Path:
    """Two panels for each of ``runs`` (name -> its ``Layers``: of forward samples, of a sampler's states, of white data ...).

    Raises ConfigError for no run at all.
    """
    some("save_layers.runs", runs)
    fig = figure(11.5, 1.0 + 3.9 * len(runs))
    axes = fig.subplots(len(runs), 2, squeeze=False, width_ratios=(1.35, 1))
    for (left, right), (name, layers) in zip(axes, runs.items(), strict=True):
        _fractions(left, name, layers)
        _halves(right, layers)
    band_bar(fig, axes)
    lines = {
        "resolved": Line2D([], [], color=INK, marker="."), "a Gaussian of this spectrum": Line2D([], [], color=INK, linestyle="--"),
        "half resolved (dotted: interval open)": Line2D([], [], color=INK, marker="o", linewidth=1),
        "as predicted": Line2D([], [], color=GREY),
    }  # fmt: skip
    told = [(layers.log_snr, c) for layers in runs.values() for c in layers.fraction]
    why = dict.fromkeys(str(f) for layers in runs.values() for f in layers.half.flag if f != "ok")
    text = words_of(told, "") + (f"; right, ticks at the edges: no such level among those seen ({', '.join(why)})" if why else "")
    footnote(fig, lines, text)
    heading(fig, title or "When is each band resolved, and is that when the spectrum says?")
    return save(fig, file)


def _fractions(ax: Axes, name: str, layers: Layers) -> None:
    tidy(ax, f"{name}: resolved share of each band", TOLD, "share of the band's variance in data")
    levels = Levels.of([layers.log_snr])
    rows = np.argsort(layers.log_snr, kind="stable")
    for b, colour in enumerate(shades(len(layers.fraction))[0]):
        c = layers.fraction[b]
        ax.plot(levels.x(layers.log_snr)[rows], layers.gaussian[rows, b], "--", color=colour, linewidth=1.0)
        draw_curve(ax, levels, layers.log_snr, c, colour, alpha=0.12, foot=b)
    ax.axhline(0.5, color=GREY, linewidth=0.7, zorder=0)
    highest = max(float(np.nan_to_num(c.value).max()) for c in layers.fraction)  # of a band without variance: none
    ax.set_ylim(-0.04, min(max(1.1, 1.08 * highest), _TOP))
    levels.mark(ax)


def _halves(ax: Axes, layers: Layers) -> None:
    tidy(ax, "Level at which a band is half resolved", "predicted from the spectrum, log-SNR", "measured, log-SNR")
    there = np.isfinite(layers.predicted)
    if not there.any():
        nothing(ax, "no band has variance")
        return
    seen = layers.log_snr[np.isfinite(layers.log_snr)]
    ends = [*layers.predicted[there], *layers.half.value[np.isfinite(layers.half.value)]]
    low, high = min(ends), max(ends)
    pad = 0.08 * (high - low) + 0.3
    ax.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, linewidth=0.8, zorder=0)
    for b, colour in enumerate(shades(len(layers.predicted))[0]):
        at, half = layers.predicted[b], layers.half
        if not np.isfinite(at):
            continue
        if half.flag[b] == "ok":
            reach = [max(half.low[b], low - 2 * pad), min(half.high[b], high + 2 * pad)]
            whole = np.isfinite(half.low[b]) and np.isfinite(half.high[b])
            ax.plot([at, at], reach, color=colour, linewidth=1.4 if whole else 0.8, linestyle="-" if whole else ":")
            ax.plot(at, half.value[b], "o", color=colour, markersize=4.5)
        else:
            up = half.flag[b] == "never half resolved"
            ax.plot(at, 0.985 if up else 0.015, "|", color=colour, markersize=9, transform=ax.get_xaxis_transform(), clip_on=False)
    ax.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
    for v in (seen.min(), seen.max()):
        if low - pad < v < high + pad:
            ax.axhline(v, color=GREY, linewidth=0.6, linestyle=":")
