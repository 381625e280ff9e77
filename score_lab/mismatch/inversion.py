"""From a total variance to the log-SNR of the forward state that has it, where there is one.

    V(lambda) = alpha^2 s^2 + sigma^2 along the path,    lambda_eff: V(lambda_eff) = v on the branch of the path around the nominal lambda

V need not be monotone: on the linear flow it has its minimum at t = s^2 / (1 + s^2), and only the branch around t is looked at.  On a VP
path of data with s = 1 it is constant and there is nothing to invert.  The information of one state about ln kappa is I = (d_eff / 2) (d
ln V / d ln kappa)^2; a read-out of n states resolves ln kappa to ``tol`` at two standard deviations if n I >= 4 / tol^2.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from score_lab.mismatch.moments import DataMoments
from score_lab.paths.base import GaussianPath

__all__ = ["VarianceCurve", "on_host"]

_LIMIT, _POINTS = 30.0, 6001
"""The log-SNRs that are looked at, -30 to 30 in steps of 0.01."""


def on_host(path: GaussianPath, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``alpha, sigma, log_snr`` of the path at times ``t``, in float64 numpy."""
    with jax.enable_x64(True):
        t = jax.numpy.asarray(np.asarray(t, np.float64))
        return tuple(np.asarray(f(t), np.float64) for f in (path.alpha, path.sigma, path.log_snr))


@dataclasses.dataclass(frozen=True)
class VarianceCurve:
    """``ln V`` over ``log_snr`` (m,), ascending, and the indices ``turns`` between which V is monotone."""

    log_snr: np.ndarray
    log_v: np.ndarray
    turns: np.ndarray

    @classmethod
    def of(cls, path: GaussianPath, moments: DataMoments) -> VarianceCurve:
        """The curve of ``path`` for data of ``moments``."""
        ends = on_host(path, np.array([1.0, 0.0]))[2]
        levels = np.linspace(max(ends[0], -_LIMIT), min(ends[1], _LIMIT), _POINTS)
        with jax.enable_x64(True):
            t = np.asarray(path.time_of(jax.numpy.asarray(levels)), np.float64)
        alpha, sigma, _ = on_host(path, t)
        log_v = np.log(moments.variance(alpha, sigma))
        rising = np.sign(np.diff(log_v))
        turns = np.flatnonzero(rising[1:] != rising[:-1]) + 1
        return cls(levels, log_v, np.concatenate([[0], turns, [len(levels) - 1]]))

    def slope(self, log_snr: np.ndarray) -> np.ndarray:
        """``d ln V / d ln kappa = -2 d ln V / d lambda`` at the nominal levels; 0 beyond the curve's ends (infinite log-SNR)."""
        slopes = -2.0 * np.gradient(self.log_v, self.log_snr)
        return np.interp(log_snr, self.log_snr, slopes, left=0.0, right=0.0)

    def invert(self, log_snr: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The log-SNR at which V is ``v`` on the branch around each ``log_snr``, (K,) both.

        Returns ``(lambda_eff, off)``: off is 0 where there is one, -1 where v is below every variance of the branch, +1 where it is
        above; then lambda_eff is -inf or +inf, whichever side of the branch v lies beyond.
        """
        found, off = np.full(len(v), np.nan), np.zeros(len(v), int)
        for k, (level, log_v) in enumerate(zip(log_snr, np.log(v), strict=True)):
            if not np.isfinite(log_v):
                continue
            i = int(np.clip(np.searchsorted(self.log_snr, level) - 1, 0, len(self.log_snr) - 2))
            branch = int(np.searchsorted(self.turns, i, side="right")) - 1
            part = slice(self.turns[branch], self.turns[branch + 1] + 1)
            x, y = self.log_v[part], self.log_snr[part]
            low, high = min(x[0], x[-1]), max(x[0], x[-1])
            off[k] = int(log_v > high) - int(log_v < low)
            if off[k]:
                found[k] = np.inf if (x[-1] > x[0]) == (off[k] > 0) else -np.inf
            else:
                found[k] = np.interp(log_v, x, y) if x[-1] > x[0] else np.interp(-log_v, -x, y)
        return found, off
