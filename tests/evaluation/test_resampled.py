"""Statistics under resampling against those of the rows themselves, coverage on toys with known answers, Holm on synthetic p."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.optimize import linear_sum_assignment

from score_lab.build import ConfigError
from score_lab.evaluation import (
    Discrepancy,
    Ranking,
    Wasserstein,
    estimate_of,
    resampling,
    weighted_frechet,
    weighted_mean,
    weighted_variance,
)

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 3)) @ np.diag([1.0, 2.0, 0.5]), RNG.standard_normal((45, 3)) + 0.3
LABELS = np.repeat([0, 1, 2], 20)
W = resampling(60, 6, LABELS, seed=1)


def repeated(k, x=X):
    """The rows that draw k has, each as often as it was drawn."""
    return np.repeat(x, W[k].astype(int), axis=0)


def test_the_first_row_is_the_sample_itself_and_strata_keep_their_size():
    assert (W[0] == 1).all() and W.shape == (7, 60)
    for c in range(3):
        np.testing.assert_array_equal(W[:, LABELS == c].sum(axis=1), 20)
    assert (resampling(60, 6, LABELS, seed=1) == W).all() and (resampling(60, 6, LABELS, seed=2) != W).any()


def test_means_and_variances_are_those_of_the_repeated_rows():
    for k in range(7):
        assert weighted_mean(X[:, 0], W)[k] == pytest.approx(repeated(k)[:, 0].mean())
        own = np.repeat(LABELS, W[k].astype(int))
        within = sum(repeated(k)[own == c].var(axis=0, ddof=1).sum() for c in range(3))
        assert weighted_variance(X, LABELS, W)[k] == pytest.approx(within)


def test_frechet_is_the_closed_form_of_the_repeated_rows():
    mean, cov = Y.mean(axis=0), np.cov(Y.T)
    values = weighted_frechet(X, W, mean, cov, scipy.linalg.sqrtm(cov).real)
    for k in range(7):
        m, c = repeated(k).mean(axis=0), np.cov(repeated(k).T)
        cross = np.trace(scipy.linalg.sqrtm(cov @ c).real)
        assert values[k] == pytest.approx(((m - mean) ** 2).sum() + np.trace(cov) + np.trace(c) - 2 * cross, rel=1e-8)


def naive(kernel, x, y, w):
    """MMD^2 pair by pair."""
    n, m = len(x), len(y)
    inner = [(w[i] * w[j], kernel(x[i], x[j])) for i in range(n) for j in range(n) if i != j]
    other = np.mean([kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j])
    across = sum(w[i] * kernel(x[i], y[j]) for i in range(n) for j in range(m)) / (w.sum() * m)
    return sum(a * b for a, b in inner) / sum(a for a, _ in inner) - 2 * across + other


@pytest.mark.parametrize(
    ("made", "kernel"),
    [
        (Discrepancy.energy, lambda a, b: -np.linalg.norm(a - b)),
        (Discrepancy.kid, lambda a, b: (a @ b / 3 + 1) ** 3),
        (lambda y: Discrepancy.mmd(y, 0.7), lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 0.49))),
    ],
    ids=["energy", "kid", "mmd"],
)
def test_discrepancies_are_their_definition(made, kernel):
    values = made(Y)(X, W)
    for k in (0, 3):
        assert values[k] == pytest.approx(naive(kernel, X, Y, W[k]), rel=1e-9)


def test_the_bandwidth_is_the_median_distance():
    assert "bandwidth 2" in Discrepancy.mmd(np.array([[0.0], [1.0], [3.0]])).name


def test_w2_is_the_assignment_block_by_block():
    x, y = RNG.standard_normal((40, 2)), RNG.standard_normal((40, 2)) + 1
    squares = []
    for b in (0, 20):
        cost = ((x[b : b + 20, None] - y[None, b : b + 20]) ** 2).sum(axis=2)
        squares.append(cost[linear_sum_assignment(cost)].mean())
    assert Wasserstein(y, 20)(x)[0] == pytest.approx(np.sqrt(np.mean(squares)))
    assert Wasserstein(x + np.array([3.0, 4.0]), 20)(x)[0] == pytest.approx(5.0)  # a shift is its own optimal transport
    with pytest.raises(ConfigError, match="at least 80"):
        Wasserstein(y, 40)(x)


def test_intervals_cover_the_energy_distance_of_two_gaussians():
    """N(0, 1) against N(1, 1): E = 4 / sqrt(pi) (exp(-1/4) - 1) + 2 erf(1/2), by E|N(m, 2)| in closed form.  100 intervals of 95 %."""
    folded = lambda m, s: s * np.sqrt(2 / np.pi) * np.exp(-(m**2) / (2 * s**2)) + m * (1 - 2 * scipy.stats.norm.cdf(-m / s))  # noqa: E731
    truth = 2 * folded(1.0, 2**0.5) - 2 * folded(0.0, 2**0.5)
    reference = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None] + 1
    energy, held = Discrepancy.energy(reference), 0
    for k in range(100):
        x = np.random.default_rng(k).standard_normal((80, 1))
        e = estimate_of(energy(x, resampling(80, 60, seed=k)), 80)
        held += e.low <= truth <= e.high
    assert 88 <= held <= 100


def test_the_largest_z_of_independent_values_is_the_studentized_range():
    """All pairs of k independent values of one spread: c = q_0.95(k, inf) / sqrt 2 (Tukey); 5 % of the draws' own noise is allowed for."""
    drawn = np.random.default_rng(0).standard_normal((6, 4001))
    drawn[:, 0] = 0.0
    pairs = Ranking.of(dict(zip("abcdef", drawn, strict=True))).pairs
    c = np.mean([(p.high - p.low) / 2 / np.std(drawn["abcdef".index(p.better)][1:] - drawn["abcdef".index(p.worse)][1:]) for p in pairs])
    np.testing.assert_allclose(c, scipy.stats.studentized_range.ppf(0.95, 6, np.inf) / np.sqrt(2), rtol=0.03)


