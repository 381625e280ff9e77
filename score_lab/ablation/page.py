"""What an ablation leaves behind: the terminal's table, CSV files, pictures and one page that answers first and explains later.

    table.csv  table.json  ranking.csv  pairs.csv  failures.csv  quality.png  same_noise_*.png  report.html

These lie in studies/ID, where ID is the hash of what was asked (see ``study_id``), and a copy of the newest study's in the folder itself:
a narrower question asked later does not overwrite the answer to a wider one.  The newest page links to the others.
"""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import math
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from score_lab.ablation.keys import key_of
from score_lab.ablation.results import Contest, Results, Row, diverged
from score_lab.ablation.running import CALLS
from score_lab.ablation.store import Store
from score_lab.ablation.truth import COLUMNS, HIGHER, RANKABLE, Measured
from score_lab.evaluation import Estimate, Table
from score_lab.report import Page, save_quality, save_same_noise, save_scatter
from score_lab.specs import plain

__all__ = ["failures", "full_table", "ranking_table", "write"]

STUDIES, TO_BEST = "studies", "minus the best"
RANKED = "minus the best: the paired difference; its interval holds for all pairs of this table at once"
MOST_ROWS = 40
"""Rows of a picture of the same noise."""


def full_table(results: Results, whole: bool = False) -> Table:
    """Every run with what was measured, then the floors and the reference solutions; without ``whole``, columns in which there is no number
    at all are left out and named at the foot with the reason."""
    table, flags = Table(notes=_notes(results)), _flags(results)
    axes, seeds, n = results.varying(), len(results.study.seeds), results.study.n
    for row in results.rows:
        names, cells = row.run.system.names(), row.cells
        name = {axis: names[axis] for axis in axes} | {
            "family": row.run.family,
            "budget": row.run.budget.budget,
            "NFE": _number(row.nfe),
            "steps": cells[0].steps if cells else "-",
            "n": _counted(results, row),
            "not finite": sum(map(len, row.invalid.values())),
            "flag": flags.get(id(row), "-"),
            "gap at": _level(row),
            "ms": _number(row.milliseconds),
            "compile s": _number(max((c.compile_s for c in cells), default=math.nan)),
            "MB": _number(max((c.memory for c in cells), default=math.nan) / 1e6),
        }
        table.add(name, _in_order(row.measured))
    blank = dict.fromkeys(table.rows[0].name, "-")
    for row, _ in results.references:
        names = row.run.system.names() | {"solver": "the ODE itself", "grid": "fine"}
        table.add(blank | {axis: names[axis] for axis in axes} | {"NFE": _number(row.nfe), "n": n * seeds}, _in_order(row.measured))
    for model, measured in results.floors.items():
        truth = results.models[model].truth
        name = {"model": model, "solver": truth.floor_name}
        table.add(blank | {axis: name.get(axis, "-") for axis in axes} | {"n": len(truth.floor[0])}, _in_order(measured))
    return table if whole else _shown(table)


def _shown(table: Table) -> Table:
    """Without the columns that are NaN in every row."""
    lost = {}
    for column in table.columns:
        found = [row.measures[column] for row in table.rows if column in row.measures]
        if not any(math.isfinite(e.value) for e in found):
            lost[column] = Counter(e.note or "no number" for e in found).most_common(1)[0][0]
    rows = [dataclasses.replace(row, measures={c: e for c, e in row.measures.items() if c not in lost}) for row in table.rows]
    notes = [f"not shown, no row has a number: {column} ({why})" for column, why in lost.items()]
    return dataclasses.replace(table, rows=rows, notes=[*table.notes, *notes])


def _flags(results: Results) -> dict[int, str]:
    """id of a row -> what is wrong with it in words: its samples are not finite, or it is far off in the columns named."""
    found = {}
    for contest in results.contests:
        off = diverged(results, contest)
        for name, row in contest.rows.items():
            words = ["not finite"] if row.invalid else []
            words += [f"diverged ({', '.join(off[name])})"] if name in off else []
            if words:
                found[id(row)] = ", ".join(words)
    return found


def _in_order(measured: Measured) -> dict[str, Estimate]:
    """The estimates in the order of COLUMNS."""
    return {c: measured.estimates[c] for c in COLUMNS if c in measured.estimates}


def _level(row: Row) -> str:
    """The log-SNR at which the gap was read, or why it could not be."""
    gap = row.measured.estimates.get("snr_gap")
    return "-" if gap is None else gap.note.partition(";")[0].removeprefix("at log-SNR ")


