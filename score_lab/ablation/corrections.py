"""Corrections beside the uncorrected run at N and at 2N network evaluations: what each does to the mismatch and to the quality.

    gain      the value at N with it minus the value at N without
    to twice  the value at N with it minus the value at 2N without
    share     (without at N - with it at N) / (without at N - without at 2N): 0 does nothing, 1 is what twice the steps would give

Models of one study (workdirs of different training seeds) are one method: their values are averaged.  Intervals of the differences hold at
once for all corrections and samplers of one budget and column, both differences of each; with M > 1 models they hold for models that were
not trained, by Student's law with M - 1 degrees of freedom (``evaluation.compared``).  Intervals of rows and of shares: a draw of the
bootstrap resamples the models, with deviations times sqrt(M / (M - 1)) t_M-1 / z, and then their samples, so that 1.96 deviations of the
draws are t_M-1 of the models' (``student``).  Of the mismatch it is |ln R| with it minus |ln R| without, at N; a change below 0.005, or
below ``least_difference`` of the value, is none.

    better   really better than 2N              worse    really worse than N
    reached  really better than N, and not told apart from 2N
    part     really better than N, and really worse than 2N
    -        not told apart from N              same     the sampler at N and at 2N are themselves not told apart: nothing to reach

Where N and 2N are not told apart, a correction is better if it is really better than both, part if really better than N and really worse
than 2N, worse if really worse than N, and else same.  What reads more than 100 times the best of its budget (``results.diverged``) is
diverged in that column, whatever its intervals; where that is the run at N without correction, same reads "N diverged".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from score_lab.ablation.correcting import NONE
from score_lab.ablation.corrections_mismatch import Mismatch, mismatch_of, nearer
from score_lab.ablation.pooling import picks_of, pooled, student
from score_lab.ablation.results import Results, diverged, resolution
from score_lab.ablation.rows import Row, median_of
from score_lab.ablation.store import Store
from score_lab.ablation.truth import HIGHER, RANKABLE
from score_lab.evaluation import Estimate, Pair, compared, estimate_of

__all__ = ["MOMENTS", "Comparison", "Outcome", "comparison", "verdict"]

MOMENTS = ("frechet", "variance", "band_kl")
"""Columns that are moments, which a correction of moments improves by construction."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One correction around one sampler at N by one column: both paired differences, the ``share``, and the ``verdict`` of the module."""

    solver: str
    correction: str
    budget: int
    column: str
    gain: Pair
    twice: Pair
    share: Estimate
    verdict: str

    @property
    def sign(self) -> float:
        """1 where less is better."""
        return -1.0 if self.column in HIGHER else 1.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """``values``: (name, budget) -> column -> (B + 1,) draws averaged over models, name = (solver words, correction); ``outcomes`` of all
    corrections; ``failed``: (solver, correction, budget) -> why; ``mismatch`` by the same keys as values; ``nearer``: of corrections,
    |ln R| at the last call minus that without; ``far``: (solver, correction, budget) -> the columns in which a model's row diverged;
    ``ms``: the time of one sample, by the same keys as values."""

    results: Results
    values: Mapping[tuple[str, str, int], Mapping[str, np.ndarray]]
    outcomes: tuple[Outcome, ...]
    failed: Mapping[tuple[str, str, int], str]
    mismatch: Mapping[tuple[str, str, int], Mismatch]
    n: int
    floor: Mapping[str, Estimate]
    errors: Mapping[tuple[str, str, int], Estimate]
    nearer: Mapping[tuple[str, str, int], Pair]
    far: Mapping[tuple[str, str, int], tuple[str, ...]] = dataclasses.field(default_factory=dict)
    ms: Mapping[tuple[str, str, int], Estimate] = dataclasses.field(default_factory=dict)

    def made_for(self) -> list[str]:
        """One line for each correction that something was trained for: what, whether it passed its own test, what it costs."""
        return [f"{name}: {note}" for model in self.results.models.values() for name, note in model.said.items()]


