"""The states of a few samples at every network call: for films, and for tests that look inside a run.

    call j of step k:  x_t, x0 (the prediction), t, log_snr, the level fed, and whether it was made

Memory: 2 num_steps calls rows d floats for rows samples of d numbers each (50 Heun steps of 16 images 32 x 32 x 3 in float32: 39 MB).  It
is kept on the device until the run ends, so ``rows`` is a number of samples, not all of them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import batch_of
from score_lab.types import Array, PyTree, leaf, pytree_dataclass

__all__ = ["StateRecord", "StateRecorder", "nominal", "put"]


def nominal(recorder: str, prediction: Prediction) -> tuple[Array, Array, Array]:
    """``(t, log_snr, fed)`` of a call: its time and level, of shape (), and the log-SNR that the network was told, () or (batch,); the
    nominal one where the prediction does not say.  Raises ConfigError, in the name of ``recorder``, for a time per example.
    """
    t = jnp.asarray(prediction.t)
    if t.ndim:
        refuse(f"{recorder}: the time of a call", t.shape, "one time for all trajectories, shape ()")
    level = prediction.path.log_snr(t)
    return t, level, level if prediction.fed is None else jnp.asarray(prediction.fed)


def put(record: dict[str, PyTree], step: Array, call: int, made: Array, values: dict[str, PyTree]) -> dict[str, PyTree]:
    """``record`` with ``values`` at (step, call) of its entries of these names, (num_steps, calls, ...), where the call was ``made``; as it
    was where not.  The entry "made" says which it was."""

    def one(kept, new):
        return kept.at[step, call].set(jnp.where(made, jnp.asarray(new, kept.dtype), kept[step, call]))

    return record | {name: jax.tree.map(one, record[name], value) for name, value in (values | {"made": made}).items()}


@pytree_dataclass
class StateRecord:
    """Arrays with the axes (num_steps, calls, ...); ``x_t`` and ``x0`` (num_steps, calls, rows, *shape).  What was not ``made`` is 0."""

    x_t: PyTree = leaf()
    x0: PyTree = leaf()
    t: Array = leaf()
    log_snr: Array = leaf()
    fed: Array = leaf()
    made: Array = leaf()

    def in_order(self) -> StateRecord:
        """The calls that were made, one after the other, in numpy: every array (number of calls, ...)."""
        made = np.asarray(self.made).reshape(-1)

        def one(a):
            a = np.asarray(a)
            return a.reshape((-1,) + a.shape[2:])[made]

        return jax.tree.map(one, self)


@pytree_dataclass
class StateRecorder:
    """Records the first ``rows`` samples of the batch (all, if there are fewer)."""

    rows: int = 16

    def check(self) -> None:
        """``rows >= 1``."""
        if self.rows < 1:
            refuse("StateRecorder.rows", self.rows, "at least 1")

    def init(self, num_steps: int, calls: int, x: PyTree, index: Array) -> StateRecord:
        """Zeros; nothing made."""
        rows = min(self.rows, batch_of(x))
        states = jax.tree.map(lambda a: jnp.zeros((num_steps, calls, rows) + a.shape[1:], a.dtype), x)
        level = jnp.zeros((num_steps, calls), jnp.result_type(float))
        return StateRecord(x_t=states, x0=states, t=level, log_snr=level, fed=level, made=jnp.zeros((num_steps, calls), bool))

    def update(self, record: StateRecord, step: Array, call: int, prediction: Prediction, made: Array) -> StateRecord:
        """One call, where it was made; times are of the first sample where they differ."""
        p = prediction
        states = {name: jax.tree.map(lambda a: a[: self.rows], v) for name, v in (("x_t", p.x_t), ("x0", p.x0))}
        levels = {name: jnp.reshape(v, -1)[0] for name, v in (("t", p.t), ("log_snr", p.path.log_snr(p.t)), ("fed", p.fed))}
        return StateRecord(**put(vars(record), step, call, made, states | levels))

    def result(self, record: StateRecord) -> StateRecord:
        """The record itself."""
        return record

    def merge(self, records: list[StateRecord]) -> StateRecord:
        """The record of all chunks of one run, in their order: the first ``rows`` samples of all of them."""
        def join(*a):
            return np.concatenate(a, axis=2)[:, :, : self.rows]

        x_t, x0 = (jax.tree.map(join, *(getattr(r, name) for r in records)) for name in ("x_t", "x0"))
        return dataclasses.replace(records[0], x_t=x_t, x0=x0)
