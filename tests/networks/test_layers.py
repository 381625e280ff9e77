"""The shared layers against NumPy and SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from score_lab.networks.embedding import level_features
from score_lab.networks.layers import GroupNorm, attend, dropout, layer_norm, modulate


def test_layer_norm_has_mean_zero_and_variance_one(x64):
    x = np.random.default_rng(0).normal(3.0, 5.0, (4, 7, 32))
    y = np.asarray(layer_norm(jnp.asarray(x)))
    np.testing.assert_allclose(y, (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(modulate(jnp.asarray(y), jnp.ones((4, 1, 32)), jnp.full((4, 1, 32), 2.0)), 3 * y + 1, rtol=1e-12)


def test_norms_of_half_precision_are_computed_in_float32():
    x = jnp.asarray(300.0 + np.random.default_rng(0).normal(size=(2, 512)), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    y = layer_norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=0.02)


@pytest.mark.parametrize(("channels", "most", "groups"), [(64, 32, 16), (256, 32, 32), (144, 32, 24), (6, 32, 1), (48, 1, 1)])
def test_group_norm_normalises_over_pixels_and_the_channels_of_a_group(channels, most, groups, x64):
    norm = GroupNorm(channels, most)
    assert norm.groups == groups
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 3, channels))
    split = x.reshape(2, 12, groups, channels // groups)
    expected = (split - split.mean((1, 3), keepdims=True)) / np.sqrt(split.var((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected.reshape(x.shape), rtol=1e-10, atol=1e-10)


def test_attention_is_softmax_of_scaled_products_per_head(x64):
    batch, tokens, heads, d = 2, 5, 3, 4
    q, k, v = np.random.default_rng(0).normal(size=(3, batch, tokens, heads, d))
    weights = softmax(np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(d), axis=-1)
    expected = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(batch, tokens, heads * d)
    qkv = np.concatenate([a.reshape(batch, tokens, heads * d) for a in (q, k, v)], axis=-1)
    np.testing.assert_allclose(attend(jnp.asarray(qkv), heads, "xla"), expected, rtol=1e-10, atol=1e-12)


def test_no_dropout_without_a_key_or_at_rate_zero():
    x, key = jnp.ones((3, 2)), jax.random.split(jax.random.key(0), 3)
    assert dropout(x, 0.5, None, 0) is x and dropout(x, 0.0, key, 0) is x
    assert dropout(x, 0.5, key, 0) is not x


def test_dropout_keeps_the_expectation_and_the_asked_share():
    key = jax.random.split(jax.random.key(0), 4)
    y = np.asarray(dropout(jnp.full((4, 100, 100), 3.0), 0.25, key, 0))
    assert set(np.unique(y)) == {0.0, 4.0}
    kept = (y > 0).mean(axis=(1, 2))
    assert np.all(np.abs(kept - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 10_000))
    other = np.asarray(dropout(jnp.full((4, 100, 100), 3.0), 0.25, key, 1))
    agree = ((y > 0) == (other > 0)).mean()
    assert abs(agree - (0.75**2 + 0.25**2)) < 5 * np.sqrt(0.25 / 40_000)  # another layer: an independent mask


@pytest.mark.parametrize(
    ("levels", "least"),
    [(np.linspace(-20, 20, 401), 0.9), (np.linspace(0, np.pi / 2, 158), 0.25)],
    ids=["log_snr in steps of 0.1", "angles in steps of 0.01"],
)
def test_level_features_tell_all_levels_apart_and_stay_smooth(levels, least, x64):
    features = np.asarray(level_features(jnp.asarray(levels), 16.0))
    assert features.shape == (len(levels), 128)
    np.testing.assert_allclose(np.sum(features**2, axis=-1), 64.0, rtol=1e-12)
    apart = np.linalg.norm(features[:, None] - features[None, :], axis=-1) + 1e9 * np.eye(len(levels))
    assert apart.min() > least  # of a norm of 8
    speed = np.linalg.norm(np.diff(features, axis=0), axis=1) / np.diff(levels)
    frequencies = np.geomspace(1 / 16, 16, 64)
    assert np.all(speed < 1.001 * np.sqrt(np.sum(frequencies**2)))  # |d features / d level|^2 = sum w^2
