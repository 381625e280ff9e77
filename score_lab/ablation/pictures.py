"""An ablation's pictures: quality against network evaluations, and what became of the same noise.

    quality.png  same_noise_*.png
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np

from score_lab.ablation.results import Contest, Results, diverged
from score_lab.ablation.rows import Row
from score_lab.ablation.store import Store
from score_lab.ablation.truth import COLUMNS, RANKABLE
from score_lab.evaluation import Estimate
from score_lab.report import save_quality, save_same_noise, save_scatter

__all__ = ["draw_quality", "draw_same_noise", "heading"]

MOST_ROWS = 40
"""Rows of a picture of the same noise."""


def draw_quality(results: Results, at: Path) -> Path:
    """quality.png in the folder ``at``: every column against the counted evaluations, what diverged as crosses, floors as grey lines."""
    panels: dict[str, dict[str, list[tuple[float, Estimate]]]] = {}
    far = {(id(c.rows[name]), column) for c in results.contests for name, off in diverged(results, c).items() for column in off}
    off: dict[str, list[tuple[str, float]]] = {}
    columns = dict.fromkeys(c for model in results.models.values() for c in model.truth.columns)
    for column in (*columns, "solver_error", "R_last"):
        lines: dict[str, list[tuple[float, Estimate]]] = {}
        for row in results.rows:
            e = row.measured.estimates.get(column)
            if e is not None and ((id(row), column) in far or row.invalid and column in RANKABLE):
                off.setdefault(COLUMNS[column], []).append((_line(results, row), row.nfe))
            elif e is not None and math.isfinite(e.value):
                lines.setdefault(_line(results, row), []).append((row.nfe, e))
        if lines:
            panels[COLUMNS[column]] = lines
    levels: dict[str, dict[str, float]] = {}
    if len(results.models) == 1:
        (name, measured), = results.floors.items()
        for column, e in measured.estimates.items():
            levels.setdefault(COLUMNS[column], {})[f"{results.models[name].truth.floor_name}, n = {e.n}"] = e.value
        if len(results.references) == 1:
            for column, e in results.references[0][0].measured.estimates.items():
                if math.isfinite(e.value) and column not in ("R_last", "snr_gap", "solver_error"):
                    levels.setdefault(COLUMNS[column], {})["the ODE itself"] = e.value
    log_y = [COLUMNS[c] for c in ("frechet", "kid", "variance", "energy", "mmd", "w2", "solver_error", "R_last")]
    return save_quality(at / "quality.png", panels, levels, log_y=log_y, ticks=results.study.nfe, off=off)


def _line(results: Results, row: Row) -> str:
    names, axes = row.run.system.names(), results.varying()
    extra = [f"guidance {names['guidance']}"] if "guidance" in axes else []
    return ", ".join(([names["model"]] if "model" in axes else []) + [results.entry(row.run)] + extra)


def draw_same_noise(results: Results, store: Store, at: Path) -> list[tuple[str, Path]]:
    """``(caption, file)`` of a picture of the same noise for every contest (model, guidance, budget) of images or of plane points."""
    made = []
    for i, contest in enumerate(results.contests):
        rows = {name: row for name, row in list(contest.rows.items())[:MOST_ROWS] if row.cells}
        if not rows:
            continue
        drawn = {name: store.arrays(row.cells[0].key)["x"] for name, row in rows.items()}
        shape = results.models[contest.model].shape
        if len(shape) == 3 and shape[-1] in (1, 3):
            file = save_same_noise(at / f"same_noise_{i}.png", _with_reference(results, store, contest, drawn))
        elif shape == (2,):
            few = {name: drawn[name] for name in [*contest.ranking.order, *contest.ranking.unranked][:6] if name in drawn}  # best first
            few = {textwrap.fill(name, 24): x for name, x in few.items()}  # a title wider than its panel is cut
            reference = np.asarray(results.models[contest.model].truth.data)[:2000]
            file = save_scatter(at / f"same_noise_{i}.png", few, reference)
        else:
            continue
        made.append((f"The same noise, {heading(results, contest)}", file))
    return made


def _with_reference(results: Results, store: Store, contest: Contest, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``drawn`` with the solution of the same noise above it, where there is one."""
    keys = [row.run.reference[0] for row in contest.rows.values() if row.run.reference]
    cell = store.cell(keys[0]) if keys else None
    return ({"the ODE itself": store.arrays(keys[0])["x"]} if cell is not None and cell.status == "done" else {}) | drawn


def heading(results: Results, contest: Contest) -> str:
    """``10 NFE, model, guidance 2``: the budget, and the model and the guidance where there are several."""
    words = [f"{contest.budget} NFE"] + ([contest.model] if len(results.models) > 1 else [])
    return ", ".join(words + ([f"guidance {contest.guidance}"] if "guidance" in results.varying() else []))
