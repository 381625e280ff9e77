"""Analytic-DPM, generalised DDIM and the Ito Euler step against their equations and exact variances, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian, Mixture
from samplers.impulses import S, levels, ratio
from scipy.integrate import solve_ivp

from score_lab.build import ConfigError
from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DDPM,
    GDDIM,
    AnalyticDPM,
    ItoEuler,
    Karras,
    Times,
    UniformLogSNR,
    UniformTime,
    measure_gamma,
    sample,
)
from score_lab.types import leaf, pytree_dataclass

pytestmark = pytest.mark.usefixtures("x64")
COARSE = np.array([-6.0, 1.0, 7.0])


def table(std, log_snrs=COARSE):
    """Gamma of Gaussian data: E eps^2 = sigma^2 / (alpha^2 s^2 + sigma^2)."""
    return np.asarray(log_snrs), 1 / (1 + std**2 * np.exp(np.asarray(log_snrs)))


@pytree_dataclass
class Drawn:
    """``z`` in step k, 0 elsewhere."""

    k: object = leaf()
    z: object = leaf()

    def __call__(self, step, call, like):
        return jnp.where(step == self.k, self.z, 0.0) * jnp.ones_like(like)


def step(path, sampler, t, s, z):
    """One step of x_t = 0.7 on Gaussian data with the draw ``z``."""
    return float(sample(Gaussian(path), sampler, Times((t, s)), x_T=jnp.full((1, 1), 0.7), noise=Drawn(0, z)).x[0, 0])


@pytest.mark.parametrize("eta", [1.0, 0.0])
@pytest.mark.parametrize("path", [VP(), LinearFlow()], ids=["VP", "LinearFlow"])
def test_the_variance_is_right_at_every_step(path, eta):
    """(4.5) with nv = nv*: R = 1 exactly, from t = 1 to a finite level, though Gamma is known at three levels only."""
    grid = UniformTime(6, end=5.0)
    for i in (0, 2):  # data of standard deviations 0.1 and 1
        measured = ratio(path, AnalyticDPM(*table(S[i, 0]), eta=eta), grid)
        np.testing.assert_allclose(measured[i], 1.0, rtol=1e-12)
    assert abs(measured[1] - 1) > 1e-3  # and not for other data


def test_the_optimal_variance_in_the_papers_symbols():
    """sigma_n*^2 = lambda^2 + (sqrt(beta_bar_n / alpha_n) - sqrt(beta_bar_{n-1} - lambda^2))^2 (1 - beta_bar_n Gamma_n) on VP, any Gamma;
    and its clips."""
    path, t, s = VP(), 0.6, 0.45
    bar, bar_s = float(path.alpha(t)) ** 2, float(path.alpha(s)) ** 2
    beta_bar, beta_bar_s, alpha_n = 1 - bar, 1 - bar_s, bar / bar_s
    level = [float(path.log_snr(jnp.asarray(t)))]

    def std(*a, **k):
        return step(path, AnalyticDPM(*a, **k), t, s, 1.0) - step(path, AnalyticDPM(*a, **k), t, s, 0.0)

    for eta, gamma in ((1.0, 0.3), (0.0, 0.8), (0.5, 1.0)):
        lambda2 = eta**2 * beta_bar_s / beta_bar * (1 - alpha_n)
        factor = (np.sqrt(beta_bar / alpha_n) - np.sqrt(beta_bar_s - lambda2)) ** 2
        np.testing.assert_allclose(std(level, [gamma], eta=eta) ** 2, lambda2 + factor * (1 - gamma), rtol=1e-10)
        bound = min(beta_bar / bar * (1 - gamma), 0.2**2)
        clipped = std(level, [gamma], eta=eta, half_range=0.2)
        np.testing.assert_allclose(clipped**2, lambda2 + factor * bar / beta_bar * bound, rtol=1e-10)


def test_the_last_noise_before_data_is_clipped():
    path, wide, tight = VP(), AnalyticDPM(*table(0.5)), AnalyticDPM(*table(0.5), last_std=0.01)

    def moved(sampler, k, times):
        return float(sample(Gaussian(path), sampler, Times(times), x_T=jnp.zeros((1, 1)), noise=Drawn(k, 1.0)).x[0, 0])

    down = (0.9, 0.5, 0.2, 0.0)
    assert moved(tight, 0, down) == moved(wide, 0, down) != 0  # an earlier one is not
    a, s = float(path.alpha(0.2)), float(path.sigma(0.2))
    np.testing.assert_allclose(moved(tight, 1, down), 0.01 * a * 0.25 / (a**2 * 0.25 + s**2), rtol=1e-9)  # x0 of that noise
    assert moved(tight, 2, down) == 0.0  # none at data
    assert moved(tight, 1, (0.9, 0.5, 0.2)) == moved(wide, 1, (0.9, 0.5, 0.2))  # a grid that does not end at data


def test_gamma_is_measured():
    n, levels_ = 4096, [4.0, -3.0, 0.5]
    x0 = 0.5 * jax.random.normal(jax.random.key(1), (n, 4))
    found, gamma = measure_gamma(Gaussian(VP()), x0, levels_, jax.random.key(2))
    assert found.tolist() == sorted(levels_)
    expected = table(0.5, found)[1]
    np.testing.assert_allclose(gamma, expected, atol=0, rtol=5 * np.sqrt(2 / (4 * n)))  # eps^2 is chi-square: five standard errors
    again = measure_gamma(Gaussian(VP()), x0[:64], levels_, jax.random.key(2), index=np.arange(64))[1]
    assert (again != gamma).all() and (measure_gamma(Gaussian(VP()), x0, levels_, jax.random.key(3))[1] != gamma).all()
    x = sample(Mixture(VP()), AnalyticDPM(found, gamma), UniformLogSNR(5), shape=(3, 2), key=jax.random.key(0)).x
    assert np.isfinite(x).all()


@pytest.mark.parametrize("path", [VP(), LinearFlow()], ids=["VP", "LinearFlow"])
def test_gddim_between_ddim_and_ddpm(path):
    """m = 0 is DDIM and m = 1 DDIM(1) (the published correspondence), also from a level without signal to data."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    run = lambda sampler: sample(Mixture(path), sampler, UniformTime(6), x_T=x, key=jax.random.key(5)).x  # noqa: E731
    np.testing.assert_allclose(run(GDDIM(0.0)), run(DDIM()), rtol=1e-12)
    np.testing.assert_allclose(run(GDDIM(1.0)), run(DDIM(1.0)), rtol=1e-7, atol=1e-7)  # at sigma_s = 0: 0 and a cancelled 1e-8
    assert np.isfinite(run(GDDIM(0.6))).all() and float(jnp.abs(run(GDDIM(0.6)) - run(DDIM(0.6))).max()) > 1e-3


