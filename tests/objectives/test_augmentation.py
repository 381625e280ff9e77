"""EDM's augmentation: nothing at p = 0, flips and quarter turns exact, the affine map against its formula, labels, devices, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.denoiser import NetworkDenoiser
from score_lab.networks import DiT, UNet
from score_lab.objectives import EDMAugmentation
from score_lab.objectives.augmentation import SYM6, resample
from score_lab.paths import LinearFlow
from score_lab.targets import F
from score_lab.training import load, train
from score_lab.training.parallel import layout_of
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state

KEY = jax.random.key(3)
IMAGES = jax.random.normal(jax.random.key(0), (64, 8, 8, 1))
INDEX = jnp.arange(64)
CONFIG = {
    "data": {"target": "Digits", "size": 8, "batch_size": 16},
    "path": {"target": "LinearFlow"},
    "target": {"target": "F"},
    "network": {"target": "DiT", "patch": 4, "width": 8, "depth": 1, "heads": 2, "num_classes": 10},
    "objective": {"target": "Regression", "label_dropout": 0.1},
    "augment": {"target": "EDMAugmentation", "p": 0.5},
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
    "training": {"steps": 20, "ema": [0.9]},
}
SPEC = DataSpec((8, 8, 1), 10, "none")
LATE = np.full(2, np.arange(12) @ np.asarray(SYM6) / np.sum(SYM6) - 5) / 2
"""Pixels by which sym6, which is not symmetric, has its centre beside the place where the release puts it, in x and y: the map turns and
stretches about that place, less than a tenth of a pixel away.
"""


def wave(z):
    """A picture without high frequencies at the points z (2, ...): periods of 16 pixels and more."""
    return np.cos(2 * np.pi * z[0] / 16 + 0.3) + np.sin(2 * np.pi * (z[0] / 20 - z[1] / 24))


def grid(height, width):
    """(x, y) of every pixel from the centre, (2, height, width)."""
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    return np.stack([x, y])


def affine(matrix, offset, z):
    return np.einsum("ij,jab->iab", matrix, z) + np.asarray(offset)[:, None, None]


def test_nothing_happens_at_p_0():
    """To the bit, with labels of 0."""
    x, label = EDMAugmentation(p=0.0, mirror=0.0, quarter_turns=True)(KEY, INDEX, IMAGES)
    np.testing.assert_array_equal(x, IMAGES)
    np.testing.assert_array_equal(label, np.zeros((64, 11)))


def test_flips_and_quarter_turns_are_exact_permutations():
    """Where no part of the affine map was drawn: numpy's flips and turns as the label says, every one of them, the mirroring of half."""
    x, label = jax.jit(EDMAugmentation(p=0.4, quarter_turns=True))(KEY, jnp.arange(512), jnp.tile(IMAGES, (8, 1, 1, 1)))
    turns = {(0, 0): 0, (1, 0): 1, (1, 1): 2, (0, 1): 3}
    seen = set()
    for image, original, numbers in zip(np.asarray(x), np.tile(IMAGES, (8, 1, 1, 1)), np.asarray(label), strict=True):
        mirror, flip, *pair = numbers[:4].astype(int).tolist()
        if not np.any(numbers[4:]):
            expected = original[:, ::-1] if mirror else original
            expected = expected[::-1] if flip else expected
            np.testing.assert_array_equal(image, np.rot90(expected, turns[tuple(pair)]))
            seen.add((mirror, flip, turns[tuple(pair)]))
    assert len(seen) > 10
    assert 0.4 < np.mean(label[:, 0]) < 0.6 and 0.15 < np.mean(label[:, 1]) < 0.25  # 1/2, and p/2


def test_sym6_is_orthonormal_to_its_even_shifts():
    """What makes the identity exact: sum of h(k) h(k + 2 m) is 1 for m = 0, else 0; and the filter keeps constants."""
    h = np.asarray(SYM6)
    for m in range(6):
        np.testing.assert_allclose(h[: 12 - 2 * m] @ h[2 * m :], float(m == 0), atol=1e-10)
    np.testing.assert_allclose(h.sum(), np.sqrt(2), rtol=1e-10)


def test_the_identity_gives_the_image_back(x64):
    """Of noise, edges included, to rounding; of height and width that differ."""
    x = jax.random.normal(KEY, (6, 10, 2), jnp.float64)
    np.testing.assert_allclose(resample(x, jnp.eye(2), jnp.zeros(2)), x, atol=1e-9)