def test_a_difference_below_the_resolution_is_none():
    """The same samples moved by 1e-6: every draw agrees that one is better, and nobody could use it."""
    values = paired({"a": 1.0})
    values["moved"] = values["a"] * (1 + 1e-6) + 1e-9 * np.random.default_rng(1).standard_normal(301)
    assert Ranking.of(values).same("a") == [] and Ranking.of(values).pairs[0].adjusted < 0.05
    ranking = Ranking.of(values, least=lambda value: 0.01 * abs(value))
    (pair,) = ranking.pairs
    assert ranking.same("a") == ["moved"] and pair.excludes_zero and not pair.differs and 0.009 < pair.least < 0.012
    assert Ranking.of(paired({"a": 1.0, "b": 1.1}), least=lambda value: 0.01 * abs(value)).same("a") == []
    assert ranking.to_best("moved") == pair and ranking.to_best("a") is None


def paired(means, n=400, noise=0.3, seed=0):
    """Values and draws of solvers whose errors share a part: differences are known to sqrt(2 / n) noise, values to 1 / sqrt(n)."""
    rng = np.random.default_rng(seed)
    common, W = rng.standard_normal(n), resampling(n, 300, seed=3)
    return {name: weighted_mean(mean + common + noise * rng.standard_normal(n), W) for name, mean in means.items()}


def test_ranking_tells_what_differs_and_what_does_not():
    """Pairs 0.1 apart differ (4.7 standard errors of the difference), though every single interval is +-0.1 wide; equals do not."""
    ranking = Ranking.of(paired({"a": 1.0, "same": 1.0, "b": 1.1, "far": 2.0}))
    assert set(ranking.order[:2]) == {"a", "same"} and ranking.order[2:] == ("b", "far")
    assert ranking.same("a") == ["same"] and ranking.same("b") == [] and ranking.distinguished() == 5
    assert Ranking.of(paired({"a": 1.0, "b": 2.0}), lower=False).order == ("b", "a")
    best = next(p for p in ranking.pairs if p.worse == "far" and p.better == ranking.order[0])
    assert best.low < -1.0 < best.high and best.high - best.low < 0.12


def test_identical_results_are_never_distinguished():
    values = paired({"a": 1.0})
    ranking = Ranking.of({"a": values["a"], "copy": values["a"]}, {"broken": "NaN"})
    assert ranking.same("a") == ["copy"] and ranking.pairs[0].p == 1.0 and ranking.unranked == {"broken": "NaN"}


def test_equal_solvers_are_called_different_in_at_most_alpha_of_the_studies():
    """Six equal solvers, 15 pairs, 200 studies at alpha = 0.05 (2.7 sd: 18); uncorrected, a third of them find one."""
    W, found, raw = resampling(400, 200, seed=3), 0, 0
    for k in range(200):
        rng = np.random.default_rng(k)
        common = rng.standard_normal(400)
        ranking = Ranking.of({name: weighted_mean(common + 0.3 * rng.standard_normal(400), W) for name in "abcdef"})
        found += ranking.distinguished() > 0
        raw += any(pair.p < 0.05 for pair in ranking.pairs)
    assert found <= 18 and raw > 50
