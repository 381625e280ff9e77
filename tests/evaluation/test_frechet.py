"""Frechet distance against scipy's matrix square root, its floor, its interval, and what the digests hold apart."""

import numpy as np
import pytest
import scipy.linalg

from score_lab.build import ConfigError
from score_lab.evaluation import PCA, Frechet, Pixels, Statistics, frechet_distance


def reference_distance(a, b):
    """Heusel et al. 2017, with scipy's square root of the product."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)


def gaussian(seed, n, d=5, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    return shift + scale * rng.standard_normal((n, d)) @ np.diag(np.linspace(0.5, 2, d))


def test_distance_is_the_one_with_scipys_root():
    a, b = gaussian(0, 300), gaussian(1, 200, shift=0.3, scale=1.4) @ np.linalg.qr(gaussian(2, 5))[0]
    ours = frechet_distance(Statistics.of(a, Pixels()), Statistics.of(b, Pixels()))
    np.testing.assert_allclose(ours, reference_distance(a, b), rtol=1e-8)


def test_closed_form_in_one_dimension():
    """(m_a - m_b)^2 + (s_a - s_b)^2."""
    a, b = gaussian(0, 50, d=1), gaussian(1, 60, d=1, shift=1.0, scale=3.0)
    want = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    np.testing.assert_allclose(frechet_distance(Statistics.of(a, Pixels()), Statistics.of(b, Pixels())), want, rtol=1e-10)


def test_constant_pixels_are_no_obstacle():
    a = np.concatenate([gaussian(0, 40), np.full((40, 2), -1.0)], axis=1)
    assert frechet_distance(Statistics.of(a, Pixels()), Statistics.of(a, Pixels())) < 1e-9


def test_pca_is_the_covariances_eigenspace():
    x = gaussian(3, 400, d=6)
    pca = PCA.fit(x, 3)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    np.testing.assert_allclose(np.abs(pca.components @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-8)
    np.testing.assert_allclose(pca(x).var(axis=0, ddof=1), values[::-1][:3])
    np.testing.assert_allclose(pca.share, values[::-1][:3].sum() / values.sum())


def test_digests_tell_data_preprocessing_and_extractor_apart():
    x = gaussian(0, 30)
    base = Statistics.of(x, Pixels())
    others = [Statistics.of(x + 1e-9, Pixels()), Statistics.of(x, Pixels(), "[0, 1]"), Statistics.of(x, PCA.fit(x, 5))]
    assert base.digest == Statistics.of(x.copy(), Pixels()).digest
    assert len({base.digest, *(o.digest for o in others)}) == 4
    with pytest.raises(ConfigError, match="extractors"):
        frechet_distance(base, others[-1])


def test_perfect_samples_read_the_floor_whatever_their_number():
    """Equal n on both sides: the ratio does not fall below 1 because there are more samples than held-out examples."""
    reference = Frechet.fit(gaussian(0, 4000), gaussian(1, 100), Pixels())
    ratios = [reference.ratio(gaussian(seed, n)) for seed, n in ((2, 100), (3, 1000))]
    assert all(r.low <= 1.6 and r.high >= 0.7 for r in ratios)
    plain = reference.distance(gaussian(3, 1000)).value / reference.floor.value
    assert plain < 0.4 < ratios[1].value


def test_the_ratio_sees_a_shift():
    reference = Frechet.fit(gaussian(0, 4000), gaussian(1, 400), Pixels())
    assert reference.ratio(gaussian(2, 400, shift=0.5)).low > 5


def test_interval_covers_the_mean_distance_at_this_n():
    """The interval is about E FD_n, bias included: found here from 2000 sets of n."""
    train, n = gaussian(0, 2000, d=3), 60
    reference = Frechet.fit(train, gaussian(1, n, d=3), Pixels(), repeats=100)
    sets = [gaussian(10 + k, n, d=3, shift=0.4) for k in range(2000)]
    target = np.mean([reference._to_train(s) for s in sets])
    held = [e.low <= target <= e.high for e in (reference.distance(s) for s in sets[:150])]
    assert 0.86 <= np.mean(held) <= 0.995


def test_stratified_sets_read_less():
    """A fixed number per class removes the spread of the class shares: the interval of a set that has it is narrower."""
    labels = np.arange(300) % 3
    x = gaussian(5, 300, d=2) * 0.1 + 5.0 * np.eye(3)[labels][:, :2]
    reference = Frechet.fit(x, x[::3], Pixels())
    plain, within = reference.distance(x), reference.distance(x, labels)
    assert within.high - within.low < 0.5 * (plain.high - plain.low)


def test_samples_that_are_not_finite_give_no_distance():
    reference = Frechet.fit(gaussian(0, 50), gaussian(1, 40), Pixels())
    x = gaussian(2, 30)
    x[7, 0] = np.nan
    for e in (reference.distance(x), reference.ratio(x)):
        assert np.isnan(e.value) and e.invalid == (7,)