@pytest.mark.parametrize(
    "drawn",
    [
        {"turn": 0.7},
        {"scale": 1.5},
        {"aniso": -1.2, "axis": 0.6},
        {"shift": (0.3, -0.5)},
        {"scale": -0.5, "turn": -2.0, "aniso": 0.7, "axis": -1.0, "shift": (-0.4, 0.2)},
    ],
)
def test_the_map_is_the_formula_and_its_inverse_undoes_it(drawn, x64):
    """On a smooth picture of 24 x 32: matrix and offset against numpy's product of the parts; the resampled picture against the picture's
    values at the mapped points (LATE apart), inside; and the inverse map takes it back."""
    augmentation = EDMAugmentation()
    parts = {"scale": 0.0, "turn": 0.0, "aniso": 0.0, "axis": 0.0, "shift": (0.0, 0.0)} | drawn
    matrix, offset = augmentation.inverse(*(jnp.asarray(parts[name]) for name in ("scale", "turn", "aniso", "axis", "shift")), (24, 32, 1))

    def rotate(a):
        return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])

    s = 2 ** (0.2 * parts["aniso"])
    forward = rotate(-parts["axis"]) @ np.diag([s, 1 / s]) @ rotate(parts["axis"]) @ rotate(-parts["turn"]) * 2 ** (0.2 * parts["scale"])
    shift = np.array(parts["shift"]) * 0.125 * np.array([32, 24])
    np.testing.assert_allclose(np.linalg.inv(forward), matrix, atol=1e-12)
    np.testing.assert_allclose(-np.linalg.inv(forward) @ shift, offset, atol=1e-12)

    z = grid(24, 32)
    x = jnp.asarray(wave(z))[..., None]
    there = np.asarray(resample(x, matrix, offset))
    mapped = affine(np.asarray(matrix), offset + matrix @ LATE - LATE, z)
    inside = (np.abs(mapped[0]) < 32 / 2 - 5) & (np.abs(mapped[1]) < 24 / 2 - 5)
    assert inside.sum() > 100
    np.testing.assert_allclose(there[inside][:, 0], wave(mapped)[inside], atol=0.02)
    back = np.asarray(resample(jnp.asarray(there), jnp.asarray(forward), jnp.asarray(shift)))
    returned = affine(forward, shift + forward @ LATE - LATE, z)
    inside = (np.abs(returned[0]) < 32 / 2 - 5) & (np.abs(returned[1]) < 24 / 2 - 5) & (np.abs(z[0]) < 11) & (np.abs(z[1]) < 7)
    assert inside.sum() > 50
    np.testing.assert_allclose(back[inside], np.asarray(x)[inside], atol=0.04)


def test_the_label_is_what_was_drawn():
    """Nine numbers: mean rates of what is not 0 are p, normals of unit deviation, cos - 1 and sin of one angle."""
    _, label = jax.vmap(EDMAugmentation(p=0.6).one)(jax.random.split(KEY, 4096), jnp.zeros((4096, 2, 2, 1)))
    label = np.asarray(label)
    assert label.shape == (4096, 9)
    for column in (2, 4, 5, 7):
        drawn = label[:, column] != 0
        assert abs(drawn.mean() - 0.6) < 0.03
        if column != 4:
            assert abs(np.sqrt(np.mean(label[drawn][:, column] ** 2)) - {2: 1.0, 5: np.sqrt(0.75), 7: 1.0}[column]) < 0.05
    np.testing.assert_allclose((label[:, 3] + 1) ** 2 + label[:, 4] ** 2, 1.0, rtol=1e-5)
    assert ((label[:, 7] != 0) == (label[:, 8] != 0)).all() and 0.4 < np.mean(label[label[:, 5] != 0][:, 6] == 0) < 0.6


def test_an_example_is_augmented_alone():
    """By its key and global index: in any batch, at any place."""
    pick = jnp.array([40, 3, 17])
    whole, labels = jax.jit(EDMAugmentation(p=0.5))(KEY, INDEX, IMAGES)
    part, few = jax.jit(EDMAugmentation(p=0.5))(KEY, pick, IMAGES[pick])
    np.testing.assert_allclose(part, whole[pick], atol=1e-6)
    np.testing.assert_array_equal(few, labels[pick])


