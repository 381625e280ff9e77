"""Starting from given states: SDEdit.

    x_T = alpha x0 + sigma eps at a stated log-SNR, then sample(..., x_T=x_T) on a grid that starts there   (Meng et al. 2022, algorithm 1)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.linear import batch_of
from score_lab.paths.base import GaussianPath, normals
from score_lab.samplers.grids.base import times_of
from score_lab.types import Array, PyTree

__all__ = ["noised"]


def noised(x0: PyTree, path: GaussianPath, log_snr: float, key: Array, index: Any = None) -> PyTree:
    """``x0`` (n, *shape) with noise at ``log_snr`` of ``path``; sample i's noise depends on (key, index[i]) alone, index 0..n-1 by default.

    Hand it to ``sample(denoiser, sampler, UniformLogSNR(num_steps, start=log_snr), x_T=...)``, or to any grid whose first level is that one
    (``Karras(sigma_max=exp(-log_snr / 2))``).  Raises ConfigError for a level that the path does not have.
    """
    t = times_of(path, np.array([log_snr]), "noised.log_snr")[0]
    index = jnp.arange(batch_of(x0), dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a)[1:], jnp.result_type(a)), x0)
    eps = normals(jax.vmap(lambda i: jax.random.fold_in(key, i))(index), like)
    return path.add_noise(jax.tree.map(jnp.asarray, x0), eps, jnp.asarray(t, jnp.result_type(float)))
