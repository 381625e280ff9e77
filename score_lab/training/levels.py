"""The training loss against the log-SNR at which it was taken, summed by bin on the devices: no gradient and no wait of the host.

    S_b = sum_i l_i [level_i in bin b],   N_b = sum_i [level_i in bin b],   loss at b = S_b / N_b over the steps of a line

The bins are those between the ``edges`` of ``config.training.loss_edges``, with one below and one above them.  The level of an example is
drawn again as its objective draws it, by ``objective.time_law`` from the same key (the compiler keeps one of the two); an objective
without a time law has no bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.objectives.base import Context
from score_lab.types import Array, Time

__all__ = ["COUNTS", "SUMS", "bin_names", "binned", "histograms", "levels_of", "loss_by_level", "times_of"]

SUMS, COUNTS = "loss by level", "examples by level"
"""The names of S and N, (bins,) each, among the figures of a step."""


def times_of(objective: Any, ctx: Context, index: Array) -> Time | None:
    """The times that ``objective`` draws for the examples ``index`` at this step, (batch,), or None where it has no time law."""
    law = getattr(objective, "time_law", None)
    if not hasattr(law, "sample"):
        return None
    return law.sample(ctx.key, index, ctx.batch_size, ctx.path, ctx.denoiser.log_snr_range)


def levels_of(objective: Any, ctx: Context, index: Array) -> Time | None:
    """Their log-SNRs on the path of the states, (batch,), infinite at the path's ends."""
    times = times_of(objective, ctx, index)
    return None if times is None else ctx.path.log_snr(times)


def binned(loss: Array, log_snr: Array, edges: Sequence[float]) -> dict[str, Array]:
    """S and N, (len(edges) + 1,) each, of the ``loss`` (batch,) at ``log_snr`` (batch,); a bin holds its lower edge."""
    above = jnp.sum(log_snr[:, None] >= jnp.asarray(edges, log_snr.dtype)[None, :], axis=1)
    inside = above[:, None] == jnp.arange(len(edges) + 1)[None, :]
    return {SUMS: jnp.sum(jnp.where(inside, loss[:, None], 0.0), axis=0), COUNTS: jnp.sum(inside, axis=0, dtype=jnp.float32)}


def bin_names(edges: Sequence[float]) -> list[str]:
    """``loss at (-inf, -8)``, ``loss at [-8, -6)``, ... ``loss at [8, inf)``."""
    ends = [-math.inf, *edges, math.inf]
    return [f"loss at {'(' if low == -math.inf else '['}{low:g}, {high:g})" for low, high in zip(ends, ends[1:], strict=False)]


def loss_by_level(steps: Sequence[Mapping[str, Any]], edges: Sequence[float]) -> dict[str, float]:
    """The mean loss over ``steps`` of every bin in which there was an example."""
    sums, counts = (_total(steps, name, edges) for name in (SUMS, COUNTS))
    return {name: float(s / n) for name, s, n in zip(bin_names(edges), sums, counts, strict=True) if n}


def histograms(steps: Sequence[Mapping[str, Any]], edges: Sequence[float]) -> dict[str, tuple[list[float], list[float]]]:
    """``{name: (upper edge of every bin, what is in it)}``: the examples by level, and the loss by level (S, so that bins add up)."""
    gap = max(np.diff(edges), default=2.0)
    limits = [*map(float, edges), float(edges[-1] + gap)]  # TensorBoard draws no bin that ends in infinity
    return {name: (limits, _total(steps, name, edges).tolist()) for name in (SUMS, COUNTS)}


def _total(steps: Sequence[Mapping[str, Any]], name: str, edges: Sequence[float]) -> np.ndarray:
    there = [step[name] for step in steps if name in step]
    return np.sum(np.asarray(there, np.float64).reshape(-1, len(edges) + 1), axis=0)
