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
from score_lab.mismatch.measures import variances
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["Calibration", "Corrected", "calibrate", "corrected", "measured_ratios", "rows_at"]

OK, NO_EFFECT, NEAREST, LIMITED, OUTSIDE, UNMEASURED = "ok", "no effect", "no solution", "limited", "outside", "not measured"


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
    the kind.  Raises ConfigError for what is missing or does not fit.
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
        made = kind.by(around, found.constants(spectrum), **fields)
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
        return (kind.by(denoiser, constants), sampler) if kind.wraps == "denoiser" else (denoiser, kind.by(sampler, constants))

    with jax.enable_x64(True):
        if kind.wraps == "sampler":
            kind.by(sampler, Constants(np.zeros((1, bands)), membership)).check_steps(at_precision(grid, path), path)
        run = BandRun(spectrum, path, sampler, grid, build)
        solve = _Solver(run, count, per_band, limit)
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


class _Solver:
    """c (B,) with ``v(c) = wanted`` in every band, or the one c for all bands of least divergence."""

    def __init__(self, run: BandRun, count: Any, per_band: bool, limit: float):
        self.run, self.per_band, self.limit = run, per_band, limit

        def total(k, x, carry, c):
            return sum(run.two_variances(k, x, carry, c))

        def slopes(k, x, carry, c):
            """v, v', v'' of every band along the direction in which all constants grow."""
            one = jnp.ones_like(c)
            first = lambda c: jax.jvp(lambda c: total(k, x, carry, c), (c,), (one,))[1]  # noqa: E731
            return total(k, x, carry, c), *jax.jvp(first, (c,), (one,))

        def divergence(k, x, carry, c, wanted, alive):
            """The derivative and its slope, in one c for all bands, of ``sum_b n_b (q - 1 - ln q)``."""
            v, d1, d2 = slopes(k, x, carry, c)
            n, q, q1, q2 = jnp.where(alive, count, 0.0), jnp.where(alive, v / wanted, 1.0), d1 / wanted, d2 / wanted
            return jnp.sum(n * (1 - 1 / q) * q1), jnp.sum(n * ((1 - 1 / q) * q2 + (q1 / q) ** 2)), jnp.sum(n * (q1 / q) ** 2)

        self._slopes, self._divergence = jax.jit(slopes), jax.jit(divergence)

    def __call__(self, wanted: Any) -> tuple[Any, np.ndarray]:
        alive = wanted > 0
        wanted = jnp.where(alive, wanted, 1.0)
        c, flag = self._bands(wanted, alive) if self.per_band else self._shared(wanted, alive)
        clipped = jnp.clip(c, -self.limit, self.limit)
        return clipped, np.where((np.asarray(clipped) != np.asarray(c)) & (flag == OK), LIMITED, flag)

    def _bands(self, wanted: Any, alive: Any) -> tuple[Any, np.ndarray]:
        """The root of the quadratic through (v, v', v'') that is nearest to c, again and again: at once where v is quadratic, as of a step
        of one call.  Without a root its vertex."""
        run, c = self.run, jnp.zeros_like(wanted)
        least = 1e-9 * wanted
        flat = None
        for _ in range(60):
            v, d1, d2 = self._slopes(run.k, run.x, run.carry, c)
            flat = ~alive | (jnp.abs(d1) < least) & (jnp.abs(d2) < least) if flat is None else flat
            gap = v - wanted
            inside = d1**2 - 2 * d2 * gap
            root = jnp.sqrt(jnp.maximum(inside, 0.0))
            towards = d1 + jnp.where(d1 >= 0, 1.0, -1.0) * root
            move = jnp.where(inside >= 0, -2 * gap / jnp.where(towards == 0, 1.0, towards), -d1 / jnp.where(d2 == 0, 1.0, d2))
            move = jnp.where(flat | (towards == 0) & (inside >= 0), 0.0, move)
            c = c + move
            if bool(jnp.all(jnp.abs(move) <= 1e-15 * (1 + jnp.abs(c)))):
                break
        v = self._slopes(run.k, run.x, run.carry, c)[0]
        solved = (np.abs(np.asarray(v / wanted) - 1) < 1e-9) & np.asarray(alive)
        return c, np.where(solved, OK, np.where(np.asarray(flat), NO_EFFECT, NEAREST))

    def _shared(self, wanted: Any, alive: Any) -> tuple[Any, np.ndarray]:
        """Newton on the divergence, by its Gauss-Newton slope where it is not convex."""
        run, c = self.run, 0.0
        _, _, size = self._divergence(run.k, run.x, run.carry, jnp.zeros_like(wanted), wanted, alive)
        flag = NO_EFFECT if float(size) < 1e-18 * len(wanted) else OK
        for _ in range(100 if flag == OK else 0):
            at = jnp.full_like(wanted, c)
            slope, curve, gauss = (float(v) for v in self._divergence(run.k, run.x, run.carry, at, wanted, alive))
            move = -slope / (curve if curve > 0.1 * gauss else gauss)
            c += move
            if abs(move) <= 1e-15 * (1 + abs(c)):
                break
        return jnp.full_like(wanted, c), np.full(len(wanted), flag)


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
