"""Forward samples through the recorder: what a perfect sampler would read, keyed by trajectory, also where another level is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.mismatch.bands import BANDED, BandRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.look import forward_record, read
from score_lab.mismatch.moments import DataMoments
from score_lab.mismatch.record import NormRecorder
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP
from score_lab.samplers import StateRecorder

BANDS = Spectrum(np.array([0.01, 0.25, 1.0, 9.0]), np.arange(4), np.array([0.5, 0.0, -1.0, 0.2]))
T = np.array([1.0, 0.6, 0.3, 0.02, 0.0])
KEY = jax.random.key(5)


def data(n, seed=0):
    return (BANDS.mean + np.random.default_rng(seed).standard_normal((n, 4)) * np.sqrt(BANDS.variance)).astype(np.float32)


def test_states_are_forward_states_of_one_noise_at_all_levels(x64):
    path, x0 = VP(), data(6)
    states = forward_run(BANDS.surrogate(path), x0, T, StateRecorder(rows=6), KEY).in_order()
    a, s = (np.asarray(f(jnp.asarray(T)))[:, None, None] for f in (path.alpha, path.sigma))
    eps = (states.x_t - a * x0)[:-1] / s[:-1]
    np.testing.assert_allclose(eps, np.broadcast_to(eps[:1], eps.shape), atol=1e-9)
    assert abs(eps[0].std() - 1) < 0.5 and np.abs(np.corrcoef(eps[0].ravel(), x0.ravel())[0, 1]) < 0.9
    np.testing.assert_allclose(states.x_t[-1], x0, atol=1e-12)
    np.testing.assert_array_equal(states.t, T)
    np.testing.assert_allclose(states.fed, states.log_snr)


def test_a_trajectory_is_its_index_and_chunks_add_up(x64):
    path, x0 = VP(), data(10)
    denoiser, recorder = BANDS.surrogate(path), BandRecorder.of(BANDS, KEY, 25)
    whole = recorder.collect(forward_run(denoiser, x0, T, recorder, KEY))
    index = np.arange(10)
    parts = [forward_run(denoiser, x0[i : i + 5], T, recorder, KEY, index=index[i : i + 5]) for i in (0, 5)]
    joined = recorder.collect(recorder.merge(parts))
    for name in BANDED:
        np.testing.assert_allclose(joined.means(name), whole.means(name), rtol=1e-11, atol=1e-13)
    turned = recorder.collect(forward_run(denoiser, x0[::-1], T, recorder, KEY, index=index[::-1]))
    np.testing.assert_allclose(turned.means("state"), whole.means("state"), rtol=1e-11)
    other = recorder.collect(forward_run(denoiser, x0, T, recorder, jax.random.key(6)))
    assert np.abs(other.means("state")[0] - whole.means("state")[0]).max() > 1e-3


def test_another_level_told_moves_the_prediction_and_not_the_state():
    """h_tau(kappa) of (2.4) on VE: E ||eps||^2 = sum_b n_b sigma_tau^2 V_b(kappa) / V_b(tau)^2; rows are the states' own levels."""
    path, n = EDM(), 20_000
    denoiser, recorder = BANDS.surrogate(path), BandRecorder.of(BANDS, KEY, 20)
    t = np.array([0.04, 0.02, 0.01])
    tau = np.full(3, 0.02)
    record = recorder.collect(forward_run(denoiser, data(n), t, recorder, KEY, fed=tau))
    np.testing.assert_allclose(record.t, t, rtol=1e-6)
    np.testing.assert_allclose(record.means("fed")[:, 0], np.asarray(path.log_snr(jnp.asarray(tau))), rtol=1e-5)
    V, V_tau = BANDS.V(path, t), BANDS.V(path, tau)
    np.testing.assert_allclose(record.means("state")[:, 0], V, rtol=5 * np.sqrt(2 / n))
    want = ((80.0 * tau)[:, None] ** 2 * V / V_tau**2).sum(axis=1)
    np.testing.assert_allclose(record.means("eps_square")[:, 0], want, rtol=0.03)
    plain = recorder.collect(forward_run(denoiser, data(n), t, recorder, KEY))
    np.testing.assert_allclose(plain.means("eps_square")[1], record.means("eps_square")[1], rtol=1e-5)
    np.testing.assert_allclose(plain.means("eps")[:, 0], np.sin(BANDS.phi(path, t)) ** 2, rtol=0.05)


def test_it_is_the_first_looks_null():
    """The same law as the numpy null of the first look: R of both within their intervals of 1."""
    path, moments = EDM(), DataMoments(BANDS.mean, BANDS.total, float((BANDS.variance**2).mean()), 4)
    t = np.array([0.5, 0.05, 0.005])
    ours = forward_run(BANDS.surrogate(path), data(3000), t, NormRecorder(jnp.asarray(BANDS.mean)), KEY)
    for record in (ours, forward_record(data(3000, 1), path, t, moments, 3000)):
        r = read(record, path, moments, simultaneous=True)
        assert ((r.low < 1) & (1 < r.high)).all() and (r.high - r.low < 0.25).all()


def test_refusals():
    recorder = BandRecorder.of(BANDS, KEY, 20)
    for x0, t in ((data(3) * np.nan, T), (data(3), np.array([1.2])), (data(3), np.array(0.5))):
        with pytest.raises(ConfigError, match="finite data and a list of times"):
            forward_run(BANDS.surrogate(EDM()), x0, t, recorder, KEY)
