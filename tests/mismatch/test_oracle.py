"""The oracle against the closed forms (4.1) to (4.5) and (4.8), level by level, in float64 to 1e-12: A1, A2, A5, A8."""

import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.closed import BANDS, S, of, recursion, same
from samplers.exact import paths

from score_lab.mismatch.oracle import exact_moments, variance_ratios
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DDPM,
    AnalyticDPM,
    Churn,
    Euler,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    LevelsOf,
    T,
    UniformLogSNR,
    UniformTime,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("x64")
PATHS = ["VP", "SubVP", "VE", "EDM", "Cosine", "LinearFlow", "Trigonometric", "DDPMTable", "ZeroSNRTable"]
QUICK = ("VP", "LinearFlow", "Trigonometric", "ZeroSNRTable")
"""Paths whose programs are small."""
slow = pytest.mark.slow
EM = EulerMaruyama(increment="exact")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=slow) for n in PATHS])
def test_a1_ddim_is_the_product_of_cosines_at_every_level_of_every_path(name):
    """(4.1)."""
    path = paths()[name]
    assert len(PATHS) == len(paths())
    R, _, _, _, phi = of(DDIM(), UniformLogSNR(8), path, 1.3)
    same(R, recursion(np.cos(np.diff(phi, axis=0)) ** 2, 0.0, 1.3))


def test_a1_heun():
    """(4.2), and the states that its second call sees: those of a DDIM step, R' = cos^2 delta R."""
    path, grid = EDM(), Karras(7)
    R, _, _, _, phi = of(Heun(Kappa()), grid, path)
    d, p, q = phi[:-1] - phi[1:], phi[:-1], phi[1:]
    r = ((1 + np.cos(d) ** 2) * np.cos(q) - np.sin(2 * d) * np.sin(q)) / (2 * np.cos(p))
    r[-1] = np.cos(d)[-1]  # the last step to pure data is Euler
    same(R, recursion(r**2))
    found = exact_moments(Heun(Kappa()), grid, path, BANDS)
    assert found.call.tolist() == [0, 1] * 6 + [0, 0] and found.step.tolist() == [*np.repeat(range(6), 2), 6, 7]
    second = np.exp(found.log_ratio[found.call == 1])
    same(second, R[:-2] * np.cos(d[:-1]) ** 2)
    np.testing.assert_array_equal(variance_ratios(Heun(Kappa()), grid, path, BANDS, at="calls"), found.log_ratio)


def test_a1_linear_flow_in_t_and_vp_euler_in_t():
    """(4.3) and (4.4)."""
    n, path = 6, LinearFlow()
    t = np.linspace(1, 0, n + 1)[:, None]
    a, V = (t - (1 - t) * S**2), (1 - t) ** 2 * S**2 + t**2
    a, move = a / V, np.sqrt(V[1:] / V[:-1])
    one = 1 - a[:-1] / n
    two = 1 - 0.5 / n * (a[:-1] + a[1:] * one)
    same(of(Euler(T()), UniformTime(n), path)[0], recursion((one / move) ** 2))
    same(of(Heun(T(), at_data=True), UniformTime(n), path)[0], recursion((two / move) ** 2))
    R, _, _, V, _ = of(Euler(T()), UniformTime(n), VP())
    m = 1 + 0.5 * (0.1 + 19.9 * t[:-1]) / n * (1 - 1 / V[:-1])
    same(R, recursion(m**2 * V[:-1] / V[1:]))


@pytest.mark.parametrize("name", ["VP", *(pytest.param(n, marks=slow) for n in ("LinearFlow", "EDM"))])
def test_a1_ancestral_and_ddim_eta(name):
    """(4.5): R' - 1 = rho^2 (R - 1) + (nv - nv*) / V';   R' = A^2 R + e^2 sin^2 phi'."""
    path, grid = paths()[name], Karras(7, sigma_max=40.0)
    R, a, s, V, phi = of(DDPM("beta"), grid, path, 1.2)
    rho2 = (a[:-1] / a[1:]) ** 2 * V[1:] / V[:-1]
    beta = s[:-1] ** 2 - (a[:-1] / a[1:]) ** 2 * s[1:] ** 2
    tilde = (s[1:] / s[:-1]) ** 2 * beta
    best = tilde + (a[1:] * beta / s[:-1] ** 2) ** 2 * S**2 * s[:-1] ** 2 / V[:-1]
    nv = np.where(s[1:] > 0, beta, 0.0)
    same(R, recursion(rho2, 1 - rho2 + (nv - best) / V[1:], 1.2))
    p, q, eta = phi[:-1], phi[1:], 0.6
    e2 = eta**2 * (1 - ((s[1:] / a[1:]) / (s[:-1] / a[:-1])) ** 2)
    A = np.cos(p) * np.cos(q) + np.sqrt(1 - e2) * np.sin(p) * np.sin(q)
    same(of(DDIM(eta), grid, path, 1.2)[0], recursion(A**2, e2 * np.sin(q) ** 2, 1.2))


def test_a1_euler_maruyama():
    """(4.5): VE, R' - 1 = rho^2 (R - 1) + (1 - rho^2)^2 / rho^2."""
    grid = Karras(7, sigma_min=0.01, sigma_max=50.0, to_data=False)
    R, _, _, V, _ = of(EulerMaruyama(increment="exact"), grid, VE(), 0.7)
    rho2 = V[1:] / V[:-1]
    same(R, recursion(rho2, 1 - rho2 + (1 - rho2) ** 2 / rho2, 0.7))


