"""Every sampler against the exact variance that it gives Gaussian data, in float64 to 1e-12: the real ``sample``, no Monte Carlo.

For data N(0, s^2) and the exact denoiser every step is linear, x' = m x + (noise), and R = Var(x) / V with V = alpha^2 s^2 + sigma^2
obeys a recursion in the angle phi = atan(sigma / (alpha s)).  Deterministic samplers run on x_T = sqrt(V_T); stochastic ones on that with
no noise and once more for every single draw with x_T = 0 and that draw 1 (all in one batch): the variance is the sum of the squares.

    (4.1) DDIM on every path                  R' = cos^2(phi - phi') R
    (4.2) Heun in kappa on alpha = 1          r  = [(1 + cos^2 d) cos phi' - sin 2d sin phi'] / (2 cos phi),   d = phi - phi'
    (4.3) Euler and Heun in t, linear flow    m  = 1 + h a,   1 + h/2 [a + a' (1 + h a)],   a = (t - (1 - t) s^2) / V
    (4.4) Euler in t, VP                      m  = 1 + (beta h / 2)(1 - 1/V)
    (4.5) ancestral, DDIM(eta), Euler-Maruyama, churn: with each test

Every V below is computed in numpy from alpha and sigma at the grid's times; nothing else of the library enters the expected values.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian, paths
from samplers.impulses import S, levels, ratio

from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DDPM,
    Churn,
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

pytestmark = pytest.mark.usefixtures("x64")
FAMILIES = ["VP", "SubVP", "VE", "EDM", "Cosine", "LinearFlow", "Trigonometric", "DDPMTable", "ZeroSNRTable"]


def product(r):
    return np.prod(r, axis=1) ** 2


def recursion(a, b, R=1.0):
    """``R' = a R + b`` along the columns."""
    for a_k, b_k in zip(a.T, b.T, strict=True):
        R = a_k * R + b_k
    return R


