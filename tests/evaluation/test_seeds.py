"""Intervals of differences between means over few models: Student's, whatever part of the error the models are."""

import numpy as np
import pytest
import scipy.stats

from score_lab.ablation import corrections, corrections_mismatch, pooling
from score_lab.ablation.results import Results
from score_lab.ablation.study import Study
from score_lab.evaluation import Estimate, compared

NAMES = [f"{i}" for i in range(5)]
PAIRS = [(a, NAMES[0]) for a in NAMES[1:]]


def blank(draws):
    """What is known of the mismatch but for the draws is nothing."""
    nothing = Estimate.missing(0, (), "not measured")
    return corrections_mismatch.Mismatch(nothing, np.zeros(1), nothing, draws)


def trial(rng, count, share, B=100):
    """Five methods of equal quality: ``count`` models with errors of their own (``share`` of the variance of the mean), and what all models
    of a method have in common, whose size the draws tell."""
    own = rng.standard_normal((len(NAMES), count)) * np.sqrt(share * count)
    common = np.sqrt(1 - share) * rng.standard_normal(len(NAMES))
    models = own + common[:, None]
    draws = models.mean(axis=1, keepdims=True) + np.sqrt(1 - share) * rng.standard_normal((len(NAMES), B))
    values = np.concatenate([models.mean(axis=1, keepdims=True), draws], axis=1)
    return dict(zip(NAMES, values, strict=True)), dict(zip(NAMES, models, strict=True))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_three_models_cover_what_they_say_in_all_pairs_at_once(share):
    """600 studies: no pair of equals is told apart in at least 95 % of them (3 deviations of 600: 2.7 %), and one pair alone is not;
    normal quantiles hold one pair of three models in 81 % and these four at once in 60 %."""
    rng, kept, alone = np.random.default_rng(7), [], []
    for _ in range(600):
        values, models = trial(rng, 3, share)
        kept.append(not any(p.excludes_zero for p in compared(values, PAIRS, models=models)))
        alone.append(not compared(values, PAIRS[:1], models=models)[0].excludes_zero)
    assert np.mean(kept) > 0.95 - 0.027 and np.mean(alone) > 0.95 - 0.027


def test_an_interval_of_three_models_is_students():
    """Without any error of the samples: t_2 of sd / sqrt(3), at alpha / k; p and adjusted p say the same as the interval."""
    values = {"a": np.full(50, 2.0), "b": np.zeros(50), "c": np.full(50, 1.0)}
    models = {"a": np.array([1.0, 2.0, 3.0]), "b": np.zeros(3), "c": np.array([0.97, 1.0, 1.03])}
    apart = compared(values, [("a", "b"), ("c", "b")], models=models)
    for pair, sd in zip(apart, (1.0, 0.03), strict=True):
        half = scipy.stats.t.ppf(1 - 0.05 / 4, 2) * sd / np.sqrt(3)
        assert pair.high - pair.difference == pytest.approx(half) and pair.difference - pair.low == pytest.approx(half)
        t = pair.difference / (sd / np.sqrt(3))
        assert pair.p == pytest.approx(2 * scipy.stats.t.sf(t, 2), rel=2e-3) and pair.adjusted == pytest.approx(2 * pair.p)
        assert (pair.adjusted < 0.05) == pair.excludes_zero
    assert [pair.excludes_zero for pair in apart] == [False, True]
    one = {name: model[:1] for name, model in models.items()}
    noisy = {name: v + 0.1 * np.random.default_rng(i).standard_normal(50) for i, (name, v) in enumerate(values.items())}
    assert compared(noisy, PAIRS[:0], models=one) == [] and compared(noisy, [("a", "b")], models=one) == compared(noisy, [("a", "b")])


