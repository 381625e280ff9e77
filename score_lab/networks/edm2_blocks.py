"""The parts of EDM2's U-Net (Karras et al. 2024, figure 21, config G): what it is told beside ``x``, and the residual block.

    c = mp_silu(mp_sum(W features(level), label)),      label = table[label + 1],  M = 1 per channel over the rows of the table
    down:  x <- pixel_norm(skip(u(x)))          up:  x <- u(x), and skip(x) for the sum
    y = W2 dropout(mp_silu(W1 mp_silu(x) (1 + g W c))),   g = 0 at the start;          x <- mp_sum(x, y, 0.3)
    x <- mp_sum(x, W attend(pixel_norm(qkv(x))), 0.3)  where there is attention;       x <- clip(x, -256, 256)

u is the identity, 2 x 2 averaging (down) or nearest neighbours (up).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from score_lab.networks.edm2_layers import (
    MPConv,
    MPLinear,
    fourier,
    mp_silu,
    mp_sum,
    pixel_norm,
    unit_magnitude,
    unit_normal,
)
from score_lab.networks.embedding import rows_of
from score_lab.networks.layers import attend, dropout
from score_lab.networks.unet_blocks import WAYS
from score_lab.types import Array, Float, Int

__all__ = ["Block", "Conditioning"]


class Conditioning(nnx.Module):
    """The vector c (batch, width) of level, second level, label and augmentation, activated.

    A label is a column of one-hot numbers times the square root of their count through an MP layer, which is a row of the table whose
    columns have M = 1.  Row 0 is "no label" (-1), a row like the others, so that c has M = 1 without a label too; other labels give NaN.
    The second level enters as ``level - level_s``, by mp_sum.  An augmentation's label is added with a gain that starts at 0: a label of 0
    is none.
    """

    def __init__(self, network, width: int, rngs: nnx.Rngs):
        self.count, self.max_frequency, self.balance = network.features, network.max_frequency, network.label_balance
        self.level = MPLinear(self.count, width, rngs)
        if network.two_time:
            self.level_s = MPLinear(self.count, width, rngs)
        if network.num_classes:
            self.table = nnx.Param(unit_normal(rngs.params(), (network.num_classes + 1, width)))
        if network.augment_dim:
            self.augment = MPLinear(network.augment_dim, width, rngs)
            self.augment_gain = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(
        self,
        level: Float[Array, " batch"],
        level_s: Float[Array, " batch"],
        label: Int[Array, " batch"],
        augment: Float[Array, "batch numbers"] | None,
        dtype,
    ) -> Float[Array, "batch width"]:
        """c in ``dtype`` of the levels and the labels, each (batch,), and the augmentation's labels (batch, augment_dim) or None."""
        c = self.level(fourier(level, self.count, self.max_frequency).astype(dtype))
        if hasattr(self, "level_s"):
            c = mp_sum(c, self.level_s(fourier(level - level_s, self.count, self.max_frequency).astype(dtype)), 0.5)
        if hasattr(self, "table"):
            c = mp_sum(c, rows_of(unit_magnitude(self.table[...]), label).astype(dtype), self.balance)
        if hasattr(self, "augment"):
            c = c + self.augment(augment, self.augment_gain[...])
        return mp_silu(c)


class Attention(nnx.Module):
    """Self-attention over all pixels, with queries, keys and values of M = 1 per pixel and head."""

    def __init__(self, network, channels: int, rngs: nnx.Rngs):
        self.heads, self.implementation = channels // network.head_width, network.attention
        self.qkv, self.project = MPLinear(channels, 3 * channels, rngs), MPLinear(channels, channels, rngs)

    def __call__(self, h: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        """What is summed to h: W softmax(q k^T / sqrt(d)) v."""
        batch, height, width, channels = h.shape
        qkv = self.qkv(h).reshape(batch, height * width, 3 * self.heads, channels // self.heads)
        out = attend(pixel_norm(qkv).reshape(batch, height * width, 3 * channels), self.heads, self.implementation)
        return self.project(out).reshape(h.shape)


class Block(nnx.Module):
    """The residual block, with ``way`` None, "down" or "up", and attention behind it where asked.

    ``encoder``: of the way down, where the skip's convolution and pixel_norm come first.  ``width`` is that of c, ``index`` its place in
    the network: what its dropout is keyed by.
    """

    def __init__(
        self, network, size: int, out: int, width: int, index: int, rngs: nnx.Rngs, *, encoder: bool, way: str | None, attention: bool
    ):
        self.encoder, self.way, self.rate, self.index = encoder, way, network.dropout, index
        self.residual_balance, self.attention_balance, self.clip = network.residual_balance, network.attention_balance, network.clip
        self.conv1, self.conv2 = MPConv(out if encoder else size, out, rngs), MPConv(out, out, rngs)
        self.embed, self.gain = MPLinear(width, out, rngs), nnx.Param(jnp.zeros((), jnp.float32))
        if size != out:
            self.skip = MPLinear(size, out, rngs)
        if attention:
            self.attention = Attention(network, out, rngs)

    def __call__(
        self, x: Float[Array, "batch height width channels"], c: Float[Array, "batch embedding"], key: Array | None
    ) -> Float[Array, "batch new_height new_width out"]:
        """The block's output; ``c`` is what Conditioning gives, ``key`` as in ``Network.apply``."""
        x = WAYS[self.way](x)
        if self.encoder:
            x = pixel_norm(self._skip(x))
        y = self.conv1(mp_silu(x)) * (1.0 + self.embed(c, self.gain[...]))[:, None, None, :]
        y = self.conv2(dropout(mp_silu(y), self.rate, key, self.index))
        x = mp_sum(x if self.encoder else self._skip(x), y, self.residual_balance)
        if hasattr(self, "attention"):
            x = mp_sum(x, self.attention(x), self.attention_balance)
        return jnp.clip(x, -self.clip, self.clip)

    def _skip(self, x: Array) -> Array:
        return self.skip(x) if hasattr(self, "skip") else x
