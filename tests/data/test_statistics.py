"""Streaming moments against numpy's, and the two numbers that the conventions name."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from score_lab.build import ConfigError
from score_lab.data import NPZ, Digits, Toy, statistics
from score_lab.data.source import gather


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_they_are_numpys_whatever_the_chunk(chunk):
    source = Toy("two_moons", num_train=100, seed=4)
    x0 = source.preprocess(gather(source("train"), np.arange(100)))["x0"].astype(np.float64)
    got = statistics(source, chunk=chunk)
    np.testing.assert_allclose(got.mean, x0.mean(axis=0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(got.variance, x0.var(axis=0), rtol=1e-13)
    assert got.count == 100
    np.testing.assert_allclose(got.total_variance, ((x0 - x0.mean(axis=0)[None]) ** 2).sum(axis=1).mean(), rtol=1e-13)
    np.testing.assert_allclose(got.sigma_data(), np.sqrt((x0**2).mean()), rtol=1e-13)
    np.testing.assert_allclose(got.sigma_data("mean"), x0.std(), rtol=1e-13)
    np.testing.assert_allclose(got.sigma_data("mean_example"), np.sqrt(x0.var(axis=0).mean()), rtol=1e-13)


def test_an_offset_far_above_the_spread_costs_no_digits(tmp_path):
    x = 1000 + np.random.default_rng(0).standard_normal((300, 3))
    np.savez(tmp_path / "a.npz", x=x, x_test=x[:5])
    expected = x.astype(np.float32).astype(np.float64).var(axis=0)
    np.testing.assert_allclose(statistics(NPZ(str(tmp_path / "a.npz")), chunk=32).variance, expected, rtol=1e-10)


def test_sigma_data_of_the_digits(data_dir):
    """0.75 about the mean and 0.85 about zero, of all 1797 and so, to two digits, of the training split."""
    whole = load_digits().images / 8 - 1
    assert round(float(whole.std()), 2) == 0.75 and round(float(np.sqrt((whole**2).mean())), 2) == 0.85
    got = statistics(Digits(8, data_dir))
    assert round(got.sigma_data("mean"), 2) == 0.75 and round(got.sigma_data("zero"), 2) == 0.85


def test_the_fingerprint_tells_data_and_preprocessing_apart(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x)
    changed = x.copy()
    changed[-1, 0, 0, 0] ^= 1
    np.savez(tmp_path / "b.npz", x=changed)
    a, b, c = NPZ(str(tmp_path / "a.npz")), NPZ(str(tmp_path / "b.npz")), NPZ(str(tmp_path / "a.npz"), value_range=(0, 128))
    assert len({statistics(s).fingerprint for s in (a, b, c)}) == len({s.spec.fingerprint for s in (a, b, c)}) == 3
    assert statistics(a, chunk=3).fingerprint == statistics(NPZ(str(tmp_path / "a.npz"))).fingerprint


def test_another_reference_point_is_refused():
    with pytest.raises(ConfigError, match="about: 'maen' .*did you mean 'mean'"):
        statistics(Toy(num_train=4)).sigma_data("maen")
