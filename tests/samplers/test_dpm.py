"""DPM-Solvers: weights against integrals, limits at both ends, orders measured, equal methods under two names, refusals, counted calls."""

import dataclasses
from fractions import Fraction
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.convergence import error, order
from samplers.exact import Gaussian, Mixture, paths
from samplers.impulses import ratio

from score_lab.build import ConfigError
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DataPrediction,
    DPMFast,
    DPMSolverMultistep,
    DPMSolverNodes,
    DPMSolverPP2M,
    DPMSolverSinglestep,
    NoisePrediction,
    Times,
    UniformLogSNR,
    UniformTime,
    dpm_fast,
    sample,
)
from score_lab.samplers.dpm_fast import fast_orders
from score_lab.samplers.dpm_forms import weights

pytestmark = pytest.mark.usefixtures("x64")
DATA, NOISE = DataPrediction(), NoisePrediction()
M, S, B = DPMSolverMultistep, DPMSolverSinglestep, DPMSolverNodes


def phi(k: int, z: float) -> float:
    """``z phi_k(z) = sum_n z^(n+1) / (n + k)!`` in rational arithmetic."""
    z = Fraction(z)
    return float(sum(z ** (n + 1) / factorial(n + k) for n in range(90)))


def test_weights_are_the_integrals_at_every_step_length():
    """Down to h = 1e-9 and up to 8, both signs; in float32 too, where the closed form of phi_3 has no correct digit below h = 1e-3."""
    z = [s * v for v in (1e-9, 1e-4, 0.03, 0.5, 0.999, 1.0, 1.5, 8.0) for s in (1.0, -1.0)]
    exact = np.array([[phi(k, v) for v in z] for k in (1, 2, 3)])
    np.testing.assert_allclose(np.stack(weights(jnp.asarray(z))), exact, rtol=2e-14)
    np.testing.assert_allclose(np.stack(weights(jnp.asarray(z, jnp.float32))), exact, rtol=2e-6)


def test_order_1_is_ddim_and_its_closed_form():
    """(4.1): R_N = prod cos^2 of the angles' differences, in either form; k = 1 of all three classes is one method."""
    path, steps, s = LinearFlow(), UniformTime(7).steps(LinearFlow()), 0.5
    t = np.append(steps.t, 0.0)
    angle = np.arctan2(t, (1 - t) * s)
    expected = s * np.prod(np.cos(np.diff(angle)))
    for sampler in (M(1), S(1, NOISE), B(1)):
        x = sample(Gaussian(path, s), sampler, steps, x_T=jnp.ones((1, 1))).x
        assert abs(float(x[0, 0]) / expected - 1) < 1e-12


