"""A first look at the train-versus-inference mismatch: total variance of a sampler's states against the path's, call by call.

    R_k = mean_j ||x_k^(j) - alpha_k mu||^2 / (d V(t_k)),    V = alpha^2 s^2 + sigma^2       (1: what the network was trained on)
    lambda_eff: the log-SNR at which the forward states have the variance of the sampler's      (inversion.VarianceCurve)

One number per call cannot see *where* the variance is wrong, nor anything beyond second moments; ln R is exact, lambda_eff is a reading
of it under the assumption that the states are forward states of another level.  Where total variance says nothing of the level,
lambda_eff is NaN with the reason:

    ok                 there is a number
    unidentifiable     n I < 4 / tol^2, or two standard errors of ln R are more than tol along the curve
    signal deficit     less variance than any state of this branch of the path: no noise level explains it
    beyond the path    more variance than any state of this branch of the path
    not finite         a trajectory is NaN or infinite (``invalid`` names it)

Intervals resample whole trajectories: ln R -+ z se, z normal for one call, or for all calls at once from the largest |ln R* - ln R| / se
of every resampling.
"""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.inversion import VarianceCurve, on_host
from score_lab.mismatch.moments import DataMoments
from score_lab.mismatch.record import NormRecord
from score_lab.paths.base import GaussianPath

__all__ = ["FLAGS", "Look", "Reading", "first_look", "forward_record", "read"]

FLAGS = ("ok", "unidentifiable", "signal deficit", "beyond the path", "not finite")


@dataclasses.dataclass(frozen=True)
class Reading:
    """One row per network call, arrays (K,): nominal ``t``, ``log_snr``; R = ``ratio``; ``effective`` log-SNR; their intervals; ``flag``.

    Ends of ``effective`` may be infinite, where the interval of R leaves the path's branch.  ``d_eff`` (K,), ``n`` trajectories,
    ``invalid`` those that were not finite; ``simultaneous``: whether the intervals hold for all calls at once.
    """

    t: np.ndarray
    log_snr: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effective: np.ndarray
    effective_low: np.ndarray
    effective_high: np.ndarray
    flag: np.ndarray
    d_eff: np.ndarray
    n: int
    invalid: tuple[int, ...]
    simultaneous: bool

    def records(self) -> list[dict]:
        """One dict of Python numbers per call, for CSV and JSON."""
        names = ("t", "log_snr", "ratio", "low", "high", "effective", "effective_low", "effective_high", "flag", "d_eff")
        return [{name: getattr(self, name)[k].item() for name in names} | {"call": k, "n": self.n} for k in range(len(self.t))]


@dataclasses.dataclass(frozen=True)
class Look:
    """A run's ``sampler`` reading beside its ``null``: the same read-out on as many forward samples at the same levels."""

    sampler: Reading
    null: Reading


def first_look(record: NormRecord, path: GaussianPath, moments: DataMoments, x0: np.ndarray, *, seed: int = 0, **options) -> Look:
    """The reading of a run and its null.

    Args:
      record: ``Samples.record`` of a run with ``NormRecorder(moments.mean)`` on ``path``.
      moments: of the training data.
      x0: data (N, *shape), N >= the number of trajectories, from which the null's forward samples are made; held-out data show the
        data set's own sampling error with it.
      options: of ``read``.
    """
    kept = record.kept()
    forward = forward_record(x0, path, kept.t, moments, kept.square.shape[1], seed=seed + 1)
    return Look(read(record, path, moments, seed=seed, **options), read(forward, path, moments, seed=seed, **options))


