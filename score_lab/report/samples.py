"""Samples by class: a row per class, a column per sample, a panel per path or sampler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from score_lab.build import refuse
from score_lab.report.style import INK, figure, save

__all__ = ["draw_samples", "save_samples", "tile", "to_rgb"]

_BROKEN = np.array([0.84, 0.19, 0.15])
"""The colour of what is not finite."""


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Images (..., h, w, c) in [-1, 1] as (..., h, w, 3) in [0, 1]: clipped, one channel made grey, values that are not finite made red.

    Raises ConfigError unless there are 1 or 3 channels.
    """
    images = np.asarray(images, np.float32)
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        refuse("picture", images.shape, "images (..., height, width, 1 or 3)")
    broken = ~np.isfinite(images).all(axis=-1, keepdims=True)
    rgb = np.broadcast_to(np.clip(0.5 + 0.5 * np.where(broken, 0.0, images), 0, 1), (*images.shape[:-1], 3))
    return np.where(broken, _BROKEN, rgb)


def tile(images: np.ndarray, gap: int | None = None) -> np.ndarray:
    """(rows, columns, h, w, 3) as one picture with white gaps of ``gap`` pixels (default: a sixteenth of an image, at least 1)."""
    rows, columns, h, w, _ = images.shape
    gap = max(1, h // 16) if gap is None else gap
    canvas = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3))
    for i in range(rows):
        for j in range(columns):
            canvas[i * (h + gap) : i * (h + gap) + h, j * (w + gap) : j * (w + gap) + w] = images[i, j]
    return canvas


def _grid(images: np.ndarray, labels: np.ndarray | None, columns: int) -> tuple[np.ndarray, list[str]]:
    """(rows, columns, h, w, 3) with the first ``columns`` samples of every class (fewer columns where no class has so many), blanks where
    there are fewer, and the names of the rows."""
    rgb = to_rgb(images)
    if labels is None:
        count = max(1, min(columns, len(rgb) // columns))
        chosen, names = [range(r * columns, min((r + 1) * columns, len(rgb))) for r in range(count)], [""] * count
    else:
        if len(labels) != len(rgb):
            refuse("picture.labels", len(labels), f"one label for each of {len(rgb)} images")
        classes = np.unique(labels)
        chosen, names = [np.flatnonzero(labels == c)[:columns] for c in classes], [str(c) for c in classes]
    grid = np.ones((len(chosen), max(map(len, chosen)), *rgb.shape[1:]))
    for i, row in enumerate(chosen):
        grid[i, : len(row)] = rgb[list(row)]
    return grid, names


def draw_samples(ax: Axes, images: np.ndarray, labels: np.ndarray | None = None, columns: int = 10, title: str = "") -> None:
    """``images`` (n, h, w, c) in [-1, 1] on ``ax``, a row per class of ``labels`` (n,), or in their order without labels."""
    grid, names = _grid(images, labels, columns)
    canvas = tile(grid)
    step = canvas.shape[0] / len(names)
    ax.imshow(canvas, interpolation="nearest")
    ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(names))], names, fontsize=9, color=INK)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10.5, color=INK, pad=5)


def save_samples(
    file: str | Path, panels: Mapping[str, np.ndarray], labels: np.ndarray | Mapping[str, np.ndarray] | None = None, *, columns: int = 10,
    title: str = "",
) -> Path:  # fmt: skip
    """A panel for each of ``panels`` (name -> images (n, h, w, c) in [-1, 1]), side by side.

    ``labels`` (n,) serve every panel, or are a mapping with an array for each name.  What is not finite is red.
    """
    fig = figure(0.3 + 3.3 * len(panels), 4.0 if title else 3.7)
    for ax, (name, images) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        own = labels[name] if isinstance(labels, Mapping) else labels
        draw_samples(ax, images, None if own is None else np.asarray(own), columns, name)
    if title:
        fig.suptitle(title, fontsize=11.5, color=INK, fontweight="bold")
    return save(fig, file)
