"""The states of a few trajectories and what the network made of them: the film of a run.

    (t_k, x_k^(j), D(x_k^(j), t_k)),   j < count,   for every network call k
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import batch_of
from score_lab.types import Array, PyTree, leaf, pytree_dataclass, static

__all__ = ["StateRecord", "StateRecorder"]


@pytree_dataclass
class StateRecord:
    """One row per network call: ``t`` (K,), ``x_t`` and the predicted ``x0`` (K, count, *shape), ``made`` (K,) False where the call was
    skipped.
    """

    t: Array = leaf()
    x_t: PyTree = leaf()
    x0: PyTree = leaf()
    made: Array = leaf()

    def kept(self) -> StateRecord:
        """The calls that were made, as numpy arrays on the host."""
        made = np.asarray(self.made)
        t, x_t, x0 = jax.tree.map(lambda v: np.asarray(v)[made], (self.t, self.x_t, self.x0))
        return StateRecord(t=t, x_t=x_t, x0=x0, made=made[made])


@pytree_dataclass
class StateRecorder:
    """A ``Recorder`` of the states and predictions of the first ``count`` trajectories: memory is calls x count x 2 states."""

    count: int = static(default=8)

    def init(self, num_steps: int, calls: int, x: PyTree) -> PyTree:
        """NaN everywhere; ConfigError if there are fewer than ``count`` trajectories."""
        if not 1 <= self.count <= batch_of(x):
            refuse("StateRecorder.count", self.count, f"1 to {batch_of(x)}, the number of samples")
        empty = jax.tree.map(lambda a: jnp.full((num_steps, calls, self.count, *a.shape[1:]), jnp.nan, a.dtype), x)
        real = jnp.result_type(*jax.tree.leaves(x))
        return {"t": jnp.full((num_steps, calls), jnp.nan, real), "x_t": empty, "x0": empty, "made": jnp.zeros((num_steps, calls), bool)}

    def update(self, record: PyTree, step: Array, call: int, prediction: Prediction, made: Array) -> PyTree:
        """The call written at (step, call), where ``made``."""
        first = lambda x: jax.tree.map(lambda a: jnp.where(made, a[: self.count], jnp.nan), x)  # noqa: E731
        values = {"t": jnp.where(made, prediction.t, jnp.nan), "x_t": first(prediction.x_t), "x0": first(prediction.x0), "made": made}
        return jax.tree.map(lambda old, new: old.at[step, call].set(jnp.asarray(new).astype(old.dtype)), record, values)

    def result(self, record: PyTree) -> StateRecord:
        """The record with steps and calls flattened to rows."""
        return StateRecord(**jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), record))
