"""Runge-Kutta methods: the textbook's recursion on Gaussian data to 1e-12, measured orders in every variable, the ends of the paths.

For data N(0, s^2) the ODE is y' = f(u) y, and every method, written as in a textbook with its stages y + h sum a_ij k_j, multiplies y:

    kappa on x / alpha   f = kappa / (s^2 + kappa^2)
    t on the linear flow f = (t - (1 - t) s^2) / V                 (4.3)
    log-SNR on VP        f = alpha^2 sigma^2 (s^2 - 1) / (2 V)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.convergence import order
from samplers.exact import Gaussian, Mixture, paths
from samplers.impulses import S, levels, ratio

from score_lab.build import ConfigError
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    DPM2,
    RK4,
    RK38,
    EDMSecond,
    Heun,
    Heun3,
    Kappa,
    Karras,
    LogSNR,
    Midpoint,
    Ralston,
    T,
    Times,
    UniformLogSNR,
    UniformTime,
    sample,
)
from score_lab.samplers.program import programs


def midpoint(f, u, h):
    return h * f(u + h / 2) * (1 + h / 2 * f(u))


def ralston(f, u, h):
    k1 = f(u)
    return h * (k1 / 4 + 3 / 4 * f(u + 2 * h / 3) * (1 + 2 * h / 3 * k1))


def edm(f, u, h, alpha=0.7):
    k1 = f(u)
    return h * ((1 - 1 / (2 * alpha)) * k1 + f(u + alpha * h) * (1 + alpha * h * k1) / (2 * alpha))


def heun3(f, u, h):
    k1 = f(u)
    k2 = f(u + h / 3) * (1 + h / 3 * k1)
    return h / 4 * (k1 + 3 * f(u + 2 * h / 3) * (1 + 2 * h / 3 * k2))


def rk4(f, u, h):
    k1 = f(u)
    k2 = f(u + h / 2) * (1 + h / 2 * k1)
    k3 = f(u + h / 2) * (1 + h / 2 * k2)
    return h / 6 * (k1 + 2 * k2 + 2 * k3 + f(u + h) * (1 + h * k3))


def rk38(f, u, h):
    k1 = f(u)
    k2 = f(u + h / 3) * (1 + h / 3 * k1)
    k3 = f(u + 2 * h / 3) * (1 + h * (-k1 / 3 + k2))
    return h / 8 * (k1 + 3 * k2 + 3 * k3 + f(u + h) * (1 + h * (k1 - k2 + k3)))


TEXTBOOK = {Midpoint: midpoint, Ralston: ralston, EDMSecond: edm, Heun3: heun3, RK4: rk4, RK38: rk38}
METHODS = [Heun, *TEXTBOOK]


def make(method, variable, **options):
    return EDMSecond(0.7, variable, **options) if method is EDMSecond else method(variable, **options)


@pytest.mark.parametrize("method", TEXTBOOK, ids=lambda m: m.__name__)
def test_the_textbook_in_kappa(x64, method):
    """Down to pure data, where the last step is Euler: R is the same on every path (here VP and, for two methods, EDM)."""
    grid = Karras(7, sigma_max=50.0)
    for path in (VP(), EDM()) if method in (Midpoint, RK4) else (VP(),):
        a, s, V, _ = levels(path, grid.steps(path))
        kappa, V = s / a, V / a**2
        u, h = kappa[:, :-1], np.diff(kappa)
        f = lambda u: u / (S**2 + u**2)  # noqa: E731
        m = 1 + np.where(kappa[:, 1:] > 0, TEXTBOOK[method](f, u, h), h * f(u))
        expected = np.prod(m * np.sqrt(V[:, :-1] / V[:, 1:]), axis=1) ** 2
        np.testing.assert_allclose(ratio(path, make(method, Kappa()), grid), expected, rtol=1e-12)


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow if m in (Ralston, EDMSecond) else ()) for m in TEXTBOOK])
def test_the_textbook_in_t(x64, method):
    """(4.3) for every method, with all its calls at data."""
    path, n = LinearFlow(), 5
    t = np.linspace(1, 0, n + 1)[None]
    f = lambda t: (t - (1 - t) * S**2) / ((1 - t) ** 2 * S**2 + t**2)  # noqa: E731
    m = 1 + TEXTBOOK[method](f, t[:, :-1], np.diff(t))
    root = np.sqrt(((1 - t) * S) ** 2 + t**2)
    measured = ratio(path, make(method, T(), at_data=True), UniformTime(n))
    np.testing.assert_allclose(measured, np.prod(m * root[:, :-1] / root[:, 1:], axis=1) ** 2, rtol=1e-12)


@pytest.mark.parametrize("method", [Midpoint, RK38], ids=lambda m: m.__name__)
def test_the_textbook_in_log_snr(x64, method):
    path, low, high, n = VP(), -6.0, 5.0, 8
    grid = UniformLogSNR(n, low, high, to_data=False)
    _, _, V, _ = levels(path, grid.steps(path))
    u = np.linspace(low, high, n + 1)[None]

    def f(u):
        alpha2 = 1 / (1 + np.exp(-u))
        return alpha2 * (1 - alpha2) * (S**2 - 1) / (2 * (alpha2 * S**2 + 1 - alpha2))

    m = 1 + TEXTBOOK[method](f, u[:, :-1], np.diff(u))
    measured = ratio(path, method(LogSNR()), grid)
    np.testing.assert_allclose(measured, np.prod(m * np.sqrt(V[:, :-1] / V[:, 1:]), axis=1) ** 2, rtol=1e-11)


def test_dpm_2_takes_the_geometric_mean(x64):
    """k-diffusion's dpm_2: y' = y + h f(kappa_m) (1 + (kappa_m - kappa) f(kappa)), kappa_m = sqrt(kappa kappa'); Euler to 0."""
    path, grid = EDM(), Karras(7)
    _, kappa, V, _ = levels(path, grid.steps(path))
    p, q = kappa[:, :-1], kappa[:, 1:]
    f, mean = lambda u: u / (S**2 + u**2), np.sqrt(p * q)
    m = 1 + np.where(q > 0, (q - p) * f(mean) * (1 + (mean - p) * f(p)), (q - p) * f(p))
    np.testing.assert_allclose(ratio(path, DPM2(), grid), np.prod(m * np.sqrt(V[:, :-1] / V[:, 1:]), axis=1) ** 2, rtol=1e-12)


def test_the_family_of_second_order(x64):
    """alpha = 1, 2/3, 1/2 of EDM's family are Heun, Ralston and midpoint; another alpha is no other program."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    run = lambda sampler: sample(Mixture(VP()), sampler, UniformLogSNR(5), x_T=x)  # noqa: E731
    for alpha, method in ((1.0, Heun), (2 / 3, Ralston), (0.5, Midpoint)):
        ours, known = run(EDMSecond(alpha, T())), run(method(T()))
        np.testing.assert_allclose(ours.x, known.x, rtol=1e-12)
        assert int(ours.nfe) == int(known.nfe) == 9
    compiled = programs()
    run(EDMSecond(0.9, T()))
    assert programs() == compiled


QUICK = [(Midpoint, LinearFlow(), T()), (Heun3, EDM(), Kappa()), (RK4, LinearFlow(), T())]
NUM_STEPS = {2: (100, 300), 3: (60, 100), 4: (60, 100)}
"""On the mixture and on the stiff problem."""


def measured(sampler, path, problem):
    return order(sampler, path, NUM_STEPS[sampler.order][problem == "stiff"], problem)


@pytest.mark.parametrize(("method", "path", "variable"), QUICK, ids=lambda v: getattr(v, "__name__", type(v).__name__))
def test_order(x64, method, path, variable):
    sampler = make(method, variable)
    assert sampler.order - 0.2 <= measured(sampler, path, "mixture") <= sampler.order + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["mixture", "stiff"])
@pytest.mark.parametrize("variable", [T(), Kappa(), LogSNR()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_order_in_every_variable(x64, method, variable, problem):
    """On two paths.  The midpoint method superconverges on the stiff Gaussian in kappa (order 3), so only the least order is held."""
    sampler = make(method, variable)
    for path in (VP(), LinearFlow()):
        assert measured(sampler, path, problem) >= sampler.order - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("path", [VP(), EDM()], ids=["VP", "EDM"])
@pytest.mark.parametrize("problem", ["mixture", "stiff"])
def test_order_of_dpm_2(x64, path, problem):
    assert 1.8 <= measured(DPM2(), path, problem) <= 2.3


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(RK4(T()), marks=pytest.mark.slow), RK38(Kappa()), pytest.param(Heun3(LogSNR()), marks=pytest.mark.slow), DPM2()],
    ids=lambda v: type(v).__name__,
)
def test_from_end_to_end_in_float32(sampler):
    """From t = 1 to t = 0: finite, and Euler where the variable is infinite or the step ends at data; NFE say which steps were."""
    n = 4
    for name in ("ZeroSNRTable", "LinearFlow") if sampler.calls == 4 else ("LinearFlow",):
        path = paths()[name]
        run = sample(Gaussian(path, 0.5), sampler, UniformTime(n), x_T=jnp.ones((2, 1)))
        whole = n - 1 if isinstance(getattr(sampler, "variable", None), T) else n - 2  # T is finite at t = 1 of both
        assert np.isfinite(run.x).all() and abs(float(run.x[0, 0])) < 2
        assert int(run.nfe) == sampler.calls * whole + (n - whole)
        assert jax.tree.leaves(run.x)[0].dtype == jnp.float32


def test_refusals(x64):
    for alpha in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"EDMSecond.alpha.*0 < alpha <= 1"):
            sample(Gaussian(EDM()), EDMSecond(alpha), Times((1.0, 0.5)), x_T=jnp.ones((1, 1)))
