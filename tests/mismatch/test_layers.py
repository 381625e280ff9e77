"""Where every band is half resolved: as predicted on Gaussian bands, at one level of white data, earlier where data are not Gaussian."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.analytic import Empirical, GaussianMixture
from score_lab.build import ConfigError
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.layers import layers
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP
from score_lab.samplers import Heun, Kappa, Karras, sample

KEY = jax.random.key(0)


def of(spectrum, path, levels, n=600, denoiser=None, x0=None):
    """The layers of forward samples of the spectrum's own Gaussian, or of ``x0``, through its exact denoiser, or ``denoiser``."""
    exact = spectrum.surrogate(path)
    x0 = np.asarray(exact.sample(KEY, jnp.arange(n))) if x0 is None else x0
    recorder = BandRecorder.of(spectrum, KEY, 100)
    t = np.asarray(path.time_of(jnp.asarray(levels)))
    record = recorder.collect(forward_run(denoiser or exact, x0, t, recorder, jax.random.key(1)))
    return layers(record, spectrum, path)


def test_one_over_f_is_resolved_coarse_to_fine_where_predicted():
    spectrum = Spectrum.power_law((6, 6, 1), 2.0, 0.5)
    found = of(spectrum, VP(), np.linspace(-6.0, 8.0, 12))
    assert (np.diff(found.log_snr) > 0).all() and (found.half.flag == "ok").all()
    assert ((found.half.low < found.predicted) & (found.predicted < found.half.high)).all()
    assert (found.half.high - found.half.low < 1.5).all() and (np.diff(found.predicted[1:]) > 0).all()
    assert (found.shift.low < 0).all() and (found.shift.high > 0).all()
    np.testing.assert_allclose(found.shift.value, found.half.value - found.predicted, rtol=1e-12)
    np.testing.assert_allclose(found.gaussian, 1 / (1 + np.exp(-found.log_snr)[:, None] / spectrum.variance), rtol=1e-4)
    for b, f in enumerate(found.fraction):
        assert (np.abs(f.value - found.gaussian[:, b]) < 4 * f.se).all() and (f.se < 0.1).all()
    assert (np.diff(found.front) >= 0).all() and found.front[0] == 0 and found.front[-1] == len(spectrum.variance)
    np.testing.assert_allclose(found.coarse_to_fine, 2 * np.log(spectrum.band.max()), atol=0.5)  # f from 1 to its largest: 2 ln f
    row = found.records()[2]
    assert row["flag"] == "ok" and row["half_value"] == found.half.value[2] and row["predicted"] == -np.log(spectrum.variance[2])


def test_white_data_have_one_level_for_all_bands():
    white = Spectrum.power_law((6, 6, 1), 0.0, 0.25)
    found = of(white, EDM(), np.linspace(-6.0, 8.0, 12))
    np.testing.assert_allclose(found.predicted, np.log(4.0), rtol=1e-12)
    assert ((found.half.low < np.log(4.0)) & (np.log(4.0) < found.half.high)).all()
    assert found.coarse_to_fine < 0.5


def test_two_points_are_resolved_before_their_spectrum_says():
    """x0 = -+1 in one coordinate, N(0, 1) in the other: one variance, but the sign of the first is known at more noise.

    E tanh(x / sigma^2)^2 = 1/2 by quadrature against kappa = 1.
    """
    x0 = np.random.default_rng(0).standard_normal((3000, 2)).astype(np.float32)
    x0[:, 0] = np.sign(x0[:, 0])
    both = Spectrum(np.ones(2), np.arange(2), 0.0)
    two = GaussianMixture(EDM(), np.array([0.5, 0.5]), np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[1e-6, 1.0]] * 2))
    found = of(both, EDM(), np.linspace(-4.0, 4.0, 25), denoiser=two, x0=x0)
    level = np.linspace(-2.0, 2.0, 4001)
    z, w = np.polynomial.hermite_e.hermegauss(80)
    sigma = np.exp(-level / 2)[:, None]
    share = (np.tanh((1 + sigma * z) / sigma**2) ** 2 * w).sum(axis=1) / w.sum()
    want = level[np.searchsorted(share, 0.5)]
    assert want < -0.1 and found.half.high[0] < 0.0
    assert found.half.low[0] < want < found.half.high[0] and found.half.low[1] < 0.0 < found.half.high[1]


def test_of_a_run_with_repeated_levels_and_flags():
    """Heun's corrector looks where the next step starts; levels that were not seen give no number."""
    spectrum = Spectrum(np.array([0.5, 1e-8, 1e6, 0.0]), np.arange(4), 0.0)
    recorder = BandRecorder.of(spectrum, KEY, 100)
    grid = Karras(8, sigma_min=0.05, sigma_max=20.0, to_data=False)
    x_T = np.random.default_rng(0).standard_normal((300, 4)) * np.sqrt(spectrum.variance + 400.0)
    record = recorder.collect(sample(spectrum.surrogate(EDM()), Heun(Kappa()), grid, x_T=x_T.astype(np.float32), recorder=recorder).record)
    found = layers(record, spectrum, EDM())
    assert found.half.flag.tolist() == ["ok", "never half resolved", "half resolved throughout", "no variance"]
    assert np.isnan(found.half.value[1:]).all() and np.isnan(found.shift.low[1:]).all() and found.predicted[3] == np.inf
    assert len(found.log_snr) == 16 and len(np.unique(found.log_snr)) == 9
    one = dataclasses.replace(record, log_snr=np.zeros_like(record.log_snr))
    with pytest.raises(ConfigError, match="at least 2"):
        layers(one, spectrum, EDM())


@pytest.mark.slow
def test_digits_are_resolved_coarse_to_fine_and_white_data_are_not():
    """The handwritten digits through the exact denoiser of their own points: bands are half resolved from coarse to fine, each earlier
    than a Gaussian of the spectrum, for the points are not Gaussian.  White data of as many values have one level, the predicted one."""
    from scipy.stats import spearmanr
    from sklearn.datasets import load_digits

    x = (load_digits().images[..., None] / 8.0 - 1.0).astype(np.float32)
    path, levels = VP(), np.linspace(-6.0, 9.0, 24)
    spectrum = Spectrum.of(x, "dct")
    found = of(spectrum, path, levels, denoiser=Empirical(path, jnp.asarray(x)), x0=x[:600])
    ok = found.half.flag == "ok"
    assert ok.sum() >= 8, found.half.flag
    order = np.flatnonzero(ok)
    assert spearmanr(order, found.predicted[order]).statistic > 0.8  # the digits' spectrum falls with frequency, but for the coarsest
    assert spearmanr(found.predicted[order], found.half.value[order]).statistic > 0.8
    assert (found.shift.high[order] < 0).mean() > 0.8 and found.coarse_to_fine > 1.0
    white = of(Spectrum.power_law((8, 8, 1), 0.0, spectrum.total), path, levels)
    held = (white.half.low < white.predicted) & (white.predicted < white.half.high)
    assert held.all() and white.coarse_to_fine < 0.5 < found.coarse_to_fine
