"""The two networks that sampling is timed with, their weights all different from zero, and a bare scan of calls.

    mlp     2-D points, 6 residual blocks of 256 units
    dit8    8 x 8 x 1 images in patches of 2, width 192, 4 blocks, 6 heads, 10 classes, about 2.8 M parameters
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_lab.networks import MLP, DiT
from score_lab.types import Array, PyTree

__all__ = ["BATCH", "DIT8", "MLP2", "SHAPES", "bare", "weights"]

BATCH = 64
DIT8 = DiT(patch=2, width=192, depth=4, heads=6, num_classes=10)
MLP2 = MLP(width=256, depth=6)
SHAPES = {DIT8: (8, 8, 1), MLP2: (2,)}


def weights(network: Any, seed: int = 0) -> PyTree:
    """The network's initial parameters plus N(0, 0.02^2): the layers that start at zero are not."""
    params = network.init(jax.random.key(seed), SHAPES[network])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(tree, [p + 0.02 * jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)])


@jax.jit(static_argnums=0)
def bare(network: Any, params: PyTree, x: Array, levels: Array, cond: Any) -> Array:
    """One call of the network per level, each fed the output of the one before, and nothing else."""

    def body(x, level):
        return network.apply(params, x, jnp.broadcast_to(level, x.shape[:1]), cond), None

    return jax.lax.scan(body, x, levels)[0]
