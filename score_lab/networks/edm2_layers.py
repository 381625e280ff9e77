"""Layers that keep the magnitude of what passes through them (Karras et al. 2024, EDM2, appendix B).

    M[a] = sqrt(mean a^2),  the magnitude;  every layer here gives M = 1 where what comes in is uncorrelated and of M = 1

    W x:             w_o / |w_o| for every output o, times a gain                                                       (eq. 47)
    mp_silu(x)     = silu(x) / 0.596,  0.596 = sqrt(E[silu(z)^2]), z ~ N(0, 1)                                          (eq. 81)
    mp_sum(a, b)   = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)                                                          (eq. 88)
    mp_cat(a, b)   = sqrt((Na + Nb) / ((1 - t)^2 + t^2)) [(1 - t)/sqrt(Na) a, t/sqrt(Nb) b],  Na, Nb channels           (eq. 103)
    features(l)_j  = sqrt(2) cos(w_j l + p_j),  w_j of a normal law, p_j 0 or -pi/2                                     (eq. 75)
    pixel_norm(x)  = x / (M[x] + 1e-4) over the channels of a pixel

A kernel has its outputs on the last axis.  No output depends on the length of w_o, so the gradient is orthogonal to w_o and only adds to
its length; training sets M[w_o] = 1 again after each update (eq. 66), without which the steps would shrink in angle as w_o grows.
Weights are divided by their length in float32 or higher and only then rounded to the compute dtype.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from score_lab.networks.layers import widened
from score_lab.types import Array, Float

__all__ = [
    "MPConv", "MPLinear", "fan_in_unit", "fourier", "frequencies_and_phases", "mp_cat", "mp_silu", "mp_sum", "pixel_norm",
    "to_unit_magnitude", "unit_magnitude", "unit_normal",
]  # fmt: skip

SILU = 0.596
"""The published three digits of sqrt(E[silu(z)^2])."""


def unit_magnitude(weight: Float[Array, "*fan_in out"]) -> Float[Array, "*fan_in out"]:
    """``weight`` with M = 1 over all axes but the last, for every output by itself: of length sqrt(fan-in).  In its own dtype.

    NaN for an output whose weights are all 0, which has no direction.
    """
    return (widened(weight) * to_unit_magnitude(weight)).astype(weight.dtype)


def to_unit_magnitude(weight: Float[Array, "*fan_in out"]) -> Float[Array, "*ones out"]:
    """``1 / M[w_o]``, the factor that gives every output of ``weight`` M = 1, with axes of length 1 in place of the others; float32 or
    higher.  Infinite for an output whose weights are all 0."""
    return jax.lax.rsqrt(jnp.mean(jnp.square(widened(weight)), axis=tuple(range(weight.ndim - 1)), keepdims=True))


def fan_in_unit(weight: Float[Array, "*fan_in out"]) -> Float[Array, "*fan_in out"]:
    """``w_o / |w_o|`` for every output; float32 or higher."""
    return unit_magnitude(widened(weight)) / math.sqrt(math.prod(weight.shape[:-1]))


def unit_normal(key: Any, shape: tuple[int, ...]) -> Array:
    """Standard normal weights, each output then set to M = 1; drawn flat, which XLA compiles faster (initializers.py)."""
    return unit_magnitude(jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape))


def mp_silu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """silu(x) / 0.596."""
    return jax.nn.silu(x) / SILU


def mp_sum(a: Float[Array, "*axes"], b: Float[Array, "*axes"], t: float) -> Float[Array, "*axes"]:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), ``t`` in [0, 1]."""
    length = math.hypot(1.0 - t, t)
    return ((1.0 - t) / length) * a + (t / length) * b


def mp_cat(a: Float[Array, "*axes first"], b: Float[Array, "*axes second"], t: float) -> Float[Array, "*axes both"]:
    """a and b beside each other in the last axis, where a has the share (1 - t)^2 of the sum of squares to t^2 of b's."""
    first, second = a.shape[-1], b.shape[-1]
    whole = math.sqrt(first + second) / math.hypot(1.0 - t, t)
    return jnp.concatenate([(whole * (1.0 - t) / math.sqrt(first)) * a, (whole * t / math.sqrt(second)) * b], axis=-1)


def pixel_norm(x: Float[Array, "*axes channels"]) -> Float[Array, "*axes channels"]:
    """x / (M[x] + 1e-4) over the last axis, in float32 or higher, returned in x's dtype; finite with its derivatives at x = 0."""
    wide = widened(x)
    square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    magnitude = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return (wide / (magnitude + 1e-4)).astype(x.dtype)


@functools.cache
def frequencies_and_phases(count: int, max_frequency: float) -> tuple[np.ndarray, np.ndarray]:
    """``w``, ``p`` (count,), float64: the quantiles of |N(0, 1)| scaled so that the highest is ``max_frequency``, each twice, with the
    phases 0 and -pi/2.  The paper draws both at random; these span the same functions, alike in every run and with M = 1 at every level.
    """
    pairs = -(-count // 2)
    quantiles = np.array([NormalDist().inv_cdf(0.5 + (j + 0.5) / (2 * pairs)) for j in range(pairs)])
    return np.repeat(quantiles * (max_frequency / quantiles[-1]), 2)[:count], np.tile([0.0, -0.5 * np.pi], pairs)[:count]


def fourier(level: Float[Array, " batch"], count: int, max_frequency: float) -> Float[Array, "batch features"]:
    """sqrt(2) cos(w_j l + p_j), (batch, count), in float32 or higher."""
    level = widened(level)
    frequencies, phases = (jnp.asarray(x, level.dtype)[None, :] for x in frequencies_and_phases(count, max_frequency))
    return math.sqrt(2.0) * jnp.cos(level[:, None] * frequencies + phases)


class MPLinear(nnx.Module):
    """gain w_o / |w_o| . x for every output o, without a bias; (..., width) -> (..., out)."""

    def __init__(self, width: int, out: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(unit_normal(rngs.params(), (width, out)))

    def __call__(self, x: Float[Array, "*axes width"], gain: Array | float = 1.0) -> Float[Array, "*axes out"]:
        """The product in x's dtype; ``gain`` is one number, learned or given."""
        kernel = (fan_in_unit(self.kernel[...]) * gain).astype(x.dtype)
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


class MPConv(nnx.Module):
    """A 3 x 3 convolution with zero padding and kernels gain w_o / |w_o|, without a bias."""

    def __init__(self, size: int, out: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(unit_normal(rngs.params(), (3, 3, size, out)))

    def __call__(self, x: Float[Array, "batch height width size"], gain: Array | None = None) -> Float[Array, "batch height width out"]:
        """The convolution in x's dtype; ``gain`` (out,) is a number per output, None is 1."""
        kernel = fan_in_unit(self.kernel[...])
        kernel = kernel if gain is None else kernel * gain[None, None, None, :]
        return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
