"""The null: forward samples of the levels that a run visited, shown to the same network and kept by the same recorder.

    x_t^(j) = alpha x0^(j) + sigma eps^(j),    one (x0, eps) for each trajectory j at all levels, eps keyed by (key, j)

What a perfect sampler would read, estimator by estimator, with the data's own sampling error in it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.paths.base import indexed_normals
from score_lab.samplers.base import Recorder
from score_lab.types import Array, Cond

__all__ = ["forward_run"]


def forward_run(
    denoiser: Denoiser, x0: np.ndarray, t: np.ndarray, recorder: Recorder, key: Array, *, cond: Cond = None, index: Any = None,
    fed: np.ndarray | None = None,
) -> Any:  # fmt: skip
    """``recorder``'s result of the forward samples of ``x0`` (n, *shape) at the times ``t`` (K,): as many rows as levels.

    ``cond`` of every row; ``index`` (n,) the global indices, 0 to n - 1 by default; ``fed`` (K,): other times for the network to be told
    (the state stays that of ``t``, and so do the rows' ``t`` and ``log_snr``), as in a calibration of one label against many levels.
    """
    x0, t = jnp.asarray(x0), np.asarray(t, np.float64)
    if not np.isfinite(x0).all() or t.ndim != 1 or not ((t >= 0) & (t <= 1)).all():
        refuse("forward.x0, t", (x0.shape, t.shape), "finite data and a list of times in [0, 1]")
    index = jnp.arange(len(x0), dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
    real = jnp.result_type(float)
    told = t if fed is None else np.asarray(fed, np.float64)
    return _forward(denoiser, x0.astype(real), jnp.asarray(t, real), jnp.asarray(told, real), recorder, key, cond, index)


@jax.jit
def _forward(denoiser, x0, t, told, recorder, key, cond, index):
    eps, path = indexed_normals(key, index, jax.ShapeDtypeStruct(x0.shape[1:], x0.dtype)), denoiser.path

    def body(record, row):
        k, t, told = row
        p = denoiser(path.add_noise(x0, eps, t), told, cond, s=told, step=k)
        p = dataclasses.replace(p, t=t)  # the state's level; ``fed`` says what was told
        return recorder.update(record, k, 0, p, jnp.asarray(True)), ()

    rows = (jnp.arange(len(t), dtype=jnp.int32), t, told)
    record, _ = jax.lax.scan(body, recorder.init(len(t), 1, x0, index), rows)
    return recorder.result(record)
