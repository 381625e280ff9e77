"""Rematerialisation: the same numbers and parameters as without, for less memory and more products of matrices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.cost.flops import flops_of
from score_lab.networks import EDM2, MLP, DiT, UNet
from score_lab.networks.base import REMAT

EVERYTHING = {"num_classes": 3, "dropout": 0.4, "two_time": True, "learned_variance": True}
NETWORKS = {
    "MLP": (MLP(width=8, depth=2, **EVERYTHING), (3,)),
    "UNet": (UNet(width=4, multipliers=(1, 1), blocks=1, attention_at=(), heads=2, resample_blocks=False, **EVERYTHING), (4, 4, 1)),
    "EDM2": (EDM2(width=4, multipliers=(1, 1), blocks=1, attention_at=(), head_width=4, **EVERYTHING), (4, 4, 1)),
    "DiT": (DiT(patch=2, width=8, depth=2, heads=2, **EVERYTHING), (4, 6, 2)),
}
BATCH = 3
QUICK = {"xla_backend_optimization_level": 0}
KEPT_APART = QUICK | {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""XLA:CPU drops the barriers between the passes, and may then make everything again at once; accelerators keep them, as this does."""

SHOWN = [("MLP", "dots_saveable"), ("DiT", "full"), ("UNet", "full")]
REST = [pytest.param(name, remat, marks=pytest.mark.slow) for name in NETWORKS for remat in REMAT if (name, remat) not in SHOWN]
all_networks = pytest.mark.parametrize("name", NETWORKS)


def others(name):
    """x, both levels, labels; float64."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(BATCH, *NETWORKS[name][1])), rng.uniform(-9, 9, BATCH), rng.uniform(-9, 9, BATCH), np.array([0, 2, -1])


@functools.cache
def inputs(name):
    """Parameters off their zeros, and the ``others``."""
    network, shape = NETWORKS[name]
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.2 * rng.normal(size=p.shape), network.init(jax.random.key(0), shape))
    return params, *others(name)


def loss_of(network):
    """A loss that both heads and the masks of dropout enter, as a function of what ``inputs`` returns."""
    key = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(BATCH))

    def loss(params, x, level, level_s, label):
        y, aux = network.apply(params, x, level, {"label": label}, level_s=level_s, key=key)
        return jnp.mean(jnp.square(y - 0.3)) + jnp.mean(jnp.sin(aux["variance"]))

    return loss


@functools.cache
def slopes(name, remat):
    """``(loss, its gradient in the parameters and x, its derivative along ones in x and the levels)``."""
    loss = loss_of(dataclasses.replace(NETWORKS[name][0], remat=remat))
    args = jax.tree.map(jnp.asarray, inputs(name))

    def both(params, x, level, level_s, label):
        reverse = jax.value_and_grad(loss, (0, 1))(params, x, level, level_s, label)
        point = (x, level, level_s)
        forward = jax.jvp(lambda *point: loss(params, *point, label), point, jax.tree.map(jnp.ones_like, point))[1]
        return reverse, forward

    return jax.tree.map(np.asarray, jax.jit(both, compiler_options=QUICK)(*args))


@pytest.mark.parametrize(("name", "remat"), SHOWN + REST)
def test_loss_gradients_and_forward_mode_are_those_without(name, remat, x64):
    expected, found = slopes(name, None), slopes(name, remat)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected[0][1][1])) and abs(expected[1]) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12 * max(1.0, np.max(np.abs(a)))), expected, found)


@pytest.mark.parametrize("name", ["MLP", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DiT", "UNet", "EDM2"))])
def test_parameters_have_the_same_values(name):
    network, shape = NETWORKS[name]
    plain, again = network.init(jax.random.key(0), shape), dataclasses.replace(network, remat="full").init(jax.random.key(0), shape)
    jax.tree.map(np.testing.assert_array_equal, plain, again)


@all_networks
def test_parameters_are_the_same_tree(name):
    network, shape = NETWORKS[name]
    plain, again = (
        jax.eval_shape(lambda k, n=n: n.init(k, shape), jax.random.key(0)) for n in (network, dataclasses.replace(network, remat="full"))
    )
    assert plain == again and len(jax.tree.leaves(plain)) > 10


@all_networks
def test_every_block_is_computed_again_and_none_where_none_is_asked_for(name):
    network = NETWORKS[name][0]
    unet = 10  # 2 levels of 1 down and 2 up, 2 in the middle, a change of resolution each way
    blocks = {"MLP": 2, "DiT": 2, "UNet": unet, "EDM2": unet}[name]
    shapes = jax.eval_shape(lambda key: network.init(key, NETWORKS[name][1]), jax.random.key(0))
    for remat, count in ((None, 0), ("full", blocks)):
        jaxpr = jax.make_jaxpr(loss_of(dataclasses.replace(network, remat=remat)))(shapes, *others(name))
        assert sum(eqn.primitive.name in ("checkpoint", "remat2", "remat") for eqn in jaxpr.jaxpr.eqns) == count


def test_what_is_kept_falls_with_the_policy_and_products_are_made_twice():
    """Six blocks of 64 tokens: what goes into a block is a small part of what it makes on the way."""
    shape, batch = (16, 16, 1), 8

    def made(remat):
        network = DiT(patch=2, width=32, depth=6, heads=2, remat=remat)
        params = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))
        x, level = jax.ShapeDtypeStruct((batch, *shape), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.float32)
        gradient = jax.grad(lambda p, x, level: jnp.mean(jnp.square(network.apply(p, x, level))))
        program = jax.jit(gradient, compiler_options=KEPT_APART).lower(params, x, level).compile()
        return program.memory_analysis().temp_size_in_bytes, flops_of(gradient, params, x, level)

    (plain, once), (full, twice), (dots, kept) = (made(remat) for remat in (None, "full", "dots_saveable"))
    assert 2.5 * full < 1.5 * dots < plain
    assert 1.2 * once < twice < 4 / 3 * once  # a forward pass is a third of it; what follows the blocks' last products is not made again
    assert kept == once


@pytest.mark.parametrize(("remat", "hint"), [("dots_savable", "dots_saveable"), ("ful", "full"), ("save_only_these_names", None)])
def test_an_unknown_policy_costs_one_line(remat, hint):
    with pytest.raises(ConfigError) as error:
        build({"target": "DiT", "remat": remat}, "score_lab.networks")
    message = str(error.value)
    assert message.startswith(f"config.remat: {remat!r} is refused; allowed: None (keep everything) or one of full, dots_saveable,")
    assert "\n" not in message and (hint is None or message.endswith(f"(did you mean {hint!r}?)"))