@slow
def test_a1_churn():
    """(4.5): a raised level, R_hat - 1 = (R - 1) cos^2 phi_hat / cos^2 phi."""
    inner = Karras(7, sigma_max=50.0)
    R, _, hat, V, phi = of(DDIM(), Churn(inner, s_churn=2.0), EDM(), 0.7)
    sigma = np.append(np.asarray(inner.steps(EDM()).t) * 80.0, 0.0)[:, None]
    last = 0.7 * np.ones(4)
    for k in range(len(sigma) - 1):
        last = 1 + (last - 1) * (S**2 + sigma[k] ** 2) / V[k]  # hat: the level that the network sees
        same(R[k], last)
        last = np.cos(phi[k] - np.arctan2(sigma[k + 1], S)) ** 2 * last
    same(R[-1], last)
    assert (hat[:-1] > sigma[:-1]).all()


def test_a2_the_path_does_not_matter():
    """The same kappas: VP-DDIM, VE-Euler in kappa and flow-Euler in t are one method."""
    grid = UniformLogSNR(9, -8.0, 6.0, to_data=False)
    runs = [of(k, grid, p)[0] for k, p in ((DDIM(), VP()), (Euler(Kappa()), EDM()), (Euler(T()), LinearFlow()))]
    for R in runs[1:]:
        same(R, runs[0])
    same(of(Euler(T()), LevelsOf(grid, VP()), LinearFlow())[0], runs[0], 1e-10)  # levels of one path looked up on another


@pytest.mark.parametrize("path", [VP(), pytest.param(EDM(), marks=slow), pytest.param(LinearFlow(), marks=slow)], ids=str)
def test_a5_analytic_dpm_is_exact_at_every_level(path):
    """nv = nv*: R = 1, one band at a time (Gamma is one number): sin^2 phi."""
    levels = np.linspace(-8.0, 8.0, 60)
    for s in S:
        one = Spectrum(np.array([s**2]), np.zeros(2), np.zeros(2))
        gamma = 1 / (1 + s**2 * np.exp(levels))
        log_R = variance_ratios(AnalyticDPM(jnp.asarray(levels), jnp.asarray(gamma)), UniformLogSNR(6, -7.0, 7.0), path, one)
        np.testing.assert_allclose(log_R[:-1], 0.0, atol=1e-11)  # the step to pure data draws no noise


@pytest.mark.parametrize(
    ("sampler", "order", "sign"), [(Euler(Kappa()), 1, -1), (Heun(Kappa()), 2, 1), pytest.param(EM, 1, 1, marks=slow)], ids=str
)
def test_a8_richardson_orders(sampler, order, sign):
    """ln R(N) = c / N^p (R_inf = 1: the denoiser and the start are exact) with p = 1 for Euler and Euler-Maruyama, 2 for Heun; its sign is
    F3's."""
    N = 192
    a, b = (variance_ratios(sampler, UniformLogSNR(n, -6.0, 5.0, to_data=False), EDM(), BANDS)[-1] for n in (N, 2 * N))
    np.testing.assert_allclose(np.log2(a / b), order, atol=0.06)
    assert (np.sign(b) == sign).all()


def test_a1_prior_and_mean_leak():
    """(4.8): R_0 = prior^2 / V_T, and E x - alpha mu = -alpha_T mu sqrt(V_N / V_T) prod cos delta; 0 where the start is right."""
    for path, prior in ((VP(), 1.0), (EDM(), 80.0), (LinearFlow(), 1.0)):
        grid = UniformTime(8)
        found = exact_moments(DDIM(), grid, path, BANDS, "prior")
        phi, V = BANDS.phi(path, found.t), BANDS.V(path, found.t)
        same(np.exp(found.log_ratio), recursion(np.cos(np.diff(phi, axis=0)) ** 2, 0.0, prior**2 / V[0]))
        shrink = np.append(np.ones((1, 4)), np.cumprod(np.cos(np.diff(phi, axis=0)), axis=0), axis=0)
        alpha = float(path.alpha(jnp.asarray(found.t[0])))
        np.testing.assert_allclose(found.leak, -alpha * BANDS.mean * np.sqrt(V / V[0]) * shrink, atol=1e-12)
        np.testing.assert_allclose(exact_moments(DDIM(), grid, path, BANDS).leak, 0.0, atol=1e-12)


def test_predictions_of_an_exact_denoiser_are_wieners():
    """Var(x0) = s^2 cos^2 phi R, Var(eps) = sin^2 phi R, Cov(x, eps) = sqrt(V) sin phi R; a label of its own is told."""
    path = VP()
    found = exact_moments(DDPM(), UniformLogSNR(5), path, BANDS, 0.8)
    phi, V, R = BANDS.phi(path, found.t)[:-1], BANDS.V(path, found.t)[:-1], np.exp(found.log_ratio[:-1])
    same(found.x0, S**2 * np.cos(phi) ** 2 * R)
    same(found.eps, np.sin(phi) ** 2 * R)
    same(found.cross, np.sqrt(V) * np.sin(phi) * R)
    same(found.fed, found.log_snr[:-1])
