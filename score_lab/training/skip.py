"""An update whose loss or gradient is not finite is left out, on the devices: ``state' = state`` but for the step.

What Optax counts does not move either: the learning rate follows the updates that were made, not the steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_lab.training.state import TrainState
from score_lab.types import Array

__all__ = ["SKIPPED", "keep_finite", "updates_made"]

SKIPPED = "skipped"
"""Among the figures of a step with ``nonfinite = "skip"``: 1 where it changed nothing."""


def keep_finite(after: TrainState, before: TrainState, figures: Mapping[str, Array]) -> tuple[TrainState, dict[str, Array]]:
    """``after``, or ``before`` at the next step where the loss or the gradient's norm is not finite; with the figure ``skipped``."""
    good = jnp.isfinite(figures["loss"]) & jnp.isfinite(figures["grad_norm"])
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), _changing(after), _changing(before))
    return dataclasses.replace(after, **kept), {**figures, SKIPPED: 1.0 - good.astype(jnp.float32)}


def updates_made(state: TrainState) -> Array:
    """The number of updates that Optax has counted, by which its learning rate goes; the steps where it counts none."""
    counts = [x for _, x in optax.tree_utils.tree_get_all_with_path(state.opt_state, "count") if jnp.ndim(x) == 0]
    return counts[0] if counts else state.step


def _changing(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("params", "ema", "opt_state", "objective")}
