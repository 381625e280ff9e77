"""Linear combinations of states: the only arithmetic that samplers, targets and guidance need.

A state is any pytree of arrays with a leading batch axis (one image batch, a dict of coordinates and features, ...).  A
coefficient is a scalar or has shape ``(batch,)``.  ``combine((a, x), (b, y))`` is ``a x + b y`` leaf by leaf, with the coefficient's
shape extended to the leaf's rank, in the leaf's own precision (a float64 coefficient never promotes a float32 state).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_lab.types import Array, PyTree

__all__ = ["batch_of", "combine", "expand", "select", "square_norm"]


def expand(c: Any, x: Array) -> Array:
    """The coefficient ``c``, scalar or ``(batch,)``, with ones appended up to the rank of ``x`` and in ``x``'s precision."""
    c = jnp.asarray(c)
    if jnp.issubdtype(c.dtype, jnp.inexact):
        c = c.astype(x.dtype)
    return c.reshape(c.shape + (1,) * (x.ndim - 1)) if c.ndim else c


def combine(*terms: tuple[Any, PyTree]) -> PyTree:
    """``sum_i c_i x_i`` over ``(c_i, x_i)`` pairs, leaf by leaf.  Every ``x_i`` has the structure of the first one."""
    coefficients, states = zip(*terms, strict=True)

    def one(*leaves: Array) -> Array:
        total = expand(coefficients[0], leaves[0]) * leaves[0]
        for c, x in zip(coefficients[1:], leaves[1:], strict=True):
            total = total + expand(c, x) * x
        return total

    return jax.tree.map(one, *states)


def select(condition: Any, x: PyTree, y: PyTree) -> PyTree:
    """``x`` where ``condition``, scalar or ``(batch,)``, holds, else ``y``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(expand(condition, a), a, b), x, y)


def square_norm(x: PyTree) -> Array:
    """``||x||^2`` of every example, summed over all leaves and all axes but the first: shape ``(batch,)``."""
    return sum(jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(x))


def batch_of(x: PyTree) -> int:
    """The number of examples in a state."""
    return jax.tree.leaves(x)[0].shape[0]
