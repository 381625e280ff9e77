"""One run of a study, panel by panel, for someone who has not read the papers.

    bands      ln R of every band over the levels: where in the spectrum, and when, variance is lost (blue) or too much (red)
    levels     how far off the level is by every estimator; calls at which one tells nothing have a tick at the foot
    layers     how much of every band the network has resolved, over the levels, and what a Gaussian of this spectrum would (dashed)
    read-outs  what papers plot, as a ratio to the same of forward samples (1: a perfect sampler)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from score_lab.mismatch.readouts import ReadOut
from score_lab.mismatch.study import Measured
from score_lab.report.style import COLOURS, GREY, INK, figure, save, tidy

__all__ = ["save_run"]

_TOLD = "log-SNR that the network is told"
MOST_LAYERS = 6
"""Bands whose layers are drawn, evenly spread over the spectrum."""


def save_run(file: str | Path, m: Measured, title: str = "") -> Path:
    """The panels of one run that there is something for."""
    ratios = [r for r in [*m.read_outs, *m.extra.values()] if r.name != "P3"]
    windows = [r for r in m.read_outs if r.name == "P3"]
    draws = [lambda ax: _levels(ax, m)] if m.effective else []
    draws = ([lambda ax: _bands(fig, ax, m)] if len(m.bands) > 1 else [lambda ax: _one_band(ax, m)]) + draws
    draws += [lambda ax: _layers(ax, m)] if m.layers is not None else []
    draws += [lambda ax: _ratios(ax, m, ratios)] if ratios else []
    draws += [lambda ax: _windows(ax, m, windows)] if windows else []
    fig = figure(4.4 * min(len(draws), 3), 4.3 * -(-len(draws) // 3))
    axes = np.atleast_1d(fig.subplots(-(-len(draws) // 3), min(len(draws), 3))).reshape(-1)
    for draw, ax in zip(draws, axes, strict=False):
        draw(ax)
    for ax in axes[len(draws) :]:
        ax.set_axis_off()
    fig.suptitle(title or m.subject.name, fontsize=12, color=INK, fontweight="bold")
    return save(fig, file)


def _order(m: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Rows of finite level that are no trial states, from noise to data, and their levels."""
    rows = np.flatnonzero(np.isfinite(m.log_snr) & ~m.inner)
    rows = rows[np.argsort(m.log_snr[rows], kind="stable")]
    return rows, m.log_snr[rows]


def _bands(fig: Figure, ax: Axes, m: Measured) -> None:
    """Cells that forward samples explain are left pale: only what the interval tells from them has a dot."""
    tidy(ax, "Variance by band, ln R\n(dots: real, beyond forward samples)", _TOLD, "band (0: coarsest)")
    rows, level = _order(m)
    values = np.array([p.run.value[rows] for p in m.bands])
    real = np.array([(p.excess.flag == "ok") & ((p.excess.low > 0) | (p.excess.high < 0)) for p in m.bands])[:, rows]
    most = max(0.05, float(np.nanmax(np.abs(values), initial=0.0)))
    mesh = ax.pcolormesh(np.arange(len(rows)), np.arange(len(values)), values, cmap="RdBu_r", vmin=-most, vmax=most, shading="nearest")
    y, x = np.nonzero(real)
    ax.plot(x, y, ".", color=INK, markersize=3)
    ticks = np.unique(np.linspace(0, len(rows) - 1, min(6, len(rows))).round().astype(int))
    ax.set_xticks(ticks, [f"{level[i]:.1f}" for i in ticks])
    ax.grid(False)
    fig.colorbar(mesh, ax=ax, shrink=0.85)


def _one_band(ax: Axes, m: Measured) -> None:
    tidy(ax, "Variance of the states, ln R", _TOLD, "ln (variance in sampling / in training)")
    rows, level = _order(m)
    for c, colour, label in ((m.total.null, GREY, "forward samples"), (m.total.run, COLOURS[0], "the sampler")):
        ax.fill_between(level, c.low[rows], c.high[rows], color=colour, alpha=0.25, linewidth=0)
        ax.plot(level, c.value[rows], color=colour, linewidth=1.5, label=label)
    ax.legend(fontsize=8, frameon=False)


