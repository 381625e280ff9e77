"""The time to sample with dit8 (batch 64) beside a bare scan of as many calls of the same network: about 12 evaluations a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.networks import BATCH, DIT8, SHAPES, bare, weights
from benchmarks.options import Options
from benchmarks.pairs import heading, interleaved, line
from score_lab.build import ConfigError
from score_lab.denoiser import NetworkDenoiser
from score_lab.paths import VP
from score_lab.samplers import UniformLogSNR, sample
from score_lab.targets import F

BOUND = 1.03
EVALUATIONS = 12
SHAPE = (BATCH, *SHAPES[DIT8])


def denoiser() -> NetworkDenoiser:
    """dit8 on VP, with EDM's row."""
    return NetworkDenoiser(weights(DIT8), DIT8, VP(), F(0.75), 0.75)


def condition() -> dict[str, jax.Array]:
    """A label per sample."""
    return {"label": jnp.arange(BATCH) % 10}


def steps_of(sampler: Any) -> int:
    """About 12 evaluations, and more steps than the solver remembers."""
    return max(EVALUATIONS // sampler.calls, sampler.memory + 3)


def measure(options: Options) -> Iterator[str]:
    """One row per solver, with its number of evaluations."""
    den, cond, x = denoiser(), condition(), jnp.ones(SHAPE)
    yield heading()
    for name, sampler in options.fixed_step().items():
        steps = UniformLogSNR(steps_of(sampler)).steps(den.path)
        try:
            nfe = int(sample(den, sampler, steps, SHAPE, cond=cond).nfe)
        except ConfigError as error:
            yield f"{name:44s} refused: {error}"
            continue
        levels = jnp.linspace(-10.0, 10.0, nfe)
        ours = lambda s=sampler, g=steps: jax.block_until_ready(sample(den, s, g, SHAPE, cond=cond))  # noqa: E731
        plain = lambda at=levels: jax.block_until_ready(bare(DIT8, den.params, x, at, cond))  # noqa: E731
        yield line(interleaved(f"{name}, {nfe} NFE", ours, plain, options.pairs, warmup=1, bound=BOUND))
