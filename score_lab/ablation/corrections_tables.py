"""A comparison of corrections as tables: every run with its mismatch and its quality; one column at one budget with its differences."""

from __future__ import annotations

import numpy as np

from score_lab.ablation.correcting import NONE
from score_lab.ablation.corrections import MOMENTS, Comparison
from score_lab.ablation.truth import RANKABLE, UNBIASED
from score_lab.evaluation import Estimate, Table, estimate_of

__all__ = ["outcomes_table", "rows_table"]


def rows_table(found: Comparison) -> Table:
    """Every run: its mismatch, then what it reads in every column; at the foot what was refused."""
    study = found.results.study
    notes = [
        f"{len(found.results.models)} model(s), {len(study.seeds)} seeds of {study.n} samples each; values are averaged over models",
        "ln R: of the states at the last call, all bands; worst band: the ln R_b of the samples that is farthest from 0; effective: "
        "lambda_eff - lambda by spectral regression at the last call that tells; change of |ln R|: with the correction minus without",
        f"calibrate = {study.calibrate}; moments: {', '.join(MOMENTS)}",
        "exact samples or held-out data read: " + ", ".join(f"{c} {e}" for c, e in found.floor.items() if c in (*RANKABLE, "variance")),
    ]
    notes += [UNBIASED] if any(c in values for values in found.values.values() for c in ("kid", "energy", "mmd")) else []
    notes += [*found.made_for(), "ms: of the time of a chunk, what one sample has of it (whatever else the processor did besides)"]
    notes += [f"refused: {c} around {s} at {b} NFE: {why}" for (s, c, b), why in found.failed.items()]
    table = Table(notes=notes)
    for key in sorted(found.values, key=lambda k: (k[0], k[2], k[1] != NONE)):
        solver, correction, budget = key
        m = found.mismatch[key]
        flag = f"diverged ({', '.join(found.far[key])})" if found.far.get(key) else "-"
        name = {"solver": solver, "NFE": budget, "correction": correction, "worst band": f"{m.worst:+.3f}", "flag": flag}
        pair = found.nearer.get(key)
        measures = {"ln R": m.total, "effective": m.effective}
        if pair is not None:
            measures["change of |ln R|"] = Estimate(pair.difference, pair.low, pair.high, found.n)
        measures |= {c: estimate_of(draws, found.n, least=-np.inf) for c, draws in found.values[key].items()}
        if key in found.errors:
            measures["solver_error"] = found.errors[key]
        measures |= {"ms": found.ms[key]} if key in found.ms else {}
        table.add(name, measures)
    return table


def outcomes_table(found: Comparison, column: str, budget: int) -> Table:
    """One column at one budget: the differences to N and to 2N, the share, and the verdict."""
    table = Table(notes=[f"{column}: differences with intervals that hold for all rows of this table at once; share 1 = twice the steps"])
    rows = [o for o in found.outcomes if o.column == column and o.budget == budget]
    for o in sorted(rows, key=lambda o: (o.solver, o.sign * o.twice.difference)):
        pairs = {"minus N": o.gain, "minus 2N": o.twice}
        measures = {name: Estimate(p.difference, p.low, p.high, found.n) for name, p in pairs.items()} | {"share": o.share}
        table.add({"solver": o.solver, "correction": o.correction, "verdict": o.verdict}, measures)
    return table
