"""The measures: zero on forward samples as often as they say, and the closed form or the known contamination where there is one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.mismatch.bands import BLOCKS, BandRecord, BandRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.measures import (
    band_kl,
    coarse,
    crossings,
    denoiser_gap,
    log_ratio,
    log_ratios,
    mean_gain,
    mean_leak,
    resolved,
)  # fmt: skip
from score_lab.mismatch.oracle import exact_moments
from score_lab.mismatch.replicates import Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDIM, DDPM, AnalyticDPM, Heun, Kappa, StateRecorder, UniformLogSNR, UniformTime, sample

BANDS = Spectrum(np.array([0.01, 0.25, 1.0, 9.0]), np.arange(16) // 4, np.tile([0.5, 0.0, -1.0, 0.2], 4))
T = np.array([0.9, 0.6, 0.3, 0.1, 0.01])
N = 256


def draw(key, n=N, spectrum=BANDS):
    return np.asarray(spectrum.surrogate(VP()).sample(key, jnp.arange(n)))


def forward_states(n, t, path, seed=9):
    x0 = draw(jax.random.key(seed), n)
    eps = np.random.default_rng(seed).standard_normal(x0.shape)
    return (float(path.alpha(t)) * x0 + float(path.sigma(t)) * eps).astype(np.float32)


def nulls(repetitions):
    """Of every repetition on fresh forward samples: whether each simultaneous interval holds its null, its value, its se."""
    path, held, values, errors = VP(), [], [], []
    denoiser = BANDS.surrogate(path)
    for k in range(repetitions):
        keys = jax.random.split(jax.random.key(k), 5)
        recorder = BandRecorder.of(BANDS, keys[0], 200)
        pairs = (keys[1], keys[2]), (keys[3], keys[4])
        record, other = (recorder.collect(forward_run(denoiser, draw(a), T, recorder, b)) for a, b in pairs)
        found = {f"ln R {b}": c for b, c in enumerate(log_ratios(record, BANDS, path))}
        found |= {"ln R": log_ratio(record, BANDS, path), "gap": denoiser_gap(record, other), "mean gain": mean_gain(record, BANDS, path)}
        null = {"mean gain": 1.0}
        held.append([((c.low <= null.get(m, 0.0)) & (null.get(m, 0.0) <= c.high)).all() for m, c in found.items()])
        values.append([c.value for c in found.values()] + [mean_leak(record, BANDS).value])
        errors.append([c.se for c in found.values()])
    return np.array(held), np.array(values), np.array(errors), list(found)


@pytest.mark.parametrize("repetitions", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_a3_nulls_hold_as_often_as_they_say(repetitions):
    """All levels at once, of each measure: of 500 repetitions 92 to 98 % (three binomial deviations of 1 %).

    Of 60 the deviation is 2.8 %: of seven measures each at least 83 % and their mean 88 %; that they are not too wide is seen by the se,
    within 20 % of the values' own standard deviation, which 60 know to 9 %.
    """
    held, values, errors, names = nulls(repetitions)
    share = held.mean(axis=0)
    low, high = ((0.92, 0.98) if repetitions == 500 else (0.83, 1.0))
    assert ((share >= low) & (share <= high)).all(), dict(zip(names, share, strict=True))
    assert share.mean() >= (0.92 if repetitions == 500 else 0.88)
    spread = values[:, :-1].std(axis=0)
    ratio = errors.mean(axis=0) / spread
    assert ((0.8 < ratio) & (ratio < 1.25)).mean() > 0.95 and abs(ratio.mean() - 1) < 0.1
    leak = values[:, -1]
    assert (np.abs(leak.mean(axis=0)) < 4.5 * leak.std(axis=0) / np.sqrt(repetitions)).all()  # M2 is unbiased: about 0, of either sign
    assert (leak < 0).any() and (leak > 0).any()


@pytest.mark.parametrize("sampler", [DDIM(), pytest.param(Heun(Kappa()), marks=pytest.mark.slow), DDPM("beta")], ids=str)
def test_m1_of_a_run_is_the_oracles(sampler):
    """n = 2000 trajectories started from forward states: every band, every call within 4.5 se of the exact ln R, which is not 0."""
    path, grid = VP(), UniformLogSNR(6, -5.0, 5.0, to_data=False)
    exact = exact_moments(sampler, grid, path, BANDS)
    recorder = BandRecorder.of(BANDS, jax.random.key(1), 100)
    x_T = forward_states(2000, float(exact.t[0]), path)
    record = recorder.collect(sample(BANDS.surrogate(path), sampler, grid, x_T=x_T, recorder=recorder, key=jax.random.key(2)).record)
    np.testing.assert_allclose(record.t, exact.t[:-1], rtol=1e-4)
    curves = log_ratios(record, BANDS, path)
    z = np.array([(c.value - exact.log_ratio[:-1, b]) / c.se for b, c in enumerate(curves)])
    assert np.abs(z).max() < 4.5
    away = np.array([c.value / c.se for c in curves])
    assert np.abs(away).max() > 10
    total = log_ratio(record, BANDS, path)
    V = BANDS.V(path, exact.t[:-1]) * BANDS.count
    want = np.log((np.exp(exact.log_ratio[:-1]) * V).sum(axis=1) / V.sum(axis=1))
    assert (np.abs(total.value - want) < 4.5 * total.se).all()
    fractions = resolved(record, BANDS)
    for b, c in enumerate(fractions):
        assert (np.abs(c.value - exact.x0[:, b] / BANDS.variance[b]) < 4.5 * c.se).all()
    means = np.moveaxis(record.means("cross") / BANDS.count, -1, 0)
    for b, c in enumerate([curve(m) for m in means]):
        assert (np.abs(c.value - exact.cross[:, b]) < 4.5 * c.se).all()


def test_m2_of_a_start_without_the_mean():
    """From VP's prior at a level that still has signal the mean leaks: |E c|^2 / d and the gain on the mean are the oracle's."""
    path, grid = VP(), UniformLogSNR(5, -2.0, 4.0, to_data=False)
    exact = exact_moments(DDIM(), grid, path, BANDS, "prior")
    recorder = BandRecorder.of(BANDS, jax.random.key(1), 100)

    def run(seed):
        return recorder.collect(sample(BANDS.surrogate(path), DDIM(), grid, (4000, 16), jax.random.key(seed), recorder=recorder).record)

    want = np.square(exact.leak[:-1]).sum(axis=1) / 16
    leaks = [mean_leak(run(seed), BANDS) for seed in range(100, 120)]
    assert sum(bool(((leak.low < want) & (want < leak.high)).all()) for leak in leaks) >= 16  # of 19 expected: fewer once in 400
    record = run(3)
    leak = mean_leak(record, BANDS)
    se = 2 * np.sqrt(want) * np.sqrt(np.exp(exact.log_ratio[:-1]) * BANDS.V(path, exact.t[:-1])).max() / np.sqrt(4000 * 16)
    assert (np.abs(leak.value - want) < 4.5 * se + 1e-3 * want).all() and want.min() > 0.03
    assert (leak.low > 0).all() and (leak.high - leak.low < 0.5 * want).all()
    alpha = np.asarray(path.alpha(jnp.asarray(exact.t[:-1])))
    gain = mean_gain(record, BANDS, path)
    along = 1 + exact.leak[:-1] @ BANDS.mean / (alpha * np.square(BANDS.mean).sum())
    assert (np.abs(gain.value - along) < 4.5 * gain.se).all() and (gain.high < 1).any()
    none = Spectrum(BANDS.variance, BANDS.band, 0.0)
    assert (mean_gain(record, none, path).flag == "no mean").all()


@pytest.mark.parametrize("size", [0.0, 0.2])
def test_the_mean_leaks_interval_holds_as_often_as_it_says(size):
    """Of 400 samples of 300 Gaussian states with |E c|^2 / d = size^2, one call each: 92 to 98 %; without a mean more, and no wider than by
    the root of 3 and the few blocks."""
    rng, d, n, held, values, errors = np.random.default_rng(0), 6, 300, [], [], []
    spectrum, weight, nothing = Spectrum(np.ones(2), np.repeat([0, 1], 3), np.zeros(d)), np.full(22, float(n)), np.zeros(1, int)
    for _ in range(400):
        c = rng.standard_normal((n, d)) * np.array([2.0, 1.0, 0.5, 1.0, 0.1, 0.3]) + size
        blocks = np.stack([c[j::BLOCKS].sum(axis=0) for j in range(BLOCKS)])[None]
        sums = {"state": np.tile(np.square(c).reshape(n, 2, 3).sum(axis=(0, 2)), (1, 22, 1))}
        sizes = np.full(BLOCKS, n / BLOCKS)
        record = BandRecord(np.zeros(1), np.zeros(1), weight, sums, {}, c.mean(axis=0)[None], nothing, nothing, "", blocks, sizes)
        found = mean_leak(record, spectrum, simultaneous=False)
        held.append(found.low[0] <= size**2 <= found.high[0])
        values.append(found.value[0])
        errors.append(found.se[0])
    assert abs(np.mean(values) - size**2) < 4.5 * np.std(values) / 20
    assert 0.92 <= np.mean(held) <= (0.98 if size else 1.0)
    assert 0.9 < np.mean(errors) / np.std(values) < (1.35 if size else 2.6)
    bare = mean_leak(dataclasses.replace(record, blocks=None), spectrum)
    assert bare.value[0] == values[-1] and bare.low[0] == -np.inf and bare.high[0] == np.inf


def test_known_contamination_of_the_denoisers_coordinates():
    """States x + tau xi on VE: E ||eps||^2 rises by sum_b sin^4 phi_b tau^2 / sigma^2; M1 by ln(1 + tau^2 / V_b)."""
    path, n, level = EDM(), 20_000, np.array([0.02])
    denoiser, recorder = BANDS.surrogate(path), BandRecorder.of(BANDS, jax.random.key(4), 100)
    V, phi, sigma = BANDS.V(path, level)[0], BANDS.phi(path, level)[0], 1.6
    tau = 0.8
    x = forward_states(n, 0.02, path) + tau * np.random.default_rng(0).standard_normal((n, 16))
    grid = UniformTime(1, start=float(path.log_snr(0.02)))
    record = recorder.collect(sample(denoiser, DDIM(), grid, x_T=x.astype(np.float32), recorder=recorder).record)
    null = recorder.collect(forward_run(denoiser, draw(jax.random.key(6), n), record.t, recorder, jax.random.key(7)))
    gap = denoiser_gap(record, null)
    want = np.log1p((4 * np.sin(phi) ** 4).sum() * tau**2 / sigma**2 / (4 * np.sin(phi) ** 2).sum())
    assert abs(gap.value[0] - want) < 4.5 * gap.se[0] and gap.low[0] > 0
    for b, c in enumerate(log_ratios(record, BANDS, path)):
        assert abs(c.value[0] - np.log1p(tau**2 / V[b])) < 4.5 * c.se[0]


def test_a6_a_perfect_sampler_has_a_paired_difference():
    """x0 -> x_T -> x_t by an exact reverse sampler: Var(x_t - alpha_t x0) = V_t + alpha_t^2 s^2 - 2 alpha_T^2 s^2 V_t / V_T, although M1 is
    null at every level: a paired read-out needs this null, not 0 or sigma_t^2."""
    path, s2, n = VP(), 0.25, 40_000
    levels = np.linspace(-9.0, 9.0, 400)
    exact = AnalyticDPM(jnp.asarray(levels, jnp.float32), jnp.asarray(1 / (1 + s2 * np.exp(levels)), jnp.float32))
    one = Spectrum.white(s2, (1,))
    rng = np.random.default_rng(0)
    grid = UniformLogSNR(5, -4.0, 6.0, to_data=False)
    t = np.asarray(grid.steps(path).t, np.float64)
    a, s = (np.asarray(f(jnp.asarray(t)), np.float64) for f in (path.alpha, path.sigma))
    x0 = np.sqrt(s2) * rng.standard_normal((n, 1))
    x_T = a[0] * x0 + s[0] * rng.standard_normal((n, 1))
    run = sample(one.surrogate(path), exact, grid, x_T=x_T.astype(np.float32), recorder=StateRecorder(rows=n), key=jax.random.key(0))
    states = run.record.in_order().x_t[..., 0]
    V = a**2 * s2 + s**2
    want = V + a**2 * s2 - 2 * a[0] ** 2 * s2 * V / V[0]
    np.testing.assert_allclose((states - a[:, None] * x0.T).var(axis=1), want, rtol=4.5 * np.sqrt(2 / n))
    np.testing.assert_allclose(states.var(axis=1), V, rtol=4.5 * np.sqrt(2 / n))
    assert (np.abs(want - s**2)[1:] > 0.05).all()


def test_m5_and_where_there_is_no_number():
    q = np.array([[1.0, 1.0], [2.0, 0.5], [0.0, 1.0]])
    V, count = np.array([3.0, 0.2]), np.array([2, 5])
    want = [0.0, 0.5 * (2 * (1 - np.log(2)) + 5 * (-0.5 + np.log(2)))]
    np.testing.assert_allclose(band_kl(q * V, V, count)[:2], want, rtol=1e-12)
    assert band_kl(q * V, V, count)[2] == np.inf
    np.testing.assert_allclose(band_kl(np.array([2.0, 0.0]), np.array([1.0, 0.0]), count), 1 - np.log(2), rtol=1e-12)
    assert band_kl(np.array([1.0, 1e-9]), np.array([1.0, 0.0]), count) == np.inf
    flat = Spectrum(np.array([1.0, 0.0]), np.array([0, 1]), 0.0)
    recorder = BandRecorder.of(flat, jax.random.key(0), 20)
    path = LinearFlow()
    record = recorder.collect(forward_run(flat.surrogate(path), np.ones((30, 2)), np.array([0.5, 0.0]), recorder, jax.random.key(1)))
    curves = log_ratios(record, flat, path)
    assert [c.flag.tolist() for c in curves] == [["ok", "ok"], ["ok", "no variance"]] and np.isnan(curves[1].value[1])
    assert resolved(record, flat)[1].flag.tolist() == ["no variance"] * 2


def test_the_half_resolved_level():
    """Exact for a Gaussian band however few the calls; the first crossing from noise; NaN where there is none."""
    level = np.array([3.0, -5.0, 0.1, -np.inf])
    s2 = np.array([0.3, 2.0, 1e-4])
    w = 1 / (1 + np.exp(-level)[:, None] / s2)
    np.testing.assert_allclose(crossings(w, level), [-np.log(0.3), -np.log(2.0), np.nan], rtol=1e-12)
    values = np.array([[0.0, 0.2, 0.6], [0.7, 0.4, 0.8], [0.3, 0.9, 0.9], [0.9, 1.2, 0.2]])
    got = crossings(values, np.arange(4.0))
    np.testing.assert_allclose(got[0], 0.5 / 0.7)
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    np.testing.assert_allclose(got[1], 1 + logit(0.6) / (logit(0.9) + logit(0.6)))
    assert np.isnan(got[2])
    one = Curve(w[:, 0], *(w[:, 0],) * 3, np.full(4, "ok"), w)
    np.testing.assert_allclose(coarse(one, level), -np.log(0.3), rtol=1e-12)
