"""What sampling costs beyond the network: microseconds per network evaluation with a free network, batch 64 x 2.

A(n): ``sample`` over n steps with a denoiser whose network is free (it multiplies by a number handed over at run time, so that XLA
cannot fold the loop away).  B(m): a bare ``lax.scan`` that makes the m calls of that network that A(n) made, and nothing else.  With 210
and 10 steps, visited in turn,

    overhead = ([A(210) - A(10)] - [B(m_210) - B(m_10)]) / (m_210 - m_10)

so that what a call of ``sample`` costs before its first step cancels.  Stochastic solvers also pay for drawing normals keyed by sample
index: a scan that only draws them is measured in the same rounds, and the bound is raised by it, once per draw of the solver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import Options
from benchmarks.pairs import in_turn, interval, verdict
from score_lab.build import ConfigError
from score_lab.denoiser import NetworkDenoiser
from score_lab.paths import VP
from score_lab.samplers import NormalDraws, UniformLogSNR, sample
from score_lab.targets import F

SHAPE = (64, 2)
LONG, SHORT = 210, 10
BOUND = {False: 1.0, True: 2.0}
"""Microseconds per evaluation, without and with memory of earlier steps."""


@dataclasses.dataclass(frozen=True)
class Free:
    """``y = w x``."""

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return params * x


@jax.jit(static_argnums=2)
def bare(w, x, n: int):
    """n calls of the free network."""
    return jax.lax.scan(lambda x, _: (w * x, None), x, None, length=n)[0]


@jax.jit(static_argnums=1)
def draws(key, n: int):
    """n draws of per-index normals, summed so that none can be left out."""
    noise = NormalDraws.of(key, jnp.arange(SHAPE[0]))
    like = jnp.zeros(SHAPE)
    return jax.lax.scan(lambda total, k: (total + noise(k, 0, like), None), like, jnp.arange(n))[0]


def free_denoiser() -> NetworkDenoiser:
    """On VP, with EDM's row."""
    return NetworkDenoiser(jnp.float32(0.9), Free(), VP(), F(0.5), 0.5)  # a parameter has a type of its own, as those of networks have


def draws_per_step(denoiser: Any, sampler: Any) -> int:
    """How many normals of the state's shape a step of ``sampler`` draws: asked of its trace."""
    seen = set()

    def noise(step, call, like):
        seen.add(call)
        return jax.tree.map(jnp.zeros_like, like)

    steps = UniformLogSNR(SHORT).steps(denoiser.path)
    jax.eval_shape(lambda d, rows: sample(d, sampler, rows, SHAPE, noise=noise), denoiser, steps)
    return len(seen)


def _programs(denoiser: Any, sampler: Any) -> tuple[dict[str, Callable], dict[str, int]]:
    """A and B at both lengths, and their network evaluations."""
    x, w, key = jnp.ones(SHAPE), jnp.asarray(0.9), jax.random.key(0)
    programs, nfe = {}, {}
    for name, n in (("long", LONG), ("short", SHORT)):
        steps = UniformLogSNR(n).steps(denoiser.path)
        nfe[name] = m = int(sample(denoiser, sampler, steps, SHAPE, key).nfe)
        programs[f"A {name}"] = lambda steps=steps: jax.block_until_ready(sample(denoiser, sampler, steps, SHAPE, key))
        programs[f"B {name}"] = lambda m=m: jax.block_until_ready(bare(w, x, m))
        programs[f"draws {name}"] = lambda n=n: jax.block_until_ready(draws(key, n))
    if not sampler.stochastic:
        programs = {name: run for name, run in programs.items() if not name.startswith("draws")}
    return programs, nfe


def overhead(denoiser: Any, name: str, sampler: Any, rounds: int) -> str:
    """One row of the table."""
    programs, nfe = _programs(denoiser, sampler)
    times = {k: 1e6 * v for k, v in in_turn(programs, rounds).items()}
    calls = nfe["long"] - nfe["short"]
    extra = (times["A long"] - times["A short"] - times["B long"] + times["B short"]) / calls
    median, low, high = interval(extra)
    bound, drawing = BOUND[sampler.memory > 0], "      -"
    if sampler.stochastic:
        count = draws_per_step(denoiser, sampler)
        cost = count * float(np.median(times["draws long"] - times["draws short"])) / calls
        bound, drawing = bound + cost, f"{count} x {cost / count:5.2f}"
    row = f"{name:44s} {nfe['long']:5d} {median:8.2f}   {low:6.2f} to {high:6.2f}   {drawing:>9s}"
    return f"{row}   <= {bound:.2f} {verdict(median, low, bound)}"


def measure(options: Options) -> Iterator[str]:
    """One row per solver; a solver that refuses this grid is a row that says why."""
    denoiser = free_denoiser()
    yield f"{'':44s} {'NFE':>5s} {'us/NFE':>8s}   95 % interval      drawing     bound"
    for name, sampler in options.fixed_step().items():
        try:
            yield overhead(denoiser, name, sampler, 5 * options.pairs)
        except ConfigError as error:
            yield f"{name:44s} refused: {error}"
