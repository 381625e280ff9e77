"""A device's share of an array: the whole of it, its derivative both ways, in the precision that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.shares import Share, gathered, is_share


def mapped(function, axis):
    """``function(share, x)`` on two devices, a share of W each, everything else whole; results summed."""
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    spec = jax.P(*[None] * axis, "fsdp")

    def on_each(w, x):
        return function(Share(w, axis, "fsdp"), x)

    return jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=(spec, jax.P()), out_specs=(jax.P(), spec), check_vma=False))


@pytest.mark.parametrize("axis", [0, 1])
def test_value_and_gradient_are_those_of_the_array(x64, axis):
    """L = sum sin(x W): the same on both devices, so that the shares' gradients are twice those of one."""
    w, x = jax.random.normal(jax.random.key(0), (4, 6)), jax.random.normal(jax.random.key(1), (3, 4))

    def loss(share, x):
        value, grad = jax.value_and_grad(lambda s: jnp.sum(jnp.sin(x @ gathered({"w": s})["w"])))(share)
        assert is_share(grad)
        return value, grad.array

    value, grad = mapped(loss, axis)(w, x)
    expected, d_w = jax.value_and_grad(lambda w: jnp.sum(jnp.sin(x @ w)))(w)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, 2 * d_w, rtol=1e-12)


def test_gradients_through_a_forward_derivative(x64):
    """As objectives take that differentiate the network along a path: d/dW of d/dx, inside a checkpoint."""
    w, x = jax.random.normal(jax.random.key(0), (4, 4)), jax.random.normal(jax.random.key(1), (3, 4))

    def slope(whole, x):
        return jnp.sum(jnp.square(jax.jvp(jax.checkpoint(lambda x: jnp.sin(x @ whole())), (x,), (jnp.ones_like(x),))[1]))

    def loss(share, x):
        value, grad = jax.value_and_grad(lambda s: slope(s.whole, x))(share)
        return value, grad.array

    value, grad = mapped(loss, 0)(w, x)
    expected, d_w = jax.value_and_grad(lambda w: slope(lambda: w, x))(w)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, 2 * d_w, rtol=1e-12)


def test_the_sum_keeps_the_precision_of_the_shares():
    """Whole in bfloat16; 1 and 2^-12 add up in float32, where bfloat16 would lose the second."""
    w = jnp.ones((4, 2))

    def loss(share, x):
        scale = jnp.where(jax.lax.axis_index("fsdp") == 0, 1.0, 2.0**-12).astype(jnp.bfloat16)
        whole = share.astype(jnp.bfloat16).whole()
        assert whole.dtype == jnp.bfloat16
        grad = jax.grad(lambda s: jnp.sum(s.astype(jnp.bfloat16).whole() * scale, dtype=jnp.float32))(share)
        return jnp.sum(whole, dtype=jnp.float32), grad.array

    value, grad = mapped(loss, 0)(w, jnp.zeros(()))
    assert value == 8 and grad.dtype == jnp.float32
    np.testing.assert_array_equal(grad, np.full((4, 2), 1 + 2.0**-12, np.float32))
