"""Starting from given states: SDEdit.

    x_T = alpha x0 + sigma eps    at a stated log-SNR, then sample(..., x_T=x_T) on a grid that starts there      (Meng et al. 2022, algorithm 1)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import batch_of
from score_lab.paths.base import GaussianPath, normals
from score_lab.types import Array, PyTree

__all__ = ["noised"]


def noised(x0: PyTree, path: GaussianPath, log_snr: float, key: Array, index: Array | None = None) -> PyTree:
    """``x0`` (n, *shape) with noise at ``log_snr`` of ``path``; sample i's noise depends on (key, index[i]) alone, index 0..n-1 by default.

    Hand it to ``sample(denoiser, sampler, UniformLogSNR(num_steps, start=log_snr), x_T=...)``, or to any grid whose first level is that one
    (``Karras(sigma_max=exp(-log_snr / 2))``).  Raises ConfigError for a level that the path does not have.
    """
    low, high = (float(v) for v in path.log_snr(jnp.asarray([1.0, 0.0])))
    if not low - 1e-4 <= log_snr <= high + 1e-4:
        refuse("noised.log_snr", log_snr, f"a log-SNR of {type(path).__name__}, from {low:.6g} to {high:.6g}")
    index = jnp.arange(batch_of(x0), dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a)[1:], jnp.result_type(a)), x0)
    eps = normals(jax.vmap(lambda i: jax.random.fold_in(key, i))(index), like)
    return path.add_noise(jax.tree.map(jnp.asarray, x0), eps, path.time_of(jnp.asarray(log_snr, jnp.result_type(float))))
