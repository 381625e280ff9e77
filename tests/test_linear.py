"""``combine`` and its kin on pytrees, against numpy broadcasting written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.linear import batch_of, combine, expand, select, square_norm

RNG = np.random.default_rng(0)
X = {"image": jnp.asarray(RNG.normal(size=(3, 4, 4, 2)), jnp.float32), "angle": jnp.asarray(RNG.normal(size=(3,)), jnp.float32)}
Y = jax.tree.map(lambda x: 2 * x + 1, X)


@pytest.mark.parametrize("c", [2.0, jnp.asarray(2.0), jnp.array([1.0, 2.0, 3.0]), 3, np.float64(0.5)], ids=str)
def test_combine_leaf_by_leaf(c):
    got = combine((c, X), (-0.5, Y), (1, X))
    for name, x in X.items():
        column = np.broadcast_to(np.asarray(c, np.float32), (3,)).reshape((3,) + (1,) * (x.ndim - 1))
        np.testing.assert_allclose(got[name], column * x - 0.5 * Y[name] + x, rtol=1e-6, atol=1e-6)
        assert got[name].dtype == jnp.float32 and got[name].shape == x.shape


def test_a_float64_coefficient_keeps_float32_states(x64):
    x = jnp.ones((2, 3), jnp.float32)
    assert combine((jnp.array([1.0, 2.0]), x), (jnp.asarray(0.5), x)).dtype == jnp.float32
    assert combine((jnp.array([1.0, 2.0], jnp.float32), x.astype(jnp.float64))).dtype == jnp.float64


def test_expand():
    x = jnp.ones((3, 4, 5))
    assert expand(jnp.ones(3), x).shape == (3, 1, 1) and expand(1.0, x).shape == () and expand(jnp.ones(3), jnp.ones(3)).shape == (3,)


def test_combine_refuses_states_of_different_structure():
    with pytest.raises(ValueError):
        combine((1.0, X), (1.0, {"image": X["image"]}))


def test_select():
    keep = jnp.array([True, False, True])
    got = select(keep, X, Y)
    for name in X:
        np.testing.assert_array_equal(got[name], np.stack([(X if k else Y)[name][i] for i, k in enumerate(keep)]))
    np.testing.assert_array_equal(select(jnp.asarray(False), X, Y)["image"], Y["image"])


def test_square_norm_and_batch():
    want = (np.asarray(X["image"]) ** 2).sum((1, 2, 3)) + np.asarray(X["angle"]) ** 2
    np.testing.assert_allclose(square_norm(X), want, rtol=1e-6)
    assert batch_of(X) == 3
