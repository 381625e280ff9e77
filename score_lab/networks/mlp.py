"""A residual multilayer perceptron for low-dimensional data, told its level by scale and shift.

    h_0 = W x + c,      h_{k+1} = h_k + W2_k silu(W1_k ((1 + a_k) layer_norm(h_k) + b_k)),      y = W silu(h_depth)

(a_k, b_k) are linear in silu(c), c the embedding of level and label (embedding.py).  The last layer starts at zero, so y does.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
from flax import nnx

from score_lab.build import refuse
from score_lab.networks.base import FlaxNetwork, check_integer, check_shared, rematerialised
from score_lab.networks.embedding import Conditioning
from score_lab.networks.initializers import glorot, zeros
from score_lab.networks.layers import dropout, layer_norm, modulate
from score_lab.types import Array, Float, Int

__all__ = ["MLP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP(FlaxNetwork):
    """Residual blocks of ``width`` units for examples of shape (d,).

    Attributes:
      width: units of the residual stream and of each block's hidden layer.
      depth: the number of residual blocks.
    """

    width: int = 256
    depth: int = 3

    BLOCKS: ClassVar[tuple[str, ...]] = ("blocks",)

    def module(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Module:
        """The module for vectors of ``shape[0]`` entries."""
        return _MLP(self, shape[0], rngs)

    def check(self) -> None:
        """Raises ConfigError for impossible fields."""
        check_integer(self, "width", "depth")
        check_shared(self)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError unless ``shape`` is (d,)."""
        if len(shape) != 1 or shape[0] < 1:
            refuse("shape", tuple(shape), "(d,): MLP is a network for vectors; for images there are UNet and DiT")


class _Block(nnx.Module):
    """h + W2 dropout(silu(W1 modulate(layer_norm(h))))."""

    def __init__(self, network: MLP, index: int, rngs: nnx.Rngs):
        self.rate, self.index = network.dropout, index
        self.first = nnx.Linear(network.width, network.width, kernel_init=glorot, rngs=rngs)
        self.second = nnx.Linear(network.width, network.width, kernel_init=glorot, rngs=rngs)

    def __call__(self, h: Array, shift: Array, scale: Array, key: Array | None) -> Array:
        inner = jax.nn.silu(self.first(modulate(layer_norm(h), shift, scale)))
        return h + self.second(dropout(inner, self.rate, key, self.index))


class _MLP(nnx.Module):
    def __init__(self, network: MLP, size: int, rngs: nnx.Rngs):
        width, depth, self.remat = network.width, network.depth, network.remat
        self.conditioning = Conditioning(network, width, rngs)
        self.inward = nnx.Linear(size, width, kernel_init=glorot, rngs=rngs)
        self.modulation = nnx.Linear(width, 2 * depth * width, kernel_init=glorot, rngs=rngs)
        self.blocks = nnx.List([_Block(network, i, rngs) for i in range(depth)])
        self.outward = nnx.Linear(width, size * network.heads_out, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch size"],
        level: Float[Array, " batch"],
        level_s: Float[Array, " batch"],
        label: Int[Array, " batch"],
        augment: Float[Array, "batch numbers"] | None,
        key: Array | None,
    ) -> Float[Array, "batch size_out"]:
        c = self.conditioning(level, level_s, label, augment)
        h = self.inward(x) + c
        modulations = self.modulation(jax.nn.silu(c)).reshape(x.shape[0], len(self.blocks), 2, -1)
        for k, block in enumerate(self.blocks):
            h = rematerialised(block, self.remat)(h, modulations[:, k, 0], modulations[:, k, 1], key)
        return self.outward(jax.nn.silu(h))
