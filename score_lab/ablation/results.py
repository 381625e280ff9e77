"""From rows to rankings and words.

A contest is one model, one guidance and one budget: all that may be chosen there, solver, grid and path, is ranked, all pairs are compared
on common noise with intervals that hold for all pairs of the contest at once, and a difference below the resolution is none:

    least_difference x max(the better value, the upper end of the floor's interval: what perfect samples may read);
    of solver_error, which has no floor, at least the distance to which the reference is known
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from score_lab.ablation.correcting import NONE
from score_lab.ablation.plan import Plan, Run
from score_lab.ablation.rows import Row, halving, measured_row
from score_lab.ablation.store import Store
from score_lab.ablation.study import Model, Study
from score_lab.ablation.truth import HIGHER, RANKABLE, Measured
from score_lab.evaluation import Ranking

__all__ = ["Contest", "Results", "collected", "diverged"]

FAR = 100.0
"""Times the best: a solver that reads more has diverged."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """One ranking: ``name`` of its fixed axes, its budget, and entry name -> row."""

    model: str
    guidance: str
    budget: int
    rows: Mapping[str, Row]
    ranking: Ranking


@dataclasses.dataclass(frozen=True)
class Results:
    """``rows`` of the table, ``references`` (the solutions, measured like samples), ``floors`` per model, ``contests``, and by which column
    each model is ranked."""

    study: Study
    models: Mapping[str, Model]
    rows: tuple[Row, ...]
    references: tuple[tuple[Row, float], ...]
    floors: Mapping[str, Measured]
    contests: tuple[Contest, ...]
    rank_by: Mapping[str, str]

    def varying(self) -> list[str]:
        """The axes on which this study has more than one value, and the solver."""
        names = [row.run.system.names() for row in self.rows]
        return [axis for axis in names[0] if axis == "solver" or len({n[axis] for n in names}) > 1]

    def entry(self, run: Run) -> str:
        """What a run is called among those it competes with."""
        names, varying = run.system.names(), self.varying()
        extra = [names[axis] for axis in ("grid", "path") if axis in varying]
        words = names["solver"] + (f" on {', '.join(extra)}" if extra else "")
        return words if names["correction"] == NONE else f"{words} with {names['correction']}"

    def advice(self) -> list[str]:
        """The answer, one line per contest: which sampler, and from which others it is not distinguishable."""
        return [_advice(self, contest) for contest in self.contests]

    def commands(self, contest: Contest) -> list[str]:
        """The lines to type that draw from what the advice of ``contest`` names."""
        runs = [contest.rows[name].run for name in recommended(self, contest)]
        runs = [run for run in runs if "correction" not in run.section]  # experiments.sample has none
        return [line for run in runs if (line := self.models[contest.model].command(run.section))]


def recommended(results: Results, contest: Contest) -> list[str]:
    """Who is named after 'use': the best, or all that are nearer to the reference than it is known."""
    column = results.rank_by[contest.model]
    close = [name for name, row in contest.rows.items() if column == "solver_error" and _readable(row, column) and unresolved(results, row)]
    return close or list(contest.ranking.order[:1])


def collected(
    study: Study, models: Mapping[str, Model], plan: Plan, store: Store, progress: Callable[[int, int], None] | None = None
) -> Results:
    """Measures every run whose cells are done (or finds that it has been), and ranks."""
    rank_by = {name: study.ranked_by(model) for name, model in models.items()}
    rows, total = [], len(plan.runs) + len(plan.references)
    for i, run in enumerate(plan.runs):
        rows.append(measured_row(study, models[run.system.model], run, store))
        if progress:
            progress(i + 1, total)
    references = []
    for i, (whole, half) in enumerate(plan.references):
        row = measured_row(study, models[whole.system.model], whole, store)
        references.append((row, halving(store, whole, half)))
        if progress:
            progress(len(plan.runs) + i + 1, total)
    floors = {}
    for name, model in models.items():
        floors[name] = model.truth.measure(*model.truth.floor, study.repeats)
    results = Results(study, models, tuple(rows), tuple(references), floors, (), rank_by)
    return dataclasses.replace(results, contests=tuple(_contests(results)))


def _contests(results: Results) -> list[Contest]:
    groups: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in results.rows:
        names = row.run.system.names()
        groups.setdefault((names["model"], names["guidance"], row.run.budget.budget), {})[results.entry(row.run)] = row
    contests = []
    for (model, guidance, budget), rows in groups.items():
        column = results.rank_by[model]
        values = {name: row.measured.draws[column] for name, row in rows.items() if _readable(row, column)}
        unranked = {name: _why(row, column) for name, row in rows.items() if name not in values}
        if column == "solver_error":
            unranked |= {name: why for name in values if (why := unresolved(results, rows[name]))}
            values = {name: draws for name, draws in values.items() if name not in unranked}
        least = resolution(results, model, column)
        ranking = Ranking.of(values, unranked, lower=column not in HIGHER, alpha=results.study.alpha, least=least)
        contests.append(Contest(model, guidance, budget, rows, ranking))
    return contests


def scale(results: Results, model: str, column: str) -> Callable[[float], float]:
    """value -> what a difference from it is held against: the value, or what perfect samples may read if that is more."""
    floor = results.floors[model].estimates.get(column) if model in results.floors else None
    least = floor.high if floor is not None and np.isfinite(floor.high) else 0.0
    return lambda value: max(abs(value), least)


def resolution(results: Results, model: str, column: str) -> Callable[[float], float]:
    """The better value of a pair -> the difference that counts (see the module)."""
    known = [half for row, half in results.references if row.run.system.model == model and np.isfinite(half)]
    least, held = max(known, default=0.0) if column == "solver_error" else 0.0, scale(results, model, column)
    return lambda value: max(results.study.least_difference * held(value), least)


def diverged(results: Results, contest: Contest) -> dict[str, list[str]]:
    """Entry -> the columns in which it reads more than FAR times the best of its budget (or of what perfect samples may read, if that is
    more), in size: an unbiased KID of samples that are far away may be as far below 0.  Not the solver error, which spans decades between
    solvers of different orders, nor MMD^2, whose kernel is bounded."""
    found: dict[str, list[str]] = {}
    for column in (c for c in results.models[contest.model].truth.columns if c in RANKABLE and c not in (*HIGHER, "mmd")):
        values = {name: row.measured.estimates[column].value for name, row in contest.rows.items() if column in row.measured.estimates}
        values = {name: value for name, value in values.items() if np.isfinite(value)}
        floor = results.floors[contest.model].estimates.get(column) if contest.model in results.floors else None
        least = 0.0 if floor is None else float(np.nan_to_num([abs(floor.low), abs(floor.high)]).max())  # of a KID it may be below 0 whole
        for name, value in values.items():
            if abs(value) > FAR * max(min(map(abs, values.values())), least):
                found.setdefault(name, []).append(column)
    return found


def unresolved(results: Results, row: Row) -> str:
    """Why the solver error of ``row`` is not ranked: it is less than what its reference is known to; empty where it is more."""
    known = next((halving for r, halving in results.references if r.run.keys == row.run.reference), float("nan"))
    error = row.measured.estimates["solver_error"].value
    return "" if error > known or np.isnan(known) else f"solver_error {error:.2g}, below the {known:.2g} to which the reference is known"


def _readable(row: Row, column: str) -> bool:
    return column in row.measured.draws and not row.invalid and bool(np.isfinite(row.measured.draws[column]).all())


def _why(row: Row, column: str) -> str:
    if row.reason:
        return row.reason
    if row.invalid:
        seed, indices = next(iter(row.invalid.items()))
        return f"{sum(map(len, row.invalid.values()))} samples are not finite, the first at index {indices[0]} of seed {seed}"
    return f"{column} is not defined for it"


def _against_the_ode(results: Results, row: Row, column: str) -> str:
    """Whether more evaluations could tell: the row beside its own noise's solution, one paired comparison."""
    solution = next((r for r, _ in results.references if r.run.keys == row.run.reference and _readable(r, column)), None)
    if solution is None:
        return ""
    draws = {"row": row.measured.draws[column], "solution": solution.measured.draws[column]}
    least = resolution(results, row.run.system.model, column)
    pair = Ranking.of(draws, lower=column not in HIGHER, alpha=results.study.alpha, least=least)
    same = "not distinguishable" if pair.same("row") else "distinguishable"
    return f" The ODE itself reads {solution.measured.estimates[column].value:.3g} ({same})."


