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
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import scipy.stats

from score_lab.ablation.correcting import NONE, last_ratios, plain_section
from score_lab.ablation.results import Results, Row, diverged, resolution
from score_lab.ablation.running import REPLICATES, bands_of
from score_lab.ablation.store import Store
from score_lab.ablation.study import Study
from score_lab.ablation.truth import HIGHER, RANKABLE
from score_lab.evaluation import Estimate, Pair, Table, compared, estimate_of
from score_lab.mismatch import BandRecorder, log_ratio, log_ratios
from score_lab.mismatch.estimators import SpectralRegression
from score_lab.mismatch.replicates import OK

__all__ = ["MOMENTS", "Comparison", "Mismatch", "Outcome", "comparison", "outcomes_table", "rows_table", "student", "verdict"]

MOMENTS = ("frechet", "variance", "band_kl")
"""Columns that are moments, which a correction of moments improves by construction."""
LEAST_LN_R = 0.005
"""A change of |ln R| that counts, half a percent of a variance: what sampling leaves of a ratio of 80,000 values, sqrt(2 / 80,000)."""
WORDS = ("better", "reached", "part", "-", "worse", "same", "diverged", "N diverged")


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Of one row, training seeds averaged: ``total`` ln R of all bands at the last call, ``bands`` (B,) ln R_b there, ``end`` (B,) ln R_b
    of the samples, ``effective`` lambda_eff - lambda by spectral regression at the last call that tells, or why none does; ``draws``
    (M, R + 1) of every model's total, whose weights are those of the same trajectories in every row."""

    total: Estimate
    bands: np.ndarray
    end: np.ndarray
    effective: Estimate
    draws: np.ndarray


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
    |ln R| at the last call minus that without; ``far``: (solver, correction, budget) -> the columns in which a model's row diverged."""

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


def comparison(results: Results, twice: Results, store: Store) -> Comparison:
    """From the results of the corrections' study and of the uncorrected systems at twice the budgets."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in (*results.rows, *twice.rows):
        names = row.run.system.names()
        extra = [names[axis] for axis in ("grid", "path") if axis in results.varying()]
        extra += [f"guidance {names['guidance']}"] if "guidance" in results.varying() else []
        solver = names["solver"] + (f" on {', '.join(extra)}" if extra else "")
        groups.setdefault((solver, names["correction"], row.run.budget.budget), []).append(row)
    models = list(results.models)
    failed, stacks, values, mismatch, errors = {}, {}, {}, {}, {}
    picks = _picks(len(models), results.study.repeats)
    for key, rows in groups.items():
        rows = list({row.run.system.model: row for row in rows}.values())
        bad = [row for row in rows if row.reason or row.invalid]
        if bad or len(rows) < len(models):
            row = bad[0] if bad else rows[0]
            failed[key] = row.reason or f"{sum(map(len, row.invalid.values()))} samples are not finite"
            continue
        columns = [c for c in rows[0].measured.draws if c in (*RANKABLE, "variance") and all(c in row.measured.draws for row in rows)]
        stacks[key] = {c: np.stack([row.measured.draws[c] for row in rows]) for c in columns}
        values[key] = {c: _pooled(stack, picks, student(len(stack))) for c, stack in stacks[key].items()}
        mismatch[key] = _mismatch(results, rows, store)
        solver = [row.measured.estimates.get("solver_error") for row in rows]
        if len(rows) == 1 and solver[0] is not None:
            errors[key] = solver[0]
    n = results.study.n * len(results.study.seeds)
    near, off = _nearer(mismatch, results.study), [*_off(results), *_off(twice)]
    far = {key: tuple(dict.fromkeys(c for row, c in off if any(row is r for r in rows))) for key, rows in groups.items()}
    return Comparison(results, values, tuple(_outcomes(results, stacks, far)), failed, mismatch, n, _floor(results), errors, near, far)


def _off(results: Results) -> list[tuple[Row, str]]:
    """Every row with a column in which it diverged; not the KL of the bands' variances, which a correction may make 0: 100 times the
    best of a budget is not far."""
    found = [(c.rows[name], column) for c in results.contests for name, columns in diverged(results, c).items() for column in columns]
    return [(row, column) for row, column in found if column != "band_kl"]


def _picks(models: int, repeats: int) -> np.ndarray:
    """(repeats, models): the models of every draw."""
    return np.random.default_rng(0).integers(models, size=(repeats, models))


def student(models: int) -> float:
    """``t_M-1 / z`` at 97.5 %: what the deviation of a mean over M models is multiplied with, so that the normal's 1.96 of it are the
    interval of a mean whose deviation is known from M - 1 degrees of freedom; 2.2 for three, 1 for one, which has none."""
    return float(scipy.stats.t.ppf(0.975, models - 1) / scipy.stats.norm.ppf(0.975)) if models > 1 else 1.0


def _pooled(draws: np.ndarray, picks: np.ndarray, wider: float = 1.0) -> np.ndarray:
    """``draws`` (M, B + 1) of every model -> their mean and its draws, models resampled besides, ``wider`` times their deviation."""
    value = draws[:, 0].mean()
    count = len(draws)
    if count == 1:
        return draws[0]
    centre, inner = draws[:, 0] - value, draws[:, 1:] - draws[:, :1]
    between = wider * np.sqrt(count / (count - 1)) * centre[picks].mean(axis=1)
    return np.concatenate([[value], value + between + inner.mean(axis=0)])


def _floor(results: Results) -> dict[str, Estimate]:
    return dict(next(iter(results.floors.values())).estimates)


def _nearer(mismatch: Mapping[tuple[str, str, int], Mismatch], study: Study) -> dict[tuple[str, str, int], Pair]:
    """``|ln R|`` with a correction minus without, paired by the weights of their trajectories, at once for all rows of one budget.  Of the
    models it is that of their mean: the sign of the mean times every model's own ln R."""
    found = {}
    for budget in study.nfe:
        size = {"|".join(map(str, k)): m.draws for k, m in mismatch.items() if k[2] == budget and np.isfinite(m.draws).all()}
        rows = [k for k in mismatch if k[1] != NONE and "|".join(map(str, k)) in size and f"{k[0]}|{NONE}|{budget}" in size]
        drawn = {name: np.abs(draws.mean(axis=0)) for name, draws in size.items()}
        models = {name: np.sign(draws[:, 0].mean()) * draws[:, 0] for name, draws in size.items()}
        pairs = [("|".join(map(str, key)), f"{key[0]}|{NONE}|{budget}") for key in rows]
        least = lambda value: max(study.least_difference * value, LEAST_LN_R)  # noqa: E731
        found |= dict(zip(rows, compared(drawn, pairs, alpha=study.alpha, least=least, models=models), strict=True))
    return found


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
            picks = _picks(len(results.models), study.repeats)
            wide = {name: _pooled(draws, picks, student(len(draws))) for name, draws in drawn.items()}
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


