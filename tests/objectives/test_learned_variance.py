"""The hybrid loss against an independent DDPM in betas, numpy and scipy; the same on every path; the mean is held fixed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_lab.build import ConfigError, build
from score_lab.objectives import Context, LearnedVariance
from score_lab.objectives.learned_variance import _log_likelihood, interpolate_log_variance, log_variance_bounds, posterior_mean
from score_lab.paths import EDM, VE, LinearFlow, SubVP, ddpm_table, linear_betas
from score_lab.targets import Eps

T = 12


def hybrid(betas, k, x0, eps, eps_hat, v, bins, weight=1e-3):
    """Nichol & Dhariwal 2021, eq. 4-16, in their symbols; the Gaussian posterior from Ho et al. 2020, eq. 6-7."""
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    tilde = (1 - before) / (1 - bar) * betas
    x_t = np.sqrt(bar[k]) * x0 + np.sqrt(1 - bar[k]) * eps
    x0_hat = (x_t - np.sqrt(1 - bar[k]) * eps_hat) / np.sqrt(bar[k])
    on_x0, on_x_t = np.sqrt(before[k]) * betas[k] / (1 - bar[k]), np.sqrt(1 - betas[k]) * (1 - before[k]) / (1 - bar[k])
    mu, mu_hat = (on_x0 * x + on_x_t * x_t for x in (x0, x0_hat))
    m = (v + 1) / 2
    log_tilde = np.log(tilde[max(k, 1)])
    log_variance = m * np.log(betas[k]) + (1 - m) * log_tilde
    if k == 0:
        edges = scipy.stats.norm(x0_hat, np.exp(0.5 * log_variance))
        half = 1 / (bins - 1)
        mass = np.where(x0 > 1 - half, 1.0, edges.cdf(x0 + half)) - np.where(x0 < -1 + half, 0.0, edges.cdf(x0 - half))
        term = -np.log(mass)
    else:
        term = 0.5 * (log_variance - np.log(tilde[k]) - 1 + (tilde[k] + (mu - mu_hat) ** 2) / np.exp(log_variance))
    return np.mean((eps_hat - eps) ** 2) + weight * len(betas) * np.mean(term) / np.log(2)


def test_every_level_is_the_papers_loss(x64, make, evaluate, drawn, small_net):
    path, objective = ddpm_table(T=T), LearnedVariance(num_levels=T, bins=17)
    denoiser = make(path, Eps(), network=small_net(variance=True), sigma_data=1.0)
    x0 = jnp.round(jax.random.uniform(jax.random.key(2), (T, 3), minval=-1.0, maxval=1.0) * 8) / 8
    batch, key = {"x0": x0, "index": jnp.arange(T)}, jax.random.key(6)
    loss, metrics, gradient = evaluate(objective, denoiser, batch, key)
    noised, prediction = drawn(objective.regression, denoiser, batch, key)
    levels = np.round(np.asarray(noised.t) * T).astype(int) - 1
    assert sorted(levels) == list(range(T))
    for i, k in enumerate(levels):
        parts = (np.asarray(v[i]) for v in (x0, noised.eps, prediction.raw, prediction.aux["variance"]))
        wanted = hybrid(linear_betas(T), k, *parts, bins=17)
        assert float(loss[i]) == pytest.approx(wanted, rel=1e-8)
    simple = np.square(np.asarray(prediction.raw - noised.eps)).mean(1)
    np.testing.assert_allclose(metrics["vlb"], (np.asarray(loss) - simple) / 1e-3, rtol=1e-8)
    slopes = evaluate(dataclasses.replace(objective, vlb_weight=0.0), denoiser, batch, key)[2]  # a leaf: nothing is compiled again
    np.testing.assert_allclose(gradient["w2"], slopes["w2"], rtol=1e-10, atol=1e-12)  # the bound moves the variance head, not the mean's
    assert float(jnp.abs(gradient["variance"]).min()) > 0 and float(jnp.abs(slopes["variance"]).max()) == 0


@pytest.mark.parametrize("path", [LinearFlow(), SubVP(), EDM(4.0), VE(0.1, 9.0)], ids=lambda p: type(p).__name__)
def test_the_posterior_on_any_path_is_that_of_the_joint_gaussian(x64, path):
    t, s, x0, x_t = jnp.asarray(0.61), jnp.asarray(0.37), 0.8, -0.4
    a_t, a_s, v_t, v_s = (float(v) for v in (path.alpha(t), path.alpha(s), path.sigma(t) ** 2, path.sigma(s) ** 2))
    ratio = a_t / a_s  # x_t = ratio x_s + noise, given x0: x_s ~ N(a_s x0, v_s)
    gain = ratio * v_s / v_t
    mean = posterior_mean(path, t, s, jnp.full((1, 1), x_t), jnp.full((1, 1), x0))
    assert float(mean[0, 0]) == pytest.approx(a_s * x0 + gain * (x_t - a_t * x0), rel=1e-12)
    low, high = (float(jnp.exp(v)) for v in log_variance_bounds(path, t, s, jnp.asarray(0.01)))
    assert low == pytest.approx(v_s - gain * ratio * v_s, rel=1e-11)
    unit_s, unit_t = a_s**2 + v_s, a_t**2 + v_t  # variances of the states where the data have variance 1
    assert high == pytest.approx(unit_s - (ratio * unit_s) ** 2 / unit_t, rel=1e-11)
    one = jnp.ones((1, 1))
    for v, bound in ((-1.0, low), (1.0, high)):
        assert float(jnp.exp(interpolate_log_variance(v * one, jnp.log(low), jnp.log(high)))[0, 0]) == pytest.approx(bound, rel=1e-12)


def test_bins_hold_all_the_mass_also_far_from_the_mean():
    values = jnp.linspace(-1.0, 1.0, 17)
    for mean, log_variance in ((0.1, -3.0), (1.7, -5.0), (-0.95, -9.0)):
        terms = _log_likelihood(values, jnp.full(17, mean), jnp.full(17, log_variance), 17)
        assert bool(jnp.isfinite(terms).all())
        assert float(jnp.exp(terms).sum()) == pytest.approx(1.0, abs=1e-5)
    x, sd = 0.25, np.exp(-2.5)
    far = _log_likelihood(jnp.asarray([x]), jnp.asarray([1.0]), jnp.asarray([-5.0]), 17)  # 9 deviations off: both cdf round to 0
    edges = scipy.stats.norm(1.0, sd)
    near, other = edges.logcdf(x + 1 / 16), edges.logcdf(x - 1 / 16)
    assert float(far[0]) == pytest.approx(near + np.log1p(-np.exp(other - near)), rel=1e-5)
    density = _log_likelihood(jnp.asarray([x]), jnp.asarray([0.1]), jnp.asarray([-2.0]), 0)
    assert float(density[0]) == pytest.approx(scipy.stats.norm(0.1, np.exp(-1.0)).logpdf(x), abs=1e-6)


def test_it_is_finite_on_a_path_without_table_and_counts_the_levels_in_range(make, evaluate, small_net, batch_of_three):
    denoiser = make(LinearFlow(), Eps(), network=small_net(variance=True), log_snr_range=(-2.0, 50.0))
    objective = LearnedVariance(num_levels=16, bins=0)
    loss, metrics, gradient = evaluate(objective, denoiser, batch_of_three(16))
    assert all(bool(jnp.isfinite(v).all()) for v in jax.tree.leaves((loss, metrics, gradient)))
    ctx = Context(denoiser=denoiser, path=LinearFlow(), key=jax.random.key(0), batch_size=16)
    assert float(objective.count(ctx)) == np.floor(16 / (1 + np.exp(-1.0)))  # the times up to log_snr -2


def test_a_network_without_variance_and_impossible_fields_are_refused(make, evaluate, batch_of_three):
    with pytest.raises(ConfigError, match="network.learned_variance: False is refused"):
        evaluate(LearnedVariance(num_levels=8), make(ddpm_table(T=8), Eps()), batch_of_three(4))
    wrong = (("num_levels", 1, "num_levels: 1"), ("vlb_weight", -1, "weight: -1.0"), ("bins", 1, "bins: 1"), ("label_dropout", 2, "out: 2"))
    for name, value, says in wrong:
        with pytest.raises(ConfigError, match=says):
            build({"target": "LearnedVariance", name: value}, "score_lab.objectives", "objective")
