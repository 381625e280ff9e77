"""EDM2's layers keep magnitudes, its U-Net is NVIDIA's own number for number, and its weights' lengths say nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.edm2_record import CASES, FILE, drawn, gain, inputs
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from score_lab.networks import EDM2, count_parameters
from score_lab.networks.edm2_blocks import Block
from score_lab.networks.edm2_layers import (
    MPConv,
    MPLinear,
    fourier,
    mp_cat,
    mp_silu,
    mp_sum,
    pixel_norm,
    unit_magnitude,
)
from score_lab.training.names import leaf_name, matches, named

QUICK = {"xla_backend_optimization_level": 0}
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def magnitude(x, axis=None):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis=axis))


class Drawn:
    """What ``nnx.Rngs`` is to a layer: one key."""

    def params(self):
        return jax.random.key(3)


def moved(network, shape, seed=5):
    """Random parameters, no two outputs of equal length, gains off 0; float64."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))
    return jax.tree.map(lambda p: rng.normal(size=p.shape) * rng.uniform(0.5, 2.0, p.shape[-1:]), shapes)


# ---- layers -------------------------------------------------------------------------------------------------------------------------


def test_the_constant_of_silu_is_its_root_mean_square():
    """E[silu(z)^2] by quadrature; the published digits are its first three."""
    square = quad(lambda z: (z * expit(z)) ** 2 * norm.pdf(z), -12, 12)[0]
    assert np.floor(1000 * np.sqrt(square)) == 596
    z = np.linspace(-4, 4, 9, dtype=np.float32)
    np.testing.assert_allclose(mp_silu(jnp.asarray(z)), z * expit(z) / 0.596, rtol=1e-5)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.5, 0.9])
def test_sums_and_concatenations_keep_the_magnitude_and_share_it_out_by_t(t):
    a, b = normal(2000, 24), normal(2000, 8)
    np.testing.assert_allclose(magnitude(mp_sum(a[:, :8], b, t)), 1.0, atol=0.03)
    np.testing.assert_allclose(mp_sum(a[:, :8], b, t), ((1 - t) * a[:, :8] + t * b) / np.sqrt((1 - t) ** 2 + t**2), rtol=1e-5, atol=1e-6)
    both = np.asarray(mp_cat(a, b, t))
    np.testing.assert_allclose(magnitude(both), 1.0, atol=0.03)
    scale = np.sqrt(32 / ((1 - t) ** 2 + t**2))
    np.testing.assert_allclose(both, np.concatenate([scale * (1 - t) / np.sqrt(24) * a, scale * t / np.sqrt(8) * b], -1), rtol=1e-5)
    ratio = np.sum(both[:, :24] ** 2) / np.sum(both[:, 24:] ** 2) * np.sum(np.square(b)) / 8 / (np.sum(np.square(a)) / 24)
    np.testing.assert_allclose(ratio, ((1 - t) / t) ** 2, rtol=1e-4)


def test_linear_and_convolution_keep_the_magnitude_of_every_output():
    """Unit normal numbers in: 1 per output, whatever the fan-in and the raw weights' scale; a convolution is away from its zero padding."""
    linear, conv = MPLinear(37, 11, Drawn()), MPConv(5, 7, Drawn())
    np.testing.assert_allclose(magnitude(linear(normal(20000, 37)), 0), 1.0, atol=0.03)
    np.testing.assert_allclose(magnitude(linear(normal(20000, 37), 0.3), 0), 0.3, atol=0.01)
    np.testing.assert_allclose(magnitude(conv(normal(60, 20, 20, 5))[:, 1:-1, 1:-1], (0, 1, 2)), 1.0, atol=0.04)
    gains = jnp.arange(7.0)
    np.testing.assert_allclose(magnitude(conv(normal(60, 20, 20, 5), gains)[:, 1:-1, 1:-1], (0, 1, 2)), gains, rtol=0.04, atol=1e-9)
    for layer in (linear, conv):  # what is drawn has magnitude 1 from the start
        np.testing.assert_allclose(magnitude(layer.kernel[...], tuple(range(layer.kernel[...].ndim - 1))), 1.0, rtol=1e-6)


@pytest.mark.parametrize("count", [8, 128, 192])
def test_features_have_magnitude_1_at_every_level_and_tell_levels_apart(count):
    level = jnp.linspace(-20.0, 20.0, 161)
    f = np.asarray(fourier(level, count, 2.2))
    assert f.shape == (161, count)
    np.testing.assert_allclose(magnitude(f, -1), 1.0, rtol=1e-5)
    gaps = magnitude(f[:, None] - f[None, :], -1)[~np.eye(161, dtype=bool)]
    assert gaps.min() > 0.1
    np.testing.assert_allclose(np.asarray(fourier(level, count, 1.1)), np.asarray(fourier(level / 2, count, 2.2)), atol=1e-4)


