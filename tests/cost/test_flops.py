"""Operations against closed forms: products, convolutions and their gradients, loops, branches, the networks; XLA's figure beside them."""

import jax
import jax.numpy as jnp
import pytest

from score_lab.cost import bytes_of_program, flops_of, xla_flops
from score_lab.networks import MLP, DiT, UNet

DIMS = ("NHWC", "HWIO", "NHWC")


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile()


def test_products_batched_and_transposed():
    assert flops_of(lambda a, b: a @ b, spec(3, 5), spec(5, 7)) == 2 * 3 * 5 * 7
    assert flops_of(lambda a, b: jnp.einsum("bhnd,bhmd->bhnm", a, b), spec(2, 3, 8, 4), spec(2, 3, 6, 4)) == 2 * (2 * 3) * 8 * 6 * 4


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_convolution_and_both_its_gradients_cost_the_same(stride, groups):
    """2 (pixels out) (channels out) (3 x 3 taps) (channels in / groups), taps on padding counted, forward and for each gradient."""

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=DIMS, feature_group_count=groups)

    x, w = spec(4, 8, 8, 16), spec(3, 3, 16 // groups, 32)
    once = 2 * 4 * (8 // stride) ** 2 * 32 * 9 * (16 // groups)
    assert flops_of(convolve, x, w) == once
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w))), argnums=argument)
        assert flops_of(gradient, x, w) == 2 * once  # the forward pass and one gradient


def test_xla_counts_products_alike_and_leaves_padding_out_of_convolutions():
    """So does the docstring say; 3 x 3 taps on an 8 x 8 image: 3 * 8 - 2 of 3 * 8 in each direction do not fall on padding."""
    product = compiled(lambda a, b: a @ b, spec(64, 256), spec(256, 128))
    assert xla_flops(product) == flops_of(lambda a, b: a @ b, spec(64, 256), spec(256, 128)) == 2 * 64 * 256 * 128
    assert bytes_of_program(product) >= 4 * (64 * 256 + 256 * 128 + 64 * 128)
    convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DIMS)  # noqa: E731
    x, w = spec(4, 8, 8, 16), spec(3, 3, 16, 32)
    assert xla_flops(compiled(convolve, x, w)) == 2 * 4 * (3 * 8 - 2) ** 2 * 16 * 32
    assert flops_of(convolve, x, w) == 2 * 4 * (3 * 8) ** 2 * 16 * 32


def test_a_loop_counts_its_length_and_xla_its_body():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    once = 2 * 16 * 32 * 32
    assert flops_of(loop, spec(16, 32), spec(32, 32)) == 7 * once
    assert xla_flops(compiled(loop, spec(16, 32), spec(32, 32))) < 1.1 * once


def test_a_branch_counts_its_dearest_and_nested_functions_once():
    def branches(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: jax.jit(jnp.matmul)(x, w) @ w, lambda: x @ w)

    assert flops_of(branches, spec(16, 32), spec(32, 32)) == 2 * 2 * 16 * 32 * 32


def forward(network, shape, batch):
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))
    return flops_of(lambda p, x, t: network.apply(p, x, t), params, spec(batch, *shape), spec(batch))


def test_the_mlp_has_its_closed_form():
    """Its layers one by one: level (128 features), in, modulation, two per block, out."""
    d, width, depth, batch = 2, 32, 3, 10
    layers = [(128, width), (width, width), (d, width), (width, 2 * depth * width), *[(width, width)] * (2 * depth), (width, d)]
    assert forward(MLP(width=width, depth=depth), (d,), batch) == sum(2 * batch * i * o for i, o in layers)


def test_the_transformer_has_its_closed_form():
    """12 w^2 a token and block for the layers, 4 n^2 w for attention; patches in and out, level and modulation beside it."""
    width, depth, side, patch, batch = 16, 2, 8, 2, 3
    tokens, pixels = (side // patch) ** 2, patch**2
    blocks = depth * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    ends = 2 * (2 * tokens * pixels * width)
    level = 2 * (128 * width + width * width + width * (6 * depth + 2) * width)
    assert forward(DiT(width=width, depth=depth, heads=2, patch=patch), (side, side, 1), batch) == batch * (blocks + ends + level)


def test_a_gradient_costs_three_forward_passes():
    """Of a network's layers, less the gradient with respect to what comes in first."""
    network, x, t = UNet(width=8, multipliers=(1, 2), blocks=1, attention_at=(), heads=1), spec(2, 8, 8, 1), spec(2)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), (8, 8, 1)))
    once = flops_of(lambda p, x, t: network.apply(p, x, t), params, x, t)
    both = flops_of(jax.grad(lambda p, x, t: jnp.sum(network.apply(p, x, t) ** 2)), params, x, t)
    first = 2 * 2 * 64 * 9 * 8 + 2 * 2 * 128 * 32  # the first convolution, the level's first layer: no gradient of their input
    assert both == 3 * once - first
