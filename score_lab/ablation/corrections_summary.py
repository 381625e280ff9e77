"""Every correction at equal evaluations in one Markdown table a sampler and budget: mismatch and quality, before and after, what is real.

The first rows are what it is without, at N and at 2N.  A cell is the value with the correction and one word on its paired difference to N:

    better, worse   its interval, which holds for all rows of the budget at once, leaves out 0 and it is above the resolution
    =               it does not: no difference can be told
    better (2N)     and besides, where N and 2N without correction are told apart, it is not told apart from 2N, or better than that
    diverged        more than 100 times the best of its budget

ln R is better where |ln R| is less, the mismatch of the states at the last call, by 1 % of it and by 0.005; worst band: of the samples.
"""

from __future__ import annotations

import math

from score_lab.ablation.correcting import NONE
from score_lab.ablation.corrections import MOMENTS, Comparison, Outcome
from score_lab.ablation.truth import COLUMNS, RANKABLE
from score_lab.evaluation import Estimate, Pair, estimate_of
from score_lab.report.mismatch.corrections import Corrected

__all__ = ["changed", "dumbbells", "summary"]

ORDER = sorted(RANKABLE, key=lambda c: (c == "solver_error", c in MOMENTS))
"""Columns that are no moments first, the solver error last."""


def changed(pair: Pair | None, sign: float = 1.0) -> str:
    """better, worse, or = of one paired difference; ``sign`` 1 where less is better.  "" where there is none."""
    if pair is None:
        return ""
    return "=" if not pair.differs else "better" if sign * pair.difference < 0 else "worse"


def _quality(o: Outcome | None, diverged: bool) -> str:
    if diverged:
        return "diverged"
    if o is None:
        return ""
    word = changed(o.gain, o.sign)
    return word + (" (2N)" if word == "better" and o.verdict in ("better", "reached") else "")


def _row(found: Comparison, name: str, key: tuple[str, str, int], columns: list[str], by: dict) -> str:
    m = found.mismatch[key]
    worst = "-" if math.isnan(m.worst) else f"{m.worst:+.2f}"
    cells = [name, f"{m.total.value:+.3f} {changed(found.nearer.get(key))}".strip(), worst]
    for column in columns:
        draws = found.values[key].get(column)
        off = column in found.far.get(key, ())
        cells.append("-" if draws is None else f"{draws[0]:.3g} {_quality(by.get((key, column)), off)}".strip())
    return f"| {' | '.join(cells)} |"


def summary(found: Comparison, level: str = "###") -> str:
    """The Markdown: a table for every sampler and budget, then what was refused and why."""
    study, lines = found.results.study, []
    by = {((o.solver, o.correction, o.budget), o.column): o for o in found.outcomes}
    columns = [c for c in ORDER if any(c in v for v in found.values.values())]
    heads = [COLUMNS.get(c, c) + (" (moment)" if c in MOMENTS else "") for c in columns]
    for solver in dict.fromkeys(s for s, _, _ in found.values):
        for N in study.nfe:
            rows = [(NONE, N), (NONE, 2 * N), *((c, n) for s, c, n in found.values if s == solver and n == N and c != NONE)]
            rows = [(c, n) for c, n in rows if (solver, c, n) in found.values]
            if len(rows) < 2:
                continue
            lines += [f"{level} {solver}, N = {N}", "", f"| correction | ln R, last call | worst band | {' | '.join(heads)} |"]
            lines.append("| --- " * (3 + len(columns)) + "|")
            for c, n in rows:
                name = c if c != NONE else f"*none, {'N' if n == N else '2N'}*"
                lines.append(_row(found, name, (solver, c, n), columns, by))
            lines.append("")
    made = found.made_for()
    lines += ["Trained for them:", "", *(f"- {line}" for line in made), ""] if made else []
    why: dict[tuple[str, str], list[str]] = {}
    for (solver, correction, n), reason in found.failed.items():
        why.setdefault((correction, reason), []).append(f"{solver} at {n}")
    if why:
        lines += ["Not made:", "", *(f"- {c} (around {', '.join(at)}): {reason}" for (c, reason), at in why.items()), ""]
    floor = ", ".join(f"{COLUMNS.get(c, c)} {e}" for c, e in found.floor.items() if c in columns)
    return "\n".join([*lines, f"Exact samples or held-out data read: {floor}."]) + "\n"


def dumbbells(found: Comparison, column: str) -> dict[tuple[str, int], list[Corrected]]:
    """(sampler, N) -> the rows of ``save_corrections``: ln R at the last call, and ``column``, before and after, with paired changes."""
    rows: dict[tuple[str, int], list[Corrected]] = {}
    for o in (o for o in found.outcomes if o.column == column):
        key, base = (o.solver, o.correction, o.budget), (o.solver, NONE, o.budget)
        m, near = (found.mismatch[key].total, found.mismatch[base].total), found.nearer.get(key)
        change = None if near is None else Estimate(near.difference, near.low, near.high, found.n)
        q = [_interval(found, k, column) for k in (base, key)]
        least = o.gain.least if abs(o.gain.difference) <= o.gain.least else 0.0  # below the resolution there is no difference
        gain = Estimate(o.gain.difference, o.gain.low - least, o.gain.high + least, found.n)
        rows.setdefault((o.solver, o.budget), []).append(Corrected(o.correction, (m[1], m[0], change), (q[0], q[1], gain)))
    return rows


def _interval(found: Comparison, key: tuple[str, str, int], column: str) -> Estimate:
    return estimate_of(found.values[key][column], found.n, least=-float("inf"))
