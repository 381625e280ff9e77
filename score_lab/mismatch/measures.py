"""The measures of the mismatch, of a record: how far a sampler's states are from the forward states of the level that the network is told.

    M1  R_b = E ||c_b||^2 / (n_b V_b)                                      variance ratio by band and in total; ln R is what adds up
    M2  m   = E x_t - alpha mu,   gain on the mean  1 + E<c, m> / (alpha |m|^2)
    M3  lambda_eff: the forward states nearest to the sampler's (see ``estimators``), Delta lambda = lambda_eff - lambda
    M4  signal gain g_s, noise gain g_n:  v_b = g_s^2 alpha^2 s_b^2 + g_n^2 sigma^2,   Delta lambda = 2 ln (g_s / g_n)
    M5  KL(p || p_l) = 1/2 sum_b n_b (q_b - 1 - ln q_b),  q_b = v_b / V_b(l);  on-curve fraction 1 - KL(lambda_eff) / KL(lambda)
    M6  gap = E ||eps(x)||^2 - E ||eps(x_forward)||^2                      in the denoiser's own coordinates

Each is computed from the sums of a record, replicate by replicate, so its interval is that of trajectories; its null is the same number
of a record of forward samples (``forward``).  M3 and M5 are of Gaussian bands; R_b and m are exact for any data.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student

from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["band_kl", "coarse", "crossings", "denoiser_gap", "log_ratio", "log_ratios", "mean_gain", "mean_leak", "resolved"]


def variances(record: BandRecord, spectrum: Spectrum, name: str = "state") -> np.ndarray:
    """The mean square per coefficient of a banded quantity, (K, R + 1, B)."""
    record.check(spectrum)
    return record.means(name) / spectrum.count


def log_ratios(record: BandRecord, spectrum: Spectrum, path: GaussianPath, **options) -> list[Curve]:
    """M1: ``ln R_b``, one curve for each band; flagged "no variance" where V_b = 0."""
    v, V = variances(record, spectrum), spectrum.V(path, record.t)
    return [_log_ratio(v[..., b], V[:, b], **options) for b in range(len(spectrum.variance))]


def log_ratio(record: BandRecord, spectrum: Spectrum, path: GaussianPath, **options) -> Curve:
    """M1 of all bands together: ``ln (sum_b n_b v_b / sum_b n_b V_b)``."""
    record.check(spectrum)
    total = record.means("state").sum(axis=-1)
    return _log_ratio(total, spectrum.V(path, record.t) @ spectrum.count, **options)


def _log_ratio(v: np.ndarray, V: np.ndarray, **options) -> Curve:
    flag = np.where(V > 0, "ok", "no variance").astype(object)
    with np.errstate(divide="ignore", invalid="ignore"):
        return curve(np.log(v / V[:, None]), flag=flag, **options)


def mean_leak(record: BandRecord, spectrum: Spectrum, **options) -> Curve:
    """M2: ``|E c|^2 / d`` at every call, less what n trajectories of this variance have by chance: 0 in expectation for a perfect sampler.

    The interval is of a bootstrap of the record's blocks of trajectories, with its own rise of |mean|^2 taken off.  Of a mean that is there
    it has the spread; of none at all it is wider than need be, by up to the root of 3.  Infinite of a record that kept no blocks.
    """
    record.check(spectrum)
    square = np.square(record.mean.reshape(len(record.t), -1)).sum(axis=1)
    energy = record.means("state")[:, 0].sum(axis=-1)
    value = (square - (energy - square) / max(record.n - 1, 1)) / spectrum.d
    return curve(np.concatenate([value[:, None], value[:, None] + _leak_spread(record) / spectrum.d], axis=1), **options)


def _leak_spread(record: BandRecord, replicates: int = 200) -> np.ndarray:
    """(K, replicates): |mean|^2 of resampled blocks less its average, widened for there being few of them."""
    if record.blocks is None or record.sizes is None:
        return np.full((len(record.t), replicates), np.nan)
    sums = record.blocks.reshape(len(record.t), len(record.sizes), -1)
    J = int((record.sizes > 0).sum())
    w = np.random.default_rng(0).multinomial(J, (record.sizes > 0) / J, replicates).astype(np.float64)
    gram = sums @ np.swapaxes(sums, 1, 2)
    found = np.einsum("rj,kjl,rl->kr", w, gram, w) / np.square(w @ record.sizes)
    few = student.ppf(0.975, max(J - 1, 1)) / student.ppf(0.975, replicates - 1)  # curve's interval is of as many degrees as replicates
    return (found - found.mean(axis=1, keepdims=True)) * np.sqrt(J / max(J - 1, 1)) * few


def mean_gain(record: BandRecord, spectrum: Spectrum, path: GaussianPath, **options) -> Curve:
    """M2 along the data's mean: ``<E x_t, mu> / (alpha |mu|^2)``, 1 where it is right; flagged where there is no mean or no signal."""
    record.check(spectrum)
    alpha, _, _ = on_host(path, record.t)
    size = float(np.square(spectrum.mean).sum())
    flag = np.where((alpha > 0) & (size > 1e-12 * spectrum.d * max(spectrum.total, 1e-30)), "ok", "no mean").astype(object)
    with np.errstate(divide="ignore", invalid="ignore"):
        return curve(1.0 + record.means("lean").sum(axis=-1) / (alpha[:, None] * size), flag=flag, **options)


