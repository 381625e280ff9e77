"""Networks of a few operations: one that counts the rows it is fed on the host, and none that costs anything to compile."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from score_lab.denoiser import NetworkDenoiser

CALLS = []
"""One entry for every call of a ``Counting`` network: the number of rows it was fed."""


@dataclass(frozen=True)
class Small:
    """``y = tanh(x W) + b cos(level) + c label``: depends on everything that a network is told."""

    def init(self, key, shape):
        return {"W": 0.3 * jax.random.normal(key, (shape[-1], shape[-1])), "b": jnp.float32(0.1), "c": jnp.float32(0.2)}

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        y = jnp.tanh(x @ params["W"].astype(x.dtype)) + (params["b"] * jnp.cos(level)).astype(x.dtype)[:, None]
        return y + (params["c"] * cond["label"]).astype(x.dtype)[:, None] if cond else y


@dataclass(frozen=True)
class Counting(Small):
    """The same, and every call is counted on the host."""

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        jax.debug.callback(lambda _: CALLS.append(x.shape[0]), x[0, 0])
        return super().apply(params, x, level, cond)


def small(path, target, network=None, **fields) -> NetworkDenoiser:
    """A ``NetworkDenoiser`` with two input dimensions."""
    network = network or Small()
    return NetworkDenoiser(Small().init(jax.random.key(0), (2,)), network, path, target, **{"sigma_data": 0.7, **fields})


def rows_fed(run) -> int:
    """How many rows the counting network saw while ``run()`` did its work."""
    CALLS.clear()
    jax.block_until_ready(jax.tree.leaves(run().x))
    jax.effects_barrier()
    return sum(CALLS)
