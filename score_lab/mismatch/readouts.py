"""What the papers plotted, by name, each beside what a perfect sampler would show: the null that most of them lack.

    P1  ||eps||              mean over images of the norm, not squared, not divided by d; under epsilon scaling divided by the scaler
    P2  delta_t              (mean over pixels of sd(x_hat_t - alpha_t x0) - sigma_t)^2, x0 the datum that was noised to x_T
    P3  sliding window       E ||eps(x_t, s)||^2 of forward samples of all levels t under one label s
    P4  ||eps||^2, ||x0||^2  mean squared norms, forward against reverse
    P5  subband energies     of the state, forward against reverse (a ``Spectrum`` on Haar wavelets)
    P6  pixel variance       of each image, unbiased, which the paper holds against 1 - alpha-bar_t = sigma^2
    P7  p(lambda | x)        the posterior of a noise-level probe; here its mean
    P8  nearest m_t          argmin_m ||y_t - (1 - m) z - m x0||^2,  y = x / (alpha + sigma)

P1, P2: Ning et al. 2024; P3, P4: Yu et al. 2026; P5: DPM-FR, MCDO; P6: Li et al. 2024; P7: Zhong et al. 2026; P8: MixFlow.  ``value`` is as
the paper has it, ``null`` that of forward samples (or a closed form, or a reference run), ``excess`` the difference: 0 within its interval
for a perfect sampler.  P2 and P8 pair a state with a datum that it need not be of, so their null is far from the 0 or diagonal expected:

    P2, exact reverse, Gaussian data:  Var_b = V_t + alpha_t^2 s_b^2 - 2 alpha_T^2 s_b^2 V_t / V_T                     (SDE)
                                       Var_b = V_t + alpha_t^2 s_b^2 - 2 alpha_t alpha_T s_b^2 sqrt(V_t / V_T)         (ODE)
    P8, exact ODE, Gaussian data:      sum_b n_b (1 - sqrt V_b) / sum_b n_b (1 + s_b^2)         paired with an independent datum
                                       sum_b n_b (1 - sqrt V_b)(1 - s_b) / sum_b n_b (1 - s_b)^2    with its own endpoint
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.linear import expand
from score_lab.mismatch.bands import BandRecord, BandRecorder
from score_lab.mismatch.estimators.probe import Probe
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Cond, pytree_dataclass, static

__all__ = [
    "ReadOut", "eps_norm", "eps_square", "gaussian_window", "nearest", "nearest_null", "nearest_recorder", "paired_delta",
    "paired_null", "paired_recorder", "pixel_variance", "posterior_mean", "sliding_window", "subband_energies", "x0_square",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReadOut:
    """``name`` P1 to P8 and ``what`` in words; ``value``, ``null`` and ``excess`` = value - null, curves over calls; ``paper`` (K,): what
    the paper holds it against, where that is not the null; ``log_snr``, ``t`` (K,): level and time of each call (of P3, of the forward
    samples); ``label``: the one time that P3 tells the network; ``gaussian`` (K,): the same in closed form for Gaussian data of the
    spectrum and an exact denoiser, where it is known."""

    name: str
    what: str
    value: Curve
    null: Curve
    excess: Curve
    paper: np.ndarray | None = None
    log_snr: np.ndarray | None = None
    t: np.ndarray | None = None
    label: float | None = None
    gaussian: np.ndarray | None = None


def _read(record: Any, name: str, what: str, value: np.ndarray, null: np.ndarray, paper: np.ndarray | None = None, **options) -> ReadOut:
    """At the first K calls of ``record``, from draws (K, R + 1) of the run and of the null; a null (K,) is exact.  Independent replicates
    are paired: their variances add."""
    null = np.broadcast_to(null[:, None], value.shape) if null.ndim == 1 else null
    r = min(value.shape[1], null.shape[1])
    value, null = value[:, :r], null[:, :r]
    curves = (curve(draws, **options) for draws in (value, null, value - null))
    return ReadOut(name, what, *curves, paper, record.log_snr[: len(value)], np.asarray(record.t[: len(value)]))


def _same_calls(record: Any, null: Any) -> None:
    """ConfigError unless both are of the same levels, call by call."""
    if record.t.shape != null.t.shape or not np.allclose(record.t, null.t, rtol=1e-5, atol=1e-7):
        refuse("null", f"{len(null.t)} calls", f"a record at the times of the run's {len(record.t)} calls: forward_run(..., t=record.t)")


def eps_norm(record: BandRecord, null: BandRecord, scaler: np.ndarray | float = 1.0, **options) -> ReadOut:
    """P1.  ``null``: the record of forward samples at the same calls; ``scaler`` (K,) or a number: of epsilon scaling, by which the norm of
    the run is divided, as the paper plots it."""
    _same_calls(record, null)
    scaled = record.means("eps_norm") / np.broadcast_to(scaler, record.t.shape)[:, None]
    return _read(record, "P1", "norm of the predicted noise", scaled, null.means("eps_norm"), **options)


def eps_square(record: BandRecord, null: BandRecord, **options) -> ReadOut:
    """P4: ``E ||eps||^2``."""
    _same_calls(record, null)
    return _read(record, "P4", "squared norm of the predicted noise", record.means("eps_square"), null.means("eps_square"), **options)


def x0_square(record: BandRecord, null: BandRecord, spectrum: Spectrum, **options) -> ReadOut:
    """P4, the second figure: ``E ||x0_theta||^2``; ``paper``: that of the data, ``sum_b n_b s_b^2 + ||mu||^2``."""
    _same_calls(record, null)
    data = spectrum.count @ spectrum.variance + np.square(spectrum.mean).sum()
    values = record.means("x0_square"), null.means("x0_square")
    return _read(record, "P4", "squared norm of the predicted image", *values, np.full(len(record.t), data), **options)


def subband_energies(record: BandRecord, null: BandRecord, **options) -> list[ReadOut]:
    """P5: ``E sum_{i in b} c_i^2`` about the mean, one for each band of the record's spectrum."""
    _same_calls(record, null)
    ours, theirs = record.means("state"), null.means("state")
    return [_read(record, "P5", f"energy of subband {b}", ours[..., b], theirs[..., b], **options) for b in range(ours.shape[-1])]


