"""The papers' own read-outs: their values in closed form, and their nulls, which are not what the papers take them to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import SPECTRUM, forward_record, recorded, times
from scipy.special import gammaln

from score_lab.build import ConfigError
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.estimators import train_probe
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.readouts import (
    eps_norm,
    eps_square,
    gaussian_window,
    nearest,
    nearest_null,
    nearest_recorder,
    paired_delta,
    paired_null,
    paired_recorder,
    pixel_variance,
    posterior_mean,
    sliding_window,
    subband_energies,
    x0_square,
)
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow

KAPPA = np.array([2.0, 0.8, 0.3])


def near(c, value):
    """Within four standard errors of every call."""
    return (np.abs(c.value - value) < 4 * c.se).all()


def holds(c, value):
    """Within the simultaneous interval."""
    return (c.low <= value).all() and (value <= c.high).all()


@pytest.mark.parametrize("path", [EDM(), VP()], ids=["EDM", "VP"])
def test_norms_of_a_perfect_sampler_have_no_excess(path):
    """P1, P4, P5, P6 of forward samples against other forward samples; values against closed forms, E ||eps||^2 = sum n_b sin^2 phi_b."""
    t = times(path, KAPPA)
    run, null = (forward_record(SPECTRUM, path, t, 1500, seed, replicates=200) for seed in (1, 2))
    sin2, cos2 = np.sin(SPECTRUM.phi(path, t)) ** 2, np.cos(SPECTRUM.phi(path, t)) ** 2
    p4, size = eps_square(run, null), x0_square(run, null, SPECTRUM)
    assert near(p4.value, sin2 @ SPECTRUM.count) and near(p4.excess, 0.0)
    mean = np.square(SPECTRUM.mean).sum()
    assert near(size.value, cos2 @ (SPECTRUM.count * SPECTRUM.variance) + mean) and near(size.excess, 0.0)
    np.testing.assert_allclose(size.paper, SPECTRUM.count @ SPECTRUM.variance + mean)
    for b, p5 in enumerate(subband_energies(run, null)):
        assert near(p5.value, SPECTRUM.V(path, t)[:, b] * SPECTRUM.count[b]) and near(p5.excess, 0.0)
    p1 = eps_norm(run, null)
    assert near(p1.excess, 0.0) and (p1.value.value ** 2 < p4.value.value).all()  # the mean of norms is below the root of the mean square
    halved = eps_norm(run, null, scaler=np.full(3, 2.0))
    np.testing.assert_allclose(halved.value.value, p1.value.value / 2)
    np.testing.assert_allclose(halved.null.value, p1.null.value)


def test_the_norm_is_that_of_a_chi_variable():
    """P1, white data: eps ~ N(0, sin^2 phi I_d), E ||eps|| = sin phi sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2): not squared, not over d."""
    white, path = Spectrum.white(0.49, (12,)), EDM()
    t = times(path, KAPPA)
    run = forward_record(white, path, t, 2000, 3)
    want = np.sin(white.phi(path, t)[:, 0]) * np.sqrt(2) * np.exp(gammaln(6.5) - gammaln(6))
    assert near(eps_norm(run, run).value, want)


def test_pixel_variance_is_not_one_minus_alpha_bar():
    """P6: alpha^2 s^2 + sigma^2 of a perfect sampler, against the paper's sigma^2."""
    white, path = Spectrum.white(0.25, (12,)), VP()
    t = times(path, KAPPA)
    p6 = pixel_variance(forward_record(white, path, t, 1500, 1), forward_record(white, path, t, 1500, 2), path)
    alpha, sigma, _ = on_host(path, t)
    assert near(p6.value, 0.25 * alpha**2 + sigma**2) and near(p6.excess, 0.0)
    assert (p6.paper < p6.value.low).all()


def test_contaminated_states_have_an_excess():
    path, t = EDM(), times(EDM(), KAPPA)
    run, null = forward_record(SPECTRUM, path, t, 1500, 1, contamination=0.5), forward_record(SPECTRUM, path, t, 1500, 2)
    assert (eps_norm(run, null).excess.low[1:] > 0).all() and (eps_square(run, null).excess.low[1:] > 0).all()
    with pytest.raises(ConfigError, match="null"):
        eps_norm(run, forward_record(SPECTRUM, path, t[:2], 1500, 2))


def test_sliding_window_is_the_closed_form_and_zero_at_its_label():
    """P3: sum n_b sigma_s^2 V_b(t) / V_b(s)^2 under the label s."""
    path = EDM()
    t, label = times(path, [1.6, 0.8, 0.4]), float(times(path, [0.8])[0])
    data = np.asarray(SPECTRUM.surrogate(path).sample(jax.random.key(0), jnp.arange(2000)))
    p3 = sliding_window(SPECTRUM.surrogate(path), data, label, t, jax.random.key(1))
    V, own = SPECTRUM.V(path, t), SPECTRUM.V(path, np.array([label]))
    assert near(p3.value, 0.8**2 * (V / own**2) @ SPECTRUM.count)
    assert p3.excess.low[0] > 0 > p3.excess.high[2] and abs(p3.excess.value[1]) < 1e-3 * p3.value.value[1]
    np.testing.assert_allclose(gaussian_window(SPECTRUM, path, label, t), 0.8**2 * (V / own**2) @ SPECTRUM.count, rtol=1e-6)
    assert p3.label == label and p3.t.tolist() == pytest.approx(t.tolist())


