"""The sampling film: a sample's way from noise to data, above it what the network took it for.

    columns  noise levels, from the first network call to the last
    rows     per sample: the state x_t over sqrt(alpha^2 + sigma^2), so that every path is seen at one scale, and the predicted x0
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from score_lab.build import refuse
from score_lab.mismatch.inversion import on_host
from score_lab.paths.base import GaussianPath
from score_lab.report.samples import to_rgb
from score_lab.report.style import GREY, INK, figure, save
from score_lab.samplers import StateRecord

__all__ = ["draw_film", "save_film"]


def draw_film(
    ax: Axes, record: StateRecord, path: GaussianPath, final: np.ndarray | None = None, *, samples: int = 4, columns: int = 12
) -> None:
    """The film of the first ``samples`` trajectories of ``record`` (images) on ``ax``.

    ``columns`` of the network calls, evenly chosen and always the first and the last; ``final`` (n, h, w, c), the finished samples, in a
    last column.
    """
    record = record.in_order()
    states, predicted = np.asarray(record.x_t), np.asarray(record.x0)
    if states.ndim != 5 or len(states) < 1:
        refuse("film", states.shape, "a record of images (calls, samples, height, width, channels)")
    chosen = np.unique(np.round(np.linspace(0, len(states) - 1, min(columns, len(states)))).astype(int))
    samples = min(samples, states.shape[1])
    alpha, sigma, level = on_host(path, record.t[chosen])
    norm = np.hypot(alpha, sigma)[:, None, None, None, None]
    rows = np.stack([states[chosen, :samples] / norm, predicted[chosen, :samples]], axis=2)  # (levels, samples, 2, h, w, c)
    rgb = to_rgb(np.moveaxis(rows, 0, 2))  # (samples, 2, levels, h, w, 3)
    last = None if final is None else to_rgb(np.asarray(final)[:samples])
    canvas, left, top = _canvas(rgb, last)
    ax.imshow(canvas, interpolation="nearest")
    side, names = rgb.shape[3], [_level(v) for v in level] + ([] if last is None else ["sample"])
    ax.set_xticks(left + rgb.shape[4] / 2 - 0.5, names, fontsize=8.5, color=INK)
    rows_at = (top[:, None] + np.array([0.5, 1.5])[None] * (side + 1)).ravel() - 0.5
    ax.set_yticks(rows_at, ["state", "prediction"] * samples, fontsize=8, color=INK)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("log-SNR that the network is told:  noise  →  data", fontsize=9.5, color=INK)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if last is not None:
        ax.axvline(left[-1] - 2.5, color=GREY, linewidth=0.8)


def _canvas(rgb: np.ndarray, last: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tiled picture, the left edge of every column and the top of every sample's pair of rows.  The finished sample stands at its
    prediction's height.
    """
    samples, _, levels, h, w, _ = rgb.shape
    pair = 2 * (h + 1) + max(2, h // 4)
    left = np.arange(levels) * (w + 1)
    if last is not None:
        left = np.append(left, levels * (w + 1) + 4)
    top = np.arange(samples) * pair
    canvas = np.ones((samples * pair - max(2, h // 4), left[-1] + w, 3))
    for i in range(samples):
        for j in range(levels):
            for half in range(2):
                y = top[i] + half * (h + 1)
                canvas[y : y + h, left[j] : left[j] + w] = rgb[i, half, j]
        if last is not None:
            y = top[i] + (h + 1) // 2
            canvas[y : y + h, left[-1] : left[-1] + w] = last[i]
    return canvas, left, top


def _level(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else ("−∞" if value < 0 else "∞")


def save_film(
    file: str | Path, record: StateRecord, path: GaussianPath, final: np.ndarray | None = None, *,
    samples: int = 4, columns: int = 12, title: str = "",
) -> Path:  # fmt: skip
    """``draw_film`` as a picture of its own; ConfigError if ``record`` does not hold images."""
    count = min(samples, np.shape(record.x_t)[2])
    fig = figure(1.1 + 0.62 * (columns + 1), 0.8 + 1.35 * count)
    ax = fig.subplots()
    draw_film(ax, record, path, final, samples=samples, columns=columns)
    if title:
        fig.suptitle(title, fontsize=11.5, color=INK, fontweight="bold")
    return save(fig, file)
