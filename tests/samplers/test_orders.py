"""Measured orders of convergence, and one sampler on three paths, on a mixture (not Gaussian), in float64.

Order between two finite log-SNRs: error(N) / error(2N) -> 2^order against a fine run of another method.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from samplers.convergence import order as order_of
from samplers.exact import Gaussian, Mixture
from samplers.impulses import ratio

from score_lab.paths import EDM, VP, LinearFlow, move
from score_lab.samplers import (
    DDIM,
    DDPM,
    DPMFast,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Kappa,
    LogSNR,
    T,
    Times,
    UniformLogSNR,
    UniformTime,
    sample,
)

pytestmark = pytest.mark.usefixtures("x64")
LOW, HIGH = -3.0, 3.0


def states(path):
    """Twelve states at log-SNR ``LOW``: of total variance about one, moved to ``path``."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 2)) * 1.05)
    return move(x, VP().time_of(LOW), VP(), path.time_of(LOW), path)


def final(path, sampler, n):
    return np.asarray(sample(Mixture(path), sampler, UniformLogSNR(n, LOW, HIGH, to_data=False), x_T=states(path)).x)


@pytest.fixture(scope="module")
def fine():
    return {}


def reference(fine, path):
    if path not in fine:
        fine[path] = final(path, Heun(LogSNR()), 3000)
    return fine[path]


@pytest.mark.parametrize(
    ("path", "sampler"),
    [
        (LinearFlow(), Euler(T())), (VP(), Euler(LogSNR())), (EDM(), Heun(Kappa())), (VP(), Heun(T())), (VP(), DPMSolverPP2M()),
        *(
            pytest.param(path, sampler, marks=pytest.mark.slow)
            for path, sampler in (
                (EDM(), Euler(Kappa())), (VP(), Euler(T())), (LinearFlow(), Heun(T())), (VP(), Heun(LogSNR())),
                (LinearFlow(), DPMSolverPP2M()),
            )
        ),
    ],
    ids=lambda v: type(v).__name__ + (f"-{type(v.variable).__name__}" if hasattr(v, "variable") else ""),
)  # fmt: skip
def test_order_of_convergence(fine, path, sampler):
    exact = reference(fine, path)
    n = 50 * sampler.order
    coarse, half = (np.abs(final(path, sampler, k) - exact).mean() for k in (n, 2 * n))
    order = np.log2(coarse / half)
    assert sampler.order - 0.2 <= order <= sampler.order + 0.6, order


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["mixture", "stiff"])
@pytest.mark.parametrize("path", [VP(), LinearFlow()], ids=["VP", "flow"])
@pytest.mark.parametrize("sampler", [Euler(T()), Euler(Kappa()), Euler(LogSNR()), DDIM(), DPMFast()], ids=str)
def test_order_on_the_mixture_and_stiff(sampler, path, problem):
    """Against exact solutions, the mixture's and those of standard deviations 1 and 0.05."""
    found = order_of(sampler, path, 150, problem)
    assert abs(found - sampler.order) <= 0.2, found


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [DDIM(1.0), DDPM("beta"), EulerMaruyama(), EulerMaruyama(increment="exact")], ids=str)
def test_weak_order_of_the_stochastic_samplers(sampler):
    """The variance on Gaussian data, computed exactly from impulse responses, converges with order 1."""
    error = [np.abs(ratio(VP(), sampler, UniformLogSNR(n, LOW, HIGH, to_data=False)) - 1) for n in (40, 80)]
    moved = error[0] > 1e-10  # unit variance is exact on VP at every N for some
    order = np.log2(error[0][moved] / error[1][moved])
    assert moved.sum() >= 3 and (np.abs(order - sampler.order) < 0.2).all(), order


def test_ddim_on_vp_is_euler_on_the_flow_is_euler_in_sigma():
    """On one log-SNR grid, to data and between finite ends: 1e-10, with the states moved by ``paths.move``."""
    levels = tuple(np.linspace(-8.0, 9.0, 14))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((8, 2)))
    for last in ((), (np.inf,)):
        ends = []
        for path, sampler in ((VP(), DDIM()), (LinearFlow(), Euler(T())), (EDM(), Euler(Kappa())), (LinearFlow(), Euler(Kappa()))):
            grid = Times(levels + last, of="log_snr")
            start, end = grid.steps(path).start, grid.steps(path).s[-1]
            x_T = move(x, VP().time_of(levels[0]), VP(), start, path)
            moved = sample(Mixture(path), sampler, grid, x_T=x_T).x
            ends.append(np.asarray(move(moved, end, path, VP().time_of(jnp.asarray((levels + last)[-1])), VP())))
        for other in ends[1:]:
            np.testing.assert_allclose(other, ends[0], rtol=1e-10, atol=1e-12)


def test_heun_depends_on_its_variable():
    """Unlike Euler in kappa, whose states agree above: on the same levels Heun in t and Heun in kappa are different methods."""
    a, b = (sample(Gaussian(LinearFlow()), Heun(v), UniformTime(6), x_T=jnp.ones((1, 1))).x for v in (T(), Kappa()))
    assert abs(float(a[0, 0] / b[0, 0]) - 1) > 1e-3
