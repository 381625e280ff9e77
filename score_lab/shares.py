"""An array of which every device along an axis of a mesh holds a share, put together where it is used (ZeRO-3, Rajbhandari et al. 2020).

    whole(x_0, ..., x_{f-1})  =  the shares one behind the other along ``axis``, cast to ``dtype`` before they are sent
    its transpose             :  d x_k  =  sum over the f devices of the k-th share of their d whole, in the precision of x_k

The cast comes first since it is one of every number alone: half the bytes in half precision, the same result.  The sum comes in the shares'
own precision, as without shares.  Inside ``jax.shard_map`` alone: what a device computes with the whole array is its own affair.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.types import Array, PyTree, leaf, pytree_dataclass, static

__all__ = ["Share", "gathered", "is_share", "let_go"]

GATHERING = ("all_gather", "linear_call")
"""The primitives of ``Share.whole``."""


@pytree_dataclass
class Share:
    """This device's share of an array.

    Attributes:
      array: the share.
      axis: of the array, along which the shares lie.
      over: the axis of the mesh.
      dtype: of the whole array, None for that of the share.
    """

    array: Array = leaf()
    axis: int = static()
    over: str = static()
    dtype: Any = static(default=None)

    def astype(self, dtype: Any) -> Share:
        """The same share, to be sent as ``dtype``."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def whole(self) -> Array:
        """The whole array on every device."""
        own, dtype, places = self.array.dtype, self.dtype or self.array.dtype, {"axis_name": self.over, "tiled": True}

        def gather(_: tuple, share: Array) -> Array:
            return jax.lax.all_gather(share.astype(dtype), axis=self.axis, **places)

        def add_up(_: tuple, whole: Array) -> Array:
            return jax.lax.psum_scatter(whole.astype(own), scatter_dimension=self.axis, **places)

        return jax.custom_derivatives.linear_call(gather, add_up, (), self.array)


def is_share(x: Any) -> bool:
    """Whether ``x`` is a Share."""
    return isinstance(x, Share)


def gathered(tree: PyTree) -> PyTree:
    """``tree`` with every Share in it whole."""
    return jax.tree.map(lambda x: x.whole() if is_share(x) else x, tree, is_leaf=is_share)


def let_go(policy: Any) -> Any:
    """The policy of ``jax.checkpoint`` that keeps what ``policy`` keeps but for gathered arrays: they are gathered once more."""

    def keeps(primitive: Any, *values: Any, **params: Any) -> Any:
        return primitive.name not in GATHERING and policy(primitive, *values, **params)

    return keeps
