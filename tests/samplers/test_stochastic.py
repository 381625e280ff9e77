"""Stochastic solvers on Gaussian bands (exact variances by impulse responses, no Monte Carlo), along one Brownian path, and without noise.

Every expected variance is written in numpy from alpha and sigma at the grid's times: x0 = (alpha s^2 / V) x, eps = (sigma / V) x.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from oracle.case import Bank
from samplers.convergence import order
from samplers.exact import Mixture, paths
from samplers.impulses import S, levels, ratio

from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DPMPPSDE,
    ERSDE,
    GDDIM,
    DPM2Ancestral,
    DPMPP2SAncestral,
    Euler,
    EulerAncestral,
    EulerMaruyama,
    Heun,
    ItoEuler,
    Karras,
    PowerNoise,
    SASolver,
    SiTDiffusion,
    StochasticFlowEuler,
    StochasticHeun,
    T,
    UniformLogSNR,
    UniformTime,
    sample,
)

pytestmark = pytest.mark.usefixtures("x64")
FORMS = ("constant", "SBDM", "sigma", "linear", "decreasing", "increasing-decreasing")


def draws_of(sampler):
    return 2 if isinstance(sampler, DPMPPSDE) else 1


def weak_errors(path, sampler, n):
    """The variance's relative errors, band by band, with n and 2n steps."""
    grids = (UniformLogSNR(k, -3.0, 3.0, to_data=False) for k in (n, 2 * n))
    return [np.abs(ratio(path, sampler, grid, draws_per_step=draws_of(sampler)) - 1) for grid in grids]


def weak_orders(path, sampler, n):
    """Of the bands whose error is not rounding."""
    coarse, fine = weak_errors(path, sampler, n)
    moved = fine > 1e-9
    assert moved.sum() >= 3
    return np.log2(coarse[moved] / fine[moved])


FIRST = [GDDIM(0.5), ItoEuler(), DDIM(0.5)]
WEAK = [
    EulerMaruyama(SiTDiffusion("sigma")), StochasticHeun(), EulerAncestral(0.5), DPM2Ancestral(), DPMPP2SAncestral(), DPMPPSDE(),
    DPMPPSDE(independent=True), SASolver(1), SASolver(2), SASolver(1, 1), ERSDE(2), ERSDE(1), *FIRST,
]  # fmt: skip
MORE = [
    EulerMaruyama(), StochasticHeun(SiTDiffusion("increasing-decreasing")), StochasticHeun(0.5), EulerAncestral(), DPM2Ancestral(0.5),
    DPMPP2SAncestral(0.5), DPMPPSDE(0.5), SASolver(2, tau=0.5), ERSDE(2, PowerNoise(1.0)), ERSDE(1, PowerNoise(1.0)),
]  # fmt: skip


@pytest.mark.parametrize("sampler", [StochasticHeun(), DPM2Ancestral(), DPMPPSDE(), SASolver(1, 1), ERSDE(2)], ids=str)
def test_weak_order(sampler):
    assert (np.abs(weak_orders(VP(), sampler, 48) - sampler.order) <= 0.2).all()


@pytest.mark.parametrize("sampler", FIRST, ids=str)
def test_weak_order_one(sampler):
    """Of every band but that of unit variance, which on VP is stationary: there the leading term of Ito-Euler vanishes, and it is 2."""
    found = weak_orders(VP(), sampler, 48)
    assert (np.abs(found - 1) <= 0.2).sum() >= 3 and (found >= 0.8).all(), found


