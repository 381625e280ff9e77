"""The first step of an adaptive solver (Hairer, Norsett & Wanner 1993, II.4; scipy's).

From the sizes d0, d1, d2 of the state and of its first two derivatives, in units of the tolerance: an Euler step of 1 % of the state,

    h0 = 0.01 d0 / d1,                                    y1 = y0 + h0 f0,    d2 = |f(y1) - f0| / h0
    h1 = (0.01 / max(d1, d2))^(1 / order),                h = min(100 h0, h1),    neither longer than the way

(diffrax 0.7's own is 0.01, whatever the variable.)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_lab.types import Array, PyTree

__all__ = ["euler_length", "first_length", "first_step"]


def euler_length(d0: Array, d1: Array, most: Array) -> Array:
    """h0, at most ``most``."""
    return jnp.minimum(jnp.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / jnp.where(d1 > 0, d1, 1.0)), most).astype(most.dtype)


def first_length(h0: Array, d1: Array, difference: Array, most: Array, order: int) -> Array:
    """h, at most ``most``; ``difference`` is d2 h0."""
    size = jnp.maximum(d1, difference / h0)
    h1 = jnp.where(size <= 1e-15, jnp.maximum(1e-6, 1e-3 * h0), (0.01 / jnp.maximum(size, 1e-15)) ** (1 / order))
    return jnp.minimum(jnp.minimum(100.0 * h0, h1), most).astype(most.dtype)


def first_step(slope: Callable, start: Array, end: Array, y: PyTree, rtol: float | Array, atol: float | Array, order: int) -> Array:
    """The first step of one state without a batch axis, signed: two calls of ``slope(u, y)``."""
    scale = jax.tree.map(lambda a: atol + rtol * jnp.abs(a), y)
    size = sum(a.size for a in jax.tree.leaves(y))
    most, sign = jnp.abs(end - start), jnp.sign(end - start)

    def rms(v):
        return jnp.sqrt(sum(jnp.sum((a / b) ** 2) for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(scale), strict=True)) / size)

    def euler(f, h):
        return jax.tree.map(lambda a, b: a + (h * sign).astype(a.dtype) * b, y, f)

    def look(_, carry):  # twice, written once: at the start, then h0 further
        h0, f0, _ = carry
        f = slope(start + h0 * sign, euler(f0, h0))
        h = euler_length(rms(y), rms(f), most)
        return jnp.where(h0 > 0, h0, h), jax.tree.map(lambda a, b: jnp.where(h0 > 0, a, b), f0, f), f

    zero = jax.tree.map(jnp.zeros_like, y)
    h0, f0, f1 = jax.lax.fori_loop(0, 2, look, (jnp.zeros_like(start), zero, zero))
    return sign * first_length(h0, rms(f0), rms(jax.tree.map(jnp.subtract, f1, f0)), most, order)
