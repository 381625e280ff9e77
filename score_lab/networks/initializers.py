"""How weights start: uniform of variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010), normal of standard deviation 0.02, or zero.

    glorot: W ~ U(-l, l), l = sqrt(6 / (fan_in + fan_out)),  fan = taps * channels (DiT's "xavier", Song et al. 2021's "fan_avg")

All draw a flat array and reshape it: the values are those of ``jax.nn.initializers``, but XLA compiles a draw of shape (3, 3, c, d) several
times more slowly than one of 9 c d numbers, which is what most of the time to the first step of a U-Net would go into.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.types import Array

__all__ = ["glorot", "small", "zeros"]

zeros = jax.nn.initializers.zeros


def glorot(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
    """U(-l, l) for a kernel (*taps, channels in, channels out), l = sqrt(6 / (fan_in + fan_out))."""
    taps = math.prod(shape[:-2])
    limit = math.sqrt(6.0 / (taps * (shape[-2] + shape[-1])))
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


def small(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
    """Normal with standard deviation 0.02."""
    return 0.02 * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
