"""The denoiser-residual read-out: exact on Gaussian bands, calibrated on samples, silent off its branch and where the label is not felt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import S2, SPECTRUM, coverage, exact_record, forward_record, times

from score_lab.build import ConfigError
from score_lab.mismatch.estimators import DenoiserResidual, calibrate
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow

KAPPA = np.array([0.9, 0.6, 0.4])
OFFSETS = np.linspace(-1.5, 1.5, 25)


def h(path, t, variances):
    """``E ||eps||^2`` of states of band variances (..., B) under the label of one time: sum n_b sigma^2 v_b / V_b^2."""
    _, sigma, _ = on_host(path, t[None])
    return sigma[0] ** 2 * (variances / SPECTRUM.V(path, t[None])[0] ** 2) @ SPECTRUM.count


def exact(path, t, family):
    """The estimator with closed-form curves."""
    level = on_host(path, t)[2]
    squares = []
    for k in range(len(t)):
        kappa = np.exp(-0.5 * (level[k] + OFFSETS))
        states = SPECTRUM.V(path, times(path, kappa)) if family == "path" else on_host(path, t)[0][k] ** 2 * (S2 + kappa[:, None] ** 2)
        squares.append(np.repeat(h(path, t[k], states)[:, None], 21, axis=1))
    return DenoiserResidual(t, OFFSETS, np.stack(squares), 10**9, family)


def record_of(path, t, states):
    record = exact_record(SPECTRUM, path, t, states)
    e = np.array([h(path, t[k], states[k]) for k in range(len(t))])
    record.plotted["eps_square"] = np.repeat((e * record.weight[0])[:, None], 21, axis=1)
    return record


@pytest.mark.parametrize("path", [EDM(), VP(), LinearFlow()], ids=["EDM", "VP", "LinearFlow"])
def test_contamination_is_recovered_in_closed_form(path):
    """kappa_eff^2 = kappa^2 + tau^2 / alpha^2 by the curve of the kept signal, to the spline's 1e-6; on EDM by either."""
    t = times(path, KAPPA)
    eff = np.sqrt(KAPPA**2 + 0.2**2)
    states = on_host(path, t)[0][:, None] ** 2 * (S2 + eff[:, None] ** 2)
    for family in ("kept", "path") if isinstance(path, EDM) else ("kept",):
        found = exact(path, t, family).read(record_of(path, t, states), None, path)
        assert (found.flag == "ok").all(), found.words
        np.testing.assert_allclose(found.log_snr.value, -2 * np.log(eff), atol=1e-5)


def test_the_calibration_is_the_closed_form():
    """calibrate() against sum n_b sigma^2 V_b(kappa) / V_b(tau)^2 within five of its own standard errors; h(tau) = sum n_b sin^2 phi_b."""
    path = VP()
    t = times(path, KAPPA)
    data = np.asarray(SPECTRUM.surrogate(path).sample(jax.random.key(0), jnp.arange(2000)))
    for family in ("path", "kept"):
        got = calibrate(SPECTRUM.surrogate(path), data, t, jax.random.key(1), points=7, replicates=40, family=family)
        for k, time in enumerate(got.t):
            kappa = np.exp(-0.5 * (on_host(path, got.t)[2][k] + got.offsets))
            at = times(path, kappa)
            states = SPECTRUM.V(path, at) if family == "path" else on_host(path, time[None])[0] ** 2 * (S2 + kappa[:, None] ** 2)
            want, se = h(path, time, states), got.squares[k][:, 1:].std(axis=1)
            assert (np.abs(got.squares[k][:, 0] - want) < 5 * se).all()
            np.testing.assert_allclose(want[3], np.sin(SPECTRUM.phi(path, time[None])[0]) ** 2 @ SPECTRUM.count, rtol=1e-9)


def test_beyond_the_window_is_off_the_branch():
    path, t = EDM(), times(EDM(), KAPPA)
    found = exact(path, t, "path").read(record_of(path, t, 30 * SPECTRUM.V(path, t)), None, path)
    assert (found.flag == "off the branch").all() and np.isnan(found.delta.value).all() and found.words[0]


def test_a4_vp_of_unit_variance_is_unidentifiable():
    """eps = sigma x: it sees the total variance, which says nothing."""
    spectrum, path = Spectrum.white(1.0, (16,)), VP()
    t = times(path, [2.0, 1.0, 0.5])
    data = np.asarray(spectrum.surrogate(path).sample(jax.random.key(0), jnp.arange(1000)))
    estimator = calibrate(spectrum.surrogate(path), data, t, jax.random.key(1), replicates=40)
    found = estimator.read(forward_record(spectrum, path, t, 1000, 5, replicates=40), spectrum, path)
    assert (found.flag == "unidentifiable").all(), found.words


def test_a_label_that_was_not_calibrated_is_refused():
    path, t = EDM(), times(EDM(), KAPPA)
    with pytest.raises(ConfigError, match="DenoiserResidual.t"):
        exact(path, t[:1], "path").read(record_of(path, t, SPECTRUM.V(path, t)), None, path)


def repeat(reps, contamination, simultaneous, n=150, calibration=400, path=EDM()):  # noqa: B008
    t, family = times(path, KAPPA), "path" if isinstance(path, EDM) else "kept"  # alpha (x0 + kappa_eff eps); on EDM they are one
    denoiser, truth = SPECTRUM.surrogate(path), -np.log(1 + contamination**2 / KAPPA**2)
    found = []
    for k in range(reps):
        data = np.asarray(denoiser.sample(jax.random.key(10_000 + k), jnp.arange(calibration)))
        options = {"tol": 10.0, "simultaneous": simultaneous, "points": 9, "replicates": 60, "family": family}
        estimator = calibrate(denoiser, data, t, jax.random.key(20_000 + k), **options)
        record = forward_record(SPECTRUM, path, t, n, k, contamination, replicates=60)
        found.append(estimator.read(record, None, path).delta)
    assert sum((f.flag == "ok").all() for f in found) >= 0.99 * reps
    found = [f for f in found if (f.flag == "ok").all()]
    return np.stack([f.value for f in found]), [(f.low, f.high) for f in found], truth, np.median([f.se for f in found], axis=0)


def test_a3_coverage_and_bias_in_40_repetitions():
    """40 x 3 intervals of contaminated states: within four binomial standard deviations of 40; the calibration's error is in them."""
    value, intervals, truth, se = repeat(40, 0.3, False)
    assert coverage(intervals, truth)[0] > 0.81
    assert (np.abs(value.mean(axis=0) - truth) < 4 * value.std(axis=0) / np.sqrt(40) + 0.05 * np.abs(truth)).all()
    np.testing.assert_allclose(value.std(axis=0), se, rtol=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("path", [EDM(), LinearFlow()], ids=["EDM", "LinearFlow"])
@pytest.mark.parametrize("contamination", [0.0, 0.2])
def test_a3_coverage_and_bias_in_500_repetitions(contamination, path):
    """92 to 98 % pointwise and simultaneously; bias below 5 % of the shift, which is below a quarter of the standard error."""
    value, intervals, truth, se = repeat(500, contamination, False, path=path)
    assert 0.92 <= coverage(intervals, truth)[0] <= 0.98
    if contamination:
        assert (0.05 * np.abs(truth) < 0.25 * se).all()
        assert (np.abs(value.mean(axis=0) - truth) <= 0.05 * np.abs(truth) + 2 * se / np.sqrt(500)).all()
    _, together, _, _ = repeat(500, contamination, True, path=path)
    assert 0.92 <= coverage(together, truth)[1] <= 0.98
