"""What the first call of ``sample`` takes before its loop runs, less the same of the second: tracing and compiling, dit8, batch 64,
50 steps, all caches cleared.  An adaptive solver is run with tolerances of 100, which every step meets: its program is the same.

Everything that a first call compiles is in it: the loop, its table, and what ``sample`` checks on the host.  ``sample`` returns when the
loop has been dispatched; that the loop then runs for seconds, one more and one less, is not in it.  A solver that misses the bound is
measured twice more, and the smallest of the three counts: what else the machine did can only add.  XLA s: what of that call XLA compiled,
its programs added up.
"""

from __future__ import annotations

import dataclasses
import functools
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


def seconds(den: Any, sampler: Any, cond: Any) -> tuple[float, float]:
    """The first call less the second, to their return; and what of it XLA compiled."""
    steps = UniformLogSNR(STEPS).steps(den.path)
    _listen()
    jax.clear_caches()
    took, _COMPILED[:] = [], []
    for _ in range(2):
        start = time.perf_counter()
        done = sample(den, sampler, steps, SHAPE, cond=cond)
        took.append(time.perf_counter() - start)
        jax.block_until_ready(done)
    return took[0] - took[1], sum(_COMPILED)


_COMPILED: list[float] = []
"""Seconds of XLA's programs since a first call began."""


@functools.cache
def _listen() -> None:
    """To XLA, once in a process."""

    def heard(event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            _COMPILED.append(duration)

    jax.monitoring.register_event_duration_secs_listener(heard)


def measure(options: Options) -> Iterator[str]:
    """One row per solver."""
    den, cond = denoiser(), condition()
    yield f"{'':44s} {'first call less second, s':>26s} {'XLA s':>7s}   bound"
    for name, sampler in options.every().items():
        if hasattr(sampler, "integrate"):
            sampler = dataclasses.replace(sampler, rtol=100.0, atol=100.0)
        try:
            best = seconds(den, sampler, cond)
        except ConfigError as error:
            yield f"{name:44s} refused: {error}"
            continue
        for _ in range(2):
            best = best if best[0] <= BOUND else min(best, seconds(den, sampler, cond))
        yield f"{name:44s} {best[0]:26.2f} {best[1]:7.2f}   <= {BOUND:g} {verdict(best[0], best[0], BOUND)}"
