"""What an objective is: one number per example from a callable denoiser, with randomness keyed by the example's global index.

    l_i = loss(denoiser, x0_i, key_i),      key_i = fold_in(key of the step, i),      i = position in the *global* batch
    trained: the mean of l_i over the global batch, in the network's parameters and in the objective's own

So a loss knows neither the batch that its device happens to hold nor the number of devices: half a batch gives half of its losses.
An objective may call the denoiser as often as it likes, also under ``jax.jvp`` or ``jax.grad``.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from score_lab.build import ConfigError
from score_lab.linear import square_norm
from score_lab.paths.base import GaussianPath, normals
from score_lab.types import Array, Batch, Cond, PyTree, leaf, pytree_dataclass, static

__all__ = ["Context", "Objective", "draw_noise", "drop_labels", "example_keys", "mean_square", "noise_of", "shared_key"]


@runtime_checkable
class Objective(Protocol):
    """What is trained.  A data class of hyper-parameters; the class may say of itself what the trainer must build or avoid:

    ``level = "angle"`` (the denoiser is told a level that is smooth to both ends), ``two_time = True`` (and a second one, of ``s``),
    ``forward_mode = True`` (it uses ``jax.jvp``, which cuDNN's attention does not have), ``learned_variance = True``
    (the network's second head is trained); ``path(params)`` where it learns the path.
    """

    def init(self, key: Array, spec: PyTree) -> tuple[PyTree, PyTree]:
        """``(params, state)`` beyond the network, trained and not trained ({} if none); ``spec`` are the shapes of one example."""

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """``(loss (batch,), metrics (batch,) or scalar, state)``."""


@pytree_dataclass
class Context:
    """What a loss is handed.

    ``denoiser`` holds the parameters that are being trained, ``ema`` is the same with the first average (or None), ``path`` the path of
    the states, ``step`` the training step, ``key`` the typed key of this step (the same on every device), ``batch_size`` the number of
    examples in the *global* batch, over which a low-discrepancy time law spreads.  There is no ``teacher`` (a trained denoiser that is not
    trained on): it comes as a field of its own with distillation, among the few-step objectives.
    """

    denoiser: Any = leaf()
    ema: Any = leaf(default=None)
    path: GaussianPath | None = leaf(default=None)
    step: Any = leaf(default=0)
    key: Any = leaf(default=None)
    batch_size: int = static(default=1)

    def keys(self, index: Array, stream: str) -> Array:
        """One key per example, ``example_keys(self.key, index, stream)``."""
        return example_keys(self.key, index, stream)


def example_keys(key: Array, index: Array, stream: str) -> Array:
    """``fold_in(fold_in(key, index_i), crc32(stream))``, (batch,): streams ("noise", "label", any name) are independent of each other."""
    number = zlib.crc32(stream.encode()) & 0x7FFFFFFF
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), number))(index)


def shared_key(key: Array, stream: str) -> Array:
    """The key of a draw that the whole global batch shares, ``fold_in(key, 2^31 + crc32(stream))``: apart from every example's key."""
    return jax.random.fold_in(key, jnp.uint32(0x80000000 | (zlib.crc32(stream.encode()) & 0x7FFFFFFF)))


def draw_noise(key: Array, index: Array, x0: PyTree) -> PyTree:
    """Standard normals of ``x0``'s structure and precision, row i from (key, index[i]) alone: what devices and couplings both draw."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), x0)
    return normals(example_keys(key, index, "noise"), shapes)


def noise_of(ctx: Context, batch: Batch) -> PyTree:
    """``batch["noise"]`` where a coupling has paired it with ``x0``, else independent noise."""
    noise = batch.get("noise")
    return draw_noise(ctx.key, batch["index"], batch["x0"]) if noise is None else noise


def drop_labels(ctx: Context, batch: Batch, rate: float) -> Cond:
    """``batch["cond"]`` with every example's label replaced by -1 with probability ``rate``, independently of its batch-mates.

    Ho & Salimans 2022, algorithm 1.  Raises ConfigError where there are no labels to drop.
    """
    cond = batch.get("cond")
    if not rate:
        return cond
    if cond is None or "label" not in cond:
        raise ConfigError(f"objective.label_dropout: {rate!r} is refused; allowed: 0 for data without labels")
    drop = jax.vmap(lambda k: jax.random.bernoulli(k, rate))(ctx.keys(batch["index"], "label"))
    return {**cond, "label": jnp.where(drop, -1, cond["label"])}


def mean_square(x: PyTree) -> Array:
    """``||x||^2 / d`` of every example, d entries over all leaves: shape (batch,)."""
    d = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(x))
    return square_norm(x) / d
