"""What an ablation reads as tables: every run with what was measured, one contest's ranking, and the lines that go with them.

    table.csv  table.json  ranking.csv  pairs.csv  failures.csv
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections import Counter
from pathlib import Path

from score_lab.ablation.fitting import LEVELS
from score_lab.ablation.results import Contest, Results, diverged
from score_lab.ablation.rows import Row
from score_lab.ablation.running import CALLS
from score_lab.ablation.truth import COLUMNS, Measured
from score_lab.evaluation import Estimate, Table

__all__ = ["budgets", "failures", "full_table", "ranking_table", "write_rankings"]

TO_BEST = "minus the best"
RANKED = "minus the best: the paired difference; its interval holds for all pairs of this table at once"


def full_table(results: Results, whole: bool = False) -> Table:
    """Every run with what was measured, then the floors and the reference solutions; without ``whole``, columns in which there is no number
    at all are left out and named at the foot with the reason."""
    table, flags = Table(notes=_notes(results)), _flags(results)
    axes, seeds, n = results.varying(), len(results.study.seeds), results.study.n
    uneven = any(row.most > row.nfe for row in results.rows)
    for row in results.rows:
        names, cells = row.run.system.names(), row.cells
        name = {axis: names[axis] for axis in axes} | {
            "family": row.run.family,
            "budget": row.run.budget.budget,
            "NFE": _number(row.nfe),
            **({"most NFE": _number(row.most)} if uneven else {}),
            "steps": cells[0].steps if cells else "-",
            "n": _counted(results, row),
            "not finite": sum(map(len, row.invalid.values())),
            "flag": flags.get(id(row), "-"),
            "gap at": _level(row),
            "compile s": _number(max((c.compile_s for c in cells), default=math.nan)),
            "MB": _number(max((c.memory for c in cells), default=math.nan) / 1e6),
        }
        time = {"ms": row.milliseconds} if cells else {}
        table.add(name, time | _in_order(row.measured))
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
        "ms: of the time of a chunk, what one sample has of it: the median over the chunks of all seeds (some share the processor with a "
        "compilation) with the interval of a median by order statistics; MB: arguments, result and scratch of one chunk"
    )
    if any(row.most > row.nfe for row in results.rows):
        notes.append(
            "NFE, most NFE: of an adaptive solver the mean and the maximum over samples; its tolerance was chosen for the budget on other "
            f"noises than these (see the lines on budgets). steps: attempted, in the mean. Its ms hold {LEVELS} calls more, which show the "
            "record its states and are not counted; its time is that of the slowest sample of a chunk"
        )
    return notes


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
        names |= {"flag": flags.get(id(row), "-"), "NFE": _number(row.nfe), "ms": str(row.milliseconds), "n": _counted(results, row)}
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
    pair = contest.ranking.to_best(name)
    n = next((e.n for e in contest.rows[name].measured.estimates.values()), 0)
    if pair is None:
        return {TO_BEST: Estimate(0.0, 0.0, 0.0, n, note="the best")}
    note = f"paired; the interval holds for all {len(contest.ranking.pairs)} pairs at once; differences up to {pair.least:.2g} do not count"
    return {TO_BEST: Estimate(-pair.difference, -pair.high, -pair.low, n, note=note)}


def budgets(results: Results) -> list[str]:
    """One line for every system that could not use its whole budget, or that spends it as each sample needs."""
    return list(dict.fromkeys(f"{results.entry(r.run)}: {r.run.budget.note}{_used(r)}" for r in results.rows if r.run.budget.note))


def _used(row: Row) -> str:
    """What the samples of an adaptive solver took, which was not known when its tolerance was chosen."""
    return f". The samples took {row.nfe:.4g} in the mean, at most {row.most:g}" if row.most > row.nfe else ""


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


def write_rankings(results: Results, at: Path) -> None:
    """ranking.csv, pairs.csv and failures.csv in the folder ``at``: every contest's order, every pair's difference, every reason."""
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
