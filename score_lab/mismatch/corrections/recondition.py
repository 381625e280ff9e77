"""SNR-matched re-conditioning: the state taken for what it is, of another signal gain at another noise level, and stepped from there.

    v_b = g_s^2 alpha^2 s_b^2 + g_n^2 sigma^2       fitted over bands                         (section 2.3: weights n_b / (2 v_b^2))
    kappa_eff = kappa g_n / g_s,    x_eff = (alpha_eff / alpha) (x / g_s),    then the sampler's own step from kappa_eff to kappa'

Calibrated offline, one number of each for a step, never for a sample.  Guards: |Delta ln kappa| <= 0.1, and nothing that is within two of
its standard errors.  A state of variance V + e^2 alpha^2 re-timed by kappa_eff^2 = kappa^2 + e^2 steps as if it were clean (4.9):
R' = cos^2(phi_eff - phi').  Of the family of Abuduweili et al. 2025 and Zhong et al. 2026, who read the level off single states.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.mismatch.corrections.affine import BandRun, at_precision
from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.constants import at_step
from score_lab.mismatch.corrections.gains import centred
from score_lab.mismatch.corrections.levels import moved
from score_lab.mismatch.corrections.measured import rows_at
from score_lab.mismatch.corrections.nominal import step_at
from score_lab.mismatch.replicates import OK, Curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.types import leaf, pytree_dataclass

__all__ = ["StepLevels", "Recondition", "effective_levels", "gaussian_levels", "signal_and_noise"]

WORST = 1e6
"""The condition number beyond which the bands do not tell signal from noise."""


@dataclasses.dataclass(frozen=True)
class StepLevels:
    """``gain`` g_s and ``shift`` Delta ln kappa of every step (N,), and ``flag``: "ok", "not significant", "limited", or the estimator's
    own; where there is no number they are 1 and 0."""

    gain: np.ndarray
    shift: np.ndarray
    flag: np.ndarray

    def around(self, sampler: Any, mean: Any = 0.0) -> Recondition:
        """The correction of these levels."""
        return Recondition(sampler, self.gain, self.shift, mean)


@pytree_dataclass
class Recondition(Around):
    """``gain`` g_s and ``shift`` Delta ln kappa, numbers or (N,), around a one-step ``sampler``; ``mean`` mu of the data.

    A recorder sees the state and the level of the grid, and as the level fed kappa_eff.
    """

    sampler: Any = leaf()
    gain: Any = leaf(default=1.0)
    shift: Any = leaf(default=0.0)
    mean: Any = leaf(default=0.0)
    memoryless = True
    wraps = "sampler"

    def check_steps(self, steps: Any, path: Any) -> None:
        """Finite shifts and gains > 0, as many as steps; a one-step sampler."""
        super().check_steps(steps, path)
        gain, shift, n = np.asarray(self.gain), np.asarray(self.shift), int(np.shape(steps.t)[0])
        for name, value, good in (("gain", gain, gain > 0), ("shift", shift, True)):
            if value.shape not in ((), (1,), (n,)) or not (np.isfinite(value) & good).all():
                refuse(f"Recondition.{name}", value.tolist(), f"a number or {n}, one for each step, finite{' and > 0' * (name == 'gain')}")

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step from the level and the gain that the state has."""
        path, gain, shift = denoise.path, at_step(self.gain, denoise.step), at_step(self.shift, denoise.step)
        t_eff, ratio = moved(path, t, shift, s)
        cleaned = combine((1.0, x), (1.0 / gain - 1.0, centred(x, self.mean, path.alpha(t))))
        return step_at(self.sampler, denoise, combine((ratio, cleaned)), t_eff, s, draw, carry, shown=(x, t))


