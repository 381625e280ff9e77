"""What a comparison of corrections leaves behind: table.csv, table.json, outcomes.csv, corrections.md, corrections.png, one picture of
before and after for every sampler and budget, and report.html."""

from __future__ import annotations

import csv
import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from score_lab.ablation.correcting import NONE
from score_lab.ablation.corrections import MOMENTS, Comparison, Outcome
from score_lab.ablation.corrections_summary import dumbbells, summary
from score_lab.ablation.corrections_tables import outcomes_table, rows_table
from score_lab.ablation.truth import COLUMNS, HIGHER, RANKABLE
from score_lab.report import Page, save_shares
from score_lab.report.mismatch.corrections import save_corrections

__all__ = ["answer", "write_corrections"]

AS_GOOD = ("better", "reached")
NOTHING = ("same", "N diverged")
"""There is nothing to reach, or nothing that it can be held against."""


def judged(found: Comparison, *, moments: bool) -> list[Outcome]:
    """The outcomes by columns that are moments, or by those that are not; solver error is apart from both."""
    return [o for o in found.outcomes if o.column != "solver_error" and (o.column in MOMENTS) == moments]


def answer(found: Comparison) -> list[str]:
    """One line for every correction and sampler: at which N it has the quality of 2N, by which columns that are no moments; and one line
    for the whole question.  Where N and 2N are not told apart there is nothing to reach: such a column asks nothing of a correction."""
    lines, rows = [], judged(found, moments=False)
    columns = list(dict.fromkeys(o.column for o in rows))
    everywhere = []
    for solver, correction in dict.fromkeys((o.solver, o.correction) for o in rows):
        mine = [o for o in rows if (o.solver, o.correction) == (solver, correction) and o.verdict not in NOTHING]
        budgets = sorted({o.budget for o in mine})
        good = [b for b in budgets if all(o.verdict in AS_GOOD for o in mine if o.budget == b)]
        some = [f"{o.column} at {o.budget}" for o in mine if o.verdict in AS_GOOD and o.budget not in good]
        short = [f"{o.column} at {o.budget}" for o in mine if o.verdict not in (*AS_GOOD, "worse", "diverged")]
        off = [f"{o.column} at {o.budget}" for o in mine if o.verdict == "diverged"]
        worse = [f"{o.column} at {o.budget}" for o in mine if o.verdict == "worse"]
        words = [f"twice the steps by all of {', '.join(columns)} that tell N from 2N, at N = {', '.join(map(str, good))}"] if good else []
        words += [f"by {', '.join(some)}"] if some else []
        words += [f"not by {', '.join(short)}"] if short else []
        words += [f"worse than without by {', '.join(worse)}"] if worse else []
        words += [f"diverged by {', '.join(off)}"] if off else []
        lines.append(f"{solver}, {correction}: {'; '.join(words) or 'nothing to reach, N and 2N are not told apart'}.")
        if budgets and good == budgets:
            everywhere.append(f"{correction} around {solver}")
    study = found.results.study
    calibrated = f"Calibrated by {study.calibrate}" if study.corrected() else "Trained with it"
    where = f"by all of {', '.join(columns)} that tell N from 2N"
    head = f"{calibrated}: {'; '.join(everywhere)} has the quality of 2N steps at every N, {where}." if everywhere else (
        f"{calibrated}: no correction has the quality of 2N steps at every N {where}.")
    return [head, *lines]


def counts(found: Comparison) -> list[str]:
    """How often each word fell, by columns that are moments and by those that are not."""
    lines = []
    for moments, name in ((False, "columns that are no moments"), (True, "columns that are moments")):
        seen = Counter(o.verdict for o in judged(found, moments=moments))
        lines.append(f"{name}: " + ", ".join(f"{word} {n}" for word, n in seen.most_common()))
    return lines


def write_corrections(found: Comparison, folder: Path, title: str, commands: Sequence[str]) -> Path:
    """Everything of the module's list into ``folder``; the page's file."""
    table = rows_table(found)
    (folder / "table.csv").write_text(table.csv())
    (folder / "table.json").write_text(table.json())
    fields = ("solver", "correction", "budget", "column", "verdict")
    with open(folder / "outcomes.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*fields, *(f"{p}_{v}" for p in ("minus_N", "minus_2N", "share") for v in ("value", "low", "high"))])
        for o in found.outcomes:
            pairs = [v for p in (o.gain, o.twice) for v in (p.difference, p.low, p.high)]
            writer.writerow([*(getattr(o, f) for f in fields), *pairs, o.share.value, o.share.low, o.share.high])
    shares: dict = {}
    for o in found.outcomes:
        if o.column != "solver_error":
            shares.setdefault(COLUMNS[o.column], {}).setdefault(o.solver, {}).setdefault(o.correction, {})[o.budget] = o.share
    (folder / "corrections.md").write_text(summary(found))
    left: dict = {}
    for (solver, correction, budget), m in found.mismatch.items():
        if budget in found.results.study.nfe:
            left.setdefault(solver, {}).setdefault(correction, {})[budget] = m.total
    page = Page(title, " ".join(model.note for model in found.results.models.values()))
    page.section("Does one of them give N steps the quality of 2N?")
    for line in (*answer(found), *counts(found)):
        page.parts.append(f"<p>{html.escape(line)}</p>")
    if shares:
        picture = save_shares(folder / "corrections.png", shares, left)
        page.section("How far each goes", "0: no gain; 1, the dashed line: what twice the steps give without correction. Bars: 95 %.")
        page.picture(picture, "Share of the way from N to 2N, by measure and sampler; below, what is left of the mismatch")
    column = next((c for c in ("energy", *RANKABLE) if any(o.column == c for o in found.outcomes)), None)
    for (solver, budget), rows in {} if column is None else dumbbells(found, column).items():
        file = folder / f"before_after_{re.sub('[^A-Za-z0-9.]+', '-', solver).strip('-')}_{budget}.png"
        words = f"{solver} at {budget} evaluations"
        floors, lower = (None, found.floor.get(column)), column not in HIGHER
        title = f"{words}: what does each correction change?"
        save_corrections(file, rows, mismatch="ln R at the last call", quality=COLUMNS[column], floors=floors, lower=lower, title=title)
        page.section(f"Before and after: {words}").picture(file, "Ring: without; dot: with. Coloured where the paired change is told apart")
    for budget in found.results.study.nfe:
        for column in dict.fromkeys(o.column for o in found.outcomes if o.budget == budget):
            page.section(f"{COLUMNS[column]} at {budget} evaluations").table(outcomes_table(found, column, budget))
    page.section("Everything that was measured", f"Correction '{NONE}' at 2N is what the others are held against.").table(table)
    page.commands(commands)
    return page.write(folder / "report.html")
