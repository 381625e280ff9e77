"""Path x target x sampler x grid: the last states are finite, from one end of the path to the other in float32, or refused at build by
name.

A path's values at the grid's times are data here, not program, so 216 cells of path, target and grid are one program a sampler.  Three
samplers are in the quick suite; ``make test-slow`` takes the others too, and every path with its own functions compiled.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import paths
from samplers.fake import small

from score_lab.build import ConfigError
from score_lab.denoiser import check_levels, trained_range
from score_lab.paths import GaussianPath
from score_lab.samplers import (
    DDIM,
    DDPM,
    Churn,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    LogSNR,
    T,
    UniformLogSNR,
    UniformTime,
    sample,
)
from score_lab.targets import X0, Eps, F, Score, V, Velocity, loses_signal
from score_lab.types import leaf, pytree_dataclass

PATHS = ["VP", "SubVP", "VE", "EDM", "Cosine", "LinearFlow", "Trigonometric", "DDPMTable", "ZeroSNRTable"]
TARGETS = [X0(), Eps(), Score(), V(), Velocity(), F(0.7)]
SAMPLERS = [
    DDIM(), DDIM(1.0), DDPM(), DDPM("beta"), Euler(T()), Euler(Kappa()), Euler(LogSNR()), Heun(T()),
    Heun(T(), at_data=True), Heun(Kappa()), Heun(LogSNR()),
    EulerMaruyama(), EulerMaruyama(0.0), EulerMaruyama(increment="exact"), DPMSolverPP2M(),
]  # fmt: skip


QUICK = (8, 11)  # Heun with its call at data, Euler-Maruyama; the others in make test-slow
QUANTITIES = ["alpha", "sigma", "log_snr", "alpha_dot", "sigma_dot", "log_snr_dot", "drift", "diffusion_squared", "kappa"]


@pytree_dataclass
class Tabulated(GaussianPath):
    """A path's own values at the times of a grid, looked up: nine paths, six targets and one compiled program a sampler."""

    times: object = leaf()
    values: object = leaf()  # (quantity, time)
    row: object = leaf()  # (2, time), the target's

    def at(self, values, t):
        found = jnp.argmin(jnp.abs(self.times - t))
        return jnp.where(self.times[found] == t, values[found], jnp.nan)  # NaN: a time that the grid does not have


for number, quantity in enumerate(QUANTITIES):
    setattr(Tabulated, quantity, lambda self, t, k=number: jnp.vectorize(lambda u: self.at(self.values[k], u))(t))


@pytree_dataclass
class Row:
    """The row of the target behind a ``Tabulated`` path."""

    def row(self, path, t):
        return path.at(path.row[0], t), path.at(path.row[1], t)


class Given(GaussianPath):
    """The same values for whatever times are asked: from which a target computes its rows."""


@jax.jit
def _values(path, times):
    return jnp.stack([jnp.broadcast_to(getattr(path, q)(times), times.shape) for q in QUANTITIES])


def grids(path, start):
    """The three families of grids, and churn; ``start`` where the target cannot be used at the path's own end."""
    high = np.inf if start is None else np.exp(-0.5 * start)
    top = min(80.0, high, 0.9999 * float(path.kappa(jnp.float32(1))))
    plain = [UniformTime(5, start), UniformLogSNR(5, start), Karras(5, sigma_max=top)]
    return [*plain, Churn(plain[2], s_churn=2.0, s_noise=1.01)]


@functools.cache
def cells():
    """(name, denoiser, steps, x_T) of every path, target and grid; what is refused at build is not among them (see below)."""
    found, z = [], np.asarray(jax.random.normal(jax.random.key(0), (2, 2)))
    for name, path in paths().items():
        prior_std, T = float(path.prior_std(1.0)), path.sigma(jnp.float32(1))
        for start in (None, -10.0):
            targets = [t for t in TARGETS if (start is not None) == loses_signal(t, path)]
            for grid in grids(path, start) if targets else ():
                steps = grid.steps(path)
                times = jnp.concatenate([steps.t, steps.s, steps.r, steps.start[None], jnp.array([0.25, 0.5])])
                values = _values(path, times)
                given = Given()
                given.__dict__.update({q: lambda t, v=v: v for q, v in zip(QUANTITIES, values, strict=True)})
                for target in targets:
                    check_levels(small(path, target, log_snr_range=trained_range(path, target)), np.asarray(values[2])[: len(steps.t)])
                    tabulated = Tabulated(times, values, jnp.stack(target.row(given, times)))
                    scale = 1.0 if prior_std == 1.0 and float(T) <= 1 else float(values[1][0])
                    found.append((f"{name}, {type(target).__name__}, {grid}", small(tabulated, Row()), steps, jnp.asarray(scale * z)))
    assert len(found) == len(paths()) * len(TARGETS) * 4
    return found


@pytest.mark.parametrize("sampler", [s if i in QUICK else pytest.param(s, marks=pytest.mark.slow) for i, s in enumerate(SAMPLERS)], ids=str)
def test_finite(sampler):
    """Every path, target and grid: the path's values, the target's rows, the real loop and host checks."""
    for name, denoiser, steps, x_T in cells():
        if not (sampler.memory and steps.renoises):
            x = sample(denoiser, sampler, steps, x_T=x_T, key=jax.random.key(1)).x
            assert np.isfinite(x).all(), name


def test_what_cannot_be_used_is_refused_by_name():
    """Eps and score at zero terminal SNR: refused when the denoiser is checked, and their bounded range when a grid leaves it."""
    for name, target in itertools.product(("LinearFlow", "Cosine", "Trigonometric", "ZeroSNRTable"), (Eps(), Score())):
        path = paths()[name]
        with pytest.raises(ConfigError, match=f"target: '{type(target).__name__}' says nothing of x0 at t = 1 of"):
            small(path, target).check()
        bounded = small(path, target, log_snr_range=trained_range(path, target))
        with pytest.raises(ConfigError, match=r"grid: log-SNR from -inf is refused"):
            sample(bounded, DDIM(), UniformTime(4), (2, 2))


def run(path, samplers, grid):
    for sampler in samplers:
        x = sample(small(path, F(0.7)), sampler, grid, (2, 2), jax.random.key(1)).x
        assert np.isfinite(x).all(), (type(path).__name__, sampler, grid)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_every_sampler_on_every_path_as_it_is(name):
    """Compiled with the path's own functions inside."""
    run(paths()[name], SAMPLERS, UniformTime(7))


@pytest.mark.slow
def test_finite_at_a_thousand_steps():
    """float32, both ends, steps of 1e-3: the smallest differences of levels that occur."""
    for path in paths().values():
        run(path, (DDPM(), EulerMaruyama(increment="exact"), Heun(T())), UniformTime(1000))