def _number(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:.3g}"


def _notes(results: Results) -> list[str]:
    study, notes = results.study, endings(results)
    for name, model in results.models.items():
        lead = f"{name}: " if len(results.models) > 1 else ""
        notes += [lead + line for line in model.truth.describe()]
    if results.references:
        halving = ", ".join(sorted({f"{value:.2g}" for _, value in results.references}))
        notes.append(
            f"solver_error: root mean square distance of a sample to the solution of its own noise (UniPC-3, {study.fine_steps()} steps on "
            f"levels uniform in log-SNR, row 'the ODE itself'), which is known to better than {halving} (its distance to that in half the "
            "steps): rows below that are not told apart; not defined for stochastic systems. What the row 'the ODE itself' reads against "
            "the data is the model's error alone"
        )
    notes.append(
        f"snr_gap: effective minus nominal log-SNR of the states at the last of (at most {CALLS}) network calls at which total variance "
        "tells a level, the log-SNR of column 'gap at' (near data it tells none); R_last: variance of the states at the last call over the "
        "path's (1: what the network was trained on)"
    )
    notes.append(
        f"n pools {len(study.seeds)} seeds of {study.n}; intervals resample samples, the trajectory is the unit, the reference is fixed; "
        "ms: per sample, of the fastest chunk; MB: arguments, result and scratch of one chunk"
    )
    return notes


def ranking_table(results: Results, contest: Contest) -> Table:
    """One contest, best first, with what each reads beside the best; pairs that are not distinguishable are named by rank."""
    ranking, column = contest.ranking, results.rank_by[contest.model]
    rank = {name: i + 1 for i, name in enumerate(ranking.order)}
    table, flags = Table(notes=[RANKED]), _flags(results)
    for name in ranking.order:
        row, same = contest.rows[name], ranking.same(name)
        words = ", ".join(str(rank[other]) for other in same) or "-"
        columns = [c for c in (column, *results.models[contest.model].truth.columns, "solver_error") if c in row.measured.estimates]
        names = {"rank": rank[name], "sampler": name, "not distinguishable from": words}
        names |= {"flag": flags.get(id(row), "-"), "NFE": _number(row.nfe), "ms": _number(row.milliseconds), "n": _counted(results, row)}
        table.add(names, _to_best(contest, name) | {c: row.measured.estimates[c] for c in dict.fromkeys(columns)})
    for name, why in ranking.unranked.items():
        names = {"rank": "-", "sampler": name, "not distinguishable from": why[:60]}
        row = contest.rows[name]
        names |= {"flag": flags.get(id(row), "-"), "NFE": _number(row.nfe), "ms": "-", "n": _counted(results, row)}
        table.add(names, {})
    return table


def _counted(results: Results, row: Row) -> int:
    """Samples of all seeds."""
    return results.study.n * len(row.cells)


def _to_best(contest: Contest, name: str) -> dict[str, Estimate]:
    """The paired difference of ``name`` to the best, with the interval that holds for all pairs at once; 0 for the best itself."""
    pair, n = contest.ranking.to_best(name), contest.rows[name].measured.estimates
    n = next((e.n for e in n.values()), 0)
    if pair is None:
        return {TO_BEST: Estimate(0.0, 0.0, 0.0, n, note="the best")}
    note = f"paired; the interval holds for all {len(contest.ranking.pairs)} pairs at once; differences up to {pair.least:.2g} do not count"
    return {TO_BEST: Estimate(-pair.difference, -pair.high, -pair.low, n, note=note)}


def failures(results: Results) -> list[str]:
    """One line for every run that has a reason or samples that are not finite."""
    lines = []
    for row in results.rows:
        where = f"{results.entry(row.run)} at {row.run.budget.budget} NFE"
        if row.reason:
            lines.append(f"{where}: {row.reason}")
        for seed, indices in row.invalid.items():
            shown = ", ".join(map(str, indices[:20])) + (" ..." if len(indices) > 20 else "")
            lines.append(f"{where}, seed {seed}: {len(indices)} of {results.study.n} samples are not finite, at index {shown}")
    return list(dict.fromkeys(lines))


def budgets(results: Results) -> list[str]:
    """One line for every system that could not use its whole budget."""
    return list(dict.fromkeys(f"{results.entry(r.run)}: {r.run.budget.note}" for r in results.rows if r.run.budget.note))


