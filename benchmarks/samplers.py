"""What sampling costs beyond the network: microseconds per network evaluation with a free network, batch 64 x 2.

A: ``sample`` with a denoiser whose network is free (it multiplies by a number handed over at run time, so that XLA cannot fold the loop
away).  B: a bare ``lax.scan`` that makes the same number of calls of that network and nothing else.  Overhead = (A - B) / NFE, medians of
interleaved pairs.  Stochastic samplers also pay for drawing normals keyed by sample index: a scan that only draws them is measured in the
same run.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.denoiser import NetworkDenoiser
from score_lab.paths import VP
from score_lab.samplers import DDIM, DPMSolverPP2M, Euler, EulerMaruyama, Heun, NormalDraws, T, UniformLogSNR, sample
from score_lab.targets import F

SHAPE = (64, 2)
STEPS = 200
BOUND = 1.0
"""Microseconds per evaluation."""


@dataclasses.dataclass(frozen=True)
class Free:
    """``y = w x``."""

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return params * x


def bare(w, x, n: int):
    """n calls of the free network."""
    return jax.lax.scan(lambda x, _: (w * x, None), x, None, length=n)[0]


def draws(key, n: int):
    """n draws of per-index normals, summed so that none can be left out."""
    noise = NormalDraws.of(key, jnp.arange(SHAPE[0]))
    like = jnp.zeros(SHAPE)
    return jax.lax.scan(lambda total, k: (total + noise(k, 0, like), None), like, jnp.arange(n))[0]


def median_times(programs: dict, pairs: int) -> dict[str, np.ndarray]:
    """Seconds of every program in every round, the programs visited in turn."""
    for run in programs.values():
        run()
        run()
    times = {name: [] for name in programs}
    for _ in range(pairs):
        for name, run in programs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: np.asarray(t) for name, t in times.items()}


def measure(pairs: int = 20) -> str:
    """One row per sampler."""
    denoiser = NetworkDenoiser(jnp.asarray(0.9), Free(), VP(), F(0.5), 0.5)
    x, w, key = jnp.ones(SHAPE), jnp.asarray(0.9), jax.random.key(0)
    samplers = {
        "DDIM": DDIM(), "Euler in t": Euler(T()), "Heun in kappa": Heun(), "DPM-Solver++(2M)": DPMSolverPP2M(),
        "DDIM, eta = 1": DDIM(1.0), "Euler-Maruyama": EulerMaruyama(),
    }  # fmt: skip
    steps, few = (UniformLogSNR(n).steps(denoiser.path) for n in (STEPS, 2))
    plain = jax.jit(bare, static_argnums=2)
    drawn = jax.jit(draws, static_argnums=1)
    nfe = {name: int(sample(denoiser, s, steps, SHAPE, key).nfe) for name, s in samplers.items()}
    programs = {name: (lambda s=s: jax.block_until_ready(sample(denoiser, s, steps, SHAPE, key))) for name, s in samplers.items()}
    programs |= {f"bare {n}": (lambda n=n: jax.block_until_ready(plain(w, x, n))) for n in sorted(set(nfe.values()))}
    programs["draws"] = lambda: jax.block_until_ready(drawn(key, STEPS))
    programs["one step"] = lambda: jax.block_until_ready(sample(denoiser, DDIM(), few, SHAPE, key))
    times = median_times(programs, pairs)
    lines = [f"{'':22s} {'NFE':>5s} {'us/NFE':>8s}   95 % interval      drawing us/NFE"]
    for name, s in samplers.items():
        extra = np.sort(times[name] - times[f"bare {nfe[name]}"] - times["one step"]) / nfe[name] * 1e6
        rank = max(int(np.floor(0.5 * (pairs - 1.96 * np.sqrt(pairs)))), 0)
        draw = np.median(times["draws"]) / STEPS * 1e6 if s.stochastic else 0.0
        low, high = extra[rank], extra[-1 - rank]
        verdict = "holds" if low <= BOUND + draw else "DOES NOT HOLD"
        cost = f"{draw:6.2f}" if s.stochastic else "     -"
        lines.append(
            f"{name:22s} {nfe[name]:5d} {np.median(extra):8.2f}   {low:6.2f} to {high:6.2f}   {cost}   <= {BOUND + draw:.2f} {verdict}"
        )
    lines.append(
        f"A call of sample itself, before its first step: {np.median(times['one step']) * 1e6:.0f} us (host), taken off above"
    )
    return "\n".join(lines)
