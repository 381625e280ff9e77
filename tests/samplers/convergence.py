"""Measured orders of convergence, deterministic: between two finite log-SNRs, in float64, against exact solutions.

    error(N) = mean |x_N - x(LOW -> HIGH)| ~ C N^-p,      p = log2(error(N) / error(2N))

``mixture``: the 2-D mixture of exact.py, solved by scipy's DOP853 to 1e-13.  ``stiff``: Gaussian data of standard deviations 1 and 0.05,
x_s = x_t sqrt(V_s / V_t).  As shipped, a multistep solver starts at first order; ``exact_start`` gives it exact states for its first
``memory`` steps, so that what is measured is the order of its interior formula.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from samplers.exact import Gaussian, Mixture, mixture_numpy
from scipy.integrate import solve_ivp

from score_lab.paths import LinearFlow, move
from score_lab.samplers import UniformLogSNR, sample
from score_lab.types import leaf, pytree_dataclass

LOW, HIGH = -3.0, 3.0
STD = np.array([1.0, 0.05])


@pytree_dataclass
class ExactStart:
    """``inner`` with the exact state put in its place after each of its first ``len(states)`` steps."""

    inner: Any = leaf()
    states: Any = leaf()

    order = property(lambda self: self.inner.order)
    calls = property(lambda self: self.inner.calls)
    memory = property(lambda self: self.inner.memory)
    stochastic = property(lambda self: self.inner.stochastic)

    def init(self, x, steps, path):
        return self.inner.init(x, steps, path)

    def step(self, denoise, x, t, s, draw, carry):
        x_s, carry, p = self.inner.step(denoise, x, t, s, draw, carry)
        k, last = denoise.step, self.states.shape[0] - 1
        return jnp.where(k <= last, self.states[jnp.minimum(k, last)], x_s), carry, p


def start() -> np.ndarray:
    """Twelve states at LOW, on the linear flow, of about the marginal's variance."""
    t = 1 / (1 + np.exp(LOW / 2))
    return np.random.default_rng(0).standard_normal((12, 2)) * np.sqrt((1 - t) ** 2 * 1.1 + t**2)


@functools.cache
def _flow() -> Any:
    """The dense exact solution of the mixture on the linear flow, from LOW to HIGH."""
    t0, t1 = (1 / (1 + np.exp(v / 2)) for v in (LOW, HIGH))

    def slope(t, y):
        x0, eps = mixture_numpy(y.reshape(12, 2), 1 - t, t)
        return (eps - x0).ravel()

    return solve_ivp(slope, (t0, t1), start().ravel(), method="DOP853", rtol=1e-13, atol=1e-13, dense_output=True).sol


def exact(problem: str, levels: np.ndarray) -> np.ndarray:
    """The exact states at log-SNRs, on the linear flow: (len(levels), 12, 2) or, stiff, (len(levels), 24, 1); the first of them is LOW."""
    t = 1 / (1 + np.exp(np.asarray(levels) / 2))
    if problem == "mixture":
        return np.stack([_flow()(u).reshape(12, 2) for u in t])
    V = (1 - t[:, None]) ** 2 * STD**2 + t[:, None] ** 2
    return (start() * np.sqrt(V / V[0])[:, None]).reshape(len(t), 24, 1)


def solve(
    sampler: Any, path: Any, n: int, problem: str = "mixture", exact_start: bool = False, grid: Any = None
) -> tuple[float, int]:
    """Mean distance of the last states from the exact ones after n steps, and NFE; ``grid(n)`` makes another grid from LOW to HIGH."""
    steps = (UniformLogSNR(n, LOW, HIGH, to_data=False) if grid is None else grid(n)).steps(path)
    times = jnp.append(steps.t, steps.s[-1])
    flow = LinearFlow()
    levels = np.asarray(path.log_snr(times))
    truth = exact(problem, levels)
    from_flow = jax.vmap(lambda x, v, t: move(x, flow.time_of(v), flow, t, path))
    on_path = np.asarray(from_flow(jnp.asarray(truth), jnp.asarray(levels), times))
    if exact_start and sampler.memory:
        sampler = ExactStart(sampler, jnp.asarray(on_path[1 : sampler.memory + 1]))
    denoiser = Mixture(path) if problem == "mixture" else Gaussian(path, jnp.asarray(np.tile(STD, 12)))
    run = sample(denoiser, sampler, steps, x_T=jnp.asarray(on_path[0]))
    return float(np.abs(np.asarray(run.x) - on_path[-1]).mean()), int(run.nfe)


def error(*args: Any, **kwargs: Any) -> float:
    """The distance of ``solve``."""
    return solve(*args, **kwargs)[0]


def order(sampler: Any, path: Any, n: int, problem: str = "mixture", exact_start: bool = False, grid: Any = None) -> float:
    """The measured order between n and 2n steps."""
    coarse, fine = (error(sampler, path, k, problem, exact_start, grid) for k in (n, 2 * n))
    return float(np.log2(coarse / fine))
