"""Whole forward passes and blocks against independent NumPy and SciPy, float64, and sizes against the papers' parameter counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.signal import correlate2d
from scipy.special import expit, softmax

from score_lab.networks import MLP, DiT, UNet, count_parameters
from score_lab.networks.unet_blocks import Resample, ResBlock, double, halve

QUICK = {"xla_backend_optimization_level": 0}
RNG = np.random.default_rng(0)


def moved(network, shape):
    """The network's parameters, off their zeros, in float64."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.2 * rng.normal(size=p.shape), network.init(jax.random.key(0), shape))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def applied(network, p, x, level, level_s, label):
    return network.apply(p, x, level, {"label": label}, level_s=level_s)


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def silu(x):
    return x * expit(x)


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def embedding(p, level):
    angle = level[:, None] * np.geomspace(1 / 16, 16, 64)[None]
    return linear(p["second"], silu(linear(p["first"], np.concatenate([np.cos(angle), np.sin(angle)], -1))))


def conditioning(p, level, level_s, label):
    return embedding(p["level"], level) + embedding(p["level_s"], level - level_s) + p["table"][label + 1]


def test_mlp_is_its_equations(x64):
    network = MLP(width=16, depth=2, num_classes=3, two_time=True)
    p = moved(network, (3,))
    x, level, level_s, label = RNG.normal(size=(4, 3)), RNG.normal(size=4), RNG.normal(size=4), np.array([2, -1, 0, 1])
    c = conditioning(p["conditioning"], level, level_s, label)
    h = linear(p["inward"], x) + c
    m = np.split(linear(p["modulation"], silu(c)), 4, axis=-1)
    for k in range(2):
        block = p["blocks"][str(k)]
        h = h + linear(block["second"], silu(linear(block["first"], norm(h) * (1 + m[2 * k + 1]) + m[2 * k])))
    y = applied(network, p, x, level, level_s, label)
    np.testing.assert_allclose(y, linear(p["outward"], silu(h)), rtol=1e-10, atol=1e-11)


def patches(x, p):
    """(tokens, p p c) of one image by explicit loops, rows first."""
    height, width = x.shape[0] // p, x.shape[1] // p
    return np.stack([x[i * p : i * p + p, j * p : j * p + p].reshape(-1) for i in range(height) for j in range(width)])


def unpatch(tokens, shape, p):
    out = np.zeros((*shape[:2], tokens.shape[-1] // p**2))
    for n, token in enumerate(tokens):
        i, j = divmod(n, shape[1] // p)
        out[i * p : i * p + p, j * p : j * p + p] = token.reshape(p, p, -1)
    return out


def positions(rows, columns, width):
    """Row by row: sin and cos of the row's index, then of the column's, each at width / 4 frequencies 10000^(-j / (width / 4))."""
    out = np.zeros((rows * columns, width))
    quarter = width // 4
    for i in range(rows):
        for j in range(columns):
            for f in range(quarter):
                w = 10000.0 ** (-f / quarter)
                out[i * columns + j, f::quarter] = [np.sin(i * w), np.cos(i * w), np.sin(j * w), np.cos(j * w)]
    return out


def test_dit_is_its_equations_on_rectangular_images(x64):
    network, shape = DiT(patch=2, width=16, depth=2, heads=2, num_classes=3, two_time=True), (4, 6, 2)
    p = moved(network, shape)
    x, level, level_s, label = RNG.normal(size=(3, *shape)), RNG.normal(size=3), RNG.normal(size=3), np.array([2, -1, 0])
    c = conditioning(p["conditioning"], level, level_s, label)
    m = [a[:, None] for a in np.split(linear(p["modulation"], silu(c)), 14, axis=-1)]
    h = linear(p["inward"], np.stack([patches(image, 2) for image in x])) + positions(2, 3, 16)
    for k in range(2):
        block, (b1, a1, g1, b2, a2, g2) = p["blocks"][str(k)], m[6 * k : 6 * k + 6]
        q, key, v = (a.reshape(3, 6, 2, 8) for a in np.split(linear(block["qkv"], norm(h) * (1 + a1) + b1), 3, axis=-1))
        weights = softmax(np.einsum("bnhd,bmhd->bhnm", q, key) / np.sqrt(8), axis=-1)
        h = h + g1 * linear(block["project"], np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(3, 6, 16))
        u = linear(block["first"], norm(h) * (1 + a2) + b2)
        gelu = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        h = h + g2 * linear(block["second"], gelu)
    tokens = linear(p["outward"], norm(h) * (1 + m[13]) + m[12])
    expected = np.stack([unpatch(t, shape, 2) for t in tokens])
    y = applied(network, p, x, level, level_s, label)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-10)


def conv(p, x, stride=1):
    """A 3 x 3 convolution with zero padding of one image (height, width, channels), by SciPy."""
    kernel = np.asarray(p["kernel"])
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    maps = [sum(correlate2d(padded[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1])) for o in range(kernel.shape[-1])]
    return (np.stack(maps, -1) + p["bias"])[::stride, ::stride]


def group_norm(p, x, groups):
    split = x.reshape(-1, groups, x.shape[-1] // groups)
    split = (split - split.mean((0, 2), keepdims=True)) / np.sqrt(split.var((0, 2), keepdims=True) + 1e-6)
    return split.reshape(x.shape) * p["scale"] + p["bias"]


def half(x):
    return 0.25 * (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2])


def twice(x):
    return np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)


@pytest.mark.parametrize(("scale_shift", "rescale"), [(True, False), (False, True)])
@pytest.mark.parametrize(("way", "out"), [(None, 12), ("down", 8), ("up", 8)])
def test_the_residual_block_is_its_equations(way, out, scale_shift, rescale, x64):
    network = UNet(width=4, heads=2, scale_shift=scale_shift, rescale_skip=rescale)
    block = ResBlock(network, 8, out, 0, nnx.Rngs(0), way=way, attention=True)
    graph, state = nnx.split(block)
    rng = np.random.default_rng(2)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64) + 0.3 * rng.normal(size=a.shape), nnx.to_pure_dict(state))
    x, c = rng.normal(size=(2, 4, 6, 8)), rng.normal(size=(2, 16))
    y = jax.jit(lambda p, x, c: nnx.merge(graph, p)(x, c, None), compiler_options=QUICK)(p, x, c)
    u = {None: lambda a: a, "down": half, "up": twice}[way]
    share, groups = (np.sqrt(0.5) if rescale else 1.0), out // 4
    for image, vector, result in zip(x, c, y, strict=True):
        h = conv(p["conv1"], u(silu(group_norm(p["norm1"], image, 2))))
        e = linear(p["embed"], vector)
        if scale_shift:
            h = group_norm(p["norm2"], h, groups) * (1 + e[:out]) + e[out:]
        else:
            h = group_norm(p["norm2"], h + e, groups)
        h = conv(p["conv2"], silu(h))
        skip = linear(p["skip"], u(image)) if "skip" in p else u(image)
        h = share * (skip + h)
        a = p["attention"]
        tokens = linear(a["qkv"], group_norm(a["norm"], h, groups).reshape(-1, out))
        q, k, v = (part.reshape(-1, 2, out // 2) for part in np.split(tokens, 3, axis=-1))
        mixed = np.einsum("hnm,mhd->nhd", softmax(np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(out // 2), axis=-1), v)
        h = share * (h + linear(a["project"], mixed.reshape(-1, out)).reshape(h.shape))
        np.testing.assert_allclose(result, h, rtol=1e-9, atol=1e-9)


def test_resampling_by_convolution(x64):
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 3))
    np.testing.assert_allclose(halve(jnp.asarray(x))[0], half(x[0]), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(double(jnp.asarray(x))[0], twice(x[0]))
    for way, prepare, stride in (("down", lambda a: a, 2), ("up", twice, 1)):
        layer = Resample(3, way, nnx.Rngs(0))
        p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.split(layer)[1]))["conv"]
        np.testing.assert_allclose(layer(jnp.asarray(x), jnp.zeros((1, 4)), None)[0], conv(p, prepare(x[0]), stride), rtol=1e-9, atol=1e-10)


def count(network, shape):
    return count_parameters(jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0)))


