"""What a calibration reads off one measured run: ln R_b before every step of the grid, and after the last.

    rows of a record are network calls; the call that starts step k is at the grid's t_k, the last of those at that time
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.corrections.affine import at_precision
from score_lab.mismatch.measures import variances
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["measured_ratios", "rows_at"]


def measured_ratios(
    record: BandRecord, spectrum: Spectrum, path: GaussianPath, grid: Any, last: np.ndarray | None = None
) -> np.ndarray:
    """``ln R_b`` (N + 1, B) before every step of the grid and after the last, of the calls of ``record`` at those times.

    ``last`` (B,): after the last step, of the samples themselves; NaN without it.  ConfigError for a record of another grid.
    """
    with jax.enable_x64(True):
        steps = at_precision(grid, path)
        t = np.asarray(steps.t)
    found = np.log(variances(record, spectrum)[:, 0] / spectrum.V(path, record.t))
    rows = list(found[rows_at(record.t, t)])
    rows.append(np.full(len(spectrum.variance), np.nan) if last is None else np.asarray(last, np.float64))
    return np.stack(rows)


def rows_at(called: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The rows of a record's calls (K,) that start the steps at t (N,), in order; ConfigError where a step has none.

    Of consecutive calls at one time the last: before it come Heun's second call, or a corrector's, at the end of the step before.
    """
    rows: list[int] = []
    for k, time in enumerate(t):
        row = rows[-1] + 1 if rows else 0
        near = np.abs(called - time) <= 1e-5 * (1e-3 + time)
        found = np.flatnonzero(near[row:])
        if not len(found):
            refuse("calibrate.record", f"no call at step {k}, t = {time:.6g}", "a record of a run on the same grid")
        row += int(found[0])
        while row + 1 < len(called) and near[row + 1]:
            row += 1
        rows.append(row)
    return np.array(rows)
