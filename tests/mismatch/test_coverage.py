"""Coverage against closed forms and against times that the laws really draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.mismatch import NormRecord, covered, visited
from score_lab.objectives.time_laws import DiscreteTable, LogNormalSigma, UniformLogSNR, UniformTime
from score_lab.paths import EDM, VP, LinearFlow


def test_uniform_time_on_the_flow_is_logistic():
    """log_snr = 2 ln((1 - t) / t), t uniform: logistic of scale 2; its quantiles and its mass are known."""
    told = np.array([-np.inf, -14.0, -2.0, 0.0, 3.0])
    c = covered(UniformTime(), LinearFlow(), told, examples=10_000)
    logistic = lambda v: 1 / (1 + np.exp(-v / 2))  # noqa: E731
    density = 0.5 * logistic(told) * (1 - logistic(told))
    np.testing.assert_allclose(c.relative, density / 0.125, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose([c.low, c.high], [-2 * np.log(999), 2 * np.log(999)], rtol=1e-9)
    mass = 10_000 * (logistic(told[1:] + 0.05) - logistic(told[1:] - 0.05))
    np.testing.assert_allclose(c.expected, [0.0, *mass], rtol=1e-9)
    np.testing.assert_array_equal(c.beyond, [True, True, False, False, False])
    assert c.outside == 0.4 and c.least == (-np.inf, 0.0)
    assert "2 of 5 calls are outside" in c.words() and "10000" in c.words()
    np.testing.assert_allclose(((c.density[1:] + c.density[:-1]) * np.diff(c.grid)).sum() / 2, 0.9998, atol=1e-4)


@pytest.mark.parametrize(
    ("law", "path", "limits"),
    [
        (LogNormalSigma(-0.8, 1.6), EDM(), (-np.inf, np.inf)),
        (UniformLogSNR(-6.0, 4.0), LinearFlow(), (-5.0, 4.0)),
        (DiscreteTable(50), VP(), (-np.inf, np.inf)),
    ],
    ids=["lognormal", "conditioned", "table"],
)
def test_what_is_expected_is_what_is_drawn(law, path, limits):
    """Examples within 0.1 nat of a call: counted among 200000 times of the law, within five standard errors (Poisson)."""
    n, told = 200_000, np.array([-4.0, -1.0, 0.5, 3.5])
    times = law.sample(jax.random.key(3), jnp.arange(n), n, path, limits)
    drawn = np.asarray(path.log_snr(times), np.float64)
    count = np.array([(np.abs(drawn - v) <= 0.05).sum() for v in told])
    c = covered(law, path, told, log_snr_range=limits, examples=n)
    assert (np.abs(c.expected - count) <= 5 * np.sqrt(count + 1)).all()
    share = ((drawn < c.low) | (drawn > c.high)).mean()
    assert 0.0005 < share <= 0.0025 or isinstance(law, DiscreteTable)
    assert ((c.relative >= 0) & (c.relative <= 1)).all() and len(c.records()) == 4


def test_beyond_a_bounded_law_there_is_nothing():
    c = covered(UniformLogSNR(-6.0, 4.0), LinearFlow(), np.array([-7.0, -1.0, 5.0]), examples=100)
    np.testing.assert_allclose(c.relative, [0.0, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(c.expected, [0.0, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose([c.low, c.high], [-5.99, 3.99], atol=1e-6)
    unknown = covered(UniformLogSNR(-6.0, 4.0), LinearFlow(), np.array([0.0]))
    assert np.isnan(unknown.expected).all() and "looked least at 0.00" in unknown.words()


def test_what_a_record_says_was_told():
    made = np.array([True, True, False])
    fed = np.array([[-3.0, -1.0], [2.0, 2.0], [np.nan, np.nan]])
    record = NormRecord(t=np.array([0.9, 0.4, np.nan]), square=np.ones((3, 2)), fed=fed, made=made, d=1)
    np.testing.assert_allclose(visited(record), [-2.0, 2.0])


def test_bad_input_is_one_line():
    with pytest.raises(ConfigError, match="at least one call"):
        covered(UniformTime(), VP(), np.array([]))
    with pytest.raises(ConfigError, match="none of them NaN"):
        covered(UniformTime(), VP(), np.array([0.0, np.nan]))
    with pytest.raises(ConfigError, match="TimeLaw"):
        covered(3, VP(), np.array([0.0]))