def test_the_gaussian_window_sees_the_mean_on_a_path_that_scales_it():
    """VP: eps(x, s) = sigma_s (x - alpha_s mu) / V(s), so that E ||eps||^2 has (alpha_t - alpha_s)^2 |mu|^2 in it."""
    path = VP()
    t, label = times(path, [1.6, 0.8, 0.4]), float(times(path, [0.8])[0])
    far = dataclasses.replace(SPECTRUM, mean=3.0 * SPECTRUM.mean)
    data = np.asarray(far.surrogate(path).sample(jax.random.key(0), jnp.arange(2000)))
    p3 = sliding_window(far.surrogate(path), data, label, t, jax.random.key(1))
    assert near(p3.value, gaussian_window(far, path, label, t))
    assert not near(p3.value, gaussian_window(SPECTRUM, path, label, t))


def exact_reverse(path, t, s2, n, d, stochastic, seed=0):
    """States (K, n, d) of the exact reverse process of N(0, s2 I), from noised data at t[0]; and the data."""
    rng = np.random.default_rng(seed)
    alpha, sigma, _ = on_host(path, t)
    V = alpha**2 * s2 + sigma**2
    x0 = np.sqrt(s2) * rng.standard_normal((n, d))
    x = alpha[0] * x0 + sigma[0] * rng.standard_normal((n, d))
    states = [x]
    for k in range(len(t) - 1):
        if stochastic:  # E[x_s | x_t] = (alpha_t / alpha_s)(V_s / V_t) x_t and the rest of V_s
            g = alpha[k] / alpha[k + 1] * V[k + 1] / V[k]
            x = g * x + np.sqrt(V[k + 1] - g**2 * V[k]) * rng.standard_normal((n, d))
        else:
            x = np.sqrt(V[k + 1] / V[k]) * x
        states.append(x)
    return np.stack(states).astype(np.float32), x0.astype(np.float32)


@pytest.mark.parametrize("stochastic", [True, False])
def test_a6_a_perfect_sampler_has_a_paired_delta_and_no_excess(stochastic):
    """P2 reports its null (2.6), 2 s^2 at t -> 0 and not 0; less the null it is 0 within its interval."""
    path, s2, n, d = VP(), 0.49, 3000, 6
    t = np.array([1.0, 0.6, 0.3, 0.1, 0.01])
    states, x0 = exact_reverse(path, t, s2, n, d, stochastic)
    recorder = paired_recorder(x0, jax.random.key(0), 200)
    record = recorded(recorder, Spectrum.white(s2, (d,)).surrogate(path), states, t)
    null = paired_null(Spectrum.white(s2, (d,)), path, t, stochastic=stochastic)
    p2 = paired_delta(record, path, null)
    assert holds(p2.excess, 0.0)
    assert (p2.value.low[2:] > 0).all() and (p2.paper == 0).all()  # the paper's own null is excluded
    np.testing.assert_allclose(null[-1], (np.sqrt(2 * s2) - on_host(path, t)[1][-1]) ** 2, rtol=0.06)
    again, other = exact_reverse(path, t, s2, n, d, stochastic, seed=1)
    reference = recorded(paired_recorder(other, jax.random.key(1), 200), Spectrum.white(s2, (d,)).surrogate(path), again, t)
    assert holds(paired_delta(record, path, reference).excess, 0.0)  # a reference run as the null
    noisy = recorded(recorder, Spectrum.white(s2, (d,)).surrogate(path), states * np.float32(1.15), t)
    assert paired_delta(noisy, path, null).excess.low[2:].min() > 0


def test_the_paired_null_sees_the_basis():
    """Bands in a DCT: the variance of a pixel is Q diag(var_b) Q^T's; for a spectrum of one variance it is that of white data."""
    path, t = VP(), np.array([0.5, 0.1])
    power = Spectrum.power_law((4, 4, 1), s2=0.5)
    flat = Spectrum(np.full(len(power.variance), 0.5), power.band, power.mean, power.basis)
    white = paired_null(Spectrum.white(0.5, (4, 4, 1)), path, t)
    np.testing.assert_allclose(paired_null(flat, path, t), white, rtol=1e-5)
    V, s2 = power.V(path, t), power.variance
    alpha, sigma, _ = on_host(path, t)
    (a_T, _, _), V_T = on_host(path, np.array([1.0])), power.V(path, np.array([1.0]))
    band = V + alpha[:, None] ** 2 * s2 - 2 * a_T**2 * s2 * V / V_T
    c = np.kron(*(2 * [_dct(4)]))  # rows: frequencies
    pixel = (c**2).T @ band[:, power.band.reshape(-1)].T
    np.testing.assert_allclose(paired_null(power, path, t), (np.sqrt(pixel).mean(axis=0) - sigma) ** 2, rtol=1e-5)


