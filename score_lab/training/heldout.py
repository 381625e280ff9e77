"""Held-out loss at fixed noise levels with fixed noise, of the averaged parameters: one number per level, comparable between networks.

    x_t = alpha x0 + sigma eps,   eps drawn from (key of the run, position of the example), the same at every evaluation
    l(log_snr) = mean ||x0_hat - x0||^2 / d  *  (alpha^2 sigma_data^2 + sigma^2) / (sigma_data^2 sigma^2)

This is the loss of EDM's row F whatever row is trained: 1 is what the best linear denoiser of white data of standard deviation sigma_data
reaches, 0 perfect. ``eval/loss`` is the mean over the levels, which are evenly spaced in log-SNR within [-8, 8] as far as the network is
trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.data import batches
from score_lab.linear import combine, square_norm
from score_lab.paths.base import normals
from score_lab.training.options import data_options
from score_lab.training.parallel import Layout
from score_lab.training.parts import Parts
from score_lab.training.state import TrainState
from score_lab.types import Array, PyTree

__all__ = ["LIMIT", "levels_of", "make_heldout"]

LIMIT = 8.0
"""Levels beyond this log-SNR are not evaluated: there the loss is all rounding (data) or all variance of the data (noise)."""


def levels_of(parts: Parts) -> np.ndarray:
    """The log-SNRs of an evaluation, (eval_levels,), descending in noise."""
    low, high = parts.log_snr_range
    return np.linspace(max(low, -LIMIT), min(high, max(low + 1.0, LIMIT)), parts.options.eval_levels)


def make_heldout(parts: Parts, source: Any, layout: Layout, key: Array) -> Callable[[TrainState], dict[str, float]]:
    """``heldout(state) -> {"eval/loss": ..., "eval/loss at +8.0": ...}`` over the first ``eval_examples`` of the test split."""
    levels = levels_of(parts)
    at_once = dataclasses.replace(layout, accumulate=1)
    measure = at_once.summed(parts, _measure(parts, key))

    def heldout(state: TrainState) -> dict[str, float]:
        params = state.ema[0] if state.ema else state.params
        total, count = np.zeros(len(levels)), 0.0
        for batch in _batches(parts, source, layout):
            placed = at_once.place([batch])
            sums = [jax.device_get(measure(params, placed, np.float32(level))) for level in levels]
            total += np.array([float(s) for s, _ in sums], np.float64)
            count += float(sums[0][1])
        loss = total / count
        return {"eval/loss": float(loss.mean())} | {f"eval/loss at {v:+.1f}": float(x) for v, x in zip(levels, loss, strict=True)}

    return heldout


def _batches(parts: Parts, source: Any, layout: Layout) -> list[dict[str, Any]]:
    """The masked batches that hold the first ``eval_examples`` test examples, this process's rows."""
    most = min(parts.options.eval_examples, len(source("test")))
    pipeline = {name: value for name, value in data_options(parts.config)[1].items() if name not in ("batch_size", "shuffle")}
    size = parts.batch_size
    stream = batches(source, "test", size, repeat=False, process_index=layout.process, process_count=layout.processes, **pipeline)
    kept = [next(stream) for _ in range(-(-most // size))]
    return [batch | {"mask": batch["mask"] & (batch["index"] < most)} for batch in kept]


def _measure(parts: Parts, key: Array) -> Callable:
    """``(params, batch, log_snr) -> (sum of l over the examples that count, their number)``."""

    def measure(params: PyTree, batch: PyTree, log_snr: Array) -> tuple[Array, Array]:
        denoiser = parts.denoiser(params)
        path, x0 = denoiser.path, batch["x0"]
        t = path.time_of(log_snr)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), x0)
        eps = normals(jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["index"]), shapes)
        prediction = denoiser(path.add_noise(x0, eps, t), t, batch.get("cond"))
        d = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(x0))
        error = square_norm(combine((1.0, prediction.x0), (-1.0, x0))) / d
        alpha, sigma = path.alpha(t), path.sigma(t)
        variance = jnp.square(alpha * parts.sigma_data) + jnp.square(sigma)
        loss = error * variance / jnp.square(parts.sigma_data * sigma)
        return jnp.sum(jnp.where(batch["mask"], loss, 0.0)), jnp.sum(batch["mask"])

    return measure
