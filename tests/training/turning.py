"""A network of seconds whose weights are used divided by their length, and say so: what EDM2 is to images."""

import dataclasses

import jax

from score_lab.networks import MLP
from score_lab.networks.edm2_layers import fan_in_unit, unit_magnitude


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turning(MLP):
    """MLP of kernels of length 1."""

    @property
    def unit_magnitude(self):
        return ("*.kernel",)

    def init(self, key, shape):
        """None of them 0, and magnitude 1."""
        leaves, tree = jax.tree.flatten(super().init(key, shape))
        keys = jax.random.split(key, len(leaves))
        drawn = [unit_magnitude(jax.random.normal(k, x.shape)) if x.ndim > 1 else x for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    def cast(self, params, compute):
        """Each divided by its length, where MLP rounds them."""
        return super().cast(jax.tree.map(lambda x: fan_in_unit(x) if x.ndim > 1 else x, params), compute)