@pytest.mark.slow
@pytest.mark.parametrize("sampler", WEAK + MORE, ids=str)
def test_weak_order_on_other_paths(sampler):
    """Of every band, but where the leading term is small beside the others' (the third of Euler-Maruyama on the linear flow vanishes: its
    order is 2; the second of stochastic Heun on EDM): of such a band the order may be higher, and never lower."""
    for path in (LinearFlow(), EDM(), VP()):
        coarse, fine = weak_errors(path, sampler, 96)
        moved = fine > 1e-9
        found, vanishes = np.log2(coarse[moved] / fine[moved]), coarse[moved] < 0.05 * coarse.max()
        assert moved.sum() >= 3 and (found >= sampler.order - 0.2).all(), (path, found)
        assert (np.abs(found - sampler.order) <= 0.2)[~vanishes].all() and vanishes.sum() <= 1, (path, found, coarse)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", [SASolver(3), SASolver(3, tau=0.5), SASolver(2, 2), SASolver(3, 3), ERSDE(3), ERSDE(3, PowerNoise(1.0))], ids=str
)
def test_more_nodes_are_at_least_of_weak_order_two(sampler):
    """Their errors change sign between bands, so that a band's own order may be anything: the largest error is measured, on a fine grid."""
    errors = []
    for n in (96, 192, 384):
        errors.append(np.abs(ratio(VP(), sampler, UniformLogSNR(n, -3.0, 3.0, to_data=False)) - 1).max())
    assert np.log2(errors[0] / errors[2]) / 2 >= sampler.order - 0.2, errors


def test_a_flow_step_with_new_noise_does_not_converge():
    """StochasticFlowEuler declares order 0: the band of unit variance keeps losing half of it, however small the step."""
    assert StochasticFlowEuler().order == 0
    r = [ratio(VP(), StochasticFlowEuler(), UniformLogSNR(n, -3.0, 3.0, to_data=False))[2] for n in (32, 128)]
    assert all(0.3 < v < 0.7 for v in r) and abs(r[1] - r[0]) < 0.1, r


