"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, appendix B, config G).

    down:  h <- block(h), kept;  at the start of every level but the first a block that halves, kept
    up:    h <- block(mp_cat(h, last kept)), once more per level than on the way down;  at its start a block that doubles
    y = g conv(h),   g = 0 at the start

No norm but pixel_norm on the way down, no bias: a channel of ones beside those of ``x`` is in its place.  Every weight is divided by its
length where it is used, every sum and concatenation by what it adds, so that activations have magnitude 1 at the start and stay near it
(edm2_layers.py, edm2_blocks.py).  Training sets the weights that ``unit_magnitude`` names to magnitude 1 after every update.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from score_lab.build import refuse
from score_lab.networks.base import FlaxNetwork, check_integer, check_shared, divisors
from score_lab.networks.edm2_blocks import Block, Conditioning
from score_lab.networks.edm2_layers import MPConv, mp_cat
from score_lab.networks.layers import check_attention
from score_lab.networks.unet import attends, check_levels, check_resolutions, through
from score_lab.types import Array, Float, Int, PyTree

__all__ = ["EDM2"]

WIDTHS = {"XXS": 64, "XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}
"""Channels of the first level of the paper's models (XXS is in the release alone)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM2(FlaxNetwork):
    """A convolutional network for images (height, width, channels), height and width divisible by 2^(levels - 1).

    Attributes:
      width: channels of the first level, and the number of the level's features.
      multipliers: channels of each level over ``width``; as many levels as there are multipliers.
      blocks: residual blocks per level on the way down (one more on the way up).
      attention_at: resolutions (the shorter side of the feature map) with attention after each residual block; the middle always has it.
      head_width: channels per attention head.
      attention: "xla"; "cudnn", on a GPU in half precision (no forward-mode derivative there); "auto": that where there is one, or "xla".
      residual_balance, attention_balance: t of the mp_sum with what a block and its attention add.
      label_balance: t of the label's mp_sum with the level's embedding.
      skip_balance: t of mp_cat, with what was kept on the way down as b.
      clip: the greatest absolute value of a block's output.
      max_frequency: as in every network; at 2.2 they are 192 quantiles of 2 pi N(0, 1) per unit of EDM's ln(sigma) / 4 = -log_snr / 8.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention_at: tuple[int, ...] = (16, 8)
    head_width: int = 64
    attention: str = "auto"
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    label_balance: float = 0.5
    skip_balance: float = 0.5
    clip: float = 256.0
    max_frequency: float = 2.2

    BLOCKS: ClassVar[tuple[str, ...]] = ("down", "middle", "up")

    @classmethod
    def named(cls, name: str, **fields) -> EDM2:
        """The paper's models by name, ``EDM2.named("S")``: XXS, XS, S, M, L, XL or XXL; ``fields`` are the remaining ones."""
        if name not in WIDTHS:
            refuse("name", name, f"one of {', '.join(WIDTHS)}", WIDTHS)
        return cls(width=WIDTHS[name], **fields)

    @property
    def uses_convolution(self) -> bool:
        """True: on CPU, loop over training steps on the host."""
        return True

    @property
    def unit_magnitude(self) -> tuple[str, ...]:
        """Patterns of the leaves that are used divided by their length, over all axes but the last: all but the gains."""
        return ("*.kernel", "conditioning.table")

    @property
    def features(self) -> int:
        """How many features of a level there are."""
        return self.width * self.multipliers[0]

    def module(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Module:
        """The module for images of ``shape`` (height, width, channels)."""
        return _EDM2(self, shape, rngs)

    @property
    def takes_shares(self) -> bool:
        """True: ``cast`` leaves them alone, and a weight is divided by its length when it is whole."""
        return type(self).apply is FlaxNetwork.apply and type(self).cast is EDM2.cast and self.has_own_blocks

    def cast(self, params: PyTree, compute: jnp.dtype) -> PyTree:
        """The parameters as they are: a weight is rounded to ``compute`` after it was divided by its length."""
        return params

    def check(self) -> None:
        """Raises ConfigError for impossible fields."""
        check_integer(self, "width", "blocks", "head_width")
        check_levels(self)
        self._check_heads(len(self.multipliers) - 1)
        for field in ("residual_balance", "attention_balance", "label_balance", "skip_balance"):
            if not 0.0 < getattr(self, field) < 1.0:
                refuse(field, getattr(self, field), "a share between 0 and 1")
        if not 0.0 < self.clip < float("inf"):
            refuse("clip", self.clip, "a finite number above 0")
        check_attention(self)
        check_shared(self)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError unless the image can be halved for every level and every resolution of ``attention_at`` occurs."""
        check_resolutions(self, shape)
        for level in range(len(self.multipliers)):
            if attends(self, level, shape):
                self._check_heads(level)

    def _check_heads(self, level: int) -> None:
        """Refuses heads that do not divide the channels of ``level``."""
        channels = self.width * self.multipliers[level]
        if channels % self.head_width:
            allowed = f"a divisor of the {channels} channels (width * multiplier) of level {level}: {divisors(channels)}"
            refuse("head_width", self.head_width, allowed)


class _EDM2(nnx.Module):
    def __init__(self, network: EDM2, shape: tuple[int, ...], rngs: nnx.Rngs):
        levels, wide = len(network.multipliers), network.width * max(network.multipliers)
        channels = [network.width * m for m in network.multipliers]
        self.remat, self.skip_balance, self.channels_out = network.remat, network.skip_balance, shape[-1]
        self.conditioning = Conditioning(network, wide, rngs)
        self.inward = MPConv(shape[-1] + 1, channels[0], rngs)
        counter = iter(range(10**6))  # a block's place in the network: what its dropout is keyed by

        def block(size: int, out: int, *, encoder: bool = False, way: str | None = None, attention: bool = False) -> Block:
            return Block(network, size, out, wide, next(counter), rngs, encoder=encoder, way=way, attention=attention)

        down, kept, size = [], [channels[0]], channels[0]
        for i in range(levels):
            if i > 0:
                down.append(block(size, size, encoder=True, way="down"))
                kept.append(size)
            for _ in range(network.blocks):
                down.append(block(size, channels[i], encoder=True, attention=attends(network, i, shape)))
                size = channels[i]
                kept.append(size)
        middle = [block(size, size, attention=True), block(size, size)]
        up = []
        for i in reversed(range(levels)):
            if i < levels - 1:
                up.append(block(size, size, way="up"))
            for _ in range(network.blocks + 1):
                up.append(block(size + kept.pop(), channels[i], attention=attends(network, i, shape)))
                size = channels[i]
        self.down, self.middle, self.up = nnx.List(down), nnx.List(middle), nnx.List(up)
        self.outward = MPConv(size, shape[-1] * network.heads_out, rngs)
        self.gain = nnx.Param(jnp.zeros((network.heads_out,), jnp.float32))

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        level: Float[Array, " batch"],
        level_s: Float[Array, " batch"],
        label: Int[Array, " batch"],
        augment: Float[Array, "batch numbers"] | None,
        key: Array | None,
    ) -> Float[Array, "batch height width channels_out"]:
        c = self.conditioning(level, level_s, label, augment, x.dtype)
        h = self.inward(jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1))
        h = through(self, h, c, key, lambda h, kept: mp_cat(h, kept, self.skip_balance))
        return self.outward(h, jnp.repeat(self.gain[...], self.channels_out))