def test_features_of_192_have_the_papers_bandwidth():
    """The slope with the level, rms over features and levels, is that of 2 pi N(0, 1) per unit of ln(sigma) / 4 = -log_snr / 8."""
    level = jnp.linspace(-20.0, 20.0, 401)
    slope = jax.jvp(lambda s: fourier(s, 192, EDM2().max_frequency), (level,), (jnp.ones_like(level),))[1]
    np.testing.assert_allclose(magnitude(slope), 2 * np.pi / 8, rtol=0.02)


def test_pixel_norm_is_its_formula_and_has_a_derivative_at_zero():
    x = 3.0 * normal(4, 5, 6) + 1.0
    np.testing.assert_allclose(pixel_norm(x), x / (1e-4 + magnitude(x, -1)[..., None]), rtol=1e-5)
    value, slope = jax.jvp(pixel_norm, (jnp.zeros(4),), (jnp.ones(4),))
    assert not np.any(value) and np.all(np.isfinite(slope))
    assert pixel_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


# ---- the whole network --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_published_network_number_for_number(case, x64):
    """Outputs that NVIDIA's own module gave in float64 for the same parameters and inputs: edm2_record.py."""
    fields, shape = CASES[case]
    network = EDM2(**fields)
    shapes = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))

    def ours(path, leaf):
        name = leaf_name(path)
        own = (gain if name.endswith("gain") else drawn)(name, leaf.shape)
        return jnp.asarray(own)

    x, level, label = map(jnp.asarray, inputs(case))
    params = jax.tree_util.tree_map_with_path(ours, shapes)
    cond = {"label": label} if fields.get("num_classes") else None
    y = jax.jit(network.apply, compiler_options=QUICK)(params, x, level, cond)
    expected = np.load(FILE)[case]
    assert expected.shape == y.shape and magnitude(expected) > 0.1
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10 * magnitude(expected))


SMALL = EDM2(width=8, multipliers=(1, 2), blocks=1, attention_at=(4,), head_width=4, num_classes=3, dropout=0.2)
SHAPE = (8, 8, 2)
TINY = EDM2(width=8, multipliers=(1,), blocks=1, attention_at=(), head_width=4, num_classes=3)


def test_the_lengths_of_weights_change_nothing(x64):
    """Every output's raw weights times any positive number; gains excepted.  Exact up to float64."""
    params, rng = moved(SMALL, SHAPE), np.random.default_rng(2)

    def longer(path, p):
        if not matches(SMALL.unit_magnitude, leaf_name(path)):
            return p
        return p * np.exp(rng.uniform(-5, 5, p.shape[-1:]))

    x, level, label = jnp.asarray(RNG.normal(size=(2, *SHAPE))), jnp.array([1.0, -3.0]), {"label": jnp.array([2, -1])}
    apply = jax.jit(SMALL.apply, compiler_options=QUICK)
    plain = apply(params, x, level, label)
    assert magnitude(plain) > 0.1
    np.testing.assert_allclose(apply(jax.tree_util.tree_map_with_path(longer, params), x, level, label), plain, rtol=1e-9, atol=1e-11)


def test_gradients_are_orthogonal_to_the_weights_of_every_output(x64):
    """By autodiff, of a loss that all parameters enter; the gains are the only leaves for which there is no such law."""
    params = moved(SMALL, SHAPE)
    x, level, label = jnp.asarray(RNG.normal(size=(4, *SHAPE))), jnp.linspace(-5, 5, 4), {"label": jnp.array([0, 1, 2, -1])}
    key = jax.vmap(jax.random.key)(jnp.arange(4))
    grads = jax.jit(
        jax.grad(lambda p: jnp.mean(jnp.square(SMALL.apply(p, x, level, label, key=key) - 0.5))), compiler_options=QUICK
    )(params)
    weights = 0
    for (name, g), w in zip(named(grads).items(), named(params).values(), strict=True):
        g, w = np.asarray(g).reshape(-1, g.shape[-1] if g.ndim else 1), np.asarray(w).reshape(-1, w.shape[-1] if w.ndim else 1)
        cosine = np.sum(g * w, 0) / np.linalg.norm(g, axis=0) / np.linalg.norm(w, axis=0)
        if matches(SMALL.unit_magnitude, name):
            weights += 1
            assert np.max(np.abs(cosine)) < 1e-9, name
        else:
            assert name.endswith("gain") and np.all(g != 0), name
    assert weights > 40


