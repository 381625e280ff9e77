"""The effective SNR by maximum likelihood of any law whose density is known (mixtures): two read-outs, pooled and of every sample.

    pooled       lambda_eff = argmax_l sum_j w_rj ln p_l(x_j),   l on a grid around the nominal level, summed in the sampling scan
    per sample   lambda_eff^(j) = argmax_l ln p_l(x_j)           the share of trajectories for every l
    curvature    I(ln kappa) = -4 d^2/dl^2 E ln p_l(x)           at the maximum, of a spline through the grid

The M-projection, M3, without Gaussian bands; the interval is the trajectory bootstrap's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.estimators.base import Effective, Resolution, trajectories
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.estimators.roots import each, solve
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.replicates import OK, Curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, leaf, pytree_dataclass

__all__ = ["LogDensities", "MixtureLikelihood"]

FLAT = 1.92
"""Nats of log-likelihood of all trajectories, half of chi-squared(1)'s 95 % quantile: a window in which it varies less tells no level."""


@pytree_dataclass
class LogDensities:
    """A statistic for ``SumRecorder``: ``ln p_l(x)`` at the levels ``log_snr(t) + offsets`` (L,), and which of them is each state's own
    best, one-hot: (n, 2 L).  ``denoiser`` is an exact one with ``log_density(x_t, t)``; with ``kept`` the law of the call's own signal,
    ``ln p(alpha_l x / alpha_k) + d ln(alpha_l / alpha_k)``.  Levels beyond the path are those of its ends."""

    denoiser: Any = leaf()
    offsets: Array = leaf()
    kept: bool = False

    @property
    def size(self) -> int:
        """2 L."""
        return 2 * int(np.shape(self.offsets)[0])

    def __call__(self, x: Array, t: Array, path: Any) -> Array:
        """(n, 2 L)."""
        times = path.time_of(path.log_snr(t) + self.offsets)
        scale = path.alpha(times) / path.alpha(t) if self.kept else jnp.ones_like(times)
        d = int(np.prod(x.shape[1:]))

        def one(row):
            time, c = row
            return self.denoiser.log_density(c.astype(x.dtype) * x, time) + d * jnp.log(c)

        values = jax.lax.map(one, (times, scale)).T
        return jnp.concatenate([values, jax.nn.one_hot(jnp.argmax(values, axis=1), values.shape[1], dtype=values.dtype)], axis=1)


@dataclasses.dataclass(frozen=True)
class MixtureLikelihood(Resolution):
    """Maximum likelihood for data of any known density, two read-outs: ``read`` pooled over trajectories, ``per_sample`` the shares of
    trajectories whose own best level is each one of the grid.

    ``denoiser``: exact, with ``log_density``; ``window`` W and ``points`` L: levels from -W to W around the nominal one (odd, >= 9).
    Record with ``recorder(key)``.  A call whose log-likelihood over the window varies by less than ``FLAT`` is "unidentifiable".
    """

    denoiser: Any
    window: float = 4.0
    points: int = 81
    family: str = "path"

    @property
    def offsets(self) -> np.ndarray:
        """(L,)."""
        return np.linspace(-self.window, self.window, self.points)

    def recorder(self, key: Array, replicates: int = 200) -> SumRecorder:
        """For ``sample(..., recorder=)``, alone or in ``Recorders``."""
        if self.points < 9 or self.points % 2 == 0 or not self.window > 0:
            refuse("MixtureLikelihood.points, window", (self.points, self.window), "an odd number of levels >= 9 in a window > 0")
        if not hasattr(self.denoiser, "log_density"):
            refuse("MixtureLikelihood.denoiser", type(self.denoiser).__name__, "an exact denoiser with log_density(x_t, t)")
        offsets = jnp.asarray(self.offsets, jnp.result_type(float))
        return SumRecorder(LogDensities(self.denoiser, offsets, self.family == "kept"), key, replicates)

    def read(self, record: SumRecord, spectrum: Spectrum | None, path: GaussianPath) -> Effective:
        """The pooled level; the spectrum is not needed.  Levels beyond the path say the same thing as its end and do not count."""
        from scipy.interpolate import CubicSpline

        levels = Levels.of(path, record.t, self.family)
        L = self.points
        mean = record.means()[..., :L]
        found, flag = np.full(mean.shape[:2], np.nan), np.full(len(mean), OK, dtype=object)
        needed = np.full(len(mean), np.inf)
        for k in np.flatnonzero(levels.finite & np.isfinite(mean).all(axis=(1, 2))):
            grid = levels.log_snr[k] + self.offsets
            there = (grid >= levels.low - 1e-9) & (grid <= levels.high + 1e-9)
            if there.sum() < 5:
                continue
            grid, value = grid[there], mean[k][:, there]
            spline = CubicSpline(grid, value.T)
            best = np.argmax(value, axis=1)
            at = np.clip(best, 1, len(grid) - 2)
            inside = (best > 0) & (best < len(grid) - 1)
            rows = np.arange(len(value))
            slope = lambda at, spline=spline, rows=rows: (each(spline, at, rows, 1), each(spline, at, rows, 2))  # noqa: E731
            peak = solve(slope, grid[at - 1], grid[at + 1])
            found[k] = np.where(inside, peak, np.where(best == 0, -np.inf, np.inf))
            curvature = -4.0 * float(each(spline, peak, rows, 2)[0]) if inside[0] else np.nan
            needed[k] = trajectories(curvature, self.tol) if curvature > 1e-9 else (np.inf if inside[0] else 0.0)
            flag[k] = OK if inside[0] else "off the branch" if there.all() else "beyond the path"
            if record.n * np.ptp(value[0]) < FLAT:
                needed[k], flag[k] = np.inf, "unidentifiable"
        flag[(needed > record.n) & (flag == OK)] = "unidentifiable"
        flag[~np.isfinite(mean).all(axis=(1, 2))] = "not finite"
        return self.effective("maximum likelihood (density)", record, levels, found, flag, needed)

    def per_sample(self, record: SumRecord) -> tuple[np.ndarray, Curve]:
        """``(shares (K, L), median)``: the share of trajectories whose own best level is ``log_snr + offsets[i]``, and the median of
        lambda_eff^(j) - lambda, between grid levels in proportion; flagged "off the branch" where it is in the first or last of them."""
        cumulated = np.cumsum(record.means()[..., self.points :], axis=-1)
        above = np.clip((cumulated < 0.5).sum(axis=-1), 0, self.points - 1)
        take = lambda i: np.take_along_axis(cumulated, i[..., None], -1)[..., 0]  # noqa: E731
        before = np.where(above > 0, take(np.maximum(above - 1, 0)), 0.0)
        inside = (0.5 - before) / np.maximum(take(above) - before, 1e-12)
        step = self.offsets[1] - self.offsets[0]
        median = self.offsets[above] + (inside - 0.5) * step
        flag = np.where((above[:, 0] == 0) | (above[:, 0] == self.points - 1), "off the branch", OK).astype(object)
        flag[~np.isfinite(cumulated).all(axis=(1, 2))] = "not finite"
        return record.means()[:, 0, self.points :], self.curve(median, flag)