def same(measured, expected, tolerance=1e-12):
    np.testing.assert_allclose(measured, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_41_ddim_on_every_path(name):
    path = paths()[name]
    assert len(FAMILIES) == len(paths())
    for grid in (UniformTime(12), UniformLogSNR(12)):
        _, _, _, phi = levels(path, grid.steps(path))
        same(ratio(path, DDIM(), grid), product(np.cos(np.diff(phi))))
    low, high = -5.0, 4.0
    grid = UniformLogSNR(12, low, high, to_data=False)
    _, _, _, phi = levels(path, grid.steps(path))
    same(ratio(path, DDIM(), grid, R_0=1.3), 1.3 * product(np.cos(np.diff(phi))))


@pytest.mark.parametrize("path", [EDM(), VE(), VP(), LinearFlow()], ids=["EDM", "VE", "VP", "LinearFlow"])
def test_42_heun_in_kappa(path):
    """On x / alpha it is the same method, with the same R, on every path."""
    grid = Karras(12, sigma_max=50.0)
    _, s, _, phi = levels(path, grid.steps(path))
    d, p, q = phi[:, :-1] - phi[:, 1:], phi[:, :-1], phi[:, 1:]
    r = ((1 + np.cos(d) ** 2) * np.cos(q) - np.sin(2 * d) * np.sin(q)) / (2 * np.cos(p))
    r = np.where(s[:, 1:] > 0, r, np.cos(d))  # the last step to pure data is Euler
    same(ratio(path, Heun(Kappa()), grid), product(r))
    same(ratio(path, Euler(Kappa()), grid), product(np.cos(d)))


def test_42_the_published_table():
    """EDM's grid, s = 0.5, at N = 18 nodes: Euler 0.716, Heun 1.114 (started from the prior N(0, 80^2))."""
    R_0 = 80**2 / (80**2 + S[:, 0] ** 2)
    np.testing.assert_allclose(ratio(EDM(), Euler(Kappa()), Karras(18), R_0)[1], 0.716, atol=5e-4)
    np.testing.assert_allclose(ratio(EDM(), Heun(Kappa()), Karras(18), R_0)[1], 1.114, atol=5e-4)


def test_43_linear_flow_in_t():
    path, published = LinearFlow(), {5: (0.545, 1.0176), 10: (0.742, 1.0069)}
    for n, (euler, heun) in published.items():
        t = np.linspace(1, 0, n + 1)[None]
        a = (t - (1 - t) * S**2) / ((1 - t) ** 2 * S**2 + t**2)
        h, root = -1 / n, np.sqrt(((1 - t) * S) ** 2 + t**2)
        move = root[:, 1:] / root[:, :-1]
        one = 1 + h * a[:, :-1]
        two = 1 + 0.5 * h * (a[:, :-1] + a[:, 1:] * one)
        shipped = np.concatenate([two[:, :-1], one[:, -1:]], axis=1)  # EDM's rule: Euler to pure data
        measured = {k: ratio(path, k, UniformTime(n)) for k in (Euler(T()), Heun(T(), at_data=True), Heun(T()))}
        for sampler, m in ((Euler(T()), one), (Heun(T(), at_data=True), two), (Heun(T()), shipped)):
            same(measured[sampler], product(m / move))
        np.testing.assert_allclose([measured[Euler(T())][1], measured[Heun(T(), at_data=True)][1]], [euler, heun], atol=6e-4)


def test_44_vp_euler_in_t_and_in_log_snr():
    path, n = VP(), 15
    t = np.linspace(1, 0, n + 1)[None]
    _, _, V, _ = levels(path, UniformTime(n).steps(path))
    m = 1 + 0.5 * (0.1 + 19.9 * t[:, :-1]) / n * (1 - 1 / V[:, :-1])
    same(ratio(path, Euler(T()), UniformTime(n)), product(m * np.sqrt(V[:, :-1] / V[:, 1:])))
    # In l = log_snr: dV/dl = alpha^2 sigma^2 (s^2 - 1), so m = 1 + h alpha^2 sigma^2 (s^2 - 1) / (2 V).
    grid = UniformLogSNR(n, -6.0, 5.0, to_data=False)
    a, s, V, _ = levels(path, grid.steps(path))
    m = 1 + 11.0 / n * (a * s)[:, :-1] ** 2 * (S**2 - 1) / (2 * V[:, :-1])
    same(ratio(path, Euler(LogSNR()), grid), product(m * np.sqrt(V[:, :-1] / V[:, 1:])))


@pytest.mark.parametrize("path", [VP(), LinearFlow(), EDM()], ids=["VP", "LinearFlow", "EDM"])
def test_45_ancestral(path):
    """R' - 1 = rho^2 (R - 1) + (nv - nv*) / V',   nv* = beta_tilde + c^2 MMSE."""
    grid = Karras(9)
    a, s, V, _ = levels(path, grid.steps(path))
    (a0, a1), (s0, s1), (V0, V1) = ((v[:, :-1], v[:, 1:]) for v in (a, s, V))
    rho2 = (a0 / a1) ** 2 * V1 / V0
    beta = s0**2 - (a0 / a1) ** 2 * s1**2
    tilde = (s1 / s0) ** 2 * beta
    best = tilde + (a1 * beta / s0**2) ** 2 * S**2 * s0**2 / V0
    for name, nv in (("beta_tilde", tilde), ("beta", np.where(s1 > 0, beta, 0.0))):
        expected = recursion(rho2, 1 - rho2 + (nv - best) / V1)
        same(ratio(path, DDPM(name), grid), expected)
        if name == "beta_tilde":
            same(ratio(path, DDIM(1.0), grid), expected)


@pytest.mark.parametrize("name", ["VP", "LinearFlow", "VE"])
def test_45_ddim_eta(name):
    """R' = A^2 R + e^2 sin^2 phi',   A = cos phi cos phi' + sqrt(1 - e^2) sin phi sin phi',   e = eta sqrt(beta_tilde) / sigma'."""
    path, grid = paths()[name], Karras(9, sigma_max=30.0)
    a, s, _, phi = levels(path, grid.steps(path))
    p, q = phi[:, :-1], phi[:, 1:]
    kappa2 = (s / a) ** 2
    for eta in (0.3, 1.0):
        e2 = eta**2 * (1 - kappa2[:, 1:] / kappa2[:, :-1])
        A = np.cos(p) * np.cos(q) + np.sqrt(1 - e2) * np.sin(p) * np.sin(q)
        same(ratio(path, DDIM(eta), grid, R_0=1.2), recursion(A**2, e2 * np.sin(q) ** 2, 1.2))


@pytest.mark.parametrize("m", [1.0, 0.7, 0.0])
def test_45_euler_maruyama_exact_increment(m):
    """On x / alpha: v' = (1 - (1 + m^2)/2 D / V)^2 v + m^2 D,   D = kappa^2 - kappa'^2,   V = s^2 + kappa^2, so the same on every path.

    m = 1: R' - 1 = rho^2 (R - 1) + (1 - rho^2)^2 / rho^2.
    """
    for path, low in ((VE(), None), (EDM(), 0.002), (VP(), 0.01), (LinearFlow(), 0.01)):
        grid = Karras(10, sigma_min=low, sigma_max=50.0, to_data=False)
        a, s, V, _ = levels(path, grid.steps(path))
        V, kappa2 = V / a**2, (s / a) ** 2
        D = kappa2[:, :-1] - kappa2[:, 1:]
        a, b = (1 - 0.5 * (1 + m**2) * D / V[:, :-1]) ** 2 * V[:, :-1] / V[:, 1:], m**2 * D / V[:, 1:]
        measured = ratio(path, EulerMaruyama(m, "exact"), grid)
        same(measured, recursion(a, b))
        if m == 1:
            rho2 = V[:, 1:] / V[:, :-1]
            same(measured, recursion(rho2, 1 - rho2 + (1 - rho2) ** 2 / rho2), 1e-10)


@pytest.mark.parametrize("m", [1.0, 0.7, 0.0])
def test_45_euler_maruyama_vp(m):
    """v' = (1 + beta h (1/2 - (1 + m^2)/(2 V)))^2 v + m^2 beta h; published: R = 1.0327 at N = 50 for s = 0.5 (m = 1, from N(0, 1) to t =
    1e-3)."""
    path, n = VP(), 50
    grid = UniformTime(n, end=float(path.log_snr(jnp.asarray(1e-3))))
    steps = grid.steps(path)
    _, _, V, _ = levels(path, steps)
    t = np.linspace(1, 1e-3, n + 1)[None]
    g = (0.1 + 19.9 * t[:, :-1]) * (1 - 1e-3) / n
    a = (1 + g * (0.5 - 0.5 * (1 + m**2) / V[:, :-1])) ** 2 * V[:, :-1] / V[:, 1:]
    measured = ratio(path, EulerMaruyama(m, "g2h"), grid, R_0=1 / V[:, 0])
    same(measured, recursion(a, m**2 * g / V[:, 1:], 1 / V[:, 0]))
    if m == 1:
        np.testing.assert_allclose(measured[1], 1.0327, atol=5e-5)


@pytest.mark.parametrize(("path", "s_noise"), [(EDM(), 1.0), (EDM(), 1.007), (VP(), 1.0), (LinearFlow(), 1.007)], ids=str)
def test_45_churn(path, s_noise):
    """v_hat = v + s_noise^2 (sigma_hat^2 - sigma^2) before every step with s_tmin <= sigma <= s_tmax, then Heun (4.2) from sigma_hat."""
    n, low, high, top = 10, 0.05, 50.0, 80.0 if isinstance(path, EDM) else 60.0
    plain = Karras(n, sigma_max=top)
    grid = Churn(plain, s_churn=3.0, s_tmin=low, s_tmax=high, s_noise=s_noise)
    sigma = np.append((top ** (1 / 7) + np.arange(n) / (n - 1) * (0.002 ** (1 / 7) - top ** (1 / 7))) ** 7, 0.0)
    gamma = np.where((sigma >= low) & (sigma <= high), min(3.0 / n, np.sqrt(2) - 1), 0.0)
    v, s = S[:, 0] ** 2 + top**2, S[:, 0]
    for k in range(n):
        hat, to = sigma[k] * (1 + gamma[k]), sigma[k + 1]
        v = v + s_noise**2 * (hat**2 - sigma[k] ** 2)
        h, f = to - hat, hat / (s**2 + hat**2)
        m = 1 + 0.5 * h * (f + to / (s**2 + to**2) * (1 + h * f)) if to else 1 + h * f
        v = m**2 * v
    precision = 1e-12 if isinstance(path, EDM) else 1e-10  # the raised level is found by inverting the path
    same(ratio(path, Heun(Kappa()), grid, renoising=True), v / s**2, precision)
    if s_noise == 1:  # noise injection contracts what is wrong: R_hat - 1 = (R - 1) (s^2 + sigma^2) / (s^2 + sigma_hat^2)
        wrong = ratio(path, Heun(Kappa()), grid, R_0=1.5, renoising=True)
        hat = (sigma * (1 + gamma))[None, :-1]
        injected = (S**2 + sigma[None, :-1] ** 2) / (S**2 + hat**2)
        p, q = np.arctan2(hat, S), np.arctan2(sigma[None, 1:], S)
        r = ((1 + np.cos(p - q) ** 2) * np.cos(q) - np.sin(2 * (p - q)) * np.sin(q)) / (2 * np.cos(p))
        r[:, -1] = np.cos(p - q)[:, -1]
        same((wrong - v / s**2) / 0.5, np.prod(injected * r**2, axis=1), 1e-10)
    same(ratio(path, Heun(Kappa()), Churn(plain, s_churn=0.0), renoising=True), ratio(path, Heun(Kappa()), plain))


def test_the_stated_order_of_draws():
    """The noise is asked for by (step, call): one draw a step, call 0, then the renoising draw; the first renoising is step N."""
    asked = []

    def noise(step, call, like):
        jax.debug.callback(lambda k: asked.append((int(k), call)), step)
        return jnp.zeros_like(like)

    grid = Churn(Karras(3), s_tmax=60.0)
    sample(Gaussian(EDM()), EulerMaruyama(), grid, x_T=jnp.ones((2, 1)), noise=noise)
    jax.effects_barrier()
    assert sorted(asked) == sorted([(3, 0)] + [(k, c) for k in range(3) for c in (0, 1)])
