"""Minibatch OT: a permutation of the device's noise, of least cost, over the global batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.objectives import MinibatchOT, draw_noise


def cost(x0, noise):
    return np.square(np.asarray(x0, np.float64) - np.asarray(noise, np.float64)).reshape(len(x0), -1).sum(1).sum()


def test_it_is_the_best_permutation_of_what_the_devices_would_draw():
    x0 = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    key = jax.random.key(3)
    drawn = np.asarray(jax.jit(draw_noise)(key, jnp.arange(6), jnp.asarray(x0)))
    pairs = MinibatchOT()(key, x0)
    assert pairs["x0"] is x0 and pairs["noise"].dtype == np.float32
    costs = {order: cost(x0, drawn[list(order)]) for order in itertools.permutations(range(6))}
    best = min(costs, key=costs.get)
    np.testing.assert_array_equal(pairs["noise"], drawn[list(best)])
    assert costs[best] < costs[tuple(range(6))]
    np.testing.assert_array_equal(MinibatchOT()(key, x0)["noise"], pairs["noise"])


def test_images_blocks_and_pytrees():
    x0 = np.random.default_rng(1).normal(size=(64, 2, 2, 1)).astype(np.float32)
    key = jax.random.key(5)
    drawn = np.asarray(draw_noise(key, jnp.arange(64), jnp.asarray(x0)))
    whole, blocks = (MinibatchOT(block)(key, x0)["noise"] for block in (1024, 24))
    for noise in (whole, blocks):
        np.testing.assert_array_equal(np.sort(noise.reshape(64, -1), axis=0), np.sort(drawn.reshape(64, -1), axis=0))
    for rows in (slice(0, 24), slice(24, 48), slice(48, 64)):  # nothing leaves its block
        np.testing.assert_array_equal(np.sort(blocks[rows, 0, 0, 0]), np.sort(drawn[rows, 0, 0, 0]))
    assert cost(x0, whole) < cost(x0, blocks) < cost(x0, drawn)
    tree = {"a": x0, "b": x0[:, 0, :, 0]}
    noise = MinibatchOT()(key, tree)["noise"]
    drawn = draw_noise(key, jnp.arange(64), jax.tree.map(jnp.asarray, tree))
    order = [int(np.flatnonzero((np.asarray(drawn["a"]) == row).all(axis=(1, 2, 3)))[0]) for row in noise["a"]]
    assert sorted(order) == list(range(64))
    np.testing.assert_array_equal(noise["b"], np.asarray(drawn["b"])[order])  # both leaves of an example move together


def test_an_impossible_block_is_refused():
    with pytest.raises(ConfigError, match="block: 1"):
        build({"target": "MinibatchOT", "block": 1}, "score_lab.objectives", "coupling")