def test_2m_is_the_algorithm_of_the_paper():
    """Lu et al. 2022b, algorithm 2, written out in numpy on Gaussian data; and its usual name."""
    path, s = VP(), 0.5
    steps = UniformLogSNR(6, -3.0, 3.0, to_data=False).steps(path)
    t = jnp.append(steps.t, steps.s[-1])
    a, b = np.asarray(path.alpha(t)), np.asarray(path.sigma(t))
    lam, gain = np.log(a / b), a * s**2 / (a**2 * s**2 + b**2)
    x, q = 1.0, [gain[0]]
    for i in range(1, 7):
        h = lam[i] - lam[i - 1]
        D = q[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * q[-1] - q[-2] / (2 * r)
        x = b[i] / b[i - 1] * x - a[i] * (np.exp(-h) - 1) * D
        q.append(gain[i] * x)
    for sampler in (DPMSolverPP2M(), M(2)):
        assert abs(float(sample(Gaussian(path, s), sampler, steps, x_T=jnp.ones((1, 1))).x[0, 0]) / x - 1) < 1e-12


def test_nodes_are_the_singlestep_solver_on_every_third_level():
    """On levels equal in log-SNR, a block of 3 steps is one of the singlestep solver with its nodes at 1/3, 2/3."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    nodes = B(3, NOISE, "heun", lower_order_final=False)
    fine = sample(Mixture(VP()), nodes, UniformLogSNR(12, -3.0, 3.0, to_data=False), x_T=x)
    coarse = sample(Mixture(VP()), S(3, NOISE, "heun"), UniformLogSNR(4, -3.0, 3.0, to_data=False), x_T=x)
    assert int(fine.nfe) == int(coarse.nfe) == 12
    np.testing.assert_allclose(fine.x, coarse.x, rtol=1e-11)


SHIPPED = [
    M(2), M(3), M(2, NOISE, "heun"), S(3, NOISE), S(2, DATA, eta=1.0), B(3, DATA), B(2, NOISE), M(3, DATA, eta=1.0), M(2, NOISE, eta=0.5),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VP", "SubVP", "VE", "EDM", "Cosine", "LinearFlow", "Trigonometric", "DDPMTable", "ZeroSNRTable"])
@pytest.mark.parametrize("sampler", SHIPPED, ids=str)
def test_finite_on_every_path(sampler, name):
    finite(sampler, paths()[name])


def finite(sampler, path):
    """From the path's t = 1 to its t = 0, in one step where it may, and of about the data's variance with 12."""
    run = sample(Gaussian(path, 0.5), sampler, UniformTime(12), (500, 1), jax.random.key(1))
    assert np.isfinite(run.x).all() and int(run.nfe) <= 12 * sampler.calls
    if not isinstance(path, EDM):  # whose 12 equal steps of sigma from 80 are no grid for it
        assert 0.2 < float(jnp.std(run.x)) < 1.0


def limits(sampler):
    """alpha_s x0 + sigma_s eps for the ODE from pure noise, x0 at pure data, whatever the form and k; one call in either."""
    path, x = LinearFlow(), jnp.asarray([[0.3], [-2.0]])
    run = sample(Gaussian(path, 0.5, 1.0), sampler, Times((0.4, 0.0)), x_T=x)
    np.testing.assert_allclose(run.x, Gaussian(path, 0.5, 1.0)(x, 0.4).x0, rtol=1e-14)
    assert int(run.nfe) == 1
    if not sampler.stochastic:
        first = sample(Gaussian(path, 0.5, 1.0), sampler, Times((1.0, 0.4)), x_T=x)
        np.testing.assert_allclose(first.x, 0.6 * 1.0 + 0.4 * x, rtol=1e-14)
        assert int(first.nfe) == 1


def test_limits_at_both_ends():
    limits(S(2, NOISE))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [S(3, NOISE), S(2, DATA), M(1, NOISE), M(1), M(1, eta=1.0), B(1, NOISE, eta=1.0)], ids=str)
def test_limits_of_every_solver(sampler):
    limits(sampler)


def test_dpm_fast_makes_exactly_its_calls():
    """k-diffusion's orders, by the paper's rule; the network is called as often as asked for."""
    assert [fast_orders(n) for n in (1, 2, 3, 9, 10, 11)] == [(1,), (2,), (2, 1), (3, 3, 2, 1), (3, 3, 3, 1), (3, 3, 3, 2)]
    assert all(sum(fast_orders(n)) == n for n in range(1, 40))
    sampler, grid = dpm_fast(5, -3.0, 3.0)
    assert sampler == DPMFast(5) and sampler.solver(2).orders == fast_orders(5) == (3, 2)
    run = sample(Mixture(VP()), sampler, grid, x_T=jnp.ones((2, 2)))
    assert int(run.nfe) == 5
    plain = S(3, NOISE, orders=(3, 2))
    np.testing.assert_array_equal(run.x, sample(Mixture(VP()), plain, grid, x_T=jnp.ones((2, 2))).x)


def test_eta_0_is_the_ode_and_draws_nothing():
    x, grid = jnp.ones((2, 2)), UniformLogSNR(4, -3.0, 3.0, to_data=False)
    for sampler in (M(2), S(2), B(2)):
        none = dataclasses.replace(sampler, eta=0.0).specialise()
        assert none == sampler and not none.stochastic
    np.testing.assert_array_equal(sample(Mixture(VP()), M(2, eta=0.0), grid, x_T=x).x, sample(Mixture(VP()), M(2), grid, x_T=x).x)


@pytest.mark.parametrize(
    ("sampler", "steps", "words"),
    [
        (M(4), 5, "DPMSolverMultistep.k: 4"),
        (M(3), 2, "grid.num_steps: 2 .* at least 3"),
        (M(2, solver="midpiont"), 5, "did you mean 'midpoint'"),
        (M(2, eta=-1.0), 5, "eta: -1.0"),
        (M(2, s_noise=-1.0), 5, "s_noise: -1.0"),
        (M(2, final_orders=(0,)), 5, "final_orders"),
        (M(3, as_released="difusers"), 5, "did you mean 'diffusers'"),
        (S(3, r1=0.7), 5, "r1: 0.7"),
        (S(2, orders=(3, 1)), 2, "orders from 1 to k = 2"),
        (S(3, orders=(3, 1)), 3, "each of the grid's 3 steps"),
        (B(2, lower_order_final=False), 5, "a multiple of 2"),
        (B(3, orders=(1, 3)), 2, "one more than the one before"),
    ],
    ids=lambda v: "",
)
def test_refused(sampler, steps, words):
    with pytest.raises(ConfigError, match=words):
        sample(Mixture(VP()), sampler, UniformLogSNR(steps, -3.0, 3.0, to_data=False), x_T=jnp.ones((2, 2)))


def test_dpm_fast_refuses_no_evaluation():
    with pytest.raises(ConfigError, match="dpm_fast.nfe: 0"):
        dpm_fast(0)


@pytest.mark.slow
def test_caps_of_the_last_orders():
    """(2, 1) on 3M makes the run's last steps 2M and DDIM: the same as running those from where it stood."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    t = UniformLogSNR(6, -3.0, 3.0, to_data=False).steps(VP())
    levels = [float(v) for v in (*t.t, t.s[-1])]
    capped = sample(Mixture(VP()), M(3, final_orders=(2, 1)), Times(tuple(levels)), x_T=x).x
    before = sample(Mixture(VP()), M(3, final_orders=(2,)), Times(tuple(levels[:-1])), x_T=x).x
    np.testing.assert_allclose(capped, sample(Mixture(VP()), DDIM(), Times(tuple(levels[-2:])), x_T=before).x, rtol=1e-12)


def test_orders_quickly():
    """Interior order 3 of the corrected 3M; the whole table is in make test-slow."""
    assert order(M(3), VP(), 80, exact_start=True) >= 2.8


@pytest.mark.slow
def test_released_3m_has_order_2():
    assert 1.8 <= order(M(3, as_released="diffusers"), VP(), 160, exact_start=True) <= 2.3


TABLE = [
    (M(1), 80), (M(1, NOISE), 80), (M(2), 160), (M(2, solver="heun"), 160), (M(3), 160), (M(3, as_released="k_diffusion"), 160),
    (M(2, NOISE), 160), (M(2, NOISE, "heun"), 160), (M(3, NOISE), 160), (S(2, NOISE), 80), (S(2, DATA), 80), (S(3, NOISE), 60),
    (S(3, DATA), 60), (S(3, DATA, "heun"), 60), (S(3, NOISE, r1=0.5), 60),
    (B(2, lower_order_final=False), 160), (B(3, lower_order_final=False), 180), (B(3, NOISE, "heun", lower_order_final=False), 180),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["mixture", "stiff"])
@pytest.mark.parametrize("path", [VP(), LinearFlow()], ids=["VP", "flow"])
@pytest.mark.parametrize(("sampler", "n"), TABLE, ids=lambda v: str(v))
def test_order_of_convergence(sampler, n, path, problem):
    """As shipped min(declared, 2), from exact starts what is declared."""
    assert order(sampler, path, n, problem) >= (min(sampler.order, 2) if isinstance(sampler, M) else sampler.order) - 0.2
    if isinstance(sampler, M) and sampler.memory:
        assert order(sampler, path, n, problem, exact_start=True) >= sampler.order - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [B(3), B(3, solver="heun"), B(2)], ids=str)
