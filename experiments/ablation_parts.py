"""From a configuration and a command line to the study of an ablation, and from that and its models to the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.counting import Line
from score_lab.ablation import Model, Plan, Results, Run, Store, Study, collected, planned, run_cells
from score_lab.build import refuse
from score_lab.mismatch.corrections import CATALOGUE
from score_lab.specs import literal, plain, split

__all__ = ["Progress", "carried_out", "corrections_of", "study_fields"]

FIELDS = ("solvers", "grids", "paths")
SINGLE = ("n", "rank_by", "features", "least_difference", "basis", "output")
NUMBERS = ("guidance", "nfe", "seeds")
LEAST, EXAMPLE = {"nfe": 1, "seeds": 0}, {"nfe": "5,10,20", "seeds": "0,1,2"}
"""Of the flags that hold whole numbers."""


def study_fields(config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's fields with the command line on top."""
    fields = {name: plain(value) for name, value in config.items()}
    if isinstance(fields.get("vary"), dict):  # a configuration nests what the command line dots
        nested = {f"{part}.{field}": v for part, of in fields["vary"].items() if isinstance(of, dict) for field, v in of.items()}
        fields["vary"] = nested | {name: v for name, v in fields["vary"].items() if not isinstance(v, dict)}
    for name in FIELDS:
        if given.get(name) is not None:
            fields[name] = split(given[name])
    for name in NUMBERS:
        if given.get(name) is not None:
            fields[name] = [literal(word) for word in split(given[name])]
            _check_whole(name, fields[name])
    if given.get("corrections") is not None:
        fields["corrections"] = corrections_of(given["corrections"])
    if isinstance(given.get("calibrate"), str):
        fields["calibrate"] = literal(given["calibrate"])
    if given.get("vary") is not None:
        fields["vary"] = _varied(given["vary"])
    fields |= {name: given[name] for name in SINGLE if given.get(name) is not None}
    if given.get("workdir") is not None:
        workdirs = split(given["workdir"])
        names = [Path(w).name for w in workdirs]
        fields["models"] = {name if names.count(name) == 1 else w: {"workdir": w} for name, w in zip(names, workdirs, strict=True)}
    if not fields.get("output") and not any("workdir" in m for m in fields.get("models", {}).values()):
        refuse("--output", None, "--output=FOLDER: there is no workdir to write into")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _check_whole(name: str, values: list[Any]) -> None:
    """ConfigError that names the flag, of budgets and seeds that are no numbers or too small."""
    least = LEAST.get(name)
    for value in values if least is not None else ():
        if type(value) is not int or value < least:
            refuse(f"--{name}", value, f"whole numbers from {least}, with commas: {EXAMPLE[name]}")


def corrections_of(text: str) -> list[str]:
    """``none; epsilon scaling, by band; DCW + my_pkg.mod:Mine``: between semicolons, for names have commas; ``all``: every one there is."""
    words = [word for part in text.split(";") if (word := part.strip())]
    every = [name for name, entry in CATALOGUE.items() if entry.make is not None]
    return list(dict.fromkeys(name for word in words for name in (every if word == "all" else [word])))


def _varied(text: str) -> dict[str, tuple]:
    """``solver.eta=0|0.5, grid.s_churn=0|20``."""
    found = {}
    for word in split(text):
        name, equals, values = word.partition("=")
        if not equals:
            refuse("--vary", word, "solver.FIELD=VALUE|VALUE|...")
        found[name.strip()] = tuple(literal(v.strip()) for v in values.split("|"))
    return found


class Progress:
    """What is said on the way, on stderr."""

    def __init__(self, start: float):
        self.start, self.begun, self.line = start, time.time(), Line()

    def plan(self, study: Study, plan: Plan) -> None:
        """How much there is to do."""
        keys = {key for run in (*plan.runs, *(whole for whole, _ in plan.references)) for key in run.keys}
        spent = time.time() - self.start
        print(f"{len(plan.runs)} rows, {len(keys)} cells of {study.n} samples; {spent:.0f} s to plan", file=sys.stderr, flush=True)
        self.begun = time.time()

    def sampled(self, done: int, total: int, run: Run) -> None:
        """After each run."""
        left = (time.time() - self.begun) / done * (total - done)
        what = f"{run.system.names()['solver']} at {run.budget.budget} NFE"
        self.line(f"sampling {done}/{total}: {what[:60]}, {left:.0f} s left", done == total)

    def measured(self, done: int, total: int) -> None:
        """After each row."""
        self.line(f"measuring {done}/{total}", done == total)


def carried_out(study: Study, models: Mapping[str, Model], store: Store, say: Progress) -> Results:
    """Plans the study, samples what ``store`` lacks of it, references before the rows, and measures."""
    plan = planned(study, models, store)
    say.plan(study, plan)
    references, halves = (zip(*plan.references, strict=True)) if plan.references else ((), ())
    run_cells([*references, *plan.runs], models, study.seeds, store, study.chunk, say.sampled)
    run_cells(halves, models, study.seeds[:1], store, study.chunk)
    return collected(study, models, plan, store, say.measured)
