"""Maximum likelihood for data of any density; and the bimodal table, where two estimators of one state disagree in sign.

Data: +-1 with equal weights, standard deviation 0.1.  Euler in sigma with the exact denoiser on a Karras grid (rho 7, 20 to 0.02): a
monotone map in one dimension, so its quantiles are exact.  ``TABLE`` is what an independent program (numpy, its own denoiser and grid)
gives at the node nearest sigma = 0.15: variance ratio R, E eps^2 over that of forward states, sigma_eff / sigma by maximum likelihood.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import coverage, recorded, times
from scipy.stats import norm

from score_lab.analytic import GaussianMixture
from score_lab.build import ConfigError
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.estimators import DenoiserResidual, MixtureLikelihood, TotalVariance
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.record import Recorders
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import Euler, Kappa, Karras, sample

TABLE = {11: (0.856, 2.124, 1.666), 21: (0.934, 1.405, 1.267), 41: (0.968, 1.165, 1.116), 81: (0.985, 1.072, 1.054)}
BIMODAL = Spectrum.white(1.01, (1,))
KEY = jax.random.key(0)


def bimodal(path):
    """+-1, standard deviation 0.1."""
    return GaussianMixture(path, np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.array([0.01, 0.01]))


def quantiles(n=10001):
    return norm.ppf((np.arange(200_001) + 0.5) / 200_001)[:: 200_000 // (n - 1)]


def euler(steps, recorder, path):
    start = quantiles() * np.sqrt(20.0**2 + 1.01)
    grid = Karras(steps, sigma_min=0.02, sigma_max=20.0)
    return sample(bimodal(path), Euler(Kappa()), grid, x_T=jnp.asarray(start[:, None]), recorder=recorder).record


@pytest.mark.parametrize("steps", [11, *(pytest.param(n, marks=pytest.mark.slow) for n in (21, 41, 81))])
def test_a7_two_estimators_of_one_state_disagree_in_sign(steps, x64):
    path = EDM(20.0)
    bands, likelihood = BandRecorder.of(BIMODAL, KEY, 20), MixtureLikelihood(bimodal(path), points=41, window=3.0, tol=10.0)
    parts = Recorders((bands, likelihood.recorder(KEY, 20)))
    record, density = (r.collect(v) for r, v in zip(parts.parts, euler(steps, parts, path), strict=True))
    sigma = np.exp(-0.5 * record.log_snr)
    j = int(np.argmin(np.abs(np.log(sigma / 0.15))))
    width = np.sqrt(0.01 + sigma[j] ** 2)
    states = np.concatenate([quantiles() * width - 1, quantiles() * width + 1])[None, :, None]
    null = recorded(bands, bimodal(path), states, record.t[j : j + 1])

    R = record.means("state")[j, 0, 0] / (1.01 + sigma[j] ** 2)
    excess = record.means("eps_square")[j, 0] / null.means("eps_square")[0, 0]
    found = likelihood.read(density, None, path)
    assert found.flag[j] == "ok"
    ratio = np.exp(-0.5 * found.delta.value[j])
    np.testing.assert_allclose((R, excess, ratio), TABLE[steps], atol=1e-3)
    assert R < 1 < min(excess, ratio)  # less variance than the level's states have, and more noise
    by_variance = TotalVariance(tol=10.0).read(record, BIMODAL, path)
    deficit = R * (1.01 + sigma[j] ** 2) < 1.01  # less than the data's own: no noise level has it
    assert by_variance.flag[j] == "signal deficit" if deficit else by_variance.delta.value[j] > 0
    assert deficit == (steps < 81)
    readable = (by_variance.flag == "ok") & (sigma < 2) & (np.arange(len(sigma)) > 0)
    assert readable.any() and (by_variance.delta.value[readable] > 0).all()  # where total variance has a number: less noise


@pytest.mark.parametrize(("path", "family"), [(EDM(), "path"), (VP(), "path"), (VP(), "kept")], ids=["EDM", "VP", "VP-kept"])
def test_quantiles_of_another_level_are_found(path, family, x64):
    """Deterministic states of level l' are most likely under p_l': exactly so by the grid of levels, to the spline's 1e-4."""
    kappa = np.array([0.8, 0.6, 0.4])
    t, other = times(path, kappa), times(path, kappa * 1.15)
    z = norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    states = []
    for a, b in zip(t, other, strict=True):
        alpha, sigma = float(path.alpha(b)), float(path.sigma(b))
        scale = float(path.alpha(a)) / alpha if family == "kept" else 1.0
        width = np.sqrt(0.01 * alpha**2 + sigma**2)
        states.append(scale * np.concatenate([z * width - alpha, z * width + alpha]))
    estimator = MixtureLikelihood(bimodal(path), window=2.0, points=41, family=family, tol=10.0)
    found = estimator.read(recorded(estimator.recorder(KEY, 20), bimodal(path), np.stack(states), t), None, path)
    assert (found.flag == "ok").all(), found.words
    np.testing.assert_allclose(found.delta.value, -2 * np.log(1.15), atol=3e-3)  # 2000 quantiles are not quite the law


