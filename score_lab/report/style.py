"""How pictures look: one font size, one palette, light axes; figures are made without pyplot, so nothing global is touched.

matplotlib draws with its Agg canvas: no display is needed.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "GREY", "INK", "figure", "save", "tidy"]

INK, GREY = "#22262b", "#8b929a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6f4fa0", "#7a6a4f")
"""Told apart by colour-blind readers too (Okabe & Ito 2008, darkest first)."""


def figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches on white, laid out by matplotlib's constrained layout."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def tidy(ax: Axes, title: str = "", x: str = "", y: str = "") -> Axes:
    """Titles and labels in our sizes, no upper and right frame, a faint grid."""
    if title:
        ax.set_title(title, fontsize=11, color=INK, loc="left", fontweight="bold")
    ax.set_xlabel(x, fontsize=9.5, color=INK)
    ax.set_ylabel(y, fontsize=9.5, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK, length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.grid(True, color="#e6e8eb", linewidth=0.7)
    ax.set_axisbelow(True)
    return ax


def save(fig: Figure, file: str | Path, dpi: int = 130) -> Path:
    """Writes ``file`` (its folder is made), without a date or a version in it: the same picture is the same bytes."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Software": None} if file.suffix == ".png" else None
    fig.savefig(file, dpi=dpi, metadata=metadata)
    return file