def test_order_of_nodes_with_a_last_step_of_first_order(sampler):
    assert order(sampler, VP(), 180) >= 1.8


WEAK = [
    M(1, eta=1.0), M(2, eta=1.0), M(2, solver="heun", eta=1.0), M(2, eta=0.5), M(3, solver="heun", eta=1.0),
    M(3, solver="heun", eta=1.0, as_released="k_diffusion"), M(2, NOISE, eta=1.0), M(3, NOISE, eta=1.0),
    B(2, eta=1.0), S(2, eta=1.0), S(3, eta=1.0),
]  # fmt: skip


def weak(sampler, path, n):
    """log2 of the ratio of the variance's errors at n and 2n steps, on Gaussian bands, where there is an error."""
    coarse, fine = (np.abs(ratio(path, sampler, UniformLogSNR(k, -3.0, 3.0, to_data=False)) - 1) for k in (n, 2 * n))
    moved = coarse > 1e-9
    assert moved.sum() >= 3
    return np.log2(coarse[moved] / fine[moved])


@pytest.mark.slow
def test_weak_order_is_soon_there():
    """The SDE of 2M: 2, exactly, without Monte Carlo."""
    assert (weak(M(2, eta=1.0), VP(), 40) >= 1.8).all()


@pytest.mark.slow
@pytest.mark.parametrize("path", [VP(), LinearFlow()], ids=["VP", "flow"])
@pytest.mark.parametrize("sampler", WEAK, ids=str)
def test_weak_order_of_the_sde(sampler, path):
    """The least over the bands is the declared one, from both sides."""
    found = weak(sampler, path, 100)
    assert abs(found.min() - sampler.order) <= 0.2, found


@pytest.mark.slow
def test_released_sde_of_order_3_is_worse_than_its_own_order_2():
    """diffusers' sde-dpmsolver++ with solver_order=3: weak order 1, a sign of one half."""
    assert (weak(M(3, eta=1.0, as_released="diffusers"), VP(), 100) < 1.3).all()


@pytest.mark.slow
def test_3m_is_better_than_2m():
    assert error(M(3), VP(), 80, exact_start=True) < 0.3 * error(M(2), VP(), 80, exact_start=True)