@pytest.mark.parametrize(("name", "millions"), [("S/2", 33), ("B/2", 130), ("L/2", 458), ("XL/2", 675)])
def test_named_dits_have_the_papers_sizes(name, millions):
    """Peebles & Xie 2023, table 1 and appendix A: on 32 x 32 x 4 latents, 1000 classes, learned variance."""
    network = DiT.named(name, num_classes=1000, learned_variance=True)
    assert network.patch == 2 and round(count(network, (32, 32, 4)) / 1e6) == millions


def test_unets_have_the_papers_sizes():
    """DDPM's CIFAR-10 network has 35.7 M (Ho et al. 2020, appendix B), ADM's at 64 x 64 has 296 M (Dhariwal & Nichol 2021, appendix)."""
    ddpm = UNet(width=128, multipliers=(1, 2, 2, 2), blocks=2, attention_at=(16,), heads=1, scale_shift=False, resample_blocks=False)
    adm = UNet(
        width=192, multipliers=(1, 2, 3, 4), blocks=3, attention_at=(32, 16, 8), head_width=64, num_classes=1000, learned_variance=True
    )
    assert round(count(ddpm, (32, 32, 3)) / 1e6, 1) == 35.7
    assert round(count(adm, (64, 64, 3)) / 1e6) == 296


def test_the_sizes_that_the_configurations_start_from():
    """About 1.2 M (the digits), 2.8 M (dit8) and 2.0 M (unet8), all on 8 x 8 x 1 with ten classes."""
    assert abs(count(DiT(width=128, depth=4, heads=4, num_classes=10), (8, 8, 1)) / 1.2e6 - 1) < 0.06
    assert abs(count(DiT(width=192, depth=4, heads=6, num_classes=10), (8, 8, 1)) / 2.8e6 - 1) < 0.03
    assert abs(count(UNet(width=64, multipliers=(1, 1), blocks=2, attention_at=(4,), num_classes=10), (8, 8, 1)) / 2.0e6 - 1) < 0.03


def test_attention_stands_where_it_is_asked_for_and_in_the_middle():
    network = UNet(width=8, multipliers=(1, 1, 2), blocks=1, attention_at=(4,), heads=2)
    shapes = jax.eval_shape(lambda k: network.init(k, (8, 16, 1)), jax.random.key(0))
    has = {part: ["attention" in shapes[part][str(i)] for i in range(len(shapes[part]))] for part in ("down", "middle", "up")}
    down = [False, False, True, False, False]  # 8, (down), 4, (down), 2
    up = [False, False, False, True, True, False, False, False]  # 2, 2, (up), 4, 4, (up), 8, 8
    assert has == {"down": down, "middle": [True, False], "up": up}
    outer = UNet(width=8, multipliers=(1, 1, 2), blocks=1, attention_at=(), heads=2)
    shapes = jax.eval_shape(lambda k: outer.init(k, (8, 16, 1)), jax.random.key(0))
    assert not any("attention" in shapes[part][i] for part in ("down", "up") for i in shapes[part])
