"""The read-out: right on forward samples, right on known contamination, silent where there is nothing to read."""

import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.mismatch import DataMoments, NormRecord, VarianceCurve, first_look, forward_record, read
from score_lab.mismatch.inversion import on_host
from score_lab.paths import EDM, VP, LinearFlow

D = 6
SPECTRUM = np.array([1.0, 0.7, 0.5, 0.3, 0.2, 0.1])
MOMENTS = DataMoments(np.zeros(D), float((SPECTRUM**2).mean()), float((SPECTRUM**4).mean()), D)


def data(seed, n):
    return np.random.default_rng(seed).standard_normal((n, D)) * SPECTRUM


def record_of(squares, t, d=D):
    squares = np.asarray(squares, float)
    return NormRecord(t=np.asarray(t, float), square=squares, fed=np.zeros_like(squares), made=np.ones(len(t), bool), d=d)


def times(kappa):
    return np.asarray(EDM().time_of_kappa(np.asarray(kappa, np.float32)), np.float64)


def test_moments_are_those_of_the_covariance():
    x = data(0, 50) + 3.0
    m = DataMoments.of(x.reshape(50, 2, 3))
    np.testing.assert_allclose(m.s2, np.linalg.eigvalsh(np.cov(x, rowvar=False)).mean(), rtol=1e-12)
    np.testing.assert_allclose(m.mean, x.mean(axis=0).reshape(2, 3), rtol=1e-12)
    a, s = np.array([0.3, 1.0]), np.array([0.8, 0.0])
    v = a[:, None] ** 2 * SPECTRUM**2 + s[:, None] ** 2
    np.testing.assert_allclose(MOMENTS.d_eff(a, s), v.sum(1) ** 2 / (v**2).sum(1), rtol=1e-12)


@pytest.mark.parametrize("n", [5, 40])
def test_the_squared_spectrum_is_unbiased_on_gaussian_data(n):
    """Fewer examples than dimensions (the other Gram matrix; there tr C^2 >= (tr C)^2 / d is enforced, which lifts it a little), and more.
    """
    got = [DataMoments.of(data(seed, n)).s4 for seed in range(600)]
    assert abs(np.mean(got) - MOMENTS.s4) < 4 * np.std(got) / np.sqrt(600) + (0.05 * MOMENTS.s4 if n == 5 else 0)