@pytest.mark.parametrize("solver", [EulerMaruyama, StochasticHeun])
def test_strong_order_one(solver):
    """The mixture, on increments that refine one Brownian path in t, against 16 times finer stochastic Heun: the median of |x_N - x| over
    256 paths (a path that passes between two components decides late, and rules any mean)."""
    sampler = solver(SiTDiffusion("sigma", 0.5))
    path, fine = LinearFlow(), 2048
    grid = lambda n: UniformLogSNR(n, -3.0, 3.0, to_data=False).steps(path)  # noqa: E731
    h = np.asarray(grid(fine).t - grid(fine).s)
    dW = np.random.default_rng(2).standard_normal((fine, 256, 2)) * np.sqrt(h)[:, None, None]
    x_T = jnp.asarray(np.random.default_rng(3).standard_normal((256, 2)))

    def run(s, n):
        sums = dW.reshape(n, fine // n, 256, 2).sum(1) / np.sqrt(h.reshape(n, -1).sum(1))[:, None, None]
        noise = Bank(jnp.asarray(sums), jnp.arange(n)[:, None])
        return np.asarray(sample(Mixture(path), s, grid(n), x_T=x_T, noise=noise).x)

    truth = run(StochasticHeun(sampler.multiplier), fine)
    errors = [np.median(np.abs(run(sampler, n) - truth)) for n in (32, 128)]
    assert abs(0.5 * np.log2(errors[0] / errors[1]) - 1) <= 0.2, errors


def variance(a, b, R, V):
    """``v' = a^2 v + b`` along the columns, divided by the last V."""
    v = R * V[:, 0]
    for a_k, b_k in zip(a.T, np.broadcast_to(b, a.shape).T, strict=True):
        v = a_k**2 * v + b_k
    return v / V[:, -1]


@pytest.mark.parametrize("name", ["VP", "EDM", "LinearFlow"])
def test_45_ancestral_family(name):
    """Euler a for any eta and s_noise, DPM2 a and DPM++ 2S a, from the definition on x / alpha: m = 1 + (down - kappa) f, ... """
    path = paths()[name]
    grid = Karras(9, sigma_max=30.0)
    a, s, V, _ = levels(path, grid.steps(path))
    K, W = s / a, V / a**2  # kappa and the variance of y = x / alpha
    k, q = K[:, :-1], K[:, 1:]
    eta, s_noise = 0.6, 1.1
    up = eta * q * np.sqrt(1 - q**2 / k**2)
    down = np.sqrt(q**2 - up**2)
    f = k / W[:, :-1]  # eps = f y
    mid = np.sqrt(k * down)
    x0 = lambda u: S**2 / (S**2 + u**2)  # noqa: E731
    to_mid = x0(k) + mid * f
    data = q == 0
    expected = {
        EulerAncestral(eta, s_noise): x0(k) + down * f,
        DPM2Ancestral(eta, s_noise): np.where(data, x0(k), 1 + (down - k) * mid / (S**2 + mid**2) * to_mid),
        DPMPP2SAncestral(eta, s_noise): np.where(data, x0(k), down / k + (1 - down / k) * x0(mid) * to_mid),
    }
    for sampler, m in expected.items():
        np.testing.assert_allclose(ratio(path, sampler, grid, 1.2), variance(m, (s_noise * up) ** 2, 1.2, W), rtol=2e-12)


@pytest.mark.parametrize("form", FORMS)
def test_45_sit_forms(form):
    """v' = (1 - h k)^2 v + w h,   k = (alpha' alpha s^2 + sigma' sigma + w / 2) / V,   w = 2 D in SiT's time tau = 1 - t, on the flow."""
    path, grid, c = LinearFlow(), UniformTime(8, start=-6.0, end=5.0), 0.7
    steps = grid.steps(path)
    t = np.append(np.asarray(steps.t), np.asarray(steps.s)[-1])[None]
    tau = 1 - t
    D = {
        "constant": c * np.ones_like(t), "SBDM": c * ((1 / tau) * t**2 + t), "sigma": c * t, "linear": c * (1 - tau),
        "decreasing": 0.25 * (c * np.cos(np.pi * tau) + 1) ** 2, "increasing-decreasing": c * np.sin(np.pi * tau) ** 2,
    }[form]  # fmt: skip
    w, V, h = 2 * D, (1 - t) ** 2 * S**2 + t**2, t[:, :-1] - t[:, 1:]
    k = (-(1 - t) * S**2 + t + 0.5 * w) / V
    m, N = 1 - h * k[:, :-1], w[:, :-1] * h
    measured = ratio(path, EulerMaruyama(SiTDiffusion(form, c)), grid, 1.2)
    np.testing.assert_allclose(measured, variance(m, N, 1.2, V), rtol=1e-12)
    m = 1 - 0.5 * h * (k[:, :-1] + k[:, 1:] * (1 - h * k[:, :-1]))  # and Heun: noise N before the second slope
    pass_on = (1 - 0.5 * h * k[:, 1:]) ** 2
    measured = ratio(path, StochasticHeun(SiTDiffusion(form, c)), grid, 1.2)
    np.testing.assert_allclose(measured, variance(m, pass_on * h * (w[:, :-1] + w[:, 1:]) / 2, 1.2, V), rtol=1e-12)


@pytest.fixture(scope="module")
def bank():
    return np.random.default_rng(4).standard_normal((40, 12, 2))


def states(path, sampler, grid, bank, shift=0):
    noise = Bank(jnp.asarray(bank), jnp.arange(40).reshape(20, 2) + shift)
    return np.asarray(sample(Mixture(path), sampler, grid, x_T=1.5 * jnp.asarray(bank[-1]), noise=noise).x)


@pytest.mark.parametrize("path", [VP(), pytest.param(LinearFlow(), marks=pytest.mark.slow)], ids=["VP", "LinearFlow"])
def test_without_noise_each_is_its_deterministic_counterpart(bank, path):
    grid = UniformLogSNR(8, -5.0, 4.0, to_data=False)
    for reference, same in (
        (Euler(T()), (EulerMaruyama(0.0), EulerMaruyama(SiTDiffusion("linear", 0.0)))),
        (Heun(T()), (StochasticHeun(0.0),)),
        (DDIM(0.0), (EulerAncestral(0.0), SASolver(1, tau=0.0), ERSDE(1, PowerNoise(0.0)))),
        (DPMPP2SAncestral(0.0), (DPMPPSDE(0.0), DPMPPSDE(0.0, independent=True))),
        (DDIM(1.0), (EulerAncestral(1.0), SASolver(1, tau=1.0), ERSDE(1, PowerNoise(1.0)))),  # and with it
    ):
        expected = states(path, reference, grid, bank)
        for sampler in same:
            np.testing.assert_allclose(states(path, sampler, grid, bank), expected, rtol=1e-12, atol=1e-12, err_msg=str(sampler))


def test_sa_solver_is_deterministic_outside_its_interval(bank):
    grid = UniformLogSNR(8, -5.0, 4.0, to_data=False)
    outside = SASolver(2, 1, 1.0, kappa_min=100.0)
    np.testing.assert_array_equal(states(VP(), outside, grid, bank), states(VP(), outside, grid, bank, shift=-1))
    np.testing.assert_allclose(states(VP(), outside, grid, bank), states(VP(), SASolver(2, 1, 0.0), grid, bank), rtol=1e-13)
    inside = SASolver(2, 1, 1.0, kappa_min=0.5, kappa_max=3.0)
    assert np.abs(states(VP(), inside, grid, bank) - states(VP(), outside, grid, bank)).max() > 0.1


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [(DPM2Ancestral(0.0), 2), (SASolver(2, 2, tau=0.0), 3), (ERSDE(3, PowerNoise(0.0)), 3),
     *(pytest.param(*slow, marks=pytest.mark.slow) for slow in (
         (DPMPP2SAncestral(0.0), 2), (SASolver(2, tau=0.0), 2), (SASolver(3, tau=0.0), 3), (ERSDE(2, PowerNoise(0.0)), 2)))],
    ids=str,
)  # fmt: skip
def test_deterministic_order_without_noise(sampler, expected):
    """Interior, on the mixture, from exact starting states."""
    assert order(sampler, VP(), 64, exact_start=True) >= expected - 0.2


