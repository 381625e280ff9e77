"""Laws of t: samples against densities, densities against scipy's, ranges, and the global index as the only thing a draw depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_lab.build import ConfigError, build
from score_lab.objectives import BetaTime, DiscreteTable, LogitNormal, LogNormalSigma, UniformLogSNR, UniformTime
from score_lab.paths import EDM, VE, VP, LinearFlow, ddpm_table

PATHS = {"flow": LinearFlow(), "vp": VP(), "edm": EDM(), "table": ddpm_table(T=50), "ve": VE()}
LAWS = {
    "uniform": UniformTime(), "beta": BetaTime(1.7), "logit": LogitNormal(0.3, 0.8), "edm": LogNormalSigma(),
    "log_snr": UniformLogSNR(-6.0, 5.0),
}  # fmt: skip
N = 2000
EVERYTHING = (-np.inf, np.inf)


@functools.partial(jax.jit, static_argnums=(3, 4))
def sample(law, path, index, n, log_snr_range=EVERYTHING, key=0):
    t = law.sample(jax.random.key(key), index, n, path, log_snr_range)
    return t, path.log_snr(t)


@functools.partial(jax.jit, static_argnums=3)
def log_density(law, path, log_snr, log_snr_range=EVERYTHING):
    return law.log_density(log_snr, path, log_snr_range)


def draw(law, path, log_snr_range=EVERYTHING, key=0, n=N):
    t, log_snr = sample(law, path, jnp.arange(n), n, log_snr_range, key)
    return t, np.sort(np.asarray(log_snr))


def cumulative(law, path, low, high, log_snr_range=EVERYTHING):
    grid = np.linspace(low, high, 200_001)
    p = np.exp(np.asarray(log_density(law, path, jnp.asarray(grid), log_snr_range)))
    total = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]) * np.diff(grid))])
    return grid, total


def ends(path, wide=45.0):
    low, high = (float(v) for v in path.log_snr(jnp.array([1.0, 0.0])))
    return max(low, -wide), min(high, wide)


FAST = {(law, path) for law in LAWS for path in ("flow", "vp")} | {("uniform", "table"), ("edm", "edm"), ("edm", "ve")}


@pytest.mark.parametrize(
    ("law", "path"), [pytest.param(a, p, marks=[] if (a, p) in FAST else pytest.mark.slow) for a in LAWS for p in PATHS]
)
def test_density_integrates_to_one_and_is_that_of_the_samples(x64, law, path):
    law, path = LAWS[law], PATHS[path]
    low, high = ends(path)
    if isinstance(law, UniformLogSNR):
        low, high = max(low, law.log_snr_min), min(high, law.log_snr_max)
    grid, total = cumulative(law, path, low, high)
    assert total[-1] == pytest.approx(1.0, abs=2e-4)
    t, log_snr = draw(law, path)
    assert t.dtype == jnp.float64 and bool(((t >= 0) & (t <= 1)).all())
    distance = np.abs(np.interp(log_snr, grid, total) - (np.arange(N) + 0.5) / N).max()
    assert distance <= 1.0 / N + 3e-4  # one draw in every n-th of the law: its empirical distribution is never further off than 1 / n


@pytest.mark.parametrize("law", ["uniform", "log_snr"])
def test_bounded_laws_stay_in_the_denoisers_range(x64, law):
    law, path, bounds = LAWS[law], PATHS["flow"], (-3.0, 4.0)
    grid, total = cumulative(law, path, *bounds, log_snr_range=bounds)
    assert total[-1] == pytest.approx(1.0, abs=1e-6)
    _, log_snr = draw(law, path, bounds)
    assert log_snr[0] >= -3.0 - 1e-9 and log_snr[-1] <= 4.0 + 1e-9
    assert np.abs(np.interp(log_snr, grid, total) - (np.arange(N) + 0.5) / N).max() <= 1.0 / N + 1e-6


def test_densities_are_the_textbook_ones_on_the_linear_flow(x64):
    log_snr, path = np.linspace(-8, 8, 33), PATHS["flow"]
    expected = {
        "uniform": scipy.stats.logistic(scale=2.0),  # log_snr = -2 logit t
        "logit": scipy.stats.norm(-0.6, 1.6),
        "edm": scipy.stats.norm(2.4, 2.4),
    }
    for name, law in expected.items():
        got = log_density(LAWS[name], path, jnp.asarray(log_snr))
        np.testing.assert_allclose(got, law.logpdf(log_snr), rtol=1e-10, atol=1e-10, err_msg=name)
    _, drawn = draw(LogNormalSigma(low_discrepancy=False), path, key=3)
    assert scipy.stats.kstest(-0.5 * drawn, scipy.stats.norm(-1.2, 1.2).cdf).pvalue > 1e-3
    cut = scipy.stats.truncnorm((np.log(0.01) + 1.2) / 1.2, (np.log(50.0) + 1.2) / 1.2, -1.2, 1.2)
    _, drawn = draw(LogNormalSigma(low_discrepancy=False), PATHS["ve"], key=4)
    assert scipy.stats.kstest(-0.5 * drawn, cut.cdf).pvalue > 1e-3


def test_uniform_time_on_vp_has_the_density_of_g_squared(x64):
    t, path = np.linspace(0.01, 0.99, 21), PATHS["vp"]
    beta, B = 0.1 + 19.9 * t, 0.1 * t + 0.5 * 19.9 * t**2
    speed = beta / (1 - np.exp(-B))  # g^2 / sigma^2
    np.testing.assert_allclose(log_density(UniformTime(), path, path.log_snr(jnp.asarray(t))), -np.log(speed), rtol=1e-9)


def test_low_discrepancy_covers_the_law_where_independent_draws_do_not():
    path = PATHS["flow"]
    spread = np.histogram(draw(UniformTime(), path, n=64)[0], bins=64, range=(0, 1))[0]
    alone = np.histogram(draw(UniformTime(low_discrepancy=False), path, n=64)[0], bins=64, range=(0, 1))[0]
    assert spread.max() <= 2 and (spread == 0).sum() <= 2 < (alone == 0).sum()
    first, second = draw(UniformTime(), path, key=1, n=64)[0], draw(UniformTime(), path, key=2, n=64)[0]
    assert float(jnp.abs(first - second).min()) > 0


@pytest.mark.parametrize("law", [*LAWS.values(), UniformTime(low_discrepancy=False), DiscreteTable(50)], ids=str)
def test_a_draw_depends_on_the_global_index_alone(law):
    path, index = PATHS["vp"], jnp.arange(16)
    whole = sample(law, path, index, 16)[0]
    parts = jnp.concatenate([sample(law, path, part, 16)[0] for part in (index[:8], index[8:])])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(sample(law, path, index[::-1], 16)[0][::-1], whole)


@pytest.mark.parametrize("T", [pytest.param(50, marks=pytest.mark.slow), 1000])
def test_the_table_hits_every_level_once_and_exactly(T):
    path = ddpm_table(T=T)
    law = DiscreteTable(T)
    log_snr = np.asarray(sample(law, path, jnp.arange(T), T)[1])
    np.testing.assert_array_equal(np.sort(log_snr)[::-1], np.asarray(path.log_snrs, np.float32))
    low, high = law.log_snr_range(path)
    assert (low, high) == tuple(np.asarray(path.log_snrs, np.float32)[[-1, 0]].tolist())
    inside = sample(law, path, jnp.arange(T), T, (low, high))[1]
    np.testing.assert_array_equal(np.sort(inside), np.sort(log_snr))
    third, last = (float(path.log_snrs[k]) for k in (2, T - 5))
    some = sample(law, path, jnp.arange(T), T, (last, third))[0]
    levels = np.unique(np.round(np.asarray(some) * T).astype(int))
    np.testing.assert_array_equal(levels, np.arange(3, T - 3))


def test_the_range_that_a_law_trains_on():
    assert UniformTime().log_snr_range(LinearFlow()) == (-np.inf, np.inf)
    np.testing.assert_allclose(UniformLogSNR(-6.0, 5.0).log_snr_range(LinearFlow()), (-6, 5), rtol=1e-4)
    np.testing.assert_allclose(UniformLogSNR(-20.0, 5.0).log_snr_range(VP()), (float(VP().log_snr(jnp.array(1.0))), 5), rtol=1e-4)
    q = scipy.stats.norm(2.4, 2.4).ppf([0.001, 0.999])
    np.testing.assert_allclose(LogNormalSigma().log_snr_range(LinearFlow()), q, rtol=1e-3)
    np.testing.assert_allclose(LogitNormal().log_snr_range(LinearFlow()), (-6.1805, 6.1805), rtol=1e-3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"target": "LogNormalSigma", "P_std": 0.0}, "P_std: 0.0"),
        ({"target": "LogitNormal", "std": -1}, "std: -1.0"),
        ({"target": "UniformLogSNR", "log_snr_min": 3, "log_snr_max": 3}, "log_snr_min < log_snr_max"),
        ({"target": "DiscreteTable", "num_levels": 0}, "num_levels: 0"),
        ({"target": "UniformTimes"}, "UniformTime"),
    ],
)
def test_impossible_laws_are_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        build(spec, "score_lab.objectives", "objective.time_law")


def test_a_law_with_nothing_on_the_path_is_refused():
    with pytest.raises(ConfigError, match=r"at least 0.1 % of its levels on EDM"):
        UniformLogSNR(-30.0, -20.0).log_snr_range(EDM())