def forward_record(x0: np.ndarray, path: GaussianPath, t: np.ndarray, moments: DataMoments, n: int, *, seed: int = 0) -> NormRecord:
    """The record of ``n`` forward samples ``x_t = alpha x0 + sigma eps`` at the times ``t`` (K,), one (x0, eps) per trajectory.

    Exact and small: ``||x_t - alpha mu||^2 = alpha^2 ||x0 - mu||^2 + 2 alpha sigma <x0 - mu, eps> + sigma^2 ||eps||^2``.  Rows of ``x0``
    are drawn without replacement; ConfigError if there are fewer than ``n``.
    """
    if len(x0) < n or n < 1:
        refuse("forward_record.n", n, f"1 to {len(x0)}, the number of data that were given")
    rng = np.random.default_rng(seed)
    rows = (np.asarray(x0)[rng.permutation(len(x0))[:n]] - moments.mean).reshape(n, -1).astype(np.float64)
    eps = rng.standard_normal(rows.shape)
    a, b, c = np.square(rows).sum(axis=1), (rows * eps).sum(axis=1), np.square(eps).sum(axis=1)
    alpha, sigma, log_snr = (v[:, None] for v in on_host(path, t))
    square = alpha**2 * a + 2 * alpha * sigma * b + sigma**2 * c
    return NormRecord(t=np.asarray(t, np.float64), square=square, fed=log_snr + 0 * square, made=np.ones(len(square), bool), d=moments.d)


def read(
    record: NormRecord, path: GaussianPath, moments: DataMoments, *,
    tol: float = 0.1, level: float = 0.95, simultaneous: bool = False, repeats: int = 1000, seed: int = 0,
) -> Reading:  # fmt: skip
    """R and lambda_eff of every call that was made, with intervals over trajectories; ``tol`` is the resolution asked for in ln kappa.

    Raises ConfigError if the record's states do not have the data's dimension.
    """
    record = record.kept()
    if record.d != moments.d:
        refuse("read.record", f"states of {record.d} values", f"states of the data's {moments.d} values")
    alpha, sigma, log_snr = on_host(path, record.t)
    v, n = moments.variance(alpha, sigma), record.square.shape[1]
    ratios = record.square / (moments.d * v[:, None])
    fine = np.isfinite(ratios).all(axis=1)
    log_r = np.log(np.where(fine, ratios.mean(axis=1), np.nan))
    se, z = _uncertainty(ratios, log_r, fine, level, simultaneous, repeats, seed)
    low, high = np.exp(log_r - z * se), np.exp(log_r + z * se)
    curve, d_eff = VarianceCurve.of(path, moments), moments.d_eff(alpha, sigma)
    slope = np.abs(curve.slope(log_snr))
    seen = (n * 0.5 * d_eff * slope**2 >= 4 / tol**2) & ~(2 * se > tol * slope)
    effective, off = curve.invert(log_snr, np.exp(log_r) * v)
    ends = np.sort([curve.invert(log_snr, bound * v)[0] for bound in (low, high)], axis=0)
    flag = np.select([~fine, ~seen, off < 0, off > 0], [FLAGS[4], FLAGS[1], FLAGS[2], FLAGS[3]], FLAGS[0])
    hide = flag != FLAGS[0]
    effective, lower, upper = (np.where(hide, np.nan, value) for value in (effective, *ends))
    invalid = tuple(int(j) for j in np.flatnonzero(~np.isfinite(ratios).all(axis=0)))
    return Reading(
        t=record.t, log_snr=log_snr, ratio=np.exp(log_r), low=low, high=high, effective=effective, effective_low=lower,
        effective_high=upper, flag=flag, d_eff=d_eff, n=n, invalid=invalid, simultaneous=simultaneous,
    )  # fmt: skip


def _uncertainty(ratios, log_r, fine, level, simultaneous, repeats, seed) -> tuple[np.ndarray, float]:
    """Standard errors of ln R (K,) over resampled trajectories, and the multiple of them that makes the interval; NaN for a single
    trajectory.
    """
    n, rng = ratios.shape[1], np.random.default_rng(seed)
    if n < 2:
        return np.full(len(ratios), np.nan), np.nan
    drawn = np.empty((repeats, len(ratios)))
    for i in range(0, repeats, 100):
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(100, repeats - i))
        drawn[i : i + 100] = np.log(weights @ np.where(fine[:, None], ratios, 1.0).T / n)
    se = np.where(fine, drawn.std(axis=0, ddof=1), np.nan)
    if not simultaneous:
        return se, NormalDist().inv_cdf(0.5 + level / 2)
    use = fine & (se > 0)
    if not use.any():
        return se, np.nan
    return se, float(np.quantile(np.abs((drawn[:, use] - log_r[use]) / se[use]).max(axis=1), level))
