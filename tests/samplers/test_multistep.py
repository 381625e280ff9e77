"""Multistep solvers against numpy: their weights, their recursions on Gaussian data, their ends, their precision and their refusals.

The orders of all of them are in test_multistep_orders.py, the peers' states in tests/oracle.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.convergence import order
from samplers.exact import Gaussian, Mixture, mixture_numpy
from samplers.impulses import S, levels, ratio

from score_lab.build import ConfigError
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    PLMS,
    PNDM,
    AdamsBashforth,
    Angle,
    DataExponential,
    DPMSolverMultistep,
    EpsExponential,
    EpsInTime,
    Kappa,
    LogSNR,
    NoisePrediction,
    Rosenbrock,
    StateRecorder,
    Straight,
    T,
    Times,
    UniformLogSNR,
    UniformTime,
    UniPC,
    deis,
    lms,
    sample,
)
from score_lab.samplers.lagrange import phi, weights

x64 = pytest.mark.usefixtures("x64")


def quick_and_slow(table, *quick):
    """The names of ``table``, all but the ``quick`` ones marked slow."""
    return [*quick, *(pytest.param(name, marks=pytest.mark.slow) for name in table if name not in quick)]


GRID = UniformLogSNR(10, -5.0, 4.0, to_data=False)


@x64
def test_weights_integrate_polynomials_and_phi_is_its_integral():
    nodes = [0.0, -0.7, -1.9, -2.2]
    for n in (1, 2, 3, 4):
        w = np.asarray(weights(nodes[:n], [1 / (i + 1) for i in range(n)]))
        poly = np.polynomial.Polynomial(np.arange(1.0, n + 1))
        np.testing.assert_allclose(w @ poly(np.asarray(nodes[:n])), poly.integ()(1.0) - poly.integ()(0.0), rtol=1e-13)
    tau, q = (0.5 * v for v in np.polynomial.legendre.leggauss(60))
    tau = tau + 0.5
    for dtype, tolerance in ((np.float64, 1e-14), (np.float32, 4e-6)):
        for x in (0.0, 1e-9, -1e-3, 0.3, -1.9, 1.99, 2.01, -2.01, 7.0, -9.0):
            exact = [np.sum(q * np.exp((1 - tau) * x) * tau**k) / np.prod(np.arange(1.0, k + 1)) for k in range(4)]
            ours = phi(4, jnp.asarray(x, dtype))
            assert ours[0].dtype == dtype
            np.testing.assert_allclose(np.asarray(ours), exact, rtol=tolerance * max(1, abs(x)))


FIRST = {
    "T flow": (LinearFlow(), AdamsBashforth(T(), 1)), "kappa": (VP(), lms(1)), "straight": (VP(), AdamsBashforth(Straight(), 1)),
    "deis": (VP(), deis(1)), "zEAB": (VP(), deis(1, "log_rho")), "xEAB": (VP(), AdamsBashforth(DataExponential(), 1)),
    "plms": (VP(), PLMS(k=1)), "unip": (VP(), UniPC(1, corrector=False)),
    "unip eps": (VP(), UniPC(1, "bh1", NoisePrediction(), corrector=False)),
}  # fmt: skip


@x64
@pytest.mark.parametrize("name", quick_and_slow(FIRST, "kappa", "unip"))
def test_41_order_one_is_ddim(name):
    """R = prod cos^2 (phi - phi') (4.1), to the path's end."""
    path, sampler = FIRST[name]
    grid = UniformTime(9)
    _, _, _, angle = levels(path, grid.steps(path))
    np.testing.assert_allclose(ratio(path, sampler, grid), np.prod(np.cos(np.diff(angle)), axis=1) ** 2, rtol=1e-12)


def linear_recursion(u, c, f, rate, k):
    """x_N / x_0 of Adams-Bashforth on ``dy/du = w f``: numpy integrates Lagrange polynomials exactly or by 80 Gauss nodes.

    ``f`` (4, N + 1): the slope per unit of x; ``rate``: the weight as a function of u."""
    tau, q = np.polynomial.legendre.leggauss(80)
    x, past = np.ones(len(S)), []
    for i in range(len(u) - 1):
        past = [f[:, i] * x, *past][:k]
        a, b = u[i], u[i + 1]
        v = 0.5 * (a + b) + 0.5 * (b - a) * tau
        nodes = [u[i - j] for j in range(len(past))]
        total = 0.0
        for j, slope in enumerate(past):
            basis = np.prod([(v - n) / (nodes[j] - n) for m, n in enumerate(nodes) if m != j], axis=0)
            total = total + slope * np.sum(q * 0.5 * (b - a) * rate(v) * basis)
        x = c[i + 1] * (x / c[i] + total)
    return x


FORMS = {
    "lms": (lms(4), lambda a, s: (s / a, a, lambda x0, e, n: e, np.ones_like, 4)),
    "REAB": (AdamsBashforth(Rosenbrock(), 3), lambda a, s: (
        np.log(s / a), np.hypot(a, s), lambda x0, e, n: (a * e - s * x0) / np.hypot(a, s), lambda u: 0.5 / np.cosh(u), 3)),
    "zEAB": (AdamsBashforth(EpsExponential(), 4), lambda a, s: (np.log(s / a), a, lambda x0, e, n: e, np.exp, 4)),
    "xEAB": (AdamsBashforth(DataExponential(), 3), lambda a, s: (np.log(s / a), s, lambda x0, e, n: x0, lambda u: -np.exp(-u), 3)),
    "vAB": (AdamsBashforth(Straight(), 3), lambda a, s: (s / (a + s), a + s, lambda x0, e, n: e - x0, np.ones_like, 3)),
    "angle": (AdamsBashforth(Angle(), 4), lambda a, s: (
        np.arctan2(s, a), np.hypot(a, s), lambda x0, e, n: (a * e - s * x0) / np.hypot(a, s), np.ones_like, 4)),
}  # fmt: skip


@x64
@pytest.mark.parametrize("name", quick_and_slow(FORMS, "lms", "REAB"))
def test_adams_bashforth_on_gaussian_data_is_the_recursion(name):
    """Every form, on VP, where the exact denoiser is linear: x0 = alpha s^2 x / V, eps = sigma x / V."""
    sampler, form = FORMS[name]
    a, s, V, _ = levels(VP(), GRID.steps(VP()))
    u, c, f, rate, k = form(a[0], s[0])
    x = linear_recursion(u, c, f(a * S**2 / V, s / V, None), rate, k)
    np.testing.assert_allclose(ratio(VP(), sampler, GRID), x**2 * V[:, 0] / V[:, -1], rtol=1e-11)


@x64
@pytest.mark.slow
def test_rosenbrock_is_right_by_default_and_azulas_on_request():
    """Interior order 2 (azula 0.11 has 1, with its sigma_t where sigma_s belongs), and unit-variance data without any error."""
    assert order(AdamsBashforth(Rosenbrock(), 2), VP(), 40, "mixture", True) >= 1.8
    assert order(AdamsBashforth(Rosenbrock(as_released=True), 2), VP(), 40, "mixture", True) < 1.2
    np.testing.assert_allclose(ratio(VP(), AdamsBashforth(Rosenbrock(), 3), UniformTime(6))[2], 1.0, rtol=1e-13)


@x64
@pytest.mark.slow
def test_unipc_has_its_order_and_starts_without_losing_it():
    """UniPC-2: two orders as a predictor alone, three with the corrector (theorem 3.1)."""
    assert order(UniPC(2), LinearFlow(), 60) >= 2.8


@x64
@pytest.mark.slow
@pytest.mark.parametrize("runge_kutta", [False, True])
def test_pndm_is_its_algorithm(runge_kutta):
    """Liu et al. 2022, algorithm 2 and eq. 11-13, in numpy on the mixture: slopes combined, then DDIM's transfer with them."""
    path, n = VP(), 8
    steps = UniformTime(n, end=6.0).steps(path)
    x_T = np.random.default_rng(0).standard_normal((4, 2))

    def level(t):
        return float(path.alpha(t)), float(path.sigma(t))

    def eps(x, t):
        return mixture_numpy(x, *level(t))[1]

    def transfer(x, e, t, s):
        (a, b), (c, d) = level(t), level(s)
        return c * (x - b * e) / a + d * e

    x, past = x_T, []
    for k, (t, s) in enumerate(zip(np.asarray(steps.t), np.asarray(steps.s), strict=True)):
        e = eps(x, t)
        past, m = [e, *past][:4], 0.5 * (t + s)
        if runge_kutta and k < 3:
            e2 = eps(transfer(x, e, t, m), m)
            e3 = eps(transfer(x, e2, t, m), m)
            e = (e + 2 * e2 + 2 * e3 + eps(transfer(x, e3, t, s), s)) / 6
        elif k == 0:
            e = (e + eps(transfer(x, e, t, s), s)) / 2
        else:
            w = {2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}[len(past)]
            e = sum(c * v for c, v in zip(w, past, strict=True))
        x = transfer(x, e, t, s)
    np.testing.assert_allclose(sample(Mixture(path), PNDM(runge_kutta=runge_kutta), steps, x_T=jnp.asarray(x_T)).x, x, rtol=1e-11)


ENDS = {
    "bh1": UniPC(3, "bh1"), "bh2 eps": UniPC(3, "bh2", NoisePrediction()), "lms": lms(4), "deis": deis(4),
    "pndm rk": PNDM(runge_kutta=True),
    "log_snr": AdamsBashforth(LogSNR(), 3), "zEAB": deis(3, "log_rho"), "xEAB": AdamsBashforth(DataExponential(), 3), "plms": PLMS(),
    "REAB": AdamsBashforth(Rosenbrock(), 3), "as released": AdamsBashforth(Rosenbrock(True), 2),
    "uncorrected": UniPC(2, uncorrected=(1,), final_orders=(1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", quick_and_slow(ENDS, "bh1", "pndm rk"))
def test_finite_from_pure_noise_to_data_and_precise_in_float32(name, x64):
    """On the linear flow, infinite at both ends, at 50 steps: finite, near the truth, float32 against float64; NFE is counted."""
    sampler, path = ENDS[name], LinearFlow()
    x = np.random.default_rng(0).standard_normal((64, 1))

    def run():
        return sample(Gaussian(path), sampler, UniformTime(50), x_T=jnp.asarray(x, jnp.result_type(float)), recorder=StateRecorder(1))

    fine = run()
    np.testing.assert_allclose(np.asarray(fine.x), 0.5 * x, atol=0.08)
    assert int(fine.nfe) == 50 + {"pndm rk": 9}.get(name, 0) == int(np.asarray(fine.record.made).sum())
    with jax.enable_x64(False):
        coarse = run().x
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(coarse), np.asarray(fine.x), atol=2e-5)


@x64
def test_a_state_may_be_any_pytree():
    x = np.random.default_rng(0).standard_normal((5, 2))
    both = sample(Gaussian(VP()), UniPC(2), GRID, x_T={"a": jnp.asarray(x), "b": jnp.asarray(2 * x)}).x
    np.testing.assert_allclose(both["b"], 2 * both["a"], rtol=1e-13)


@pytest.mark.parametrize(
    ("sampler", "field"),
    [
        (AdamsBashforth(k=5), "AdamsBashforth.k"), (AdamsBashforth(k=0), "AdamsBashforth.k"), (PLMS(k=5), "PLMS.k"),
        (AdamsBashforth(final_orders=(0,)), "AdamsBashforth.final_orders"), (UniPC(4), "UniPC.k"), (UniPC(B="bh3"), "UniPC.B"),
        (UniPC(form="v"), "UniPC.form"), (DPMSolverMultistep(2, "x0"), "DPMSolverMultistep.form"),
        (UniPC(uncorrected=(-1,)), "UniPC.uncorrected"), (UniPC(final_orders=(0,)), "UniPC.final_orders"),
        (UniPC(3), "grid.num_steps"), (PNDM(), "grid.num_steps"), (lms(3), "grid.num_steps"),
    ],
)  # fmt: skip
def test_refused_in_one_line(sampler, field):
    with pytest.raises(ConfigError, match=field) as e:
        sample(Mixture(VP()), sampler, Times((0.9, 0.5, 0.1)), x_T=jnp.zeros((2, 2)))
    assert "\n" not in str(e.value)


def test_an_unknown_form_of_deis_is_refused():
    with pytest.raises(ConfigError, match="deis.form"):
        deis(2, "roh")


@x64
@pytest.mark.slow
def test_deis_in_time_and_in_kappa_are_one_method_where_kappa_is_the_time():
    """On alpha = 1, sigma = sigma_max t."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2))) * 80
    grid = Times(tuple(np.linspace(1.0, 0.02, 9)))
    a, b = (sample(Mixture(EDM()), AdamsBashforth(v, 3), grid, x_T=x).x for v in (EpsInTime(), Kappa()))
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