def endings(results: Results) -> list[str]:
    """One line for every grid on every path: where it ends, which for some depends on the number of steps."""
    found: dict[str, dict[int, str]] = {}
    for row in results.rows:
        if row.run.ending and row.cells:
            names, steps = row.run.system.names(), row.cells[0].steps
            model = f" of {names['model']}" if "own" in (names["grid"], names["path"]) and len(results.models) > 1 else ""
            found.setdefault(f"grid {names['grid']} on path {names['path']}{model}", {})[steps] = row.run.ending
    lines = []
    for grid, ends in found.items():
        fewest, most = min(ends), max(ends)
        same = len(set(ends.values())) == 1
        words = ends[most] if same else f"{ends[fewest]} in {fewest} steps, {ends[most]} in {most}"
        lines.append(f"{grid} ends at {words}")
    return lines


def write(results: Results, store: Store, title: str, commands: Sequence[str]) -> Path:
    """Everything of the module's list into the study's folder, then its copy into the store's; returns the newest page's file."""
    table, name = full_table(results), study_id(results)
    at = store.folder / STUDIES / name
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(parents=True)
    whole = full_table(results, whole=True)
    (at / "table.csv").write_text(whole.csv())
    (at / "table.json").write_text(whole.json())
    _rankings(results, at)
    page = Page(title, " ".join(model.note for model in results.models.values()))
    page.section("Which sampler should I use?")
    for line, contest in zip(results.advice(), results.contests, strict=True):
        page.parts.append(f"<p>{html.escape(line)}</p>")
        page.parts += [f"<pre>{html.escape(command)}</pre>" for command in results.commands(contest)]
    page.parts.append(f"<p>{html.escape(_caveat(results))}</p>")
    quality = _quality(results, at)
    page.section("Quality against network evaluations", "Bands are 95 % intervals; the grey lines are explained at the table's foot.")
    page.picture(quality, "Every column against the counted network evaluations per sample")
    page.section("Rankings", *([] if len(results.contests) < 2 else ["Best first; the numbers in 'not distinguishable from' are ranks."]))
    for contest in results.contests:
        page.section(_heading(results, contest)).table(ranking_table(results, contest))
    for caption, file in _pictures(results, store, at):
        page.section(caption).picture(file, "Column j of every row started from the same noise")
    page.section("Everything that was measured").table(table)
    if budgets(results):
        page.section("Budgets that do not divide into whole steps", *budgets(results))
    if failures(results):
        page.section("What failed", *failures(results))
    page.commands(commands)
    (at / "about.json").write_text(json.dumps({"about": _about(results), "commands": list(commands)}))
    others = [(folder, about) for folder, about in studies(store) if folder != name]
    page.write(at / "report.html")
    for old in store.folder.glob("same_noise_*.png"):
        old.unlink()
    for file in at.iterdir():
        if file.name not in ("about.json", "report.html"):
            shutil.copy(file, store.folder)
    if others:
        links = "".join(f'<li><a href="{STUDIES}/{folder}/report.html">{html.escape(about)}</a></li>' for folder, about in others)
        page.section("Other studies in this folder, the newest first", "Their cells are kept too: asked again, they are not sampled again.")
        page.parts.append(f"<ul>{links}</ul>")
    return page.write(store.folder / "report.html")


def study_id(results: Results) -> str:
    """10 hex digits of the SHA-256 of what was asked: the study's fields and the models' arrays, but not where it is written, nor in which
    chunks."""
    asked = {name: value for name, value in plain(dataclasses.asdict(results.study)).items() if name not in ("output", "chunk")}
    return key_of(asked | {"digests": {name: [model.digest, model.truth.digest] for name, model in results.models.items()}})[:10]


def studies(store: Store) -> list[tuple[str, str]]:
    """(folder, one line) of every study that was written, the newest first."""
    files = sorted((store.folder / STUDIES).glob("*/about.json"), key=lambda file: (-file.stat().st_mtime_ns, file))
    return [(file.parent.name, json.loads(file.read_text())["about"]) for file in files]


def _about(results: Results) -> str:
    """What a study asked, in one line."""
    study, solvers = results.study, list(dict.fromkeys(row.run.system.names()["solver"] for row in results.rows))
    shown = ", ".join(solvers[:6]) + (f" and {len(solvers) - 6} more" if len(solvers) > 6 else "")
    return f"{shown}; {len(results.rows)} rows; NFE {', '.join(map(str, study.nfe))}; {len(study.seeds)} x {study.n} samples"


