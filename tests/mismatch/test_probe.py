"""The learned probe: calibrated, right on known contamination on every path, silent where states tell nothing, flagged where wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import SPECTRUM, coverage, times

from score_lab.build import ConfigError
from score_lab.mismatch.estimators.probe import FAILED, Probe
from score_lab.mismatch.estimators.probe_training import train_probe
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.spectrum import Spectrum
from score_lab.networks.regressor import Regressor
from score_lab.paths import EDM, VP, LinearFlow

KAPPA = np.array([1.2, 0.7, 0.4])


def data(n, seed=0):
    return np.asarray(SPECTRUM.surrogate(EDM()).sample(jax.random.key(seed), jnp.arange(n)))


@pytest.fixture(scope="module")
def probe():
    return train_probe(data(6000), jax.random.key(1), low=-3.0, high=4.0, steps=1000, points=15, replicates=60, tol=10.0)


def reading(probe, path, kappa, seed, contamination=0.0, n=400, simultaneous=False):
    x0 = data(n, 100 + seed)
    x0 = x0 + np.float32(contamination) * np.random.default_rng(seed).standard_normal(x0.shape).astype(np.float32)
    recorder = probe.recorder(jax.random.key(200 + seed), 60)
    record = recorder.collect(forward_run(SPECTRUM.surrogate(path), x0, times(path, kappa), recorder, jax.random.key(300 + seed)))
    return dataclasses.replace(probe, simultaneous=simultaneous).read(record, None, path), record


def test_it_passes_its_own_test_and_says_its_bias(probe):
    assert isinstance(probe, Probe) and probe.passed.all() and (np.abs(probe.error) < 0.2).all()
    inner = np.abs(probe.levels - 0.5) < 2
    assert (np.diff(probe.curves[inner, 0].mean(axis=1)) > 0).all() and probe.bias.shape == probe.levels.shape
    assert probe.bias[0] > 0 > probe.bias[-1]  # a posterior mean is drawn to the middle: what the calibration takes back


@pytest.mark.parametrize("path", [EDM(), VP(), pytest.param(LinearFlow(), marks=pytest.mark.slow)], ids=["EDM", "VP", "LinearFlow"])
def test_contamination_is_read_alike_on_every_path(probe, path):
    """One probe, never told the path: Delta lambda = -ln(1 + c^2 / kappa^2) inside the interval of every level."""
    truth = -np.log(1 + 0.3**2 / KAPPA**2)
    found, _ = reading(probe, path, KAPPA, 0, 0.3, n=1500, simultaneous=True)
    assert (found.flag == "ok").all(), found.words
    assert ((found.delta.low < truth) & (truth < found.delta.high)).all()
    assert (found.delta.high[1:] < 0).all()  # and not zero


def test_posteriors_are_densities_around_the_level(probe):
    _, record = reading(probe, EDM(), KAPPA, 1)
    grid, density = probe.posterior(record)
    mass = density.sum(axis=1) * (grid[1] - grid[0])
    assert (mass > 0.8).all() and (mass <= 1.001).all()
    mean = density @ grid / density.sum(axis=1)
    assert (np.diff(mean) > 0).all()


@pytest.mark.slow
def test_a4_white_data_are_unidentifiable():
    """Divided by its own rms, white noise is white noise at every level."""
    white = Spectrum.white(0.25, (12,)).surrogate(EDM())
    x0 = np.asarray(white.sample(jax.random.key(0), jnp.arange(1500)))
    probe = train_probe(x0, jax.random.key(1), low=-3.0, high=3.0, steps=60, points=9, replicates=30)
    recorder = probe.recorder(jax.random.key(2), 30)
    record = recorder.collect(forward_run(white, x0[:500], times(EDM(), KAPPA), recorder, jax.random.key(3)))
    found = probe.read(record, None, EDM())
    assert (found.flag == "unidentifiable").all() and np.isnan(found.delta.value).all()


def test_a_probe_that_fails_its_calibration_is_flagged_by_name(probe):
    """Calibration curves that are not those of the network (as of other preprocessing) are found out by the contamination test."""
    from score_lab.mismatch.estimators.probe_training import _tested

    wrong = dataclasses.replace(probe, curves=probe.curves + 0.5)
    recorder = probe.recorder(jax.random.key(4), 60)
    tested = _tested(wrong, data(1500, 9), EDM(), jax.random.key(5), recorder)
    assert not tested.passed[1:-1].any()
    found, _ = reading(dataclasses.replace(probe, passed=np.zeros(5, bool)), EDM(), KAPPA, 2)
    assert (found.flag == FAILED).all() and np.isnan(found.log_snr.value).all() and found.words[0]


def test_levels_beyond_the_probe_and_bad_data_are_refused(probe):
    found, _ = reading(probe, EDM(), [30.0, 0.7], 3)
    assert found.flag.tolist() == ["off the branch", "ok"]
    with pytest.raises(ConfigError, match="train_probe.x0"):
        train_probe(data(20), jax.random.key(0))
    with pytest.raises(ConfigError, match="train_probe.low"):
        train_probe(data(300), jax.random.key(0), low=2.0, high=1.0)
    with pytest.raises(ConfigError, match="shape"):
        Regressor().init(jax.random.key(0), (2, 2))


@pytest.mark.slow
def test_images_have_features_of_their_neighbourhoods():
    """Blurred noise of 4 x 4 pixels: its mean follows the level after a short training."""
    rng = np.random.default_rng(0)
    x0 = rng.standard_normal((600, 4, 4, 1)).astype(np.float32)
    x0 = x0 + np.roll(x0, 1, 1) + np.roll(x0, 1, 2) + np.roll(np.roll(x0, 1, 1), 1, 2)
    probe = train_probe(x0, jax.random.key(0), low=-4.0, high=2.0, members=2, steps=200, batch=64, points=9, replicates=20)
    slope = np.polyfit(probe.levels[2:-2], probe.curves[2:-2, 0].mean(axis=1), 1)[0]
    assert slope > 0.4


def repeat(probe, reps, contamination, simultaneous, path=EDM()):  # noqa: B008
    found = [reading(probe, path, KAPPA, k, contamination, 300, simultaneous)[0].delta for k in range(reps)]
    good = [f for f in found if (f.flag == "ok").all()]
    assert len(good) >= 0.99 * reps
    return np.stack([f.value for f in good]), [(f.low, f.high) for f in good], np.median([f.se for f in good], axis=0)


def test_a3_coverage_and_bias_in_40_repetitions(probe):
    value, intervals, _ = repeat(probe, 40, 0.18, False)
    truth = -np.log(1 + 0.18**2 / KAPPA**2)
    assert coverage(intervals, truth)[0] > 0.81
    assert (np.abs(value.mean(axis=0) - truth) < 4 * value.std(axis=0) / np.sqrt(40) + 0.05).all()


@pytest.mark.slow
@pytest.mark.parametrize("path", [EDM(), LinearFlow()], ids=["EDM", "LinearFlow"])
@pytest.mark.parametrize("contamination", [0.0, 0.18])
def test_a3_coverage_and_bias_in_500_repetitions(probe, contamination, path):
    """92 to 98 %, although all repetitions share one calibration: its error, which is in the intervals, is a bias below one standard error
    here.  What contamination adds to it is below 5 % of the shift (same seeds: the difference from the forward states' readings)."""
    truth = -np.log(1 + contamination**2 / KAPPA**2)
    value, intervals, se = repeat(probe, 500, contamination, False, path)
    assert 0.92 <= coverage(intervals, truth)[0] <= 0.98
    assert (np.abs(value.mean(axis=0) - truth) <= se).all()
    if contamination:
        moved = value - repeat(probe, 500, 0.0, False, path)[0]
        assert (np.abs(moved.mean(axis=0) - truth) <= 0.05 * np.abs(truth) + 2 * moved.std(axis=0) / np.sqrt(500)).all()
        assert (0.05 * np.abs(truth) < 0.25 * se).all()
    _, together, _ = repeat(probe, 500, contamination, True, path)
    assert 0.92 <= coverage(together, truth)[1] <= 0.98
