"""DDPM with a learned variance: one step's noise is the variance that the network's output stands for, the same statement on every path."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.denoiser import Prediction
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDPM

PATHS = {"VP": VP(), "EDM": EDM(), "LinearFlow": LinearFlow()}


def noise_of(path, log_snrs, v):
    """The standard deviation of x_s that the step between two log-SNRs draws: the answer to a draw of 1 at x = x0 = eps = 0."""
    t, s = (path.time_of(jnp.asarray(level)) for level in log_snrs)
    zero = jnp.zeros((1, 2))

    def denoise(x, t):
        return Prediction(x_t=x, t=t, path=path, x0=zero, eps=zero, aux={"variance": jnp.full_like(zero, v)})

    denoise.path = path
    x_s, _, _ = DDPM("learned").step(denoise, zero, t, s, lambda: jnp.ones_like(zero), ())
    return float(x_s[0, 0]), t, s


@pytest.mark.parametrize("name", PATHS)
def test_the_ends_are_beta_tilde_and_beta(x64, name):
    path, levels = PATHS[name], (-2.0, 1.0)
    low, t, s = noise_of(path, levels, -1.0)
    high, _, _ = noise_of(path, levels, 1.0)
    middle, _, _ = noise_of(path, levels, 0.0)
    sigma_t, sigma_s, alpha_t, alpha_s = (np.asarray(f(u), np.float64) for f in (path.sigma, path.alpha) for u in (t, s))
    delta = 1 - np.exp(levels[0] - levels[1])
    np.testing.assert_allclose(low**2, sigma_s**2 * delta, rtol=1e-12)
    np.testing.assert_allclose(high**2, sigma_t**2 * delta * (alpha_s**2 + sigma_s**2) / (alpha_t**2 + sigma_t**2), rtol=1e-12)
    np.testing.assert_allclose(middle**2, low * high, rtol=1e-12)
    if name == "VP":  # there the upper end is DDPM's beta
        np.testing.assert_allclose(high**2, sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2, rtol=1e-12)


@pytest.mark.parametrize("v", [-1.0, 0.3, 1.0])
def test_the_same_step_on_every_path(x64, v):
    """At equal log-SNRs the noise scales with the state: std / sqrt(alpha_s^2 + sigma_s^2) is path-free."""
    found = []
    for path in PATHS.values():
        std, _, s = noise_of(path, (-2.0, 1.0), v)
        found.append(std / float(path.norm(s)))
    np.testing.assert_allclose(found, found[0], rtol=1e-12)


def test_no_noise_on_the_last_step(x64):
    assert noise_of(LinearFlow(), (-2.0, np.inf), 0.5)[0] == 0.0