@pytest.mark.parametrize("reps", [200, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("simultaneous", [False, True])
def test_forward_samples_read_one_in_95_of_100(simultaneous, reps):
    """95 % for each call, or for all calls at once; of 200 repetitions three binomial sd are 4.6 %, of 500 2.9 %.  lambda_eff holds where R
    does."""
    path = EDM()
    t = times([20.0, 5.0, 2.0, 1.0, 0.5])
    held, held_level = np.zeros((reps, len(t)), bool), np.zeros((reps, len(t)), bool)
    for k in range(reps):
        forward = forward_record(data(k, 200), path, t, MOMENTS, 200, seed=k)
        r = read(forward, path, MOMENTS, repeats=200, seed=k, tol=1.0, simultaneous=simultaneous)
        assert (r.flag == "ok").all()
        held[k] = (r.low <= 1) & (1 <= r.high)
        held_level[k] = (r.effective_low <= r.log_snr) & (r.log_snr <= r.effective_high)
    assert (held == held_level).mean() > 0.995  # the same statement, but for the curve's interpolation
    share = held.all(axis=1).mean() if simultaneous else held.mean()
    assert 0.92 <= share <= 0.98 if reps == 500 else 0.90 <= share <= 0.99


def test_known_contamination_is_recovered():
    """x = forward + tau xi: kappa_eff^2 = kappa^2 + tau^2 / alpha^2 (EDM: alpha = 1), R = 1 + tau^2 / V."""
    path, n, tau = EDM(), 4000, 0.6
    kappa, rng = np.array([4.0, 1.5, 0.8]), np.random.default_rng(5)
    x = data(3, n)[None] + kappa[:, None, None] * rng.standard_normal((1, n, D)) + tau * rng.standard_normal((1, n, D))
    r = read(record_of((x**2).sum(-1), times(kappa)), path, MOMENTS, tol=0.3, simultaneous=True)
    want = -np.log(kappa**2 + tau**2)
    assert (r.effective_low < want).all() and (want < r.effective_high).all()
    assert (r.effective_high[1:] < r.log_snr[1:]).all()  # and it is told apart from no contamination
    np.testing.assert_allclose(r.ratio, 1 + tau**2 / (MOMENTS.s2 + kappa**2), rtol=0.05)


def test_a4_vp_with_unit_variance_is_flagged_everywhere_however_many_samples():
    m, t = DataMoments.isotropic(1.0, (D,)), np.linspace(0.05, 0.95, 7)
    r = read(record_of(np.full((7, 4), 1.5 * D) * np.array([0.9, 1.1, 1.0, 1.0]), t), VP(), m, tol=100.0)
    assert (r.flag == "unidentifiable").all()
    assert np.isnan(r.effective).all() and np.isnan(r.effective_low).all() and np.isfinite(r.ratio).all()


def test_vp_with_other_variance_is_readable_in_the_middle():
    m, t = DataMoments.isotropic(0.04, (D,)), np.array([0.002, 0.3, 0.999])
    r = read(forward_record(0.2 * np.random.default_rng(0).standard_normal((3000, D)), VP(), t, m, 3000), VP(), m)
    assert r.flag.tolist() == ["unidentifiable", "ok", "unidentifiable"]


def test_too_few_trajectories_are_flagged():
    """The criterion n (d_eff / 2) slope^2 >= 4 / tol^2 with slope = 2 sin^2 phi on VE: here n >= 4 / (0.1^2 (8 / 2) 1.6^2) = 39."""
    m, t = DataMoments.isotropic(1.0, (8,)), times([2.0])
    flags = [read(forward_record(np.random.default_rng(n).standard_normal((n, 8)), EDM(), t, m, n), EDM(), m).flag[0] for n in (20, 400)]
    assert flags == ["unidentifiable", "ok"]


def test_flow_is_read_on_the_branch_around_t():
    """V has its minimum at t* = s^2 / (1 + s^2): either side is inverted on its own, and at t* there is nothing to read."""
    path, s2 = LinearFlow(), 0.5
    curve, t_star = VarianceCurve.of(path, DataMoments.isotropic(s2, (D,))), s2 / (1 + s2)
    assert len(curve.turns) == 3
    np.testing.assert_allclose(curve.log_snr[curve.turns[1]], 2 * np.log((1 - t_star) / t_star), atol=0.02)
    t, moved = np.array([0.1, 0.2, 0.5, 0.8]), np.array([0.12, 0.19, 0.52, 0.79])
    levels = [2 * np.log((1 - v) / v) for v in (t, moved)]
    found, off = curve.invert(levels[0], (1 - moved) ** 2 * s2 + moved**2)
    np.testing.assert_allclose(found, levels[1], atol=1e-3)
    assert not off.any()
    a, s, level = on_host(path, np.array([t_star, 0.5]))
    # d V / dt = 2 t - 2 (1 - t) s^2 and dt / d ln kappa = t (1 - t)
    np.testing.assert_allclose(curve.slope(level), 2 * (s - a * s2) * a * s / (a**2 * s2 + s**2), atol=1e-4)


def test_less_variance_than_any_level_is_a_deficit_and_more_is_beyond():
    rng, m = np.random.default_rng(0), DataMoments.isotropic(0.25, (50,))
    wanted = np.array([0.2, 0.6, 80.0**2 * 1.1])[:, None]
    r = read(record_of(wanted * rng.chisquare(50, (3, 3000)), times([0.7, 0.7, 0.7]), 50), EDM(), m)
    assert r.flag.tolist() == ["signal deficit", "ok", "beyond the path"]
    np.testing.assert_allclose(r.effective[1], -np.log(0.6 - 0.25), atol=0.1)
    assert np.isnan(r.effective[[0, 2]]).all()


def test_an_interval_that_leaves_the_path_is_open():
    m = DataMoments.isotropic(1.0, (8,))
    forward = forward_record(np.random.default_rng(1).standard_normal((30, 8)), EDM(), times([0.5]), m, 30)
    r = read(forward, EDM(), m, tol=10.0)
    assert r.flag[0] == "ok" and r.effective_high[0] == np.inf and np.isfinite(r.effective_low[0])


def test_a_broken_trajectory_is_named_and_not_averaged():
    squares = np.random.default_rng(0).chisquare(D, (2, 20))
    squares[1, 7] = np.inf
    r = read(record_of(squares, [0.1, 0.05]), EDM(), MOMENTS)
    assert r.flag[1] == "not finite" and np.isnan(r.ratio[1]) and np.isnan(r.low[1]) and r.invalid == (7,)
    assert np.isfinite(r.ratio[0]) and np.isfinite(r.low[0])


def test_infinite_log_snr_is_a_row_without_a_level():
    path = LinearFlow()
    r = read(forward_record(data(0, 100), path, np.array([1.0, 0.5]), MOMENTS, 100), path, MOMENTS)
    assert r.log_snr[0] == -np.inf and r.flag[0] == "unidentifiable" and np.isfinite(r.ratio[0])


def test_the_null_has_the_runs_levels_and_number_and_masked_calls_are_left_out():
    t, squares = np.array([0.2, np.nan, 0.1]), np.random.default_rng(0).chisquare(D, (3, 40))
    record = NormRecord(t=t, square=squares, fed=squares, made=np.array([True, False, True]), d=D)
    look = first_look(record, EDM(), MOMENTS, data(1, 60))
    np.testing.assert_array_equal(look.sampler.t, [0.2, 0.1])
    np.testing.assert_array_equal(look.null.t, look.sampler.t)
    assert look.null.n == look.sampler.n == 40
    assert [r["call"] for r in look.sampler.records()] == [0, 1]


def test_refusals():
    with pytest.raises(ConfigError, match="1 to 10"):
        forward_record(data(0, 10), EDM(), np.array([0.5]), MOMENTS, 11)
    with pytest.raises(ConfigError, match="6 values"):
        read(record_of(np.ones((1, 3)), [0.5], d=5), EDM(), MOMENTS)
    with pytest.raises(ConfigError, match="at least 3"):
        DataMoments.of(np.zeros((2, 4)))
