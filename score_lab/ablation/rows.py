"""From cells to rows: the samples of all seeds of one run, pooled (they are independent draws: the seed only names the noise), measured.

A row that was measured once is read from the store: its key holds the cells, the truth and the code that measures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

from score_lab.ablation import truth
from score_lab.ablation.correcting import plain_section
from score_lab.ablation.keys import code_of_modules
from score_lab.ablation.plan import Run
from score_lab.ablation.store import Cell, Store
from score_lab.ablation.study import Model, Study
from score_lab.ablation.truth import Measured, snr_gap, solver_error
from score_lab.evaluation import Estimate, resampled
from score_lab.specs import key_of

__all__ = ["Row", "halving", "measured_row", "median_of"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One run: its cells (one per seed) and what was measured; ``reason`` where there is nothing to measure."""

    run: Run
    cells: tuple[Cell, ...]
    measured: Measured
    reason: str = ""

    @property
    def nfe(self) -> float:
        """What the network did for each sample; of an adaptive solver in the mean over all samples."""
        return float(np.mean([cell.nfe for cell in self.cells])) if self.cells else float("nan")

    @property
    def most(self) -> float:
        """What it did for the sample that took the most."""
        return max((cell.most for cell in self.cells if cell.most is not None), default=float("nan"))

    @property
    def invalid(self) -> dict[int, tuple[int, ...]]:
        """Seed -> the indices of its samples that are not finite."""
        return {int(cell.what["seed"]): cell.invalid for cell in self.cells if cell.invalid}

    @property
    def milliseconds(self) -> Estimate:
        """Per sample: the median over the chunks of all seeds with its interval (see ``median_of``)."""
        times = [1e3 * second for cell in self.cells for second in (cell.chunks or (cell.seconds,))]
        return median_of(times)


def median_of(times: Sequence[float]) -> Estimate:
    """The median of independent ``times`` with the 95 % interval that order statistics give whatever their law: the k-th from either end,
    k the largest with 2 P[Binomial(n, 1/2) < k] <= 0.05 (Conover 1999, section 3.2).  Fewer than 6 times have none: then their range,
    and of a single one NaN."""
    x = np.sort(np.asarray(times, np.float64))
    n = len(x)
    if not n or not np.isfinite(x).all():
        return Estimate.missing(n)
    k = int(scipy.stats.binom.ppf(0.025, n, 0.5))  # the least k with P[B <= k] >= 0.025, so that P[B < k] < 0.025
    low, high, what = (x[k - 1], x[n - k], "") if k else (x[0], x[-1], "; the range, too few for an interval")
    if n == 1:
        return Estimate(float(x[0]), float("nan"), float("nan"), 1, note="of one chunk, which has no interval")
    return Estimate(float(np.median(x)), float(low), float(high), n, note=f"median of {n} chunks{what}")


def measured_row(study: Study, model: Model, run: Run, store: Store) -> Row:
    """The row of ``run``, measured or read; with a reason where a cell is missing or failed."""
    found = [store.cell(key) for key in run.keys]
    n = study.n
    found = [cell and dataclasses.replace(cell, invalid=tuple(i for i in cell.invalid if i < n)) for cell in found]
    bad = [cell for cell in found if cell is None or cell.status != "done" or cell.what["n"] < n]
    if bad:
        done = tuple(cell for cell in found if cell is not None and cell not in bad)
        return Row(run, done, Measured(), bad[0].reason if bad[0] is not None else "not run")
    others = [store.cell(key) for key in run.reference]
    ready = bool(others) and all(cell is not None and cell.status == "done" and cell.what["n"] >= n for cell in others)
    key = key_of({"cells": run.keys, "n": n, "truth": model.truth.digest, "repeats": study.repeats, "code": _code(),
                  "reference": run.reference if ready else ()})  # fmt: skip
    known = store.measures(key)
    if known is None:
        arrays = [store.arrays(k) for k in run.keys]
        x, cond = np.concatenate([a["x"][:n] for a in arrays]), model.cond(n)
        labels = None if cond is None else np.concatenate([cond["label"]] * len(arrays))
        measured = model.truth.measure(x, labels, study.repeats)
        path = model.assemble(plain_section(run.section), model.denoiser)[0].path
        square = np.concatenate([a["square"][:, :n] for a in arrays], axis=1)
        measured.estimates |= snr_gap(arrays[0]["t"], square, path, model.truth.moments, model.truth.data)
        if ready:
            solution = np.concatenate([store.arrays(k)["x"][:n] for k in run.reference])
            apart = solver_error(x, solution, study.repeats)
            measured = Measured(measured.estimates | apart.estimates, measured.draws | apart.draws)
        known = (measured.estimates, measured.draws)
        store.put_measures(key, *known)
    return Row(run, tuple(found), Measured(*known))


def _code() -> str:
    """Digest of what measures."""
    return code_of_modules(resampled.__name__, truth.__name__)


def halving(store: Store, whole: Run, half: Run) -> float:
    """Root mean square between the solution and the one with half its evaluations, on the first chunk of the first seed."""
    cells = [store.cell(whole.keys[0]), store.cell(half.keys[0])]
    if not all(cell is not None and cell.status == "done" for cell in cells):
        return float("nan")
    n = int(half.what["n"])
    fine, coarse = (store.arrays(run.keys[0])["x"][:n] for run in (whole, half))
    return float(np.sqrt(np.mean(np.square(fine - coarse))))