def test_gddim_solves_the_sde_with_x0_fixed():
    """Moments of dy = (1 + m^2)/2 (y - x0) / v dv (+ m dw), v = kappa^2, from v_t down to v_s by scipy; m in the exponent, not in eta."""
    path, t, s, m = VP(), 0.7, 0.4, 0.6
    alpha, kappa = (np.array([float(f(jnp.asarray(u))) for u in (t, s)]) for f in (path.alpha, path.kappa))
    # in l = -v: d(gain)/dv = (1 + m^2)/(2 v) gain;  dP/dv = (1 + m^2)/v P - m^2
    rhs = lambda v, y: [(1 + m**2) / (2 * v) * y[0], (1 + m**2) / v * y[1] - m**2]  # noqa: E731
    gain, variance = solve_ivp(rhs, kappa**2, [1.0, 0.0], rtol=1e-11, atol=1e-13).y[:, -1]
    z0, z1 = (step(path, GDDIM(m), t, s, z) for z in (0.0, 1.0))
    V = alpha[0] ** 2 * 0.25 + float(path.sigma(t)) ** 2
    x0 = alpha[0] * 0.25 / V * 0.7
    np.testing.assert_allclose(z0, alpha[1] * (x0 + gain * (0.7 / alpha[0] - x0)), rtol=1e-8)
    np.testing.assert_allclose((z1 - z0) ** 2, alpha[1] ** 2 * variance, rtol=1e-8)


