"""Intervals: Wilson against scipy, and the share of repetitions in which an interval holds what it should."""

import numpy as np
import pytest
import scipy.stats

from score_lab.build import ConfigError
from score_lab.evaluation import Estimate, bootstrap, proportion, wilson
from score_lab.evaluation.estimate import finite_rows, resample


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (355, 360), (1, 1000)])
def test_wilson_is_scipys(hits, n):
    theirs = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(hits, n), (theirs.low, theirs.high), atol=1e-12)


def test_proportion_counts():
    e = proportion(np.array([True, True, False, True]))
    assert (e.value, e.n) == (0.75, 4) and e.low < 0.75 < e.high


@pytest.mark.parametrize("hits", [-1, 4])
def test_wilson_refuses_impossible_counts(hits):
    with pytest.raises(ConfigError, match="successes"):
        wilson(hits, 3)


def test_bootstrap_of_a_ratio_of_means_covers():
    """Exponential means 2 and 1: 95 % of the intervals hold their ratio 2 (three binomial sd of 200 repetitions are 4.6 %)."""
    rng, held = np.random.default_rng(0), 0
    for k in range(200):
        a, b = rng.exponential(2.0, 80), rng.exponential(1.0, 120)
        e = bootstrap(lambda i, j, a=a, b=b: a[i].mean() / b[j].mean(), np.zeros(80), np.zeros(120), repeats=100, seed=k)
        held += e.low <= 2.0 <= e.high
    assert 0.88 <= held / 200 <= 0.99


def test_resampling_stays_within_strata():
    strata = np.repeat([0, 1, 2], [5, 1, 7])
    drawn = resample(np.random.default_rng(1), 13, strata)
    np.testing.assert_array_equal(np.bincount(strata[drawn]), [5, 1, 7])


def test_rows_that_are_not_finite_are_named():
    x = np.zeros((4, 2, 2, 1), np.float32)
    x[1, 0, 0], x[3, 1, 1] = np.nan, np.inf
    rows, bad = finite_rows(x)
    assert rows.shape == (4, 4) and bad == (1, 3)
    assert "2 not finite, first: 1" in str(Estimate.missing(4, bad))
