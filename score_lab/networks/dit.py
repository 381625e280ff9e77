"""The diffusion transformer with adaLN-zero (Peebles & Xie 2023), on images of any height and width that its patch divides.

    h_0 = W patches(x) + position,       (a, b, g) = modulation of block k, linear in silu(c), zero at the start
    h <- h + g1 attention((1 + a1) layer_norm(h) + b1),      h <- h + g2 mlp((1 + a2) layer_norm(h) + b2)
    y = unpatch(W ((1 + a) layer_norm(h) + b)),  W = 0 at the start

c is the embedding of level and label (embedding.py).  The modulations of all blocks come from c by one matrix product.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from score_lab.build import refuse
from score_lab.networks.base import FlaxNetwork, check_integer, check_shared, divisors, image_shape, rematerialised
from score_lab.networks.embedding import Conditioning
from score_lab.networks.initializers import glorot, zeros
from score_lab.networks.layers import Linear, attend, check_attention, dropout, layer_norm, modulate
from score_lab.types import Array, Float, Int

__all__ = ["DiT"]

SIZES = {
    "S": {"depth": 12, "width": 384, "heads": 6},
    "B": {"depth": 12, "width": 768, "heads": 12},
    "L": {"depth": 24, "width": 1024, "heads": 16},
    "XL": {"depth": 28, "width": 1152, "heads": 16},
}
"""Depth, width and heads of the paper's models (its table 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiT(FlaxNetwork):
    """A transformer over patches of ``patch`` x ``patch`` pixels.

    Attributes:
      patch: side of a patch; divides height and width.
      width: width of the residual stream; a multiple of ``heads`` and of 4 (two sines and two cosines per position frequency).
      depth: the number of blocks.
      heads: attention heads.
      mlp_ratio: hidden width of a block's perceptron over ``width``.
      attention: "xla"; "cudnn", on a GPU in half precision (no forward-mode derivative there); "auto": that where there is one, or "xla".
    """

    patch: int = 2
    width: int = 128
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    attention: str = "auto"

    BLOCKS: ClassVar[tuple[str, ...]] = ("blocks",)

    @classmethod
    def named(cls, name: str, **fields) -> DiT:
        """The paper's models by name, ``DiT.named("S/2")``: size S, B, L or XL, then the patch; ``fields`` are the remaining ones."""
        size, slash, patch = str(name).partition("/")
        if size not in SIZES or not slash or not patch.isdigit():
            refuse("name", name, f"one of {', '.join(SIZES)}, then / and the patch, for example 'S/2'", [f"{s}/2" for s in SIZES])
        return cls(patch=int(patch), **{**SIZES[size], **fields})

    def module(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Module:
        """The module for images of ``shape`` (height, width, channels)."""
        return _DiT(self, shape[-1], rngs)

    def check(self) -> None:
        """Raises ConfigError for impossible fields."""
        check_integer(self, "patch", "width", "depth", "heads")
        if self.width % 4:
            refuse("width", self.width, "multiples of 4 (the position embedding has two sines and two cosines per frequency)")
        if self.width % self.heads:
            refuse("heads", self.heads, f"a divisor of width {self.width}: {divisors(self.width)}")
        if not 1 <= self.mlp_ratio * self.width < float("inf"):
            refuse("mlp_ratio", self.mlp_ratio, f"a finite number of at least 1 / width = {1 / self.width:.3g}")
        check_attention(self)
        check_shared(self)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError unless ``shape`` is (height, width, channels) and the patch divides height and width."""
        height, width, _ = image_shape(self, shape)
        if height % self.patch or width % self.patch:
            refuse("patch", self.patch, f"a divisor of the image's height {height} and width {width}: {divisors(height, width)}")


@functools.cache
def _positions(rows: int, columns: int, width: int) -> np.ndarray:
    """The 2-D sine-cosine embedding of a grid of patches, (1, rows * columns, width), float64.

    Half of the channels hold the row, half the column: sin and cos of position * 10000^(-j / (width / 4)) (the paper's code).
    """
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [position.reshape(-1, 1) * omega[None, :] for position in (row, column)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=-1)[None]


class _Block(nnx.Module):
    """Attention and perceptron, each adaptively normalised and gated."""

    def __init__(self, network: DiT, index: int, rngs: nnx.Rngs):
        width, hidden = network.width, int(network.mlp_ratio * network.width)
        linear = functools.partial(Linear, kernel_init=glorot, rngs=rngs)
        self.heads, self.attention, self.rate, self.index = network.heads, network.attention, network.dropout, index
        self.qkv, self.project = linear(width, 3 * width), linear(width, width)
        self.first, self.second = linear(width, hidden), linear(hidden, width)

    def __call__(self, h: Float[Array, "batch tokens width"], modulation: list[Array], key: Array | None) -> Array:
        b1, a1, g1, b2, a2, g2 = modulation
        inner = self.project(attend(self.qkv(modulate(layer_norm(h), b1, a1)), self.heads, self.attention))
        h = h + g1 * dropout(inner, self.rate, key, 2 * self.index)
        inner = self.second(jax.nn.gelu(self.first(modulate(layer_norm(h), b2, a2)), approximate=True))
        return h + g2 * dropout(inner, self.rate, key, 2 * self.index + 1)


class _DiT(nnx.Module):
    def __init__(self, network: DiT, channels: int, rngs: nnx.Rngs):
        width, depth, self.patch, self.remat = network.width, network.depth, network.patch, network.remat
        self.conditioning = Conditioning(network, width, rngs)
        self.inward = Linear(self.patch**2 * channels, width, kernel_init=glorot, rngs=rngs)
        self.modulation = Linear(width, (6 * depth + 2) * width, kernel_init=zeros, rngs=rngs)
        self.blocks = nnx.List([_Block(network, i, rngs) for i in range(depth)])
        self.outward = Linear(width, self.patch**2 * channels * network.heads_out, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        level: Float[Array, " batch"],
        level_s: Float[Array, " batch"],
        label: Int[Array, " batch"],
        augment: Float[Array, "batch numbers"] | None,
        key: Array | None,
    ) -> Float[Array, "batch height width channels_out"]:
        batch, height, width, channels = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        tokens = x.reshape(batch, rows, p, columns, p, channels).transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        h = self.inward(tokens)
        h = h + jnp.asarray(_positions(rows, columns, h.shape[-1]), h.dtype)
        c = self.conditioning(level, level_s, label, augment)
        modulation = jnp.split(self.modulation(jax.nn.silu(c))[:, None, :], 6 * len(self.blocks) + 2, axis=-1)
        for k, block in enumerate(self.blocks):
            h = rematerialised(block, self.remat)(h, modulation[6 * k : 6 * k + 6], key)
        out = self.outward(modulate(layer_norm(h), *modulation[-2:]))
        out = out.reshape(batch, rows, columns, p, p, -1).transpose(0, 1, 3, 2, 4, 5)
        return out.reshape(batch, height, width, -1)
