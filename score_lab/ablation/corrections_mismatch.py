"""The mismatch of a row of a comparison of corrections, before and after: ln R by the records that its cells keep, training seeds averaged.

|ln R| with a correction minus |ln R| without, at N: nearer to 0 by more than ``LEAST_LN_R`` and by the study's ``least_difference`` of the
value, paired by the weights of the same trajectories.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from score_lab.ablation.correcting import NONE, last_ratios, plain_section
from score_lab.ablation.pooling import mean_of
from score_lab.ablation.rows import Row
from score_lab.ablation.running import REPLICATES, bands_of
from score_lab.ablation.store import Store
from score_lab.ablation.study import Model, Study
from score_lab.evaluation import Estimate, Pair, compared
from score_lab.mismatch import BandRecorder, log_ratio
from score_lab.mismatch.estimators import SpectralRegression
from score_lab.mismatch.replicates import OK

__all__ = ["LEAST_LN_R", "Mismatch", "mismatch_of", "nearer"]

LEAST_LN_R = 0.005
"""A change of |ln R| that counts, half a percent of a variance: what sampling leaves of a ratio of 80,000 values, sqrt(2 / 80,000)."""


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Of one row, training seeds averaged: ``total`` ln R of all bands at the last call, ``end`` (B,) ln R_b of the samples,
    ``effective`` lambda_eff - lambda by spectral regression at the last call that tells, or why none does; ``draws``
    (M, R + 1) of every model's total, whose weights are those of the same trajectories in every row."""

    total: Estimate
    end: np.ndarray
    effective: Estimate
    draws: np.ndarray

    @property
    def worst(self) -> float:
        """The ln R_b of the samples that is farthest from 0; NaN where no band has one."""
        good = self.end[~np.isnan(self.end)]
        return float(good[np.argmax(np.abs(good))]) if len(good) else float("nan")


def mismatch_of(models: Mapping[str, Model], rows: Sequence[Row], store: Store) -> Mismatch:
    """Of the records that the cells keep, seeds merged; ``models``: those of the rows, by name."""
    totals, ends, levels, drawn, why = [], [], [], [], ""
    for row in rows:
        model = models[row.run.system.model]
        spectrum = model.spectrum
        arrays = [store.arrays(key) for key in row.run.keys]
        if not all(bands_of(a) for a in arrays):  # cells of an ablation without corrections, which keeps no bands
            nothing = Estimate.missing(0, (), "sampled by ablate_samplers, without a record of bands")
            blank = np.full(len(spectrum.variance), np.nan)
            return Mismatch(nothing, blank, nothing, np.full((1, 1), np.nan))
        recorder = BandRecorder.of(spectrum, jax.random.key(0), REPLICATES)
        record = recorder.collect(recorder.merge([bands_of(a) for a in arrays]))
        denoiser, _, grid = model.assemble(plain_section(row.run.section), model.denoiser)
        path = denoiser.path
        total = log_ratio(record, spectrum, path, simultaneous=False)
        totals.append([total.value[-1], total.se[-1]])
        drawn.append(np.append(total.value[-1], total.draws[-1]))
        ends.append(last_ratios(np.concatenate([a["x"] for a in arrays]), spectrum, path, grid.steps(path)))
        reading = SpectralRegression(simultaneous=False).read(record, spectrum, path)
        good = np.flatnonzero(reading.flag == OK)
        why = str(reading.flag[-1])
        if len(good):
            k = good[-1]
            levels.append([reading.delta.value[k], reading.delta.se[k], record.log_snr[k]])
    effective = Estimate.missing(0, (), why)
    if len(levels) == len(rows):
        effective = mean_of([v[0] for v in levels], [v[1] for v in levels], f"at log-SNR {np.mean([v[2] for v in levels]):.2g}")
    total = mean_of([t[0] for t in totals], [t[1] for t in totals])
    return Mismatch(total, np.mean(ends, axis=0), effective, np.stack(drawn))


def nearer(mismatch: Mapping[tuple[str, str, int], Mismatch], study: Study) -> dict[tuple[str, str, int], Pair]:
    """``|ln R|`` with a correction minus without, paired by the weights of their trajectories, at once for all rows of one budget.  Of the
    models it is that of their mean: the sign of the mean times every model's own ln R."""
    found = {}
    for budget in study.nfe:
        draws = {key: m.draws for key, m in mismatch.items() if key[2] == budget and np.isfinite(m.draws).all()}
        pairs = [(key, (key[0], NONE, budget)) for key in draws if key[1] != NONE and (key[0], NONE, budget) in draws]
        size = {key: np.abs(d.mean(axis=0)) for key, d in draws.items()}
        models = {key: np.sign(d[:, 0].mean()) * d[:, 0] for key, d in draws.items()}

        def least(value: float) -> float:
            return max(study.least_difference * value, LEAST_LN_R)

        changes = compared(size, pairs, alpha=study.alpha, least=least, models=models)
        found |= {key: change for (key, _), change in zip(pairs, changes, strict=True)}
    return found
