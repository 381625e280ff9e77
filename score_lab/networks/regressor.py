"""A small network from one state to a number and its uncertainty: ``x -> (mean, log variance)``, for vectors and for images.

    vectors   f = (x, x^2)
    images    p = the 3 x 3 neighbourhood of every pixel,  f = mean over pixels of (u, u^2),  u = (W p, silu(W' p))
    both      h_1 = silu(W_1 f),  h_{k+1} = h_k + silu(W_k h_k),  (mean, log variance) = W h_depth

Squares are among the features because energies tell scales: with them the log-density of a Gaussian is linear in f.  Neighbourhoods are cut
by slices, so there is no convolution in it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from score_lab.build import refuse
from score_lab.types import Array, PyTree

__all__ = ["Regressor"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regressor:
    """``width`` units, ``depth`` >= 1 hidden layers; ``filters`` of images."""

    width: int = 64
    depth: int = 2
    filters: int = 16

    def check(self) -> None:
        """ConfigError unless all are integers >= 1."""
        for name in ("width", "depth", "filters"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                refuse(f"Regressor.{name}", getattr(self, name), "an integer of at least 1")

    def init(self, key: Array, shape: tuple[int, ...]) -> PyTree:
        """Parameters for states of ``shape``, (d,) or (height, width, channels).  ConfigError for other shapes."""
        self.check()
        if len(shape) not in (1, 3):
            refuse("shape", tuple(shape), "(d,) or (height, width, channels)")
        return nnx.split(_Regressor(self, tuple(shape), nnx.Rngs(params=key)))[1]

    def apply(self, params: PyTree, x: Array) -> Array:
        """(n, 2): mean and log variance."""
        return nnx.merge(_graph(self, x.shape[1:]), params)(x)


@functools.cache
def _graph(network: Regressor, shape: tuple[int, ...]) -> Any:
    return nnx.split(nnx.eval_shape(lambda: _Regressor(network, shape, nnx.Rngs(0))))[0]


class _Regressor(nnx.Module):
    def __init__(self, network: Regressor, shape: tuple[int, ...], rngs: nnx.Rngs):
        size = 2 * shape[0]
        if len(shape) == 3:
            self.bank = nnx.Linear(9 * shape[-1], 2 * network.filters, rngs=rngs)
            size = 4 * network.filters
        self.inward = nnx.Linear(size, network.width, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(network.width, network.width, rngs=rngs) for _ in range(network.depth - 1)])
        self.outward = nnx.Linear(network.width, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = jax.nn.silu(self.inward(self._features(x)))
        for layer in self.hidden:
            h = h + jax.nn.silu(layer(h))
        return self.outward(h)

    def _features(self, x: Array) -> Array:
        if x.ndim == 2:
            return jnp.concatenate([x, jnp.square(x)], axis=1)
        _, height, width, _ = x.shape
        around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        patches = jnp.concatenate([around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
        linear, bent = jnp.split(self.bank(patches), 2, axis=-1)
        u = jnp.concatenate([linear, jax.nn.silu(bent)], axis=-1)
        return jnp.concatenate([u.mean(axis=(1, 2)), jnp.square(u).mean(axis=(1, 2))], axis=-1)
