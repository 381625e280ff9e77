"""The effective SNR by maximum likelihood: the level whose law the sampler's states are most likely of (the M-projection, M3).

    lambda_eff = argmax_l E ln p_l(x)
    Gaussian bands:  l(lambda) = -1/2 sum_b [ n n_b ln V_b + S_b / V_b ],   S_b = sum_j ||c_b^(j)||^2
                     score U = n/2 sum_b n_b (q_b - 1) g_b,   q_b = S_b / (n n_b V_b),   g_b = d ln V_b / d lambda
                     Fisher per trajectory I(ln kappa) = 1/2 sum_b n_b (d ln V_b / d ln kappa)^2,   d / d ln kappa = -2 d / d lambda
    any law with a density (mixtures):  sum_j w_rj ln p_l(x_j) over a grid of levels around the nominal one, kept in the sampling scan

The interval is the trajectory bootstrap's, which is the sandwich H^-1 J H^-1 / n to first order: the states need not be of any p_l.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.estimators.base import Effective, Levels, effective, solve, spectra, trajectories
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.replicates import OK, Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, leaf, pytree_dataclass

_BLOCK = 4_000_000
"""The most numbers of one array of the search over the grid."""

__all__ = ["LogDensities", "MaximumLikelihood", "MixtureLikelihood", "sandwich"]


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood:
    """For Gaussian bands.  ``family`` "path" or "kept" (see base); ``tol`` in ln kappa; ``level``, ``simultaneous`` of the intervals."""

    family: str = "path"
    tol: float = 0.1
    level: float = 0.95
    simultaneous: bool = True

    def read(self, record: BandRecord, spectrum: Spectrum, path: GaussianPath) -> Effective:
        """Of a record of ``BandRecorder``; bands of no variance at a level (s_b = 0 at sigma = 0) are not met inside the path."""
        levels = Levels.of(path, record.t, self.family)
        E, count = record.means("state"), spectrum.count
        s2 = spectra(spectrum, E.shape[1] - 1)
        s2 = s2[:1] if not spectrum.se.any() else s2
        needed = trajectories(levels.information(spectrum), self.tol)
        found, flag = np.full(E.shape[:2], np.nan), np.full(len(E), OK, dtype=object)
        use = np.flatnonzero(np.isfinite(needed) & np.isfinite(E).all(axis=(1, 2)))
        for k in use:
            one = dataclasses.replace(levels, own=levels.own[k : k + 1])
            found[k], flag[k] = _gaussian(one, E[k], s2, count)
        flag[needed > record.n] = "unidentifiable"
        flag[~np.isfinite(E).all(axis=(1, 2))] = "not finite"
        options = {"level": self.level, "simultaneous": self.simultaneous}
        return effective("maximum likelihood", record, levels, found, flag, needed, self.tol, **options)


def _gaussian(levels: Levels, E: np.ndarray, s2: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, str]:
    """Maximisers (R + 1,) of one call with energies (R + 1, B), infinite where that is an end of the curve, and the flag."""
    grid = np.linspace(levels.low, levels.high, max(3, int((levels.high - levels.low) / 0.1)))
    value = _on_grid(levels, grid, E, s2, count)
    best = np.argmax(value, axis=1)
    inside = (best > 0) & (best < len(grid) - 1)
    at = np.clip(best, 1, len(grid) - 2)

    def score(level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ln, g, h = levels.log_v(level[None, :, None], s2[None])
        q = E / count * np.exp(-ln[0])
        return ((q - 1) * g[0]) @ count, (-q * g[0] ** 2 + (q - 1) * h[0]) @ count

    low, high = grid[at - 1], grid[at + 1]
    ends = score(grid[np.zeros_like(best)])[0] > 0, score(grid[np.full_like(best, len(grid) - 1)])[0] < 0
    inside |= np.where(best == 0, ends[0], ends[1])  # the last tenth at an end may still hold the maximum
    low, high = np.where(best == 0, grid[0], low), np.where(best == len(grid) - 1, grid[-1], high)
    found = np.where(inside, solve(score, low, high), np.where(best == 0, -np.inf, np.inf))
    if inside[0]:
        return found, OK
    total = E[0].sum() - count @ np.exp(levels.log_v(grid[best[:1], None], s2[:1])[0][0])
    return found, "signal deficit" if total < 0 else "beyond the path"


def _on_grid(levels: Levels, grid: np.ndarray, E: np.ndarray, s2: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``-sum_b [n_b ln V_b + E_b / V_b]`` (R + 1, m).  Where every replicate has its own spectrum, as many at a time as ``_BLOCK`` holds.
    """
    at = grid[None, :, None]
    if len(s2) == 1:
        log_v = levels.log_v(at, s2[:, None, :])[0][0]
        return -(log_v @ count)[None, :] - E @ np.exp(-log_v).T
    size = max(1, _BLOCK // (len(grid) * len(count)))
    parts = []
    for first in range(0, len(s2), size):
        log_v = levels.log_v(at, s2[first : first + size, None, :])[0]
        parts.append(-(log_v @ count) - np.einsum("rb,rmb->rm", E[first : first + size], np.exp(-log_v)))
    return np.concatenate(parts)


def sandwich(record: BandRecord, spectrum: Spectrum, path: GaussianPath, found: Effective, family: str = "path") -> np.ndarray:
    """``H^-1 J H^-1 / n`` as a standard error of lambda_eff (K,), J from independent Gaussian bands of the variances found:
    ``J = 1/2 sum_b n_b q_b^2 g_b^2``, ``H = 1/2 sum_b n_b (q_b g_b^2 - (q_b - 1) g_b')``; ``1 / sqrt(n I)`` where all q_b = 1."""
    levels, count = Levels.of(path, record.t, family), spectrum.count
    at = np.where(np.isfinite(found.log_snr.value), found.log_snr.value, 0.0)
    levels = dataclasses.replace(levels, own=np.where(np.isfinite(levels.own), levels.own, 0.0))
    ln, g, h = levels.log_v(at[:, None], spectrum.variance[None])
    q = record.means("state")[:, 0] / count * np.exp(-ln)
    J, H = 0.5 * (q * g) ** 2 @ count, 0.5 * (q * g**2 - (q - 1) * h) @ count
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(found.flag == OK, np.sqrt(J / record.n) / np.abs(H), np.nan)


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
class MixtureLikelihood:
    """Maximum likelihood for data of any known density, two read-outs: ``read`` pooled over trajectories, ``per_sample`` the shares of
    trajectories whose own best level is each one of the grid.

    ``denoiser``: exact, with ``log_density``; ``window`` W and ``points`` L: levels from -W to W around the nominal one (odd, >= 9).
    Record with ``recorder(key)``.  ``tol`` in ln kappa.
    """

    denoiser: Any
    window: float = 4.0
    points: int = 81
    family: str = "path"
    tol: float = 0.1
    level: float = 0.95
    simultaneous: bool = True

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
            first, second = spline.derivative(1), spline.derivative(2)
            piece = np.arange(len(value))
            peak = solve(partial(_slope, first, second, piece), grid[at - 1], grid[at + 1])
            found[k] = np.where(inside, peak, np.where(best == 0, -np.inf, np.inf))
            curvature = -4.0 * float(_own(second, peak, piece)[0]) if inside[0] else np.nan
            needed[k] = trajectories(curvature, self.tol) if curvature > 1e-9 else (np.inf if inside[0] else 0.0)
            flag[k] = OK if inside[0] else "off the branch" if there.all() else "beyond the path"
        flag[(needed > record.n) & (flag == OK)] = "unidentifiable"
        flag[~np.isfinite(mean).all(axis=(1, 2))] = "not finite"
        options = {"level": self.level, "simultaneous": self.simultaneous}
        return effective("maximum likelihood (density)", record, levels, found, flag, needed, self.tol, **options)

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
        return record.means()[:, 0, self.points :], curve(median, flag=flag, level=self.level, simultaneous=self.simultaneous)


def _slope(first: Any, second: Any, piece: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _own(first, at, piece), _own(second, at, piece)


def _own(spline: Any, at: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """The value of spline i at ``at[i]`` only."""
    breaks, c = spline.x, spline.c  # (order, m - 1, n)
    i = np.clip(np.searchsorted(breaks, at, side="right") - 1, 0, len(breaks) - 2)
    h = at - breaks[i]
    total = np.zeros_like(at)
    for coefficients in c:
        total = total * h + coefficients[i, piece]
    return total
