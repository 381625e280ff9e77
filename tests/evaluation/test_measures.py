"""Agreement, variance within classes, nearest distances and energy distance, against closed forms and scipy."""

import numpy as np
import pytest
import scipy.stats

from score_lab.build import ConfigError
from score_lab.evaluation import Classifier, energy_distance, nearest_distances, nearest_ratio, variance_ratio

CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])


def blobs(seed, n=150, spread=1.0):
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    return CENTRES[labels] + spread * rng.standard_normal((n, 2)), labels


def test_agreement_is_the_share_of_labels():
    x, y = blobs(0)
    c = Classifier.fit(x, y)
    wrong = y.copy()
    wrong[:30] = (wrong[:30] + 1) % 3
    assert c.agreement(x, y).value == 1.0
    assert c.agreement(x, wrong).value == pytest.approx(0.8)


def test_a_sample_that_is_not_finite_counts_as_wrong_and_is_named():
    x, y = blobs(0)
    c = Classifier.fit(x, y)
    x[4] = np.nan
    e = c.agreement(x, y)
    assert e.value == pytest.approx(149 / 150) and e.invalid == (4,) and e.n == 150
    assert c.agreement(np.full((2, 2), np.nan), np.zeros(2, int)).value == 0.0


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="2 classes"):
        Classifier.fit(np.zeros((4, 2)), np.zeros(4, int))


def test_variance_ratio_is_that_of_the_classes():
    (x, y), (data, labels) = blobs(0, spread=0.5), blobs(1, n=3000)
    want = sum(np.cov(x[y == c].T).trace() for c in range(3)) / sum(np.cov(data[labels == c].T).trace() for c in range(3))
    e = variance_ratio(x, y, data, labels)
    np.testing.assert_allclose(e.value, want, rtol=1e-10)
    assert e.low < 0.25 < e.high
    assert variance_ratio(x, None, data, None).value > 0.8  # between the classes there is nearly all of the variance


def test_variance_interval_covers():
    data, labels = blobs(1, n=9000)
    held = []
    for k in range(200):
        e = variance_ratio(*blobs(100 + k), data, labels, repeats=60, seed=k)
        held.append(e.low <= 1.0 <= e.high)
    assert 0.88 <= np.mean(held) <= 0.99


def test_a_class_of_one_is_refused():
    data, labels = blobs(1)
    with pytest.raises(ConfigError, match="class 2"):
        variance_ratio(np.zeros((5, 2)), np.array([0, 0, 1, 1, 2]), data, labels)


def test_nearest_distances_are_exact_in_chunks():
    a, b = blobs(0)[0], blobs(1)[0]
    want = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(nearest_distances(a, b, chunk=7), want, rtol=1e-12)


def test_copies_read_zero_and_fresh_examples_read_one():
    train, test = blobs(0, 600)[0], blobs(1, 600)[0]
    floor = nearest_distances(test, train)
    assert nearest_ratio(train[:300], train, floor).value == 0.0
    fresh = nearest_ratio(blobs(2, 600)[0], train, floor)
    assert fresh.low <= 1.0 <= fresh.high and 0.7 < fresh.value < 1.4


def test_energy_distance_is_scipys_in_one_dimension():
    """scipy counts the pairs i = j: without them its means over pairs grow by n / (n - 1)."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(70), 0.5 + 2 * rng.standard_normal(90)
    cross = np.abs(x[:, None] - y[None]).mean()
    inner = [np.abs(z[:, None] - z[None]).mean() for z in (x, y)]  # with the pairs i = j
    np.testing.assert_allclose(2 * cross - sum(inner), scipy.stats.energy_distance(x, y) ** 2, rtol=1e-9)
    ours = energy_distance(x[:, None], y[:, None], chunk=16)
    np.testing.assert_allclose(ours.value, 2 * cross - inner[0] * 70 / 69 - inner[1] * 90 / 89, rtol=1e-9)
    assert ours.low < ours.value < ours.high


def test_energy_distance_of_equal_laws_is_zero_on_average_and_of_points_exact():
    rng = np.random.default_rng(1)
    reads = [energy_distance(rng.standard_normal((60, 2)), rng.standard_normal((60, 2)), repeats=2).value for _ in range(200)]
    assert abs(np.mean(reads)) < 4 * np.std(reads) / np.sqrt(200)
    assert min(reads) < 0
    e = energy_distance(np.zeros((3, 2)), np.tile([[3.0, 4.0]], (5, 1)))
    assert e.value == pytest.approx(10.0)


def test_energy_interval_covers_off_the_null():
    """Two normals in 1-d, one shifted by 1: E = 2 E|N(1, 2)| - 2 E|N(0, 2)|."""
    s = np.sqrt(2.0)
    folded = s * np.sqrt(2 / np.pi) * np.exp(-1 / (2 * s**2)) + 1 - 2 * scipy.stats.norm.cdf(-1 / s)
    truth, rng = 2 * folded - 2 * s * np.sqrt(2 / np.pi), np.random.default_rng(2)
    held = []
    for k in range(150):
        e = energy_distance(rng.standard_normal((80, 1)), 1 + rng.standard_normal((80, 1)), seed=k)
        held.append(e.low <= truth <= e.high)
    assert 0.87 <= np.mean(held) <= 0.995


def test_energy_needs_one_dimension():
    with pytest.raises(ConfigError, match="one dimension"):
        energy_distance(np.zeros((3, 2)), np.zeros((3, 1)))