@pytest.mark.slow
def test_one_device_is_four_and_the_network_is_told():
    """An update with two microbatches on each of four devices is that of the whole batch on one; it trains the label's matrix."""
    parts = build_parts(CONFIG, SPEC, 0.85)
    assert parts.network.augment_dim == 9
    rng = np.random.default_rng(0)
    label = rng.integers(10, size=16).astype(np.int32)
    batch = {"x0": rng.normal(size=(16, 8, 8, 1)).astype(np.float32), "cond": {"label": label}, "index": np.arange(16, dtype=np.int32)}
    start = init_state(parts, 0)
    start = jax.tree.map(lambda p: p + 0.1 * np.sin(np.arange(p.size, dtype=p.dtype)).reshape(p.shape), start.params)
    ends = []
    for devices, accumulate in ((1, 1), (4, 2)):
        layout = layout_of(16, accumulate, devices)
        state = init_state(parts, 0)
        state = type(state)(**{**vars(state), "params": jax.tree.map(jnp.copy, start)})
        state, metrics = layout.dispatch(parts)(jax.device_put(state, layout.replicated), layout.place([batch]))
        ends.append(jax.device_get((state.params, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *ends)
    told = ends[0][0]["network"]["conditioning"]["augment"]["kernel"]
    assert told.shape == (9, 8) and not np.allclose(told, start["network"]["conditioning"]["augment"]["kernel"], atol=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        DiT(patch=4, width=8, depth=1, heads=2, augment_dim=9),
        pytest.param(UNet(width=8, multipliers=(1, 1), blocks=1, attention_at=(), heads=2, augment_dim=9), marks=pytest.mark.slow),
    ],
    ids=["dit", "unet"],
)
def test_sampling_tells_0(network):
    """Without an entry the label is 0 to the bit, and another label is another prediction."""
    params = jax.tree.map(lambda p: p + 0.1 * np.sin(np.arange(p.size, dtype=p.dtype)).reshape(p.shape), network.init(KEY, (8, 8, 1)))
    denoiser = NetworkDenoiser(params, network, LinearFlow(), F(sigma_data=1.0))
    x, t = IMAGES[:3], jnp.array(0.5)
    bare = denoiser(x, t).x0
    np.testing.assert_array_equal(bare, denoiser(x, t, {"augment": jnp.zeros((3, 9))}).x0)
    assert not np.allclose(bare, denoiser(x, t, {"augment": jnp.ones((3, 9))}).x0, atol=1e-4)


@pytest.mark.slow
def test_an_augmented_run_goes_on_to_the_bit(tmp_path):
    """Four steps are two and two more; the parameters that are loaded draw without being told of an augmentation."""

    def run(workdir, steps):
        training = {"steps": steps, "ema": [0.9], "log_every": 2, "eval_every": 2, "checkpoint_every": 2, "eval_levels": 2}
        return train(CONFIG | {"training": training}, workdir)

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "broken", 2)
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "broken", 4).state.params, whole.state.params)
    x0 = load(tmp_path / "broken").denoiser(IMAGES[:3], jnp.array(0.5), {"label": jnp.zeros(3, int)}).x0
    assert x0.shape == (3, 8, 8, 1) and np.isfinite(x0).all()


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        ({"augment": {"target": "EDMAugmentation", "p": 1.5}}, (8, 8, 1), r"config.augment.p: 1.5"),
        ({"augment": {"target": "EDMAugmentation", "scale_std": -1.0}}, (8, 8, 1), r"config.augment.scale_std: -1.0"),
        ({"augment": {"target": "EDMAugmentatoin"}}, (8, 8, 1), r"config.augment.target: .*did you mean 'EDMAugmentation'"),
        ({"augment": {"target": "EDMAugmentation", "quarter_turns": True}}, (8, 4, 1), r"config.augment.quarter_turns: True.*not square"),
        ({"network": CONFIG["network"] | {"augment_dim": 3}}, (8, 8, 1), r"config.network.augment_dim: 3 is refused; allowed: 9"),
        ({"network": CONFIG["network"] | {"augment_dim": 9}, "augment": None}, (8, 8, 1), r"augment_dim: 9 .*there is no config.augment"),
        ({"coupling": {"target": "MinibatchOT"}}, (8, 8, 1), r"config.augment: 'EDMAugmentation'.*config.coupling"),
        ({"network": {"target": "MLP"}}, (2,), r"config.augment: \(2,\) is refused; allowed: images"),
    ],
)
def test_refused(changes, shape, message):
    """One line that names the field."""
    with pytest.raises(ConfigError, match=message) as caught:
        build_parts(CONFIG | changes, DataSpec(shape, 10, "none"), 0.85)
    assert "\n" not in str(caught.value)


def test_a_network_refuses_a_label_that_it_is_not_told():
    """By name, and by its shape."""
    network = DiT(patch=4, width=8, depth=1, heads=2)
    params = network.init(KEY, (8, 8, 1))
    with pytest.raises(ConfigError, match=r"cond: 'augment' is refused; allowed: 'label'"):
        network.apply(params, IMAGES[:2], jnp.zeros(2), {"augment": jnp.zeros((2, 9))})
    told = DiT(patch=4, width=8, depth=1, heads=2, augment_dim=9)
    with pytest.raises(ConfigError, match=r"cond\['augment'\].shape: \(2, 3\)"):
        told.apply(told.init(KEY, (8, 8, 1)), IMAGES[:2], jnp.zeros(2), {"augment": jnp.zeros((2, 3))})
