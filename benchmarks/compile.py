"""What the first call of ``sample`` takes before its loop runs, less the same of the second: tracing and compiling, dit8, batch 64,
50 steps, all caches cleared.  An adaptive solver is run with tolerances of 100, which every step meets: its program is the same.

Everything that a first call compiles is in it: the loop, its table, and what ``sample`` checks on the host.  ``sample`` returns when the
loop has been dispatched; that the loop then runs for seconds, one more and one less, is not in it.  A solver that misses the bound is
measured twice more, and the smallest of the three counts: what else the machine did can only add.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.dit8 import SHAPE, condition, denoiser
from benchmarks.options import Options
from benchmarks.pairs import verdict
from score_lab.build import ConfigError
from score_lab.samplers import UniformLogSNR, sample

STEPS = 50
BOUND = 2.0
"""Seconds."""


def seconds(den: Any, sampler: Any, cond: Any) -> float:
    """The first call less the second, to their return."""
    steps = UniformLogSNR(STEPS).steps(den.path)
    jax.clear_caches()
    took = []
    for _ in range(2):
        start = time.perf_counter()
        done = sample(den, sampler, steps, SHAPE, cond=cond)
        took.append(time.perf_counter() - start)
        jax.block_until_ready(done)
    return took[0] - took[1]


def measure(options: Options) -> Iterator[str]:
    """One row per solver."""
    den, cond = denoiser(), condition()
    yield f"{'':44s} {'first call less second, s':>26s}   bound"
    for name, sampler in options.every().items():
        if hasattr(sampler, "integrate"):
            sampler = dataclasses.replace(sampler, rtol=100.0, atol=100.0)
        try:
            best = seconds(den, sampler, cond)
        except ConfigError as error:
            yield f"{name:44s} refused: {error}"
            continue
        for _ in range(2):
            best = best if best <= BOUND else min(best, seconds(den, sampler, cond))
        yield f"{name:44s} {best:26.2f}   <= {BOUND:g} {verdict(best, best, BOUND)}"
