"""Whole forward passes and blocks against independent NumPy and SciPy, float64, and sizes against the papers' parameter counts."""

import functools

import jax
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import expit, softmax

from score_lab.networks import MLP, DiT, UNet, count_parameters

QUICK = {"xla_backend_optimization_level": 0}
RNG = np.random.default_rng(0)


def moved(network, shape):
    """Random parameters of the network in float64, nothing of them zero or one."""
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))
    return jax.tree.map(lambda p: rng.normal(0.1, 0.3, p.shape), shapes)


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


def group_norm(p, x):
    """With at least four channels to a group."""
    groups = x.shape[-1] // 4
    split = x.reshape(-1, groups, x.shape[-1] // groups)
    split = (split - split.mean((0, 2), keepdims=True)) / np.sqrt(split.var((0, 2), keepdims=True) + 1e-6)
    return split.reshape(x.shape) * p["scale"] + p["bias"]


def half(x):
    return 0.25 * (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2])


def twice(x):
    return np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)


def attention(p, h, heads, share):
    channels = h.shape[-1]
    tokens = linear(p["qkv"], group_norm(p["norm"], h).reshape(-1, channels))
    q, k, v = (part.reshape(-1, heads, channels // heads) for part in np.split(tokens, 3, axis=-1))
    weights = softmax(np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(channels // heads), axis=-1)
    return share * (h + linear(p["project"], np.einsum("hnm,mhd->nhd", weights, v).reshape(-1, channels)).reshape(h.shape))


def residual(p, x, c, network, way=None):
    """ADM's residual block on one image, and its attention where it has one."""
    u = {None: lambda a: a, "down": half, "up": twice}[way]
    share = np.sqrt(0.5) if network.rescale_skip else 1.0
    h = conv(p["conv1"], u(silu(group_norm(p["norm1"], x))))
    e = linear(p["embed"], c)
    if network.scale_shift:
        scale, shift = np.split(e, 2)
        h = group_norm(p["norm2"], h) * (1 + scale) + shift
    else:
        h = group_norm(p["norm2"], h + e)
    h = conv(p["conv2"], silu(h))
    h = share * ((linear(p["skip"], u(x)) if "skip" in p else u(x)) + h)
    return attention(p["attention"], h, network.heads, share) if "attention" in p else h


def unet(p, x, c, network, levels):
    """The U-Net on one image, one block per level on the way down and two on the way up."""
    h = conv(p["inward"], x)
    kept, down, up = [h], iter(p["down"][str(i)] for i in range(2 * levels - 1)), iter(p["up"][str(i)] for i in range(3 * levels - 1))
    for level in range(levels):
        kept.append(residual(next(down), kept[-1], c, network))
        if level < levels - 1:
            block = next(down)
            kept.append(residual(block, kept[-1], c, network, "down") if network.resample_blocks else conv(block["conv"], kept[-1], 2))
    h = residual(p["middle"]["1"], residual(p["middle"]["0"], kept[-1], c, network), c, network)
    for level in reversed(range(levels)):
        for _ in range(2):
            h = residual(next(up), np.concatenate([h, kept.pop()], axis=-1), c, network)
        if level > 0:
            block = next(up)
            h = residual(block, h, c, network, "up") if network.resample_blocks else conv(block["conv"], twice(h))
    return conv(p["outward"], silu(group_norm(p["norm"], h)))


@pytest.mark.parametrize("adm", [True, False], ids=["ADM", "DDPM and NCSN++"])
def test_the_unet_is_its_equations_on_rectangular_images(adm, x64):
    network = UNet(
        width=8, multipliers=(1, 2), blocks=1, attention_at=(2,), heads=2, num_classes=3, two_time=True,
        scale_shift=adm, resample_blocks=adm, rescale_skip=not adm,
    )  # fmt: skip
    p = moved(network, (4, 6, 2))
    x, level, level_s, label = RNG.normal(size=(2, 4, 6, 2)), RNG.normal(size=2), RNG.normal(size=2), np.array([2, -1])
    y = applied(network, p, x, level, level_s, label)
    c = silu(conditioning(p["conditioning"], level, level_s, label))
    expected = np.stack([unet(p, image, vector, network, 2) for image, vector in zip(x, c, strict=True)])
    np.testing.assert_allclose(y, expected, rtol=1e-8, atol=1e-9 * np.std(expected))


def count(network, shape):
    return count_parameters(jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0)))


@pytest.mark.parametrize(("name", "millions"), [("S/2", 33), ("B/2", 130), pytest.param("L/2", 458, marks=pytest.mark.slow), ("XL/2", 675)])
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