def signal_and_noise(v: np.ndarray, signal: np.ndarray, noise: float, count: np.ndarray) -> tuple[float, float, float]:
    """``(g_s^2, g_n^2, condition number)`` of ``v_b = g_s^2 signal_b + g_n^2 noise``, bands (B,), weighted by n_b / (2 v_b^2)."""
    X = np.stack([signal / v, np.full(len(v), noise) / v], axis=1) * np.sqrt(count)[:, None]
    gram = X.T @ X
    condition = float(np.linalg.cond(gram))
    if not condition < WORST:
        return float("nan"), float("nan"), condition
    g = np.linalg.solve(gram, X.T @ np.sqrt(count))
    return float(g[0]), float(g[1]), condition


def gaussian_levels(spectrum: Spectrum, path: GaussianPath, sampler: Any, grid: Any, limit: float = 0.1) -> StepLevels:
    """From the spectrum alone: what the sampler, corrected up to there, does to its Gaussian bands, fitted before every step.

    Exact variances, so nothing is "not significant".  ConfigError for a spectrum whose bands never tell signal from noise.
    """
    mean = np.zeros(len(spectrum.variance))
    with jax.enable_x64(True):
        Recondition(sampler).check_steps(at_precision(grid, path), path)
        run = BandRun(spectrum, path, sampler, grid, lambda d, s, c: (d, Recondition(s, c[0], c[1], mean)))
        rows = []
        for k in range(run.num_steps):
            t = run.steps.t[k]
            alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
            s2, n2, condition = signal_and_noise(run.at_start(), alpha**2 * spectrum.variance, sigma**2, spectrum.count)
            row = _guarded(s2, n2, limit) if condition < WORST else (1.0, 0.0, "unidentifiable")
            rows.append(row)
            run.step((jnp.asarray(row[0]), jnp.asarray(row[1])))
    gain, shift, flag = (np.asarray(part) for part in zip(*rows, strict=True))
    if (flag == "unidentifiable").all():
        refuse("Recondition.spectrum", f"{len(mean)} band(s)", "bands of different variances: these cannot tell signal from noise")
    return StepLevels(gain, shift, flag)


def _guarded(s2: float, n2: float, limit: float) -> tuple[float, float, str]:
    if not (s2 > 0 and n2 > 0):
        return 1.0, 0.0, "signal deficit" if not s2 > 0 else "noise deficit"
    shift = 0.5 * np.log(n2 / s2)
    return float(np.sqrt(s2)), float(np.clip(shift, -limit, limit)), OK if abs(shift) <= limit else "limited"


def effective_levels(
    delta: Curve, t: np.ndarray, path: GaussianPath, grid: Any, gain: Curve | None = None, limit: float = 0.1
) -> StepLevels:  # fmt: skip
    """From one measured run: an estimator's ``delta`` = lambda_eff - lambda and signal ``gain`` at the calls t (K,) of its record.  Of an
    estimator that is biased on forward samples give the run's less theirs: ``score_lab.mismatch.study.measuring.beyond(run, null).excess``.

    Steps where the estimator has a flag, or |delta| <= 2 se, are left alone; Delta ln kappa = -delta / 2 is cut at ``limit``.
    """
    with jax.enable_x64(True):
        rows = rows_at(np.asarray(t), np.asarray(at_precision(grid, path).t))
    value, se, flag = delta.value[rows], delta.se[rows], np.array(delta.flag[rows], dtype=object)
    flag[(flag == OK) & ~(np.abs(value) > 2 * se)] = "not significant"
    shift = np.where(flag == OK, -0.5 * np.where(flag == OK, value, 0.0), 0.0)
    flag[(flag == OK) & (np.abs(shift) > limit)] = "limited"
    gains = np.ones(len(rows))
    if gain is not None:
        known = (gain.flag[rows] == OK) & (np.abs(gain.value[rows] - 1) > 2 * gain.se[rows]) & np.isin(flag, (OK, "limited"))
        gains = np.where(known, np.where(known, gain.value[rows], 1.0), 1.0)
    return StepLevels(gains, np.clip(shift, -limit, limit), flag)