def activations(network, shape, batch=4, key=None):
    """The magnitude of every block's output at initialisation, for unit normal x, in order, beside those of c."""
    seen, call = [], Block.__call__

    def watched(self, x, c, dropout):
        out = call(self, x, c, dropout)
        jax.debug.callback(lambda *m: seen.append([float(v) for v in m]), *(jnp.sqrt(jnp.mean(jnp.square(v))) for v in (out, c)))
        return out

    params = network.init(jax.random.key(0), shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "__call__", watched)
        jax.jit(lambda *a: network.apply(*a, {"label": jnp.arange(batch) - 1}), compiler_options=QUICK)(
            params, normal(batch, *shape), jnp.linspace(-6, 6, batch)
        )
        jax.effects_barrier()
    return np.array(seen)


def test_activations_have_magnitude_1_at_every_block():
    """At initialisation, without a norm on the way up; and so has c.  What is missing is zero padding's, and attention's: pixels that are
    uncorrelated are averaged to nearly nothing, which leaves 0.7 / sqrt(0.3^2 + 0.7^2) = 0.92 of the sum.  The first two have none.
    """
    network = EDM2(width=32, multipliers=(1, 2), blocks=2, attention_at=(8,), head_width=32, num_classes=3)
    seen = activations(network, (16, 16, 3))
    assert len(seen) == 2 * 2 + 1 + 2 + 2 * 3 + 1
    np.testing.assert_allclose(seen, 1.0, atol=0.2)
    np.testing.assert_allclose(seen[:2, 0], 1.0, atol=0.05)


LARGE = [pytest.param(*size, marks=pytest.mark.slow) for size in (("M", 498), ("XXL", 1523))]


@pytest.mark.parametrize(("name", "millions"), [("XS", 125), ("S", 280), *LARGE])
def test_named_sizes_are_the_papers(name, millions):
    """Parameters in millions as Karras et al. 2024 give them: ImageNet-512 latents, 64 x 64 x 4, 1000 classes."""
    network = EDM2.named(name, num_classes=1000)
    shapes = jax.eval_shape(lambda k: network.init(k, (64, 64, 4)), jax.random.key(0))
    assert round(count_parameters(shapes) / 1e6) == millions


def test_blocks_are_clipped():
    """With a bound that binds: what is left of a normal variable of magnitude 1 clipped at 0.5 has less than 0.5, and not much less."""
    seen = activations(dataclasses.replace(TINY, clip=0.5), (4, 4, 2))
    assert len(seen) == 5 and np.all(seen[:, 0] < 0.5) and np.all(seen[:, 0] > 0.25)


def test_no_augmentation_is_a_label_of_0_and_others_enter_with_their_gain():
    network, shape = dataclasses.replace(TINY, augment_dim=3, num_classes=0), (4, 4, 2)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), moved(network, shape))
    x, level, told = normal(2, *shape), jnp.zeros(2), normal(2, 3)
    apply = jax.jit(network.apply, compiler_options=QUICK)
    plain, none, other = (apply(params, x, level, cond) for cond in ({}, {"augment": jnp.zeros((2, 3))}, {"augment": told}))
    np.testing.assert_array_equal(plain, none)
    assert magnitude(other - plain) > 0.01 * magnitude(plain)
    silent = jax.tree_util.tree_map_with_path(lambda k, p: 0.0 * p if leaf_name(k).endswith("augment_gain") else p, params)
    np.testing.assert_array_equal(apply(silent, x, level, {"augment": told}), plain)


def test_bfloat16_rounds_weights_after_they_are_divided_by_their_length():
    """Float32 parameters of other lengths give the same but for a few last bits; rounded before, every weight would be another."""
    network, shape = dataclasses.replace(TINY, dtype="bfloat16"), (4, 4, 2)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), moved(network, shape))
    by = jax.tree_util.tree_map_with_path(lambda k, p: p * 1.003 if matches(network.unit_magnitude, leaf_name(k)) else p, params)
    x, level = normal(2, *shape), jnp.array([0.0, 3.0])
    apply = jax.jit(network.apply, compiler_options=QUICK)
    half, again, rounded = (apply(p, x, level) for p in (params, by, jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(p.dtype), by)))
    assert half.dtype == jnp.float32
    assert 4 * magnitude(again - half) < magnitude(rounded - half) < 0.05 * magnitude(half)
    assert "bf16[3,3,8,8]" in str(jax.make_jaxpr(network.apply)(params, x, level))


def test_unit_magnitude_names_every_weight_and_no_gain():
    shapes = jax.eval_shape(lambda k: SMALL.init(k, SHAPE), jax.random.key(0))
    for name, leaf in named(shapes).items():
        assert matches(SMALL.unit_magnitude, name) == (leaf.ndim >= 2), name
    w = normal(3, 3, 4, 5) * jnp.arange(1.0, 6.0)[None, None, None]
    np.testing.assert_allclose(magnitude(unit_magnitude(w), (0, 1, 2)), 1.0, rtol=1e-6)