def pixel_variance(record: BandRecord, null: BandRecord, path: GaussianPath, **options) -> ReadOut:
    """P6; ``paper``: sigma^2, from which a perfect sampler is off by the data's alpha^2 s^2."""
    _same_calls(record, null)
    sigma = on_host(path, record.t)[1]
    values = record.means("pixel_variance"), null.means("pixel_variance")
    return _read(record, "P6", "variance over the pixels of an image", *values, sigma**2, **options)


def sliding_window(
    denoiser: Denoiser, x0: np.ndarray, label: float, t: np.ndarray, key: Array, *, cond: Cond = None, replicates: int = 200, **options
) -> ReadOut:
    """P3: forward samples of ``x0`` at times ``t`` (K,) under the one ``label`` (a time).  Its null is the value at the label's own level,
    of the same samples; what is larger is told as more noise, what is smaller as less, wherever the curve rises."""
    noise, weights = jax.random.split(key)
    recorder = BandRecorder.of(Spectrum.white(1.0, np.shape(x0)[1:]), weights, replicates)
    shown = np.append(np.asarray(t, np.float64), float(label))
    fed = np.full(len(shown), float(label))
    record = recorder.collect(forward_run(denoiser, np.asarray(x0), shown, recorder, noise, cond=cond, fed=fed))
    values = record.means("eps_square")
    null = np.broadcast_to(values[-1:], values[:-1].shape)
    what = f"squared norm of the predicted noise under the label t = {float(label):.4g}"
    return dataclasses.replace(_read(record, "P3", what, values[:-1], null, **options), label=float(label))