def test_a_row_of_three_models_has_students_interval():
    """1.96 deviations of the draws are t_2 = 4.303 of sd / sqrt(3); the mean of ln R likewise, with its own error beside it."""
    draws = np.array([1.0, 2.0, 3.0])[:, None] + np.zeros((1, 8001))
    pooled = pooling.pooled(draws, pooling.picks_of(3, 8000), pooling.student(3))
    assert 1.96 * np.std(pooled[1:]) == pytest.approx(4.303 / np.sqrt(3), rel=0.03)
    total = pooling.mean_of([1.0, 2.0, 3.0], [0.3, 0.3, 0.3])
    assert total.high - 2.0 == pytest.approx(np.hypot(4.303 / np.sqrt(3), 1.96 * 0.3 / np.sqrt(3)), rel=1e-3)
    assert pooling.mean_of([1.0], [0.3]).high == pytest.approx(1 + 1.96 * 0.3) and pooling.student(1) == 1.0


def test_a_gain_that_three_models_do_not_agree_on_is_not_told():
    """Gains of 1, 2 and 3 are a mean of 2 with a deviation of 0.58: 3.5 deviations, which two degrees of freedom do not tell; 1.99, 2 and
    2.01 they do.  The differences of |ln R| in the same way."""
    study = Study(models=dict.fromkeys("abc", {"workdir": "runs/it"}), solvers=("DDIM",), nfe=(4,), seeds=(0,), repeats=100)
    results = Results(study, dict.fromkeys("abc"), (), (), {}, (), {})
    noise = 1e-3 * np.random.default_rng(0).standard_normal((3, 3, 101)) * (np.arange(101) > 0)
    for gains, real in (((1.0, 2.0, 3.0), False), ((1.99, 2.0, 2.01), True)):
        levels = {"none": np.full(3, 5.0), "angle step": 5.0 - np.array(gains), "more": np.full(3, 1.0)}
        made = [level[:, None] + n for level, n in zip(levels.values(), noise, strict=True)]
        keys = (("DDIM", "none", 4), ("DDIM", "angle step", 4), ("DDIM", "none", 8))
        (found,) = corrections._outcomes(results, {key: {"energy": m} for key, m in zip(keys, made, strict=True)}, {})
        assert found.gain.difference == pytest.approx(-2) and found.gain.differs == real and (found.verdict == "part") == real
        near = corrections_mismatch.nearer({key: blank(-m) for key, m in zip(keys, made, strict=True)}, study)
        assert near[keys[1]].difference == pytest.approx(-2) and near[keys[1]].differs == real


def test_a_change_of_ln_r_below_its_resolution_is_none():
    """-0.185 beside -0.184 on common noise: any number of samples tells them apart, and nobody could use it; 1 % of 0.8 is more."""
    study = Study(models={"a": {"workdir": "runs/it"}}, solvers=("DDIM",), nfe=(4,), seeds=(0,), repeats=100)
    common = 0.01 * np.random.default_rng(0).standard_normal(101) * (np.arange(101) > 0)
    for before, after, real in ((-0.184, -0.185, False), (-0.184, -0.178, True), (0.8, 0.793, False), (0.8, 0.79, True)):
        size = {("DDIM", name, 4): blank((v + common)[None]) for name, v in (("none", before), ("angle step", after))}
        near = corrections_mismatch.nearer(size, study)["DDIM", "angle step", 4]
        assert near.differs == real, (before, after)
        assert near.excludes_zero


def test_a_change_of_ln_r_is_paired_by_its_trajectories():
    """Noise of 0.01 that both runs share leaves the change known to the 0.0005 that they do not: not to the 0.028 of two runs apart."""
    study = Study(models={"a": {"workdir": "runs/it"}}, solvers=("DDIM",), nfe=(4,), seeds=(0,), repeats=1000)
    drawn = np.arange(1001) > 0
    shared, own, other = (np.random.default_rng(k).standard_normal(1001) * drawn for k in range(3))

    def half(first, second):
        size = {("DDIM", name, 4): blank((v + n)[None]) for name, v, n in (("none", 0.3, first), ("angle step", 0.2, second))}
        pair = corrections_mismatch.nearer(size, study)["DDIM", "angle step", 4]
        return (pair.high - pair.low) / 2

    assert half(0.01 * shared, 0.01 * shared + 0.0005 * own) == pytest.approx(1.96 * 0.0005, rel=0.1)
    assert half(0.01 * shared, 0.01 * other) == pytest.approx(1.96 * 0.01 * np.sqrt(2), rel=0.1)
