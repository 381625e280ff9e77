"""A user's network: an MLP with a module of its own, whose list named ``blocks`` is called directly."""

import dataclasses

import jax
from flax import nnx

from score_lab.networks import MLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Direct(MLP):
    """One matrix after another, and nothing else."""

    def module(self, shape, rngs):
        """The module for vectors of ``shape[0]`` entries."""
        return _Direct(self, shape[0], rngs)


class _Direct(nnx.Module):
    def __init__(self, network, size, rngs):
        sizes = [size, *[network.width] * network.depth, size * network.heads_out]
        self.blocks = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes, sizes[1:], strict=False)])

    def __call__(self, x, level, level_s, label, augment, key):
        for block in self.blocks:
            x = jax.nn.silu(block(x)) + level[:, None]
        return x