def gaussian_window(spectrum: Spectrum, path: GaussianPath, label: float, t: np.ndarray) -> np.ndarray:
    """P3 (K,) of Gaussian data and their exact denoiser: ``(sigma_s^2 / V_b(s)^2) (n_b V_b(t) + (alpha_t - alpha_s)^2 |mu_b|^2)``, summed
    over bands, under the label s: the curve that the paper's is to be compared with.  It rises with the noise of the states wherever the
    variance does, so that the read-out tells a level only on such a branch."""
    own, t = np.array([float(label)]), np.asarray(t, np.float64)
    (alpha, _, _), (alpha_s, sigma_s, _) = on_host(path, t), on_host(path, own)
    c = np.asarray(spectrum.basis.analyse(jnp.asarray(spectrum.mean, jnp.float32)[None])[0], np.float64)
    mean = np.bincount(spectrum.band.reshape(-1), weights=np.square(c).reshape(-1), minlength=len(spectrum.variance))
    energy = spectrum.count * spectrum.V(path, t) + np.square(alpha - alpha_s)[:, None] * mean
    return energy @ (sigma_s**2 / np.square(spectrum.V(path, own)[0]))


@pytree_dataclass
class _Deviation:
    """(x - alpha x0, its square), pixel by pixel."""

    size: int = static()

    def __call__(self, x: Array, t: Array, path: Any, x0: Array) -> Array:
        d = (x - expand(path.alpha(t), x) * x0.astype(x.dtype)).reshape(len(x), -1)
        return jnp.concatenate([d, jnp.square(d)], axis=1)


def paired_recorder(x0: np.ndarray, key: Array, replicates: int = 100) -> SumRecorder:
    """For P2: ``x0`` (N, *shape), row j the datum that trajectory j's x_T was made of.  Memory calls x (replicates + 1) x 2 d."""
    return SumRecorder(_Deviation(2 * int(np.prod(np.shape(x0)[1:]))), key, replicates, (jnp.asarray(x0),))


def _delta(record: SumRecord, sigma: np.ndarray) -> np.ndarray:
    first, second = np.split(record.means(), 2, axis=-1)
    variance = np.maximum(second - np.square(first), 0.0) * (record.weight / (record.weight - 1))[:, None]
    return np.square(np.sqrt(variance).mean(axis=-1) - sigma[:, None])


def paired_delta(record: SumRecord, path: GaussianPath, null: SumRecord | np.ndarray, **options) -> ReadOut:
    """P2.  ``null``: ``paired_null`` (K,) for Gaussian data, or the record of a run of many steps of the same network at the same calls;
    ``paper``: 0, which is what the paper takes a perfect sampler to show."""
    sigma = on_host(path, record.t)[1]
    if isinstance(null, SumRecord):
        _same_calls(record, null)
    expected = _delta(null, sigma) if isinstance(null, SumRecord) else np.asarray(null, np.float64)
    return _read(record, "P2", "spread about the datum that was noised", _delta(record, sigma), expected, np.zeros(len(sigma)), **options)


def paired_null(spectrum: Spectrum, path: GaussianPath, t: np.ndarray, start: float = 1.0, stochastic: bool = True) -> np.ndarray:
    """delta_t (K,) of the exact reverse process of Gaussian data from the noised datum at ``start``; ``stochastic``: the SDE, else ODE."""
    (alpha, sigma, _), (alpha_T, _, _) = on_host(path, t), on_host(path, np.array([start]))
    V, V_T, s2 = spectrum.V(path, np.asarray(t)), spectrum.V(path, np.array([start])), spectrum.variance[None]
    a, a_T = alpha[:, None], alpha_T[:, None]
    covariance = a_T**2 * s2 * V / V_T if stochastic else a * a_T * s2 * np.sqrt(V / V_T)
    variance = np.maximum(V + a**2 * s2 - 2 * covariance, 0.0)
    d = spectrum.d
    unit = jnp.eye(d).reshape(d, *spectrum.mean.shape)
    axes = np.asarray(spectrum.basis.synthesise(unit), np.float64).reshape(d, d)  # row i: column i of Q
    shares = np.square(axes).T @ (spectrum.band.reshape(-1)[:, None] == np.arange(len(spectrum.variance)))  # pixel x band
    return np.square(np.sqrt(variance @ shares.T).mean(axis=1) - sigma)