@pytest.mark.parametrize(("m", "tau"), [(1.0, 1.0), (0.5, 1.3), (0.0, 1.0)])
def test_ito_euler(m, tau):
    """On x / alpha: v' = (1 - (1 + m^2)/tau (kappa - kappa') kappa / V)^2 v + m^2 (kappa^2 - kappa'^2), V = s^2 + kappa^2."""
    for path in (VE(), VP()):
        grid = Karras(8, sigma_min=0.02, sigma_max=40.0, to_data=False)
        a, s, V, _ = levels(path, grid.steps(path))
        V, kappa = V / a**2, (s / a) * np.ones_like(V)
        p, q = kappa[:, :-1], kappa[:, 1:]
        v = V[:, 0]
        for k in range(p.shape[1]):
            v = (1 - (1 + m**2) / tau * (p - q)[:, k] * p[:, k] / V[:, k]) ** 2 * v + m**2 * (p**2 - q**2)[:, k]
        np.testing.assert_allclose(ratio(path, ItoEuler(m, tau), grid), v / V[:, -1], rtol=1e-10)


def test_ito_euler_at_the_ends():
    """From no signal to data: finite, and pure data is the denoised state."""
    run = sample(Mixture(LinearFlow()), ItoEuler(), UniformTime(5), shape=(4, 2), key=jax.random.key(0))
    assert np.isfinite(run.x).all()
    np.testing.assert_allclose(step(LinearFlow(), ItoEuler(0.8), 0.5, 0.0, 3.0), step(LinearFlow(), DDIM(), 0.5, 0.0, 0.0), rtol=1e-12)


def test_ddim_with_the_stride_of_diffusers():
    """Where the grid's steps are all the stride it changes nothing; elsewhere the states leave the levels the network is told."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)))
    run = lambda sampler, times: sample(Mixture(VP()), sampler, Times(times), x_T=x).x  # noqa: E731
    np.testing.assert_allclose(run(DDIM(stride=0.25), (1.0, 0.75, 0.5, 0.25, 0.0)), run(DDIM(), (1.0, 0.75, 0.5, 0.25, 0.0)), rtol=1e-12)
    assert float(jnp.abs(run(DDIM(stride=0.25), (1.0, 0.6, 0.0)) - run(DDIM(), (1.0, 0.6, 0.0))).max()) > 1e-3


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (AnalyticDPM([1.0, 0.0], [0.5, 0.5]), "AnalyticDPM.log_snrs.*ascending"),
        (AnalyticDPM([0.0, 1.0], [0.5]), "AnalyticDPM.gamma.*2 of them"),
        (AnalyticDPM([0.0], [0.5], eta=1.5), "AnalyticDPM.eta"),
        (AnalyticDPM([0.0], [0.5], half_range=0.0), "AnalyticDPM.half_range"),
        (GDDIM(-1.0), "GDDIM.multiplier"),
        (ItoEuler(-1.0), "ItoEuler.multiplier"),
        (ItoEuler(temperature=0.0), "ItoEuler.temperature"),
        (DDIM(stride=0.0), "DDIM.stride"),
        (DDPM("analytic"), "DDPM.variance"),
    ],
    ids=lambda v: v.split(".")[0] if isinstance(v, str) else "",
)
def test_refusals(sampler, words):
    with pytest.raises(ConfigError, match=words):
        sample(Gaussian(EDM()), sampler, Times((1.0, 0.5)), x_T=jnp.ones((1, 1)))


def test_measure_refusals():
    with pytest.raises(ConfigError, match=r"measure_gamma.log_snrs.*different finite"):
        measure_gamma(Gaussian(VP()), jnp.ones((2, 1)), [0.0, 0.0], jax.random.key(0))
    with pytest.raises(ConfigError, match=r"measure_gamma.log_snrs.*log-SNR of VE"):
        measure_gamma(Gaussian(VE()), jnp.ones((2, 1)), [20.0], jax.random.key(0))
