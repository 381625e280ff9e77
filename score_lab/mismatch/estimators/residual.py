"""The effective SNR in the denoiser's own coordinates, for any network and without a spectrum: denoiser-residual calibration.

    h_tau(l) = E ||eps_theta(x_l, tau)||^2 / d       forward states of level l shown to the network under the label tau (a sliding window)
    e_tau    = E ||eps_theta(x_hat, tau)||^2 / d     the sampler's states under the same label
    lambda_res = h_tau^-1(e_tau)                     on the interval around tau where h_tau is monotone; no number outside
    Var(lambda_res) = (Var(e) + Var(h)) / h'^2       here: both resampled, replicate by replicate

For Gaussian bands h_tau(kappa) = mean_b sigma_tau^2 V_b(kappa) / V_b(tau)^2, h_tau(tau) = mean_b sin^2 phi_b.  At high noise it sees total
variance alone and is as blind; its sign may be opposite to that of the other estimators (Ning et al. 2024, figure 3; Yu et al. 2026, figure
1b).  Never call it an SNR without the words "denoiser-residual".
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.linear import combine
from score_lab.mismatch.bands import BandRecord, BandRecorder
from score_lab.mismatch.estimators.base import Effective, Resolution
from score_lab.mismatch.estimators.levels import FAMILIES, Levels
from score_lab.mismatch.estimators.roots import branch, each, solve
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import OK
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Cond, leaf, pytree_dataclass

__all__ = ["DenoiserResidual", "calibrate"]


@pytree_dataclass
class _Scaled:
    """Row k of ``forward`` is shown ``scale[k] x``: alpha_l x0 + sigma_l eps becomes alpha_tau (x0 + kappa_l eps)."""

    denoiser: Denoiser = leaf()
    scale: Array = leaf()

    @property
    def path(self) -> GaussianPath:
        return self.denoiser.path

    def on(self, path: GaussianPath) -> _Scaled:
        return dataclasses.replace(self, denoiser=self.denoiser.on(path))

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        return self.denoiser(combine((self.scale[step], x_t)), t, cond, s=s, step=step, key=key)


@dataclasses.dataclass(frozen=True)
class DenoiserResidual(Resolution):
    """Made by ``calibrate``.  ``t`` (K,) the labels; ``offsets`` (M,) the levels around each; ``squares`` (K, M, R + 1) the calibration
    ``E ||eps||^2`` (NaN: a level that the path does not have); ``family``; ``tol`` in ln kappa; ``level``, ``simultaneous``."""

    t: np.ndarray
    offsets: np.ndarray
    squares: np.ndarray
    n: int
    family: str = "path"

    def read(self, record: BandRecord, spectrum: Spectrum | None, path: GaussianPath) -> Effective:
        """Of a record with calls at calibrated labels; the spectrum is not needed.  Raises ConfigError for a label that is not there."""
        levels = Levels.of(path, record.t, self.family)
        e = record.means("eps_square")
        R = min(e.shape[1], self.squares.shape[2])
        found, flag = np.full((len(e), R), np.nan), np.full(len(e), OK, dtype=object)
        needed = np.full(len(e), np.inf)
        for k in np.flatnonzero(levels.finite & np.isfinite(e).all(axis=1)):
            row = int(np.argmin(np.abs(self.t - record.t[k])))
            if abs(self.t[row] - record.t[k]) > 1e-6 * max(record.t[k], 1e-3):
                refuse("DenoiserResidual.t", float(record.t[k]), "a label that was calibrated: calibrate(..., t=record.t)")
            spread = float(np.std(np.log(e[k, 1:])))
            found[k], flag[k], needed[k] = self._one(self.squares[row][:, :R], e[k, :R], spread, record.n)
            found[k] += levels.log_snr[k]
        flag[(needed > record.n) & (flag == OK)] = "unidentifiable"
        flag[~np.isfinite(e).all(axis=1)] = "not finite"
        return self.effective("denoiser residual", record, levels, found, flag, needed)

    def _one(self, squares: np.ndarray, e: np.ndarray, spread: float, n: int) -> tuple[np.ndarray, str, float]:
        """``(lambda_res - lambda (R,), flag, trajectories needed)`` of one call."""
        from scipy.interpolate import CubicSpline

        there = np.isfinite(squares).all(axis=1)
        x, y, target = self.offsets[there], np.log(squares[there]), np.log(e)
        if len(x) < 5 or not (x[0] < 0 < x[-1]):
            return np.full(len(e), np.nan), OK, np.inf
        curves, rows, fine = CubicSpline(x, y), np.arange(len(e)), np.linspace(x[0], x[-1], 801)
        slope, zero = CubicSpline(x, y[:, 0])(fine, 1), int(np.argmin(np.abs(fine)))
        slopes = each(curves, np.zeros(len(e)), rows, 1)
        sign = np.sign(slope[zero])
        if not abs(slopes[0]) > max(4 * np.std(slopes[1:]), 1e-6):  # no more than its own error: the label is not felt
            return np.full(len(e), np.nan), OK, np.inf
        needed = n * (spread / (self.tol * abs(slopes[0]))) ** 2  # d ln e / d ln kappa = -2 slope, two standard errors
        low, high = branch(fine, np.sign(slope) == sign, 0.0)

        def rest(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return -sign * (each(curves, at, rows) - target), -sign * each(curves, at, rows, 1)

        ends = each(curves, np.full(len(e), low), rows), each(curves, np.full(len(e), high), rows)
        off = (target < np.minimum(*ends)) | (target > np.maximum(*ends))
        found = np.where(off, np.inf, solve(rest, np.full(len(e), low), np.full(len(e), high)))
        return found, "off the branch" if off[0] else OK, needed


def calibrate(
    denoiser: Denoiser, x0: np.ndarray, t: np.ndarray, key: Array, *, cond: Cond = None, window: float = 1.5, points: int = 13,
    replicates: int = 200, family: str = "path", **options,
) -> DenoiserResidual:  # fmt: skip
    """The curves h_tau of labels ``t`` (K,) over ``points`` levels within ``window`` nats of log-SNR, of data ``x0`` (n, *shape).

    ``options`` are ``tol``, ``level``, ``simultaneous`` of the estimator.  n >= 2000 is usual.  Levels that the path does not have are left
    out; labels of infinite level have no curve.  Costs K x points x n evaluations.
    """
    if points < 7 or points % 2 == 0 or not window > 0:
        refuse("calibrate.points, window", (points, window), "an odd number of levels >= 7 in a window > 0")
    if family not in FAMILIES:
        refuse("family", family, ", ".join(FAMILIES), FAMILIES)
    path, t = denoiser.path, np.unique(np.asarray(t, np.float64))
    offsets = np.linspace(-window, window, points)
    levels = Levels.of(path, t, family)
    wanted = np.where(levels.finite, levels.log_snr, 0.0)[:, None] + offsets
    shown, exists = _times(path, wanted), levels.finite[:, None] & (wanted >= levels.low) & (wanted <= levels.high)
    alpha = on_host(path, shown.reshape(-1))[0].reshape(shown.shape)
    reached = np.abs(on_host(path, shown.reshape(-1))[2].reshape(shown.shape) - wanted) < 1e-6
    exists &= reached  # "kept" levels too are made of forward states, so the path must have them
    scale = on_host(path, t)[0][:, None] / np.where(alpha > 0, alpha, 1.0) if family == "kept" else np.ones_like(shown)
    real = jnp.result_type(float)
    noise, weights = jax.random.split(key)
    recorder = BandRecorder.of(Spectrum.white(1.0, np.shape(x0)[1:]), weights, replicates)
    fed = np.broadcast_to(t[:, None], shown.shape)
    scaled = _Scaled(denoiser, jnp.asarray(scale.reshape(-1), real))
    record = recorder.collect(forward_run(scaled, np.asarray(x0), shown.reshape(-1), recorder, noise, cond=cond, fed=fed.reshape(-1)))
    squares = record.means("eps_square").reshape(*shown.shape, -1)
    return DenoiserResidual(t, offsets, np.where(exists[..., None], squares, np.nan), len(x0), family, **options)


def _times(path: GaussianPath, log_snr: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(path.time_of(jnp.asarray(log_snr)), np.float64)