def _levels(ax: Axes, m: Measured) -> None:
    tidy(ax, "How far off the level is", _TOLD, "log-SNR of the states − told\n(below 0: noisier than told)")
    ax.axhline(0, color=GREY, linewidth=0.8)
    rows, level = _order(m)
    for i, (name, e) in enumerate(m.effective.items()):
        colour, ok = COLOURS[i % len(COLOURS)], e.flag[rows] == "ok"
        c, x = e.delta, level[ok]
        ax.fill_between(x, c.low[rows][ok], c.high[rows][ok], color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, c.value[rows][ok], color=colour, linewidth=1.4, marker=".", markersize=4, label=name)
        foot = np.full((~ok).sum(), 0.012 + 0.022 * i)
        ax.plot(level[~ok], foot, "|", color=colour, markersize=5, transform=ax.get_xaxis_transform(), clip_on=False)
    ax.legend(fontsize=8, frameon=False)


def _layers(ax: Axes, m: Measured) -> None:
    tidy(ax, "Layers: how much of a band is resolved\n(dashed: a Gaussian of this spectrum)", _TOLD, "share of the band's variance")
    layers = m.layers
    fine = np.isfinite(layers.log_snr)
    chosen = np.unique(np.linspace(0, len(m.bands) - 1, min(MOST_LAYERS, len(m.bands))).round().astype(int))
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(chosen)))
    for b, colour in zip(chosen, shades, strict=True):
        ax.plot(layers.log_snr[fine], layers.fraction[b].value[fine], color=colour, linewidth=1.4, label=f"band {b}")
        ax.plot(layers.log_snr[fine], layers.gaussian[fine, b], "--", color=colour, linewidth=0.9)
    ax.axhline(0.5, color=GREY, linewidth=0.6)
    ax.set_ylim(0, 1.3)
    ax.legend(fontsize=8, frameon=False, ncols=2)


def _ratios(ax: Axes, m: Measured, read: list[ReadOut]) -> None:
    tidy(ax, "What papers plot, over forward samples\n(1: a perfect sampler)", _TOLD, "sampler / forward samples")
    rows, level = _order(m)
    ax.axhline(1, color=GREY, linewidth=0.8)
    for i, r in enumerate(read[:8]):
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [1 + getattr(r.excess, n)[rows] / r.null.value[rows] for n in ("value", "low", "high")]
        colour = COLOURS[i % len(COLOURS)]
        ax.fill_between(level, parts[1], parts[2], color=colour, alpha=0.15, linewidth=0)
        ax.plot(level, parts[0], color=colour, linewidth=1.4, marker=".", markersize=4, label=f"{r.name}: {r.what}"[:44])
    ax.legend(fontsize=7.5, frameon=False)


def _windows(ax: Axes, m: Measured, read: list[ReadOut]) -> None:
    """P3 is of forward samples at the levels of the run, told one label: where it rises with noise, it can be read."""
    tidy(ax, "P3: forward samples told one label\n(line: what the label's own level gives)", "log-SNR of the forward samples", "E |eps|²")
    level = np.unique(m.record.log_snr)
    fine = np.isfinite(level)
    for i, r in enumerate(read):
        colour, c = COLOURS[i % len(COLOURS)], r.value
        ax.plot(level[fine], c.value[fine], color=colour, linewidth=1.4, marker=".", markersize=4, label=r.what.split("the label of ")[-1])
        ax.fill_between(level[fine], c.low[fine], c.high[fine], color=colour, alpha=0.2, linewidth=0)
        ax.axhline(r.null.value[0], color=colour, linewidth=0.8, linestyle=":")
    ax.set_yscale("log")
    ax.legend(fontsize=8, frameon=False)