def _dct(n):
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    rows = np.sqrt(2 / n) * np.cos(np.pi * (2 * i + 1) * k / (2 * n))
    rows[0] /= np.sqrt(2)
    return rows


def test_the_diagonal_is_not_the_null_of_the_nearest_interpolation():
    """P8 of a perfect flow, s = 1/2 (T18): 0.44 at 0.8 of the way with an independent datum, beyond the diagonal with its own endpoint."""
    path, s, n, d = LinearFlow(), 0.5, 4000, 5
    white, t = Spectrum.white(s**2, (d,)), np.array([0.7, 0.2])
    rng = np.random.default_rng(0)
    z, other = (rng.standard_normal((n, d)).astype(np.float32) for _ in range(2))
    V = (1 - t) ** 2 * s**2 + t**2
    np.testing.assert_allclose(nearest_null(white, path, t), (1 - np.sqrt(V)) / (1 + s**2), rtol=1e-6)
    np.testing.assert_allclose(nearest_null(white, path, t)[1], 0.442, atol=1e-3)
    np.testing.assert_allclose(nearest_null(white, path, t, own=True), (1 - np.sqrt(V)) / (1 - s), rtol=1e-6)
    states = (np.sqrt(V)[:, None, None] * z).astype(np.float32)
    for x0, own in ((s * other, False), (s * z, True)):
        recorder = nearest_recorder(x0, z, jax.random.key(0), 100)
        p8 = nearest(recorded(recorder, white.surrogate(path), states, t), path, nearest_null(white, path, t, own))
        np.testing.assert_allclose(p8.excess.value, 0.0, atol=0.02)
        assert own or holds(p8.excess, 0.0)
        assert (np.sign(p8.value.value - p8.paper) == (1 if own else -1)).all()
        np.testing.assert_allclose(p8.paper, 1 - t, rtol=1e-6)
    with pytest.raises(ConfigError, match="nearest_recorder.z"):
        nearest_recorder(other, z[:10], jax.random.key(0))


def test_paired_recorders_give_a_chunk_its_own_rows():
    """Rows of ``x0`` go by the global index, and chunks merge into the whole."""
    path, t = EDM(), times(EDM(), [1.0])
    rng = np.random.default_rng(0)
    x0, x = (rng.standard_normal((6, 3)).astype(np.float32) for _ in range(2))
    recorder = paired_recorder(x0, jax.random.key(0), 20)
    denoiser = Spectrum.white(1.0, (3,)).surrogate(path)

    def part(rows):
        record = recorder.init(1, 1, jnp.asarray(x[rows]), jnp.asarray(rows))
        record = recorder.update(record, jnp.asarray(0), 0, denoiser(jnp.asarray(x[rows]), jnp.asarray(t[0])), jnp.asarray(True))
        return recorder.result(record)

    whole = recorder.collect(part(np.arange(6)))
    joined = recorder.collect(recorder.merge([part(np.array([0, 1])), part(np.array([2, 3, 4, 5]))]))
    np.testing.assert_allclose(joined.sums, whole.sums, rtol=1e-5)
    np.testing.assert_allclose(whole.means()[0, 0, :3], (x - x0).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(joined.weight, whole.weight)


@pytest.mark.slow
def test_posteriors_of_contaminated_states_lie_lower():
    """P7: against the probe on forward samples, not against the nominal level."""
    path = EDM()
    t, denoiser = times(path, [0.9, 0.5]), SPECTRUM.surrogate(path)
    x0 = np.asarray(denoiser.sample(jax.random.key(0), jnp.arange(2500)))
    probe = train_probe(x0[:1500], jax.random.key(1), low=-3.0, high=4.0, steps=300, batch=128, points=9, replicates=30)
    recorder = probe.recorder(jax.random.key(2), 60)
    noise = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)

    def shown(rows, extra, seed):
        return recorder.collect(forward_run(denoiser, x0[rows] + np.float32(extra) * noise, t, recorder, jax.random.key(seed)))

    null = shown(slice(1500, 2000), 0.0, 3)
    assert holds(posterior_mean(probe, shown(slice(2000, 2500), 0.0, 4), null).excess, 0.0)
    p7 = posterior_mean(probe, shown(slice(2000, 2500), 0.5, 4), null)
    assert (p7.excess.value < 0).all() and p7.excess.high[1] < 0
    np.testing.assert_allclose(p7.paper, -2 * np.log([0.9, 0.5]), atol=1e-5)


def test_band_recorder_is_what_the_readouts_need():
    """Every number of P1 and P4 to P6 is in a BandRecord."""
    recorder = BandRecorder.of(SPECTRUM, jax.random.key(0), 20)
    record = recorded(recorder, SPECTRUM.surrogate(EDM()), np.ones((1, 40, 16), np.float32), times(EDM(), [1.0]))
    assert {"eps_norm", "eps_square", "x0_square", "pixel_variance"} <= set(record.plotted) and "state" in record.banded
    np.testing.assert_allclose(record.means("pixel_variance"), 0.0, atol=1e-12)
