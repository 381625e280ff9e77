"""The constants of a correction from the data's spectrum alone, or from one measured run; nothing is tuned on samples' quality.

    gaussian   c_k such that R_b = 1 after step k on Gaussian bands of this spectrum, for this sampler on this grid, the steps before
               being corrected already:        v_old(c) + v_fresh(c) = V_b                                      (see ``affine``)
    measured   R_b(k) of an uncorrected run (other seeds) against what the sampler does to Gaussian bands: the step is corrected so that
               v_old(c) + v_fresh(c) = (R_b(k) v_old(0) / rho_b(k) + v_fresh(0)) / R_b(k + 1)
               rho_b(k): what the corrected run is expected to have before the step; 1 where all steps before could be put right
               For a deterministic sampler and a linear denoiser that is the gaussian one again.
    number     the same everywhere

Per band each equation is solved by itself; per step, for all bands at once, c_k minimises sum_b n_b (q_b - 1 - ln q_b), q = v / wanted.
A step that no c puts right (noise that is too large already, no effect where the correction has none, a band without variance) gets the
c that comes nearest, or 0, and its flag says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic.bases import Identity
from score_lab.build import refuse
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.corrections.affine import BandRun, at_precision
from score_lab.mismatch.corrections.constants import Constants
from score_lab.mismatch.corrections.measured import measured_ratios
from score_lab.mismatch.corrections.solver import Solver
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["Calibration", "Corrected", "calibrate", "corrected"]

OUTSIDE, UNMEASURED = "outside", "not measured"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """``values`` (N,) or (N, B); ``log_ratio`` (N, B): ln R_b that Gaussian bands have after every corrected step; ``flag``, as values."""

    values: np.ndarray
    log_ratio: np.ndarray
    flag: np.ndarray

    def constants(self, spectrum: Spectrum) -> Constants:
        """For states of the spectrum's shape."""
        return Constants.of(self.values, spectrum)


@dataclasses.dataclass(frozen=True)
class Corrected:
    """What ``sample`` is called with; ``calibration`` None for a number; ``start`` a ``SignalLeakStart`` that gives x_T, or None."""

    denoiser: Any
    sampler: Any
    calibration: Calibration | None = None
    grid: Any = None
    start: Any = None


def corrected(
    kind: Any, denoiser: Any, sampler: Any, grid: Any, *, calibrate: str | float = "gaussian", spectrum: Spectrum | None = None,
    record: BandRecord | None = None, last: np.ndarray | None = None, per_band: bool = True, limit: float = np.inf,
    interval: tuple[float, float] = (-np.inf, np.inf), **fields: Any,
) -> Corrected:  # fmt: skip
    """The correction ``kind`` (``EpsilonScaling``, ``SignalGain``, ``DCW``, ``StateGain``, ``FreshNoise``) around denoiser or sampler.

    ``calibrate``: "gaussian" (needs ``spectrum``), "measured" (``spectrum`` and ``record``, of a run without it on the same grid and other
    seeds; ``last`` (B,): ln R_b of its samples, without which the last step is left alone) or a number.  ``per_band`` or one constant for
    all; ``limit``: the largest size of a constant; ``interval``: the log-SNRs of t within which steps are corrected; ``fields`` of
    the kind.  A kind of one's own ``wraps`` "denoiser" or "sampler", its first field, has a field ``constants``, and makes itself of a
    number by ``of(inner, number)``.  Raises ConfigError for what is missing or does not fit.
    """
    around = denoiser if kind.wraps == "denoiser" else sampler
    found = None
    if isinstance(calibrate, str):
        if calibrate not in ("gaussian", "measured"):
            refuse("calibrate", calibrate, "gaussian, measured, or a number", ("gaussian", "measured"))
        if spectrum is None or calibrate == "measured" and record is None:
            lacking = "spectrum" if spectrum is None else "record"
            refuse("calibrate", calibrate, f"with {lacking}=: it is what the constants come from")
        ratios = None if calibrate == "gaussian" else measured_ratios(record, spectrum, denoiser.path, grid, last)
        found = _calibrate(kind, spectrum, denoiser.path, sampler, grid, ratios, per_band, limit, interval)
        made = kind(around, constants=found.constants(spectrum), **fields)
    else:
        made = dataclasses.replace(kind.of(around, calibrate), **fields)
    return Corrected(*((made, sampler) if kind.wraps == "denoiser" else (denoiser, made)), found, grid)


def calibrate(
    kind: Any, spectrum: Spectrum, path: GaussianPath, sampler: Any, grid: Any, *, per_band: bool = True, limit: float = np.inf,
    interval: tuple[float, float] = (-np.inf, np.inf), ratios: np.ndarray | None = None,
) -> Calibration:  # fmt: skip
    """The constants of ``kind``: "gaussian", or with ``ratios`` (N + 1, B), ln R_b before every step and after the last, "measured".

    ``measured_ratios`` reads them off a record, ``oracle.variance_ratios`` has them for Gaussian bands and any denoiser that is affine.
    """
    return _calibrate(kind, spectrum, path, sampler, grid, ratios, per_band, limit, interval)


def _calibrate(kind, spectrum, path, sampler, grid, ratios, per_band, limit, interval) -> Calibration:
    bands, count = len(spectrum.variance), jnp.asarray(spectrum.count, float)
    membership = np.arange(bands)

    def build(denoiser, sampler, c):
        constants = Constants(c[None], membership, Identity())
        if kind.wraps == "denoiser":
            return kind(denoiser, constants=constants), sampler
        return denoiser, kind(sampler, constants=constants)

    with jax.enable_x64(True):
        if kind.wraps == "sampler":
            kind(sampler, constants=Constants(np.zeros((1, bands)), membership)).check_steps(at_precision(grid, path), path)
        run = BandRun(spectrum, path, sampler, grid, build)
        solve = Solver(run, count, per_band, limit)
        levels = np.asarray(path.log_snr(run.steps.t))
        rows, rho = [], jnp.ones(bands)
        for k in range(run.num_steps):
            V, neutral = jnp.asarray(run.levels[k]), jnp.zeros(bands)
            old, fresh = run.variances(neutral)
            wanted, measured = V, np.ones(bands, bool)
            if ratios is not None:
                wanted = (jnp.exp(ratios[k]) * old / rho + fresh) / jnp.exp(ratios[k + 1])
                measured = np.isfinite(np.asarray(wanted))
                wanted = jnp.where(measured, wanted, old + fresh)
            if interval[0] <= levels[k] <= interval[1]:
                c, flag = solve(wanted)
                flag = np.where(measured, flag, UNMEASURED)
            else:
                c, flag = neutral, np.full(bands, OUTSIDE)
            v = run.step(c)
            rows.append((np.asarray(c), flag, _log_ratio(v, run.levels[k])))
            if ratios is not None:
                alive = wanted > 0
                wanted = jnp.where(alive, wanted, 1.0)
                rho = jnp.where(alive, v / wanted, 1.0)
                run.scale(jnp.sqrt(jnp.where(alive, V / wanted, 1.0)))
    values, flag, log_ratio = (np.stack(part) for part in zip(*rows, strict=True))
    return Calibration(values, log_ratio, flag) if per_band else Calibration(values[:, 0], log_ratio, flag[:, 0])


def _log_ratio(v: np.ndarray, V: np.ndarray) -> np.ndarray:
    """``ln (v / V)``, 0 for a band without variance."""
    return np.log(np.divide(v, V, out=np.ones_like(v), where=V > 0))