@pytree_dataclass
class _Nearest:
    """(<y - z, x0 - z>, ||x0 - z||^2, m_j, m_j^2)."""

    size: int = static(default=4)

    def __call__(self, x: Array, t: Array, path: Any, x0: Array, z: Array) -> Array:
        flat = lambda v: v.astype(x.dtype).reshape(len(x), -1)  # noqa: E731
        y = flat(x) / (path.alpha(t) + path.sigma(t)).astype(x.dtype)
        toward = flat(x0) - flat(z)
        dot, square = jnp.sum((y - flat(z)) * toward, axis=1), jnp.sum(jnp.square(toward), axis=1)
        m = dot / jnp.where(square > 0, square, 1.0)
        return jnp.stack([dot, square, m, m * m], axis=1)


def nearest_recorder(x0: np.ndarray, z: np.ndarray, key: Array, replicates: int = 200) -> SumRecorder:
    """For P8: trajectory j starts from the noise ``z[j]`` (unit variance) and is paired with ``x0[j]``, an independent datum or (known from
    an earlier run of the same key) its own endpoint."""
    if np.shape(x0) != np.shape(z):
        refuse("nearest_recorder.z", np.shape(z), f"one noise for each datum, shape {np.shape(x0)}")
    return SumRecorder(_Nearest(), key, replicates, (jnp.asarray(x0), jnp.asarray(z)))


def nearest(record: SumRecord, path: GaussianPath, null: SumRecord | np.ndarray, **options) -> ReadOut:
    """P8: the pooled m_t = sum <y - z, x0 - z> / sum ||x0 - z||^2, 0 at noise and 1 at data.  ``null``: ``nearest_null`` or the record of a
    run of many steps; ``paper``: the diagonal alpha / (alpha + sigma)."""
    alpha, sigma, _ = on_host(path, record.t)
    pooled = lambda r: r.means()[..., 0] / r.means()[..., 1]  # noqa: E731
    if isinstance(null, SumRecord):
        _same_calls(record, null)
    expected = pooled(null) if isinstance(null, SumRecord) else np.asarray(null, np.float64)
    return _read(record, "P8", "nearest interpolation of noise and datum", pooled(record), expected, alpha / (alpha + sigma), **options)


def nearest_null(spectrum: Spectrum, path: GaussianPath, t: np.ndarray, own: bool = False) -> np.ndarray:
    """m_t (K,) of the exact probability flow of Gaussian data from pure noise (start at infinite kappa), paired with an independent datum
    or with its ``own`` endpoint (each band in its own variance, y = sqrt(V_b) z / (alpha + sigma) about alpha mu)."""
    alpha, sigma, _ = on_host(path, t)
    c = (alpha + sigma)[:, None]
    root, s = np.sqrt(spectrum.V(path, np.asarray(t))) / c, np.sqrt(spectrum.variance)[None]
    square = float(np.square(spectrum.mean).sum())
    toward = (1 - root) * (1 - s) if own else 1 - root
    whole = (1 - s) ** 2 if own else 1 + s**2
    return (alpha / (alpha + sigma) * square + toward @ spectrum.count) / (square + (whole @ spectrum.count))


def posterior_mean(probe: Probe, record: SumRecord, null: SumRecord, **options) -> ReadOut:
    """P7: the mean of the probe's posterior p(lambda | x) over trajectories, in nats of log-SNR; ``paper``: the nominal log-SNR, from which
    a perfect sampler is off by the probe's bias.  The densities themselves are ``probe.posterior(record)``."""
    _same_calls(record, null)
    grid = np.asarray(probe.outputs.grid, np.float64)

    def mean(r: SumRecord) -> np.ndarray:
        density = r.means()[..., probe.outputs.members :]
        return density @ grid / density.sum(axis=-1)

    return _read(record, "P7", "mean of the probe's posterior log-SNR", mean(record), mean(null), record.log_snr, **options)