def _caveat(results: Results) -> str:
    columns = sorted({f"{c} ({'higher' if c in HIGHER else 'lower'} is better)" for c in results.rank_by.values()})
    pairs, different = sum(len(c.ranking.pairs) for c in results.contests), sum(c.ranking.distinguished() for c in results.contests)
    study = results.study
    return (
        f"Ranked by {', '.join(columns)} on {len(study.seeds)} x {study.n} samples that start from the same noise for every sampler. "
        f"{different} of {pairs} pairs differ: the interval of their paired difference, which holds for all pairs of one budget at once at "
        f"the level {study.alpha:g} (bootstrap, largest |z|), leaves out 0, and the difference is more than the resolution, "
        f"{100 * study.least_difference:g} % of the better value or of what perfect samples may read (the upper end of the last row's "
        f"interval, if that is more). {_too_small(results)}Not distinguishable means that this many samples cannot tell, or that it makes "
        "no difference, not that the two are equal. More seeds tell more."
    )


def _too_small(results: Results) -> str:
    """How many pairs are told apart by their intervals alone."""
    small = sum(pair.excludes_zero and not pair.differs for c in results.contests for pair in c.ranking.pairs)
    return f"The intervals alone would tell {small} more apart. " if small else ""


def _heading(results: Results, contest: Contest) -> str:
    words = [f"{contest.budget} NFE"] + ([contest.model] if len(results.models) > 1 else [])
    return ", ".join(words + ([f"guidance {contest.guidance}"] if "guidance" in results.varying() else []))


def _rankings(results: Results, at: Path) -> None:
    ranks, pairs = [], []
    for contest in results.contests:
        where = {"model": contest.model, "guidance": contest.guidance, "budget": contest.budget, "column": results.rank_by[contest.model]}
        for i, name in enumerate(contest.ranking.order):
            e = contest.rows[name].measured.estimates[where["column"]]
            same = "; ".join(contest.ranking.same(name))
            apart = _to_best(contest, name)[TO_BEST]
            found = {"value": e.value, "low": e.low, "high": e.high, "minus_best": apart.value, "minus_best_low": apart.low}
            found |= {"minus_best_high": apart.high, "not_distinguishable_from": same}
            ranks.append(where | {"rank": i + 1, "sampler": name, "nfe": contest.rows[name].nfe} | found)
        for name, why in contest.ranking.unranked.items():
            ranks.append(where | {"rank": "", "sampler": name, "not_distinguishable_from": why})
        for p in contest.ranking.pairs:
            pairs.append(where | {"better": p.better, "worse": p.worse, "difference": p.difference, "low": p.low, "high": p.high, "p": p.p,
                                  "p_adjusted": p.adjusted, "resolution": p.least, "distinguishable": p.differs})  # fmt: skip
    lost = [{"what": line} for line in failures(results)]
    for name, rows in (("ranking", ranks), ("pairs", pairs), ("failures", lost)):
        with open(at / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["what"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _line(results: Results, row: Row) -> str:
    names, axes = row.run.system.names(), results.varying()
    extra = [f"guidance {names['guidance']}"] if "guidance" in axes else []
    return ", ".join(([names["model"]] if "model" in axes else []) + [results.entry(row.run)] + extra)


def _quality(results: Results, at: Path) -> Path:
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
            levels.setdefault(COLUMNS[column], {})[results.models[name].truth.floor_name] = e.value
        if len(results.references) == 1:
            for column, e in results.references[0][0].measured.estimates.items():
                if math.isfinite(e.value) and column not in ("R_last", "snr_gap", "solver_error"):
                    levels.setdefault(COLUMNS[column], {})["the ODE itself"] = e.value
    log_y = [COLUMNS[c] for c in ("frechet", "kid", "variance", "energy", "mmd", "w2", "solver_error", "R_last")]
    return save_quality(at / "quality.png", panels, levels, log_y=log_y, ticks=results.study.nfe, off=off)


def _pictures(results: Results, store: Store, at: Path) -> list[tuple[str, Path]]:
    """A picture of the same noise for every contest (model, guidance, budget) of images or of points in the plane."""
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
        made.append((f"The same noise, {_heading(results, contest)}", file))
    return made


def _with_reference(results: Results, store: Store, contest: Contest, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``drawn`` with the solution of the same noise above it, where there is one."""
    keys = [row.run.reference[0] for row in contest.rows.values() if row.run.reference]
    cell = store.cell(keys[0]) if keys else None
    return ({"the ODE itself": store.arrays(keys[0])["x"]} if cell is not None and cell.status == "done" else {}) | drawn
