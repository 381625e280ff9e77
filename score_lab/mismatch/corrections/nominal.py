"""A step taken at another level than the grid's, recorded at the grid's: what is measured stays the state that the sampler was in.

    shown to the recorder: x_t, t as the grid has them, the level fed as the network was told, x0 and eps as it answered
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_lab.denoiser import Prediction
from score_lab.samplers.calls import Calls
from score_lab.types import Array, PyTree

__all__ = ["Nominal", "step_at"]


@dataclasses.dataclass(frozen=True)
class Nominal:
    """``recorder`` with the first call of a step shown as one of state ``x`` at time ``t``."""

    recorder: Any
    x: PyTree
    t: Any

    def update(self, record: PyTree, step: Array, call: int, prediction: Prediction, made: Array) -> PyTree:
        """The recorder's, of the state as it was."""
        shown = dataclasses.replace(prediction, x_t=self.x, t=self.t) if call == 0 else prediction
        return self.recorder.update(record, step, call, shown, made)


def step_at(
    sampler: Any, denoise: Calls, x: PyTree, t: Any, s: Any, draw: Callable, carry: PyTree, *, shown: tuple[PyTree, Any]
) -> tuple[PyTree, PyTree, Prediction]:
    """``sampler.step`` from (x, t) to s, which the recorder sees as one from ``shown``, the state and the time of the grid.

    t and s are scalars, or one of each sample: (batch,)."""
    recorder = None if denoise.recorder is None else Nominal(denoise.recorder, *shown)
    t, s = jnp.broadcast_arrays(t, s)
    to = jnp.broadcast_to(denoise.s, t.shape)  # what a two-time network is told, one for each time
    inner = Calls(denoise.denoiser, denoise.cond, denoise.step, denoise.steps, to, denoise.nfe, recorder, denoise.record)
    inner.made = denoise.made
    found = sampler.step(inner, x, t, s, draw, carry)
    denoise.nfe, denoise.record, denoise.made = inner.nfe, inner.record, inner.made
    return found
