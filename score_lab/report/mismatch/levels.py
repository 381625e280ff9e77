"""What the pictures of the mismatch share: the axis of log-SNR, a curve with its band, and the sentence below that says what is what.

An infinite level (pure noise, clean data) stands at the edge, behind a dotted line, and is labelled so.  Where a curve has no number its
line and band have a gap, and a tick at the foot of the panel says that a call was there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_lab.build import refuse
from score_lab.mismatch import Curve
from score_lab.report.style import GREY, INK

__all__ = [
    "MOST", "TOLD", "Levels", "draw_curve", "far", "focus", "footnote", "groups", "heading", "inner", "nothing", "shades", "some",
    "spread", "words_of",
]  # fmt: skip

TOLD = "log-SNR that the network is told\n(left: noise, right: data)"
MOST = 8
"""Runs in one panel; more are drawn in further panels."""
DECADES = 30.0
"""Values that spread by more than this factor are drawn on a logarithmic axis."""
_FAR = 6.0
"""Times the median size beyond which a run is cut off and named."""


def inner(log_snr: np.ndarray) -> np.ndarray:
    """Calls (K,) whose level the network sees again: a step's trial state (Heun's corrector), not a state that was accepted."""
    return np.append(log_snr[:-1] == log_snr[1:], False)


@dataclasses.dataclass(frozen=True)
class Levels:
    """The axis: finite levels from ``low`` to ``high``; ``noise`` and ``data``: there are calls at -inf, at +inf."""

    low: float
    high: float
    noise: bool = False
    data: bool = False

    @classmethod
    def of(cls, parts: Iterable[np.ndarray]) -> Levels:
        """The axis that holds all of these levels; from -1 to 1 where none is finite."""
        every = np.concatenate([np.ravel(np.asarray(p, np.float64)) for p in parts])
        fine = every[np.isfinite(every)]
        low, high = (float(fine.min()), float(fine.max())) if len(fine) else (-1.0, 1.0)
        return cls(low, max(high, low + 1e-3), bool((every == -np.inf).any()), bool((every == np.inf).any()))

    @property
    def gap(self) -> float:
        """How far outside the finite levels an infinite one stands."""
        return 0.1 * (self.high - self.low)

    def x(self, log_snr: np.ndarray) -> np.ndarray:
        """Where levels (K,) are drawn."""
        return np.clip(np.asarray(log_snr, np.float64), self.low - self.gap, self.high + self.gap)

    def mark(self, ax: Axes) -> None:
        """Limits and ticks; infinite levels by name behind a dotted line."""
        pad = 0.03 * (self.high - self.low)
        at = [v for v in MaxNLocator(6).tick_values(self.low, self.high) if self.low - pad <= v <= self.high + pad]
        names = [f"{v:g}".replace("-", "−") for v in at]
        ends = [(self.noise, self.low, -self.gap, "−∞"), (self.data, self.high, self.gap, "∞")]
        for there, end, gap, name in ends:
            if there:
                at, names = [*at, end + gap], [*names, name]
                ax.axvline(end + 0.5 * gap, color=GREY, linewidth=0.7, linestyle=":")
        ax.set_xlim(self.low - pad - self.noise * self.gap, self.high + pad + self.data * self.gap)
        ax.set_xticks(at, names)


def draw_curve(
    ax: Axes, levels: Levels, log_snr: np.ndarray, c: Curve, colour: Any, *, label: str | None = None, alpha: float = 0.18,
    foot: int | None = 0, linewidth: float = 1.5, marker: str = ".", circles: bool = True,
) -> None:  # fmt: skip
    """A curve over levels (K,): its line through the accepted states, its interval, circles for calls inside a step, ticks where no number.

    Args:
      alpha: of the interval; 0 draws none.
      foot: which row of ticks at the foot of the panel; None draws none.
      circles: whether calls inside a step are drawn.

    An interval that is open is drawn to the edge of what is finite; a call alone between two gaps has its interval as a bar.
    """
    log_snr = np.asarray(log_snr, np.float64)
    ok = (c.flag == "ok") & np.isfinite(c.value)
    value, low, high = (np.where(ok, v, np.nan) for v in (c.value, c.low, c.high))
    finite = np.concatenate([v[np.isfinite(v)] for v in (value, low, high)])
    if len(finite):
        low, high = (np.clip(v, finite.min(), finite.max()) for v in (low, high))
    x, trial = levels.x(log_snr), inner(log_snr)
    rows = np.flatnonzero(~trial)
    rows = rows[np.argsort(log_snr[rows], kind="stable")]
    size = 4 if len(rows) < 40 else 2.5
    ax.plot(x[rows], value[rows], color=colour, linewidth=linewidth, marker=marker, markersize=size, label=label)
    good = np.concatenate([[False], ok[rows], [False]])
    alone = rows[good[1:-1] & ~good[:-2] & ~good[2:]]
    if alpha:
        ax.fill_between(x[rows], low[rows], high[rows], color=colour, alpha=alpha, linewidth=0)
        ax.vlines(x[alone], low[alone], high[alone], color=colour, alpha=min(1.0, 3 * alpha), linewidth=2)
    seen = np.flatnonzero(trial & ok)
    if circles and len(seen):
        ax.plot(x[seen], value[seen], "o", color=colour, fillstyle="none", markersize=3.5, linewidth=0)
    blind = np.flatnonzero(~ok)
    if foot is not None and len(blind):
        height = np.full(len(blind), 0.012 + 0.022 * foot)
        ax.plot(x[blind], height, "|", color=colour, markersize=6, transform=ax.get_xaxis_transform(), clip_on=False)


def far(sizes: Mapping[str, float]) -> list[str]:
    """The names whose size is more than ``_FAR`` times the median of all: drawn to scale they would flatten the others."""
    fine = [v for v in sizes.values() if np.isfinite(v)]
    usual = float(np.median(fine)) if len(fine) > 2 else np.inf
    return [name for name, v in sizes.items() if np.isfinite(v) and v > _FAR * max(usual, 1e-12)]


def focus(ax: Axes, values: Mapping[str, np.ndarray], colours: Mapping[str, Any], show: Sequence[np.ndarray] = (), size=np.abs) -> None:
    """Limits of a panel in which a run or two are beyond all others: the others fill it, and those are named in it with how far they go.

    Args:
      values: name -> what its curve reaches; ``show``: further values that stay in sight (a null, a reference).
      size: of a value, from which ``far`` is told; by default its distance to 0.  (On a logarithmic axis: of the logarithm.)
    """
    fine = {name: np.asarray(v)[np.isfinite(v)] for name, v in values.items()}
    away = far({name: float(np.max(size(v))) for name, v in fine.items() if len(v)})
    rest = [v for name, v in fine.items() if name not in away] + [np.asarray(v)[np.isfinite(v)] for v in show]
    kept = np.concatenate(rest) if rest else np.zeros(0)
    if not away or not len(kept):
        return
    low, high = float(kept.min()), float(kept.max())
    if ax.get_yscale() == "log" and low > 0:
        pad = max((high / low) ** 0.12, 1.02)
        ax.set_ylim(low / pad, high * pad ** (1 + len(away)))
    else:
        pad = 0.1 * (high - low) or 0.1
        ax.set_ylim(low - pad, high + pad * (1 + len(away)))
    for i, name in enumerate(away):
        furthest = fine[name][np.argmax(size(fine[name]))]
        ax.text(
            0.99, 0.985 - 0.07 * i, f"{name}: beyond the axis, to {furthest:.3g}", transform=ax.transAxes, ha="right", va="top",
            fontsize=8, color=colours[name],
        )  # fmt: skip


def spread(ax: Axes, values: Sequence[np.ndarray]) -> None:
    """A logarithmic axis for ``values`` above 0 that spread by more than ``DECADES``."""
    seen = np.concatenate([v[np.isfinite(v)] for v in values])
    if len(seen) and seen.min() > 0 and seen.max() > DECADES * seen.min():
        ax.set_yscale("log")


def words_of(curves: Sequence[tuple[np.ndarray, Curve]], grey: str, bands: str = "bands") -> str:
    """The sentence below a picture of (levels, curve): what grey, bands, ticks, circles and infinite levels are, if there are any."""
    together = all(c.simultaneous for _, c in curves)
    found = [f"grey: {grey}"] if grey else []
    found.append(f"{bands}: 95 % over trajectories, {'for all levels at once' if together else 'for each level'}")
    why = dict.fromkeys(str(f) for _, c in curves for f in c.flag if f != "ok")
    found += [f"ticks at the foot: no number there ({', '.join(why)})"] if why else []
    found += ["circles: calls inside a step"] if any(inner(np.asarray(at)).any() for at, _ in curves) else []
    levels = Levels.of(at for at, _ in curves)
    ends = [word for there, word in ((levels.noise, "−∞: pure noise"), (levels.data, "∞: clean data")) if there]
    return "; ".join([*found, *ends])


def footnote(fig: Figure, handles: Mapping[str, object], text: str, columns: int = 5) -> None:
    """The legend of the whole picture below it, and under its names the sentence ``text``."""
    legend = fig.legend(
        [*handles.values()], [*handles], loc="outside lower center", ncols=max(1, min(len(handles), columns)), fontsize=9, frameon=False,
        title=_wrapped(text, fig.get_figwidth()),
    )  # fmt: skip
    legend.get_title().set(fontsize=8.5, color=GREY, multialignment="center")


def _wrapped(text: str, width: float) -> str:
    """``text`` broken at its semicolons into lines that a picture of ``width`` inches holds."""
    lines, most = [""], int(15.5 * width)
    for part in text.split("; "):
        line = f"{lines[-1]}; {part}" if lines[-1] else part
        if len(line) > most and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = line
    return ";\n".join(lines)


def groups(names: Iterable[str], most: int = MOST) -> list[list[str]]:
    """``names`` in panels of about equal size, none of more than ``most``."""
    names = list(names)
    count = -(-len(names) // most)
    return [list(part) for part in np.array_split(np.array(names, object), count)] if names else []


def shades(count: int) -> tuple[list[tuple], Colormap]:
    """A colour for each of ``count`` bands, coarse (dark) to fine (light), of a map that colour-blind readers order alike; the map."""
    some = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))
    return [tuple(some(v)) for v in np.linspace(0.0, 1.0, max(count, 1))], some


def nothing(ax: Axes, text: str) -> None:
    """A panel in which there is nothing to draw says so."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=9.5)
    ax.set_yticks([])


def some(name: str, given: Mapping | Sequence) -> None:
    """ConfigError for nothing at all."""
    if not len(given):
        refuse(name, given, "at least one run")


def heading(fig: Figure, text: str) -> None:
    """The heading of a picture."""
    fig.suptitle(text, fontsize=12, color=INK, fontweight="bold")
