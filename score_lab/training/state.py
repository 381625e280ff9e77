"""The state of a run: what a step takes and gives back, and what a checkpoint holds.

On the device: ``TrainState``.  Beside it, on the host (loop.py): the position in the data and the metrics since the last log line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from score_lab.training.names import leaf_name
from score_lab.training.parts import Parts
from score_lab.types import Array, Int, Key, PyTree, leaf, pytree_dataclass

__all__ = ["TrainState", "abstract_state", "init_state", "keys_of"]


@pytree_dataclass
class TrainState:
    """Everything that an update reads and writes.

    Attributes:
      step: updates made so far.
      key: of the run; the randomness of a step is keyed by ``fold_in(key, step)`` and never carried.
      params: ``{"network": ..., "objective": ...}``, what is trained.
      ema: averages of ``params``, one per decay, then one per power-function profile.
      opt_state: Optax's.
      objective: what the objective carries and does not train.
    """

    step: Int[Array, ""] = leaf()
    key: Key[Array, ""] = leaf()
    params: PyTree = leaf()
    ema: tuple = leaf()
    opt_state: PyTree = leaf()
    objective: PyTree = leaf()


def keys_of(seed: int) -> dict[str, Array]:
    """The keys of a run by what they are for: ``init``, ``train``, ``heldout``."""
    names = ("init", "train", "heldout")
    return dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))


def init_state(parts: Parts, seed: int, leaves: Mapping[str, ArrayLike] | None = None, shardings: PyTree = None) -> TrainState:
    """The state at step 0, from one compiled call; the averages start at the parameters.

    ``leaves``: parameters by name, in place of those that are drawn; ``shardings``: where each leaf of the state lies.
    """
    keys = keys_of(seed)
    fresh = jax.jit(lambda init, train, given: _fresh(parts, init, train, given), out_shardings=shardings)
    state = fresh(keys["init"], keys["train"], dict(leaves or {}))
    return jax.tree.map(jnp.copy, state)  # a buffer that two leaves share could not be donated


def abstract_state(parts: Parts) -> TrainState:
    """Shapes and dtypes of the state, nothing allocated."""
    return jax.eval_shape(lambda k: _fresh(parts, k, k), jax.random.key(0))


def _fresh(parts: Parts, init: Array, train: Array, given: Mapping[str, Array] = MappingProxyType({})) -> TrainState:
    params, objective = parts.init(init)
    params = jax.tree_util.tree_map_with_path(lambda path, x: jnp.asarray(given.get(leaf_name(path), x), x.dtype), params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=train,
        params=params,
        ema=tuple(params for _ in (*parts.options.ema, *parts.options.profiles)),
        opt_state=parts.optimizer.init(params),
        objective=objective,
    )