def _mismatch(results: Results, rows: Sequence[Row], store: Store) -> Mismatch:
    """Of the records that the cells keep, seeds merged."""
    totals, bands, ends, levels, drawn, why = [], [], [], [], [], ""
    for row in rows:
        model = results.models[row.run.system.model]
        spectrum = model.spectrum
        arrays = [store.arrays(key) for key in row.run.keys]
        if not all(bands_of(a) for a in arrays):  # cells of an ablation without corrections, which keeps no bands
            nothing = Estimate.missing(0, (), "sampled by ablate_samplers, without a record of bands")
            blank = np.full(len(spectrum.variance), np.nan)
            return Mismatch(nothing, blank, blank, nothing, np.full((1, 1), np.nan))
        recorder = BandRecorder.of(spectrum, jax.random.key(0), REPLICATES)
        record = recorder.collect(recorder.merge([bands_of(a) for a in arrays]))
        denoiser, _, grid = model.assemble(plain_section(row.run.section), model.denoiser)
        path = denoiser.path
        total = log_ratio(record, spectrum, path, simultaneous=False)
        totals.append([total.value[-1], total.se[-1]])
        drawn.append(np.append(total.value[-1], total.draws[-1]))
        bands.append([curve.value[-1] for curve in log_ratios(record, spectrum, path)])
        ends.append(last_ratios(np.concatenate([a["x"] for a in arrays]), spectrum, path, grid.steps(path)))
        reading = SpectralRegression(simultaneous=False).read(record, spectrum, path)
        good = np.flatnonzero(reading.flag == OK)
        why = str(reading.flag[-1])
        if len(good):
            k = good[-1]
            levels.append([reading.delta.value[k], reading.delta.se[k], record.log_snr[k]])
    effective = Estimate.missing(0, (), why)
    if len(levels) == len(rows):
        effective = _mean([v[0] for v in levels], [v[1] for v in levels], f"at log-SNR {np.mean([v[2] for v in levels]):.2g}")
    total = _mean([t[0] for t in totals], [t[1] for t in totals])
    return Mismatch(total, np.mean(bands, axis=0), np.mean(ends, axis=0), effective, np.stack(drawn))


def _mean(values: Sequence[float], errors: Sequence[float], note: str = "") -> Estimate:
    """The mean over models with its 95 % interval: Student's between them beside the normal's of their own standard ``errors``."""
    count = len(values)
    between = student(count) * np.std(values, ddof=1) / np.sqrt(count) if count > 1 else 0.0
    value, half = float(np.mean(values)), 1.96 * float(np.hypot(between, np.linalg.norm(errors) / count))
    return Estimate(value, value - half, value + half, 0, note=note)


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
    notes += [f"refused: {c} around {s} at {b} NFE: {why}" for (s, c, b), why in found.failed.items()]
    table = Table(notes=notes)
    for key in sorted(found.values, key=lambda k: (k[0], k[2], k[1] != NONE)):
        solver, correction, budget = key
        m = found.mismatch[key]
        worst = m.end[np.nanargmax(np.abs(m.end))] if np.isfinite(m.end).any() else float("nan")
        flag = f"diverged ({', '.join(found.far[key])})" if found.far.get(key) else "-"
        name = {"solver": solver, "NFE": budget, "correction": correction, "worst band": f"{worst:+.3f}", "flag": flag}
        pair = found.nearer.get(key)
        measures = {"ln R": m.total, "effective": m.effective}
        if pair is not None:
            measures["change of |ln R|"] = Estimate(pair.difference, pair.low, pair.high, found.n)
        measures |= {c: estimate_of(draws, found.n, least=-np.inf) for c, draws in found.values[key].items()}
        if key in found.errors:
            measures["solver_error"] = found.errors[key]
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