def band_kl(v: np.ndarray, V: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``1/2 sum_b n_b (q_b - 1 - ln q_b)`` in nats, bands last; bands where both are 0 add nothing, infinite where one is 0."""
    v, V = np.broadcast_arrays(np.asarray(v, np.float64), np.asarray(V, np.float64))
    both = (v > 0) & (V > 0)
    q = np.divide(v, V, out=np.ones(v.shape), where=both)
    return np.asarray(0.5 * (count * np.where(both | (v == V), q - 1.0 - np.log(q), np.inf)).sum(axis=-1))


def denoiser_gap(record: BandRecord, forward: BandRecord, **options) -> Curve:
    """M6: ``ln (E ||eps(x)||^2 / E ||eps(x_forward)||^2)`` at the same calls; the two records' trajectories are independent, so their
    replicates are paired at random, which adds their variances."""
    ratio = np.log(record.means("eps_square")) - np.log(forward.means("eps_square"))
    return curve(ratio, **options)


def resolved(record: BandRecord, spectrum: Spectrum, **options) -> list[Curve]:
    """The resolved fraction ``Var_b(x0_theta) / s_b^2`` of every band; cos^2 phi_b for Gaussian bands and an exact denoiser."""
    v = variances(record, spectrum, "x0")
    flag = np.where(spectrum.variance > 0, "ok", "no variance")
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = v / spectrum.variance
    return [curve(fractions[..., b], flag=np.full(len(v), flag[b], dtype=object), **options) for b in range(len(spectrum.variance))]


def coarse(fraction: Curve, log_snr: np.ndarray) -> float:
    """The log-SNR at which a band is half resolved: ``crossings`` of the curve's value; ``-2 ln s_b`` for a Gaussian band."""
    return float(crossings(fraction.value[:, None], log_snr)[0])


def crossings(fraction: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
    """The log-SNR (R,) at which ``fraction`` (K, R) first crosses 1/2 from noise to data; NaN where it never does.

    Between two calls ln (w / (1 - w)) is taken as linear in log-SNR, which for w = cos^2 phi = 1 / (1 + exp(-log_snr) / s^2) it is: exact
    for a Gaussian band however far apart the calls are.  Where a fraction is not in (0, 1), it is itself taken as linear.
    """
    order = np.argsort(log_snr)
    level, w = log_snr[order], fraction[order]
    inside = (w > 0) & (w < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logit = np.log(w / (1.0 - w))
    found = np.full(w.shape[1], np.nan)
    for k in reversed(range(len(level) - 1)):  # the first crossing is written last
        if np.isfinite(level[k : k + 2]).all():
            low, high = (np.where(inside[k] & inside[k + 1], logit[j], w[j] - 0.5) for j in (k, k + 1))
            across = (w[k] < 0.5) & (w[k + 1] >= 0.5)
            share = np.divide(-low, high - low, out=np.zeros_like(low), where=across)
            found = np.where(across, level[k] + share * (level[k + 1] - level[k]), found)
    return found
