"""The U-Net of Dhariwal & Nichol 2021 (ADM): residual blocks over resolutions H, H/2, ..., with the way down handed to the way up.

    down:  h <- block(h), kept;  at the end of a level h <- downsample(h), kept
    up:    h <- block(concat(h, last kept)), once more per level than on the way down;  at the end of a level h <- upsample(h)
    y = W silu(norm(h)),  W = 0 at the start

Level i has ``width * multipliers[i]`` channels at H / 2^i x W / 2^i.  NCSN++-like networks (Song et al. 2021): ``rescale_skip=True``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from score_lab.build import refuse
from score_lab.networks.base import FlaxNetwork, check_integer, check_shared, divisors, image_shape, rematerialised
from score_lab.networks.embedding import Conditioning
from score_lab.networks.initializers import zeros
from score_lab.networks.layers import GroupNorm, check_attention
from score_lab.networks.unet_blocks import Resample, ResBlock, conv
from score_lab.types import Array, Float, Int

__all__ = ["UNet", "attends", "check_levels", "check_resolutions", "through"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet(FlaxNetwork):
    """A convolutional network for images (height, width, channels), height and width divisible by 2^(levels - 1).

    Attributes:
      width: channels of the first level.
      multipliers: channels of each level over ``width``; as many levels as there are multipliers.
      blocks: residual blocks per level on the way down (one more on the way up).
      attention_at: resolutions (the shorter side of the feature map) with attention after each residual block; the middle always has it.
      heads: attention heads, where ``head_width`` is None.
      head_width: channels per attention head (ADM: 64); heads then grow with the channels.
      attention: "xla"; "cudnn", on a GPU in half precision (no forward-mode derivative there); "auto": that where there is one, or "xla".
      groups: at most so many groups in the norms (at least 4 channels to a group).
      scale_shift: the embedding scales and shifts the second norm (ADM) rather than being added before it (DDPM).
      resample_blocks: down- and upsampling inside residual blocks (ADM, NCSN++) rather than by a strided convolution, or nearest neighbours
        and a convolution (DDPM).
      rescale_skip: residual sums are divided by sqrt(2) (NCSN++).
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention_at: tuple[int, ...] = (16,)
    heads: int = 4
    head_width: int | None = None
    attention: str = "auto"
    groups: int = 32
    scale_shift: bool = True
    resample_blocks: bool = True
    rescale_skip: bool = False

    BLOCKS: ClassVar[tuple[str, ...]] = ("down", "middle", "up")

    @property
    def uses_convolution(self) -> bool:
        """True: on CPU, loop over training steps on the host."""
        return True

    def module(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Module:
        """The module for images of ``shape`` (height, width, channels)."""
        return _UNet(self, shape, rngs)

    def check(self) -> None:
        """Raises ConfigError for impossible fields."""
        check_integer(self, "width", "blocks", "heads", "groups")
        check_levels(self)
        if self.head_width is not None:
            check_integer(self, "head_width")
        _check_heads(self, len(self.multipliers) - 1)
        check_attention(self)
        check_shared(self)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError unless the image can be halved for every level and every resolution of ``attention_at`` occurs."""
        check_resolutions(self, shape)
        for level in range(len(self.multipliers)):
            if attends(self, level, shape):
                _check_heads(self, level)


def attends(network: FlaxNetwork, level: int, shape: tuple[int, ...]) -> bool:
    """Whether the blocks of ``level`` have attention on images of ``shape``: whether its shorter side is in ``network.attention_at``."""
    return min(shape[:2]) >> level in network.attention_at


def check_levels(network: FlaxNetwork) -> None:
    """Raises ConfigError unless ``multipliers`` and ``attention_at`` are tuples of positive integers, the first with one at least."""
    for field in ("multipliers", "attention_at"):
        value = getattr(network, field)
        if not isinstance(value, tuple) or any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in value):
            refuse(field, value, "a tuple of positive integers")
    if not network.multipliers:
        refuse("multipliers", network.multipliers, "at least one level, for example (1, 2, 2)")


def check_resolutions(network: FlaxNetwork, shape: tuple[int, ...]) -> None:
    """Raises ConfigError unless an image of ``shape`` can be halved for every level and every resolution of ``attention_at`` occurs."""
    height, width, _ = image_shape(network, shape)
    levels = len(network.multipliers)
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        most = max(i + 1 for i in range(levels) if height % 2**i == 0 and width % 2**i == 0)
        allowed = f"at most {most} levels for an image of {height} x {width}, which is halved between levels"
        refuse("multipliers", network.multipliers, allowed)
    resolutions = [min(height, width) >> i for i in range(levels)]
    for resolution in network.attention_at:
        if resolution not in resolutions:
            refuse("attention_at", network.attention_at, f"resolutions that occur on an image of {height} x {width}: {resolutions}")


def _check_heads(network: UNet, level: int) -> None:
    """Refuses heads that do not divide the channels of ``level``."""
    channels = network.width * network.multipliers[level]
    field = "heads" if network.head_width is None else "head_width"
    value = getattr(network, field)
    if channels % value:
        refuse(field, value, f"a divisor of the {channels} channels (width * multiplier) of level {level}: {divisors(channels)}")


def through(
    unet: Any,
    h: Float[Array, "batch height width channels"],
    c: Float[Array, "batch embedding"],
    key: Array | None,
    join: Callable[[Array, Array], Array],
) -> Float[Array, "batch height width channels_last"]:
    """h through the blocks ``down``, ``middle`` and ``up`` of ``unet``: every output of the way down is kept, and a block of the way up
    that does not double the resolution takes ``join(h, kept)``, the last kept first.  ``c`` and ``key`` go to every block."""
    kept = [h]
    for block in unet.down:
        h = rematerialised(block, unet.remat)(h, c, key)
        kept.append(h)
    for block in unet.middle:
        h = rematerialised(block, unet.remat)(h, c, key)
    for block in unet.up:
        h = rematerialised(block, unet.remat)(h if block.way == "up" else join(h, kept.pop()), c, key)
    return h


class _UNet(nnx.Module):
    def __init__(self, network: UNet, shape: tuple[int, ...], rngs: nnx.Rngs):
        levels = len(network.multipliers)
        channels = [network.width * m for m in network.multipliers]
        self.remat = network.remat
        self.conditioning = Conditioning(network, 4 * network.width, rngs)
        self.inward = conv(shape[-1], network.width, rngs)
        counter = iter(range(10**6))  # a residual block's place in the network: what its dropout is keyed by

        def block(size: int, out: int, attention: bool) -> ResBlock:
            return ResBlock(network, size, out, next(counter), rngs, attention=attention)

        def resample(size: int, way: str) -> nnx.Module:
            if network.resample_blocks:
                return ResBlock(network, size, size, next(counter), rngs, way=way)
            return Resample(size, way, rngs)

        down, kept, size = [], [network.width], network.width
        for i in range(levels):
            for _ in range(network.blocks):
                down.append(block(size, channels[i], attends(network, i, shape)))
                size = channels[i]
                kept.append(size)
            if i < levels - 1:
                down.append(resample(size, "down"))
                kept.append(size)
        middle = [block(size, size, True), block(size, size, False)]
        up = []
        for i in reversed(range(levels)):
            for _ in range(network.blocks + 1):
                up.append(block(size + kept.pop(), channels[i], attends(network, i, shape)))
                size = channels[i]
            if i > 0:
                up.append(resample(size, "up"))
        self.down, self.middle, self.up = nnx.List(down), nnx.List(middle), nnx.List(up)
        self.norm = GroupNorm(size, network.groups)
        self.outward = conv(size, shape[-1] * network.heads_out, rngs, kernel_init=zeros)

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        level: Float[Array, " batch"],
        level_s: Float[Array, " batch"],
        label: Int[Array, " batch"],
        augment: Float[Array, "batch numbers"] | None,
        key: Array | None,
    ) -> Float[Array, "batch height width channels_out"]:
        c = jax.nn.silu(self.conditioning(level, level_s, label, augment))
        h = self.inward(x)
        h = through(self, h, c, key, lambda h, kept: jnp.concatenate([h, kept], axis=-1))
        return self.outward(jax.nn.silu(self.norm(h)))
