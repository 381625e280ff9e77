"""What the recorder keeps, with a skipped call, guidance and churn; and SDEdit's start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian
from samplers.fake import small

from score_lab.build import ConfigError
from score_lab.guidance import CFG
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDIM, Churn, Heun, Karras, StateRecorder, UniformLogSNR, UniformTime, noised, sample
from score_lab.targets import F


def test_the_record_of_heun_with_guidance_and_churn():
    path, grid = EDM(), Churn(Karras(4), s_churn=1.0, s_tmax=70.0)
    guided = CFG(small(path, F(0.7)), 2.0)
    run = sample(guided, Heun(), grid, (5, 2), jax.random.key(0), cond={"label": jnp.arange(5)}, recorder=StateRecorder(3))
    record, steps = run.record, grid.steps(path)
    assert record.x_t.shape == record.x0.shape == (4, 2, 3, 2)
    np.testing.assert_array_equal(record.made, [[True, True]] * 3 + [[True, False]])
    assert (np.asarray(record.x_t[3, 1]) == 0).all() and (np.asarray(record.x_t)[np.asarray(record.made)] != 0).all()
    calls = record.in_order()
    assert len(calls.t) == 7 and int(run.nfe) == 14
    expected = np.stack([steps.t, steps.s], 1).ravel()[:7]
    np.testing.assert_array_equal(calls.t, expected)
    np.testing.assert_allclose(calls.log_snr, path.log_snr(jnp.asarray(expected)), rtol=1e-6)
    np.testing.assert_allclose(calls.fed, np.clip(calls.log_snr, -20, 20), rtol=1e-6)
    np.testing.assert_array_equal(run.x[:3], calls.x0[-1])  # the last step, to data, returns the last prediction
    again = guided(jnp.asarray(calls.x_t[2]), jnp.float32(calls.t[2]), {"label": jnp.arange(3)})
    np.testing.assert_allclose(again.x0, calls.x0[2], rtol=1e-4, atol=1e-6)


def test_the_first_recorded_state_is_the_prior_and_a_dict_is_recorded():
    run = sample(Gaussian(VP()), DDIM(), UniformTime(3), {"a": (2, 3), "b": (2, 1)}, jax.random.key(1), recorder=StateRecorder(8))
    assert jax.tree.map(jnp.shape, run.record.x_t) == {"a": (3, 1, 2, 3), "b": (3, 1, 2, 1)}
    prior = VP().prior_sample(jax.random.split(jax.random.key(1))[0], jnp.arange(2), {"a": (3,), "b": (1,)})
    np.testing.assert_array_equal(run.record.x_t["a"][0, 0], prior["a"])
    with pytest.raises(ConfigError, match="StateRecorder.rows: 0 is refused"):
        StateRecorder(0).check()


@pytest.mark.parametrize("path", [VP(), LinearFlow(), EDM()], ids=["VP", "LinearFlow", "EDM"])
def test_sdedit_starts_where_the_grid_does(path, x64):
    """x_T = alpha x0 + sigma eps at the grid's first level, and from there the closed form (4.1) of DDIM on Gaussian data."""
    log_snr, s = 0.7, 0.5
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    x_T = noised(x0, path, log_snr, jax.random.key(0))
    alpha, sigma = (1 / np.sqrt(1 + np.exp(sign * log_snr)) for sign in (-1, 1))  # on the unit circle
    scale = float(path.norm(path.time_of(jnp.float64(log_snr))))
    eps = (np.asarray(x_T) / scale - alpha * np.asarray(x0)) / sigma
    np.testing.assert_allclose(eps, noised(0 * x0, path, log_snr, jax.random.key(0)) / scale / sigma, rtol=1e-9)
    kappa = np.exp(-log_snr / 2)
    for grid in (UniformLogSNR(5, log_snr, 5.0), UniformTime(5, log_snr), Karras(5, sigma_max=float(kappa))):
        steps = grid.steps(path)
        np.testing.assert_allclose(path.log_snr(steps.start), log_snr, rtol=1e-9)
        phi = np.arctan2(np.asarray(path.kappa(jnp.append(steps.t, 0.0))), s)
        gain = np.prod(np.cos(np.diff(phi))) * s / np.sqrt(scale**2 * (alpha**2 * s**2 + sigma**2))
        np.testing.assert_allclose(sample(Gaussian(path, s), DDIM(), grid, x_T=x_T).x, gain * x_T, rtol=1e-9)


def test_sdedit_refuses_levels_that_are_not_there():
    x0 = jnp.ones((2, 2))
    with pytest.raises(ConfigError, match=r"noised.log_snr: -20.0 is refused; allowed: a log-SNR of VP"):
        noised(x0, VP(), -20.0, jax.random.key(0))
    trained = small(VP(), F(0.7), log_snr_range=(-3.0, 5.0))
    with pytest.raises(ConfigError, match=r"leaves the range \[-3, 5\]"):
        sample(trained, DDIM(), UniformLogSNR(4, -4.0, 4.0, to_data=False), x_T=noised(x0, VP(), -4.0, jax.random.key(0)))
