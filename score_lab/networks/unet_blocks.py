"""The blocks of a U-Net: the residual block of ADM with its attention, and the two ways of changing resolution.

    residual(x, c) = skip(u(x)) + W2 dropout(silu((1 + a) norm(W1 u(silu(norm(x)))) + b)),   (a, b) linear in c,  W2 = 0 at the start
    attention(h)   = h + W attend(qkv(norm(h))),  W = 0 at the start

u is the identity, 2 x 2 averaging (down) or nearest neighbours (up).  Dhariwal & Nichol 2021, appendix A; Song et al. 2021, appendix H.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from score_lab.networks.initializers import glorot, zeros
from score_lab.networks.layers import GroupNorm, Linear, attend, dropout
from score_lab.types import Array, Float

__all__ = ["WAYS", "ResBlock", "Resample", "conv", "halve", "double"]


def conv(size: int, out: int, rngs: nnx.Rngs, kernel_init=glorot, strides: int = 1) -> nnx.Conv:
    """A 3 x 3 convolution with zero padding; Glorot weights unless ``kernel_init`` says otherwise."""
    return nnx.Conv(size, out, (3, 3), strides=strides, padding=((1, 1), (1, 1)), kernel_init=kernel_init, rngs=rngs)


def halve(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch half_height half_width channels"]:
    """The mean of each 2 x 2 square."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def double(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch double_height double_width channels"]:
    """Each pixel as a 2 x 2 square (nearest neighbours)."""
    batch, height, width, channels = x.shape
    squares = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return squares.reshape(batch, 2 * height, 2 * width, channels)


WAYS = {None: lambda x: x, "down": halve, "up": double}
"""What a block does with the resolution of x, by its ``way``."""


class Resample(nnx.Module):
    """DDPM's change of resolution: a convolution of stride 2 ("down"), or nearest neighbours and a convolution ("up")."""

    def __init__(self, size: int, way: str, rngs: nnx.Rngs):
        self.way = way
        self.conv = conv(size, size, rngs, strides=2 if way == "down" else 1)

    def __call__(self, x: Float[Array, "batch height width channels"], c: Array, key: Array | None) -> Array:
        """x at half or double resolution; ``c`` and ``key`` are not used."""
        return self.conv(double(x) if self.way == "up" else x)


class Attention(nnx.Module):
    """Self-attention over all pixels with its own norm and residual sum, (batch, height, width, channels) -> the same."""

    def __init__(self, network, channels: int, rngs: nnx.Rngs):
        self.heads = network.heads if network.head_width is None else channels // network.head_width
        self.implementation, self.share = network.attention, _share(network)
        self.norm = GroupNorm(channels, network.groups)
        self.qkv = Linear(channels, 3 * channels, kernel_init=glorot, rngs=rngs)
        self.project = Linear(channels, channels, kernel_init=zeros, rngs=rngs)

    def __call__(self, h: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        """(h + attention(h)) times the share of a residual sum."""
        tokens = self.norm(h).reshape(h.shape[0], -1, h.shape[-1])
        return (h + self.project(attend(self.qkv(tokens), self.heads, self.implementation)).reshape(h.shape)) * self.share


class ResBlock(nnx.Module):
    """The residual block, with ``way`` None, "down" or "up", and attention behind it where asked.

    ``index`` is its place in the network: what its dropout is keyed by.
    """

    def __init__(self, network, size: int, out: int, index: int, rngs: nnx.Rngs, *, way: str | None = None, attention: bool = False):
        linear = functools.partial(Linear, kernel_init=glorot, rngs=rngs)
        self.way, self.rate, self.index = way, network.dropout, index
        self.scale_shift, self.share = network.scale_shift, _share(network)
        self.norm1, self.conv1 = GroupNorm(size, network.groups), conv(size, out, rngs)
        self.embed = linear(4 * network.width, 2 * out if network.scale_shift else out)
        self.norm2, self.conv2 = GroupNorm(out, network.groups), conv(out, out, rngs, kernel_init=zeros)
        if size != out:
            self.skip = linear(size, out)
        if attention:
            self.attention = Attention(network, out, rngs)

    def __call__(
        self, x: Float[Array, "batch height width channels"], c: Float[Array, "batch embedding"], key: Array | None
    ) -> Float[Array, "batch new_height new_width out"]:
        """The block's output; ``c`` is the activated embedding of level and label, ``key`` as in ``Network.apply``."""
        resample = WAYS[self.way]
        h = self.conv1(resample(jax.nn.silu(self.norm1(x))))
        embedding = self.embed(c)[:, None, None, :]
        if self.scale_shift:
            a, b = jnp.split(embedding, 2, axis=-1)
            h = self.norm2(h) * (1 + a) + b
        else:
            h = self.norm2(h + embedding)
        h = self.conv2(dropout(jax.nn.silu(h), self.rate, key, self.index))
        x = resample(x)
        out = ((self.skip(x) if hasattr(self, "skip") else x) + h) * self.share
        return self.attention(out) if hasattr(self, "attention") else out


def _share(network) -> float:
    """What a residual sum is multiplied by."""
    return math.sqrt(0.5) if network.rescale_skip else 1.0
