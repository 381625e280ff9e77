"""Which level the states of a sampler are of, against the level that the network is told.

    left     lambda_eff of the states, by one estimator; on the diagonal they are what the network was trained on
    right    the difference, lambda_eff - lambda: below 0 the states are noisier than told
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from score_lab.mismatch.estimators import Effective
from score_lab.report.mismatch.levels import TOLD, Levels, draw_curve, focus, footnote, groups, heading, nothing, some, words_of
from score_lab.report.style import COLOURS, GREY, figure, save, tidy

__all__ = ["save_effective"]


def save_effective(file: str | Path, runs: Mapping[str, tuple[np.ndarray, Effective, Effective]], title: str = "") -> Path:
    """Effective against nominal log-SNR, and the difference.

    Args:
      runs: name -> (the nominal log-SNR of its calls (K,), what an estimator reads of the run, what it reads of the run's null: forward
        samples at the same calls).  Eight runs in a row of panels at most.

    Raises ConfigError for no run at all.
    """
    some("save_effective.runs", runs)
    parts = groups(runs)
    fig = figure(11.5, 0.9 + 4.1 * len(parts))
    axes = fig.subplots(len(parts), 2, squeeze=False)
    handles = {}
    for (left, right), names in zip(axes, parts, strict=True):
        estimators = ", ".join(dict.fromkeys(runs[name][1].name for name in names))
        tidy(left, f"Level of the states, by {estimators}", TOLD, "log-SNR that the states are of")
        tidy(right, "How far off the level is", TOLD, "log-SNR of the states − log-SNR told\n(below 0: noisier than told)")
        levels = Levels.of(runs[name][0] for name in names)
        ends = np.array([levels.low, levels.high])
        left.plot(ends, ends, color=GREY, linewidth=0.8, zorder=0)
        right.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        for k, name in enumerate(names):
            told, run, null = runs[name]
            for ax, what in ((left, "log_snr"), (right, "delta")):
                grey = {"alpha": 0.3 / np.sqrt(len(names)), "foot": None, "linewidth": 0.8, "marker": ""}
                draw_curve(ax, levels, told, getattr(null, what), GREY, **grey)
                draw_curve(ax, levels, told, getattr(run, what), COLOURS[k % len(COLOURS)], label=name, foot=k)
        reach = {name: runs[name][1].delta.value for name in names}
        colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
        focus(right, reach, colours, [runs[name][2].delta.value for name in names])
        for ax in (left, right):
            if not any((e.flag == "ok").any() for name in names for e in runs[name][1:]):
                nothing(ax, "no level can be told at any call")
            levels.mark(ax)
        handles |= dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    text = words_of([(runs[name][0], runs[name][1].delta) for name in runs], "forward samples read alike (no mismatch)")
    footnote(fig, handles, text)
    heading(fig, title or "Do a sampler's states have the noise level that the network is told?")
    return save(fig, file)
