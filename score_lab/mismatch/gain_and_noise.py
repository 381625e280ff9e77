"""The error of a denoiser at one level, split against the exact denoiser into a gain and a noise that is independent of the signal.

    D = (1 + eta) D* + e,  e uncorrelated with D*
    gain  1 + eta_b = E <D, D*>_b / E <D*, D*>_b,      noise  tau_b^2 = E |D - (1 + eta_b) D*|_b^2 / n_b,      both about the mean

They move ln R of a DDIM step by 2 ln(cos d + eta sin d cot phi) - 2 ln cos d and by sin^2 d tau^2 / (MMSE cos^2 d R), d = phi - phi'
(4.6, 4.7 of docs/mismatch.md).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.denoiser import Denoiser
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.replicates import Curve, curve, poisson_weights
from score_lab.mismatch.spectrum import Spectrum, by_band
from score_lab.paths.base import indexed_normals
from score_lab.types import Array

__all__ = ["LocalError", "local_error"]


@dataclasses.dataclass(frozen=True)
class LocalError:
    """At every level: ``gain`` 1 + eta_b, ``noise`` tau_b^2 / MMSE_b, one ``Curve`` over levels for each band; ``mmse`` (K, B) measured."""

    t: np.ndarray
    log_snr: np.ndarray
    gain: list[Curve]
    noise: list[Curve]
    mmse: np.ndarray


def local_error(
    denoiser: Denoiser, exact: Denoiser, x0: np.ndarray, t: np.ndarray, spectrum: Spectrum, key: Array, *, cond: Any = None,
    replicates: int = 200,
) -> LocalError:  # fmt: skip
    """Gain and independent noise of ``denoiser`` against ``exact`` on forward samples of ``x0`` (n, *shape) at the times ``t`` (K,)."""
    index = jnp.arange(len(x0), dtype=jnp.int32)
    x_key, w_key = jax.random.split(key)
    w = np.asarray(poisson_weights(w_key, index, replicates), np.float64)
    data = jnp.asarray(x0, jnp.result_type(float))
    levels = np.asarray(t, np.float64)
    gains, noises, mmse = [], [], []
    for time in levels:
        sums = _products(denoiser, exact, data, jnp.asarray(time, data.dtype), x_key, index, cond, spectrum)
        dd, ds, ss, miss = (w @ np.asarray(v, np.float64) / w.sum(axis=1)[:, None] for v in sums)
        gains.append(ds / ss)
        mmse.append(miss[0] / spectrum.count)
        noises.append((dd - ds**2 / ss) / miss)
    gains, noises = (np.stack(v) for v in (gains, noises))
    bands = range(len(spectrum.variance))
    path = denoiser.path
    return LocalError(
        levels, on_host(path, levels)[2], [curve(gains[..., b]) for b in bands], [curve(noises[..., b]) for b in bands], np.stack(mmse)
    )


def _products(denoiser, exact, x0, t, key, index, cond, spectrum) -> tuple[Array, ...]:
    """Band sums <D, D>, <D, D*>, <D*, D*>, |D* - x0|^2 (n, B), D about the mean."""
    x = denoiser.path.add_noise(x0, indexed_normals(key, index, jax.ShapeDtypeStruct(x0.shape[1:], x0.dtype)), t)
    mean = jnp.asarray(spectrum.mean, x.dtype)[None]
    d, s = (spectrum.basis.analyse(part(x, t, cond).x0 - mean) for part in (denoiser, exact))
    miss = s - spectrum.basis.analyse(x0 - mean)
    member = spectrum.membership(x.dtype)
    return tuple(by_band(a * b, member) for a, b in ((d, d), (d, s), (s, s), (miss, miss)))