def comparison(results: Results, twice: Results, store: Store, trained: Mapping[str, Results] | None = None) -> Comparison:
    """From the results of the corrections' study and of the uncorrected systems at twice the budgets; ``trained``: the uncorrected systems
    of other networks of the same data, as many, that a correction was trained into: by its name, which stands among the corrections."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    told = [(row, row.run.system.correction) for row in (*results.rows, *twice.rows)]
    trained = trained or {}
    told += [(row, name) for name, other in trained.items() for row in other.rows]
    known = {name: model for part in (results, *trained.values()) for name, model in part.models.items()}
    for row, correction in told:
        names = row.run.system.names()
        extra = [names[axis] for axis in ("grid", "path") if axis in results.varying()]
        extra += [f"guidance {names['guidance']}"] if "guidance" in results.varying() else []
        solver = names["solver"] + (f" on {', '.join(extra)}" if extra else "")
        groups.setdefault((solver, correction, row.run.budget.budget), []).append(row)
    models = list(results.models)
    failed, stacks, values, mismatch, errors, ms = {}, {}, {}, {}, {}, {}
    picks = picks_of(len(models), results.study.repeats)
    for key, rows in groups.items():
        rows = list({row.run.system.model: row for row in rows}.values())
        bad = [row for row in rows if row.reason or row.invalid]
        if bad or len(rows) < len(models):
            row = bad[0] if bad else rows[0]
            failed[key] = row.reason or f"{sum(map(len, row.invalid.values()))} samples are not finite"
            continue
        columns = [c for c in rows[0].measured.draws if c in (*RANKABLE, "variance") and all(c in row.measured.draws for row in rows)]
        stacks[key] = {c: np.stack([row.measured.draws[c] for row in rows]) for c in columns}
        values[key] = {c: pooled(stack, picks, student(len(stack))) for c, stack in stacks[key].items()}
        mismatch[key] = mismatch_of(known, rows, store)
        ms[key] = median_of([1e3 * second for row in rows for cell in row.cells for second in (cell.chunks or (cell.seconds,))])
        solver = [row.measured.estimates.get("solver_error") for row in rows]
        if len(rows) == 1 and solver[0] is not None:
            errors[key] = solver[0]
    n = results.study.n * len(results.study.seeds)
    near, off = nearer(mismatch, results.study), [pair for part in (results, twice, *trained.values()) for pair in _off(part)]
    far = {key: tuple(dict.fromkeys(c for row, c in off if any(row is r for r in rows))) for key, rows in groups.items()}
    floor = dict(next(iter(results.floors.values())).estimates)
    return Comparison(results, values, tuple(_outcomes(results, stacks, far)), failed, mismatch, n, floor, errors, near, far, ms)


def _off(results: Results) -> list[tuple[Row, str]]:
    """Every row with a column in which it diverged; not the KL of the bands' variances, which a correction may make 0: 100 times the
    best of a budget is not far."""
    found = [(c.rows[name], column) for c in results.contests for name, columns in diverged(results, c).items() for column in columns]
    return [(row, column) for row, column in found if column != "band_kl"]


def _outcomes(results: Results, values: Mapping, far: Mapping[tuple[str, str, int], tuple[str, ...]]) -> list[Outcome]:
    """``values``: key -> column -> (M, B + 1) of every model."""
    found, study = [], results.study
    model = next(iter(results.models))
    for budget in study.nfe:
        rows = [(s, c) for s, c, b in values if b == budget and c != NONE and all((s, NONE, k * budget) in values for k in (1, 2))]
        columns = dict.fromkeys(c for s, k in rows for c in values[s, k, budget] if c != "variance")
        for column in columns:
            pairs, drawn = [], {}
            for solver, correction in rows:
                here, base, more = (f"{solver}|{c}|{b}" for c, b in ((correction, budget), (NONE, budget), (NONE, 2 * budget)))
                keys = ((solver, correction, budget), (solver, NONE, budget), (solver, NONE, 2 * budget))
                if not all(column in values[key] for key in keys):
                    continue
                drawn |= {name: values[key][column] for name, key in zip((here, base, more), keys, strict=True)}  # (M, B + 1)
                pairs += [(here, base), (here, more)]
            plain = list(dict.fromkeys((b, m) for (_, b), (_, m) in zip(pairs[::2], pairs[1::2], strict=True)))
            least = resolution(results, model, column)
            of_models = {name: draws[:, 0] for name, draws in drawn.items()}
            means = {name: draws.mean(axis=0) for name, draws in drawn.items()}
            apart = compared(means, [*pairs, *plain], alpha=study.alpha, least=least, models=of_models)
            picks = picks_of(len(results.models), study.repeats)
            wide = {name: pooled(draws, picks, student(len(draws))) for name, draws in drawn.items()}
            steps = dict(zip(plain, apart[len(pairs) :], strict=True))
            for k in range(0, len(pairs), 2):
                (here, base), (_, more) = pairs[k], pairs[k + 1]
                solver, correction, _ = here.split("|")
                share = _share(wide[here], wide[base], wide[more])
                gain, twice = apart[k], apart[k + 1]
                word = verdict(gain, twice, steps[base, more], column)
                word = "N diverged" if word == "same" and column in far.get((solver, NONE, budget), ()) else word
                word = "diverged" if column in far.get((solver, correction, budget), ()) else word
                found.append(Outcome(solver, correction, budget, column, gain, twice, share, word))
    return found


def _share(here: np.ndarray, base: np.ndarray, more: np.ndarray) -> Estimate:
    """The share with the standard interval of its linearisation, NaN where there is nothing to close."""
    step = base[0] - more[0]
    if step == 0:
        return Estimate.missing(len(here) - 1, (), "the sampler at N and at 2N read the same")
    value = (base[0] - here[0]) / step
    return estimate_of((base - here - value * (base - more)) / step + value, 0, least=-np.inf)


def verdict(gain: Pair, twice: Pair, step: Pair, column: str) -> str:
    """The word of the module; ``step``: N minus 2N without correction."""
    sign = -1.0 if column in HIGHER else 1.0
    if not step.differs:
        if gain.differs and sign * gain.difference > 0:
            return "worse"
        told = gain.differs and twice.differs
        return "same" if not told else "better" if sign * twice.difference < 0 else "part"
    if gain.differs and sign * gain.difference > 0:
        return "worse"
    if twice.differs and sign * twice.difference < 0:
        return "better"
    if gain.differs:
        return "part" if twice.differs else "reached"
    return "-"