def _advice(results: Results, contest: Contest) -> str:
    ranking, column = contest.ranking, results.rank_by[contest.model]
    where = [f"{contest.budget} NFE"]
    where += [f"model {contest.model}"] if len(results.models) > 1 else []
    where += [f"guidance {contest.guidance}"] if "guidance" in results.varying() else []
    best = recommended(results, contest)
    if best and best[0] not in ranking.order:
        lead = f"At {', '.join(where)}: use {' or '.join(best)}"
        return f"{lead}: nearer to the reference than it is known, so ahead of those that are ranked."
    if not ranking.order:
        return f"At {', '.join(where)}: no sampler can be recommended, none could be measured."
    best = best[0]
    row, same = contest.rows[best], ranking.same(best)
    line = f"At {', '.join(where)}: use {best} ({column} {row.measured.estimates[column]}"
    line += f", {row.nfe:.4g} NFE used)." if row.nfe != contest.budget else ")."
    line += _against_the_ode(results, row, column)
    others = len(ranking.order) - 1
    if not others:
        return line + " It was the only one."
    if not same:
        return line + f" It is distinguishable from all {others} others."
    worse = others - len(same)
    rest = f" The other {worse} {'are' if worse > 1 else 'is'} worse." if worse else ""
    return line + f" Not distinguishable from it: {', '.join(same)}." + rest