def test_each_samples_own_level():
    """In many dimensions one state tells its level: the median over states is the true one, and shares add up to 1."""
    path, d = EDM(), 200
    rng = np.random.default_rng(0)
    mixture = GaussianMixture(path, np.array([0.3, 0.7]), rng.standard_normal((2, d)), np.array([0.1, 0.2]))
    t, other = times(path, [0.5]), times(path, [0.55])
    data = np.asarray(mixture.sample(jax.random.key(1), jnp.arange(300)))
    states = data + np.float32(EDM().sigma(other[0])) * rng.standard_normal(data.shape).astype(np.float32)
    estimator = MixtureLikelihood(mixture, window=1.0, points=41)
    record = recorded(estimator.recorder(KEY, 50), mixture, states[None], t)
    shares, median = estimator.per_sample(record)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
    assert median.low[0] - 0.03 < -2 * np.log(1.1) < median.high[0] + 0.03
    pooled = estimator.read(record, None, path)
    assert pooled.delta.low[0] < -2 * np.log(1.1) < pooled.delta.high[0]


def test_without_a_maximum_there_is_no_number():
    """Far noisier states than any level of the window; a single Gaussian of unit variance on VP, whose density is that of every level."""
    path, t = EDM(), times(EDM(), [0.5])
    estimator = MixtureLikelihood(bimodal(path), window=0.5, points=9)
    states = 30.0 * np.random.default_rng(0).standard_normal((1, 500, 1)).astype(np.float32)
    found = estimator.read(recorded(estimator.recorder(KEY, 20), bimodal(path), states, t), None, path)
    assert found.flag.tolist() == ["off the branch"] and np.isnan(found.delta.value).all()
    path = VP()
    unit = GaussianMixture(path, np.array([1.0]), np.zeros((1, 4)), np.array([1.0]))
    estimator = MixtureLikelihood(unit, window=1.0, points=9)
    states = np.random.default_rng(0).standard_normal((1, 500, 4)).astype(np.float32)
    found = estimator.read(recorded(estimator.recorder(KEY, 20), unit, states, times(path, [1.0])), None, path)
    assert np.isnan(found.delta.value).all() and found.flag.tolist() == ["unidentifiable"]
    with pytest.raises(ConfigError, match="MixtureLikelihood.points"):
        MixtureLikelihood(unit, points=10).recorder(KEY)


