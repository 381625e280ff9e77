"""One picture of a run: samples on several paths above, the film from noise to data below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from score_lab.paths.base import GaussianPath
from score_lab.report.film import draw_film
from score_lab.report.samples import draw_samples
from score_lab.report.style import figure, save
from score_lab.samplers import StateRecord

__all__ = ["save_overview"]


def save_overview(
    file: str | Path, panels: Mapping[str, np.ndarray], labels: np.ndarray | None, record: StateRecord, path: GaussianPath,
    final: np.ndarray | None = None, *, columns: int = 10, samples: int = 3,
) -> Path:  # fmt: skip
    """``save_samples`` over ``save_film``: ``panels`` (name -> images) with ``labels`` (n,), and the film of ``record`` on ``path``."""
    width = max(0.3 + 3.3 * len(panels), 8.0)
    fig = figure(width, 3.8 + width * 0.145 * samples)
    above, below = fig.subfigures(2, 1, height_ratios=(3.8, width * 0.145 * samples))
    for ax, (name, images) in zip(above.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        draw_samples(ax, images, labels, columns, name)
    draw_film(below.subplots(), record, path, final, samples=samples)
    return save(fig, file)
