"""Samples by class: a row per class (several where each has few), a column per sample, a panel per path or sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """(rows, columns, h, w, 3) and the names of the rows: the first ``columns`` samples of every class (fewer where no class has so many),
    so many classes in a row that the picture is nearest to a square, blanks where there are fewer; or without labels at most ``columns``
    rows of as many."""
    rgb = to_rgb(images)
    if labels is None:
        across = min(columns, max(1, int(np.ceil(np.sqrt(len(rgb))))))
        rows = [list(range(first, min(first + across, len(rgb)))) for first in range(0, min(len(rgb), columns**2), across)]
        return _blanked(rgb, rows, across), [""] * len(rows)
    if len(labels) != len(rgb):
        refuse("picture.labels", len(labels), f"one label for each of {len(rgb)} images")
    classes = np.unique(labels)
    chosen = [np.flatnonzero(labels == c)[:columns].tolist() for c in classes]
    most, (h, w) = max(map(len, chosen)), rgb.shape[1:3]
    beside = min(range(1, len(classes) + 1), key=lambda k: abs(np.log(-(-len(classes) // k) * h / (k * most * w))))
    rows, names = [], []
    for first in range(0, len(classes), beside):
        rows.append([at for row in chosen[first : first + beside] for at in (row + [-1] * most)[:most]])
        names.append(_names(classes[first : first + beside]))
    return _blanked(rgb, rows, most * beside), names


def _blanked(rgb: np.ndarray, rows: Sequence[Sequence[int]], across: int) -> np.ndarray:
    """The images of these numbers, white where there is none (-1, or a row that is shorter than ``across``)."""
    grid = np.ones((len(rows), across, *rgb.shape[1:]))
    for i, row in enumerate(rows):
        for j, at in enumerate(row):
            if at >= 0:
                grid[i, j] = rgb[at]
    return grid


def _names(classes: np.ndarray) -> str:
    """``3``, ``0, 1, 2`` or ``0 ... 7``."""
    return ", ".join(map(str, classes)) if len(classes) < 4 else f"{classes[0]} ... {classes[-1]}"


def draw_samples(ax: Axes, images: np.ndarray, labels: np.ndarray | None = None, columns: int = 10, title: str = "") -> None:
    """``images`` (n, h, w, c) in [-1, 1] on ``ax``, a row per class of ``labels`` (n,) or several side by side, or in their order without
    labels."""
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