def repeat(reps, contamination, n=300, path=EDM()):  # noqa: B008
    kappa, family = np.array([0.9, 0.6, 0.4]), "path" if isinstance(path, EDM) else "kept"
    t, mixture = times(path, kappa), bimodal(path)
    estimator = MixtureLikelihood(mixture, window=3.0, points=31, family=family, tol=10.0, simultaneous=False)
    found = []
    for k in range(reps):
        key = jax.random.key(k)
        data = mixture.sample(key, jnp.arange(n))
        data = np.asarray(data + contamination * jax.random.normal(jax.random.fold_in(key, 9), data.shape))
        recorder = estimator.recorder(jax.random.fold_in(key, 1), 100)
        record = recorder.collect(forward_run(mixture, data, t, recorder, jax.random.fold_in(key, 2)))
        both = estimator, dataclasses.replace(estimator, simultaneous=True)
        found.append([e.read(record, None, path).delta for e in both])
    return found, -np.log(1 + contamination**2 / kappa**2)


REPEATED = [(40, 0.15, EDM()), *(pytest.param(500, c, p, marks=pytest.mark.slow) for p in (EDM(), LinearFlow()) for c in (0.0, 0.15))]


@pytest.mark.parametrize(("reps", "contamination", "path"), REPEATED, ids=lambda v: v if isinstance(v, int | float) else type(v).__name__)
def test_a3_coverage_and_bias(reps, contamination, path):
    """Known contamination (the mixture's noise is Gaussian, so contaminated states are forward states): bias <= 5 %, coverage 92-98 %."""
    found, truth = repeat(reps, contamination, path=path)
    good = [f for f, _ in found if (f.flag == "ok").all()]
    assert len(good) >= 0.97 * reps
    together = [f for _, f in found if (f.flag == "ok").all()]
    share, _ = coverage([(f.low, f.high) for f in good], truth)
    value, se = np.stack([f.value for f in good]), np.median([f.se for f in good], axis=0)
    slack = (4 if reps == 40 else 2) * value.std(axis=0) / np.sqrt(len(good)) if contamination else 0.25 * se
    assert (np.abs(value.mean(axis=0) - truth) <= 0.05 * np.abs(truth) + slack).all()
    if reps == 40:
        assert share > 0.81
    else:
        assert 0.92 <= coverage([(f.low, f.high) for f in together], truth)[1] <= 0.98
        assert 0.92 <= share <= 0.98 and (0.05 * np.abs(truth) < 0.25 * se).all()


def test_the_residual_reads_the_eps_excess_as_noise(x64):
    """The third estimator of the same states: eps^2 2.12 times too large is, by the curve of forward states, more noise, not less."""
    path, steps = EDM(20.0), 11
    bands = BandRecorder.of(BIMODAL, KEY, 20)
    record = bands.collect(euler(steps, bands, path))
    sigma = np.exp(-0.5 * record.log_snr)
    j = int(np.argmin(np.abs(np.log(sigma / 0.15))))
    offsets = np.linspace(-1.5, 1.5, 13)
    kappa = sigma[j] * np.exp(-0.5 * offsets)
    width = np.sqrt(0.01 + kappa**2)[:, None, None]
    states = np.concatenate([width * quantiles()[:, None] - 1, width * quantiles()[:, None] + 1], axis=1)
    label = record.t[j]
    fed = recorded(bands, lambda x, time: bimodal(path)(x, label), states, np.arange(13.0))
    estimator = DenoiserResidual(record.t[j : j + 1], offsets, fed.means("eps_square")[None], 10**9, tol=10.0)
    found = estimator.read(_only(record, j), None, path)
    assert found.flag[0] == "ok" and -1.2 < found.delta.value[0] < -0.7  # total variance: a deficit of noise; likelihood: -2 ln 1.666
    excess = record.means("eps_square")[j, 0] / fed.means("eps_square")[6, 0]
    np.testing.assert_allclose(excess, TABLE[11][1], atol=1e-3)


def _only(record, j):
    cut = lambda v: v[j : j + 1]  # noqa: E731
    banded, plotted = ({k: cut(v) for k, v in part.items()} for part in (record.banded, record.plotted))
    return dataclasses.replace(record, t=cut(record.t), log_snr=cut(record.log_snr), banded=banded, plotted=plotted, mean=cut(record.mean))
