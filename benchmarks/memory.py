"""A training step's temporaries kept by the process (score_lab/training/memory.py) beside mapped anew at every step, which is glibc's way.

The gradient of the digits configuration's network, 57 MB of temporaries at batch 64.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks.options import Options
from benchmarks.pairs import heading, interleaved, line
from configs.digits import get_config
from score_lab.build import build
from score_lab.training.memory import glibc_buffers, keep_buffers
from score_lab.training.options import plain


def measure(options: Options) -> Iterator[str]:
    """One row: kept / mapped anew, milliseconds for a gradient."""
    if not keep_buffers():
        yield "no glibc here: nothing to compare"
        return
    network = build(plain(get_config("flow"))["network"], "score_lab.networks", "config.network")
    params, x = network.init(jax.random.key(0), (8, 8, 1)), jnp.ones((64, 8, 8, 1))
    level, label = jnp.zeros((64,)), {"label": jnp.zeros((64,), jnp.int32)}
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(network.apply(p, x, level, label) - x))))

    def kept() -> None:
        keep_buffers()
        jax.block_until_ready(gradient(params))

    def mapped() -> None:
        glibc_buffers()
        jax.block_until_ready(gradient(params))

    yield heading()
    yield line(interleaved("gradient, digits' DiT, batch 64", kept, mapped, options.pairs))
    keep_buffers()
