"""The layers that the networks share: norms in float32 or higher, attention, and dropout keyed per example.

    layer_norm(x) = (x - mean) / sqrt(var + 1e-6) over the last axis,       group_norm: over height, width and the channels of a group
    attention(q, k, v) = softmax(q k^T / sqrt(d)) v per head
    dropout(x)_i = mask(key_i) x_i / (1 - rate)

No statistic runs over the batch: an example never depends on its batch-mates.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from score_lab.build import refuse
from score_lab.networks.base import FlaxNetwork
from score_lab.types import Array, Float

__all__ = ["ATTENTION", "GroupNorm", "Linear", "attend", "check_attention", "dropout", "has_cudnn", "layer_norm", "modulate", "widened"]

ATTENTION = ("auto", "xla", "cudnn")
HALF = ("bfloat16", "float16")


def layer_norm(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Layer normalisation over the last axis without parameters (adaptive scales and shifts follow it), in x's dtype."""
    wide = widened(x)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return (centred * _over_deviation(jnp.mean(jnp.square(centred), axis=-1, keepdims=True))).astype(x.dtype)


def widened(x: Array) -> Array:
    """x in float32 or higher: what statistics are computed in, in two passes."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _over_deviation(variance: Array) -> Array:
    """1 / sqrt(variance + 1e-6)."""
    return jax.lax.rsqrt(variance + 1e-6)


def modulate(x: Float[Array, "*axes"], shift: Float[Array, "*shift"], scale: Float[Array, "*shift"]) -> Float[Array, "*axes"]:
    """x (1 + scale) + shift; the two broadcast against x with axes of length 1."""
    return x * (1 + scale) + shift


class Linear(nnx.Linear):
    """``nnx.Linear`` whose leading axes are one: x W + b of (rows, width).

    Its gradient with respect to W is then a product of two matrices; over several leading axes XLA:CPU takes about twice as long for it.
    """

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes features"]:
        """(..., width) -> (..., features)."""
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)


class GroupNorm(nnx.Module):
    """Group normalisation of (batch, height, width, channels) with a scale and a bias per channel (Wu & He 2018).

    The number of groups is the largest divisor of the channels that is at most ``groups`` and leaves at least 4 channels to a group (EDM's
    min(32, channels // 4), made to divide), at least 1.
    """

    def __init__(self, channels: int, groups: int):
        most = max(1, min(groups, channels // 4))
        self.groups = max(g for g in range(1, most + 1) if channels % g == 0)
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        """The normalised x, in x's dtype."""
        wide = widened(x).reshape(x.shape[0], -1, x.shape[-1])
        centred = wide - self._over_groups(jnp.mean(wide, axis=1))
        factor = _over_deviation(self._over_groups(jnp.mean(jnp.square(centred), axis=1))) * self.scale[None, None, :]
        return (centred * factor + self.bias[None, None, :]).reshape(x.shape).astype(x.dtype)

    def _over_groups(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch one channels"]:
        """The mean of each channel's group, in the place of the channel.  (Pixels first, then channels: XLA:CPU takes three times as long
        for a sum over both at once, forward and back.)"""
        batch, channels = means.shape
        mean = jnp.mean(means.reshape(batch, self.groups, -1), axis=-1, keepdims=True)
        return jnp.broadcast_to(mean, (batch, self.groups, channels // self.groups)).reshape(batch, 1, channels)


def attend(qkv: Float[Array, "batch tokens three_width"], heads: int, implementation: str) -> Float[Array, "batch tokens width"]:
    """Self-attention from fused queries, keys and values, (batch, tokens, 3 heads d) -> (batch, tokens, heads d).

    ``implementation`` is "xla" (any device, forward and reverse mode), "cudnn" (a GPU, half precision, reverse mode only), or "auto":
    cuDNN's where it can be had, chosen whenever this is called, XLA's elsewhere.
    The softmax is computed in float32, and in float64 for float64 (``jax.nn.dot_product_attention`` would go through float32 there).
    """
    if implementation == "cudnn" and jax.default_backend() != "gpu":
        refuse("attention", implementation, f"'auto' or 'xla' on the {jax.default_backend()} backend")
    batch, tokens, width = qkv.shape
    q, k, v = (part.reshape(batch, tokens, heads, width // (3 * heads)) for part in jnp.split(qkv, 3, axis=-1))
    if qkv.dtype == jnp.float64:
        weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1]), axis=-1)
        out = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
    else:
        chosen = ("cudnn" if has_cudnn(q.dtype.name, q.shape[-1]) else "xla") if implementation == "auto" else implementation
        out = jax.nn.dot_product_attention(q, k, v, implementation=chosen)
    return out.reshape(batch, tokens, width // 3)


def has_cudnn(dtype: str, head_width: int) -> bool:
    """Whether cuDNN has attention for heads of this width in this dtype, here: a GPU of NVIDIA's of compute capability 8 or more, half
    precision, widths that 8 divides up to 128 (256 from capability 9 on), as ``jax.nn.dot_product_attention`` asks for.
    """
    if jax.default_backend() != "gpu" or dtype not in HALF or head_width % 8:
        return False
    capability = _capability()
    return capability >= 8.0 and head_width <= (256 if capability >= 9.0 else 128)


def _capability() -> float:
    """The compute capability of the first device, 0 where it has none of NVIDIA's."""
    try:
        return float(getattr(jax.local_devices()[0], "compute_capability", 0.0))
    except ValueError:
        return 0.0


def check_attention(network: FlaxNetwork) -> None:
    """Raises ConfigError unless the field ``attention`` is known and possible with the compute dtype."""
    if network.attention not in ATTENTION:
        refuse("attention", network.attention, f"one of {', '.join(ATTENTION)}", ATTENTION)
    if network.attention == "cudnn" and network.dtype not in HALF:
        refuse("attention", "cudnn", f"'auto' or 'xla', or 'cudnn' with dtype 'bfloat16' or 'float16' (it is {network.dtype!r})")


def dropout(x: Float[Array, "batch ..."], rate: float, key: Array | None, index: int) -> Float[Array, "batch ..."]:
    """x with entries dropped at ``rate`` and the rest divided by 1 - rate; x itself without a key.

    The mask of example i is drawn from ``fold_in(key[i], index)``, ``index`` being the layer's place in its network: neither batch-mates
    nor the batch size enter (with JAX's default threefry keys, whose draws do not change under vmap), nor whether float64 is enabled.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, index), np.float32(1.0 - rate), x.shape[1:]))(key)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)