@pytest.mark.parametrize("fall", [0.1, 2.0, 12.0])
def test_er_sdes_integrals_are_what_it_says(fall):
    """Both brackets over (kappa_t - kappa_s)^k by adaptive quadrature in ln kappa, for kappa_t from 1/50 to 10^4."""
    excess = lambda kappa: np.logaddexp(kappa**0.3, np.log(10.0))  # noqa: E731 (of the paper's phi over kappa)
    for high in np.exp(np.linspace(-4.0, np.log(1e4), 7)):
        low = high * np.exp(-fall)

        def tail(u, k, low=low, high=high):
            kappa = np.exp(u)  # phi(kappa_s) / phi dkappa = kappa_s exp(excess_s - excess) d ln kappa
            return ((kappa - high) / (high - low)) ** k * low * np.exp(excess(low) - excess(kappa)) / (high - low)

        for k, found in enumerate(ERSDE()._integrals(jnp.asarray(low), jnp.asarray(high))):
            wanted = scipy.integrate.quad(tail, np.log(low), np.log(high), args=(k,), epsabs=1e-14, epsrel=1e-12)[0]
            np.testing.assert_allclose(found / (high - low) ** (k + 1), wanted + (-1.0) ** (k + 1) / (k + 1), rtol=0, atol=4e-12)


def test_er_sde_three_as_released_is_of_order_two():
    """The slope half a step back is not the slope: with it x0'' costs the order that it was to bring."""
    assert 1.7 < order(ERSDE(3, PowerNoise(0.0), as_released=True), VP(), 64, exact_start=True) < 2.3
