"""One's own pictures, one's own arrays, and point sets with known density."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from score_lab.build import ConfigError, build
from score_lab.data import NPZ, Folder, Toy, batches
from score_lab.data.source import gather


def pictures(root, names, shade=lambda k: k):
    for k, name in enumerate(sorted(names)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (shade(k),) * 3).save(root / name)


def members(source, split):
    return {f for f, _ in source._members(split)}


def test_a_folder_of_classes(tmp_path):
    names = [f"{kind}/{k}.png" for kind in ("cat", "dog", "eel") for k in range(20)]
    pictures(tmp_path, names)
    (tmp_path / "cat/notes.txt").write_text("no picture")
    source = build({"target": "Folder", "path": str(tmp_path), "size": 8, "holdout": 0.3}, room="score_lab.data")
    assert source.classes == ("cat", "dog", "eel") and source.spec.num_classes == 3 and source.spec.shape == (8, 8, 3)
    assert members(source, "train") | members(source, "test") == set(names) and not members(source, "train") & members(source, "test")
    shown = {}
    for split in ("train", "test"):
        read = gather(source(split), np.arange(len(source(split))))
        for k, (file, label) in enumerate(source._members(split)):
            assert file.split("/")[0] == source.classes[label] and read["label"][k] == label
            shown[file] = read["image"][k]
    for k, name in enumerate(sorted(names)):
        np.testing.assert_array_equal(shown[name], np.full((8, 8, 3), k, np.uint8))


def test_adding_files_moves_none_between_the_splits(tmp_path):
    pictures(tmp_path, [f"{k}.png" for k in range(30)])
    before = Folder(str(tmp_path), 4, holdout=0.4)
    held, kept = members(before, "test"), members(before, "train")
    assert held and kept and before.spec.num_classes == 0
    pictures(tmp_path, [f"more{k}.png" for k in range(10)])
    after = Folder(str(tmp_path), 4, holdout=0.4)
    assert held <= members(after, "test") and kept <= members(after, "train") and after.spec.fingerprint != before.spec.fingerprint


def test_grey_pictures_and_the_exif_turn(tmp_path):
    picture = Image.new("L", (6, 6))
    picture.paste(255, (0, 0, 3, 6))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise: then the upper half is white
    picture.save(tmp_path / "a.png", exif=exif)
    source = build({"target": "Folder", "path": str(tmp_path), "size": 6, "channels": 1, "holdout": 0.0}, room="score_lab.data")
    x0 = next(batches(source, "train", 1))["x0"]
    np.testing.assert_array_equal(x0[0, :, :, 0], np.repeat([1.0, -1.0], 3)[:, None] * np.ones((1, 6)))


@pytest.mark.parametrize(
    ("make", "fields", "says"),
    [
        (False, {}, "path: .* a folder that exists"),
        (True, {}, r"path: .* a folder with pictures \(.bmp"),
        (True, {"size": 0}, "size: 0"),
        (True, {"channels": 4}, "channels: 4 .* 1 .grey. or 3"),
        (True, {"holdout": 1.0}, "holdout: 1.0"),
        ("broken.png", {}, "path: .*broken.png.* a picture that opens"),
    ],
)
def test_folders_that_are_none_are_refused(tmp_path, make, fields, says):
    path = tmp_path / "here"
    if make:
        path.mkdir()
    if isinstance(make, str):
        (path / make).write_bytes(b"not a picture")
        fields = {"holdout": 0.0}
    with pytest.raises(ConfigError, match=says) as caught:
        build({"target": "Folder", "path": str(path), "size": 8, **fields}, room="score_lab.data")
    assert "\n" not in str(caught.value)


def test_arrays_with_a_test_array(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 6, 5, 3)).astype(np.uint8), np.arange(30) % 4
    np.savez(tmp_path / "a.npz", arr_0=x[:20], arr_1=y[:20], x_test=x[20:], y_test=y[20:])
    source = build({"target": "NPZ", "path": str(tmp_path / "a.npz")}, room="score_lab.data")
    assert source.spec.shape == (6, 5, 3) and source.spec.num_classes == 4
    for split, rows in (("train", slice(20)), ("test", slice(20, None))):
        read = gather(source(split), np.arange(len(source(split))))
        np.testing.assert_array_equal(read["image"], x[rows])
        np.testing.assert_array_equal(read["label"], y[rows])
    np.testing.assert_allclose(source.preprocess(read)["x0"], x[20:] / 127.5 - 1, rtol=0, atol=2e-7)


def test_arrays_without_one_hold_a_stable_part_back(tmp_path):
    x = np.arange(2000.0).reshape(1000, 2)
    for count in (800, 1000):
        np.savez(tmp_path / f"{count}.npz", x=x[:count])
    small, large = (NPZ(str(tmp_path / f"{count}.npz"), holdout=0.25) for count in (800, 1000))
    splits = ("train", "test")
    of_small, of_large = ({split: set(s(split).arrays["image"][:, 0].astype(int) // 2) for split in splits} for s in (small, large))
    assert of_small["test"] <= of_large["test"] and of_small["train"] <= of_large["train"]
    assert of_large["test"] | of_large["train"] == set(range(1000)) and not of_large["test"] & of_large["train"]
    assert abs(len(of_large["test"]) - 250) < 5 * np.sqrt(1000 * 0.25 * 0.75)
    np.testing.assert_array_equal(small.preprocess(small("train").arrays)["x0"], small("train").arrays["image"])  # floats stay as they are
    ranged = NPZ(str(tmp_path / "800.npz"), value_range=(0, 1998))
    assert small.spec.num_classes == 0 and ranged.preprocess({"image": np.array([[0.0, 999.0, 1998.0]])})["x0"].tolist() == [[-1, 0, 1]]


@pytest.mark.parametrize(
    ("arrays", "fields", "says"),
    [
        ({"foo": np.ones((4, 2))}, {}, "x: None .* a key of .*: foo"),
        ({"images": np.ones((4, 2))}, {"x": "image"}, "x: 'image' .*did you mean 'images'"),
        ({}, {}, "x: None .* it has none"),
        ({"x": np.ones((4, 2)), "label": np.ones(3, int)}, {}, r"label: 'int64 \(3,\)' .* one for each of 4"),
        ({"x": np.ones((4, 2)), "label": -np.ones(4, int)}, {}, "label: .* integers from 0"),
        ({"x": np.ones(4)}, {}, r"x: 'float64 \(4,\)'"),
        ({"x": np.full((4, 2), np.nan)}, {}, "x: .* finite"),
        ({"x": np.ones((4, 2)), "x_test": np.ones((4, 3))}, {}, r"x_test: \(3,\) .* \(2,\)"),
        ({"x": np.ones((4, 2)), "y": np.zeros(4, int), "x_test": np.ones((4, 2))}, {}, "label_test: None"),
        ({"x": np.ones((4, 2))}, {"holdout": 1.0}, "holdout: 1.0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, fields, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=says) as caught:
        build({"target": "NPZ", "path": str(tmp_path / "a.npz"), **fields}, room="score_lab.data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"not a zip", b"PK\x03\x04 broken"])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ConfigError, match="path: .* an .npz"):
        build({"target": "NPZ", "path": str(tmp_path / "a.npz")}, room="score_lab.data")


def test_the_mixture_has_the_density_that_it_states():
    """Each component: frequency within five standard deviations, and normal about its mean (Kolmogorov-Smirnov, fixed seed)."""
    spec = {"target": "Toy", "name": "mixture", "means": [[-2, 0], [1, 3]], "weights": [0.25, 0.75], "std": 0.5, "num_train": 4000}
    source = build(spec, room="score_lab.data")
    weights, means, std = source.components()
    points, label = source("train").arrays["image"], source("train").arrays["label"]
    assert abs((label == 0).mean() - weights[0]) < 5 * np.sqrt(0.25 * 0.75 / 4000)
    for k in range(2):
        for axis in range(2):
            assert stats.kstest((points[label == k, axis] - means[k, axis]) / std, "norm").pvalue > 1e-3


def test_two_moons_without_noise_lie_on_their_arcs():
    source = Toy("two_moons", std=0.0)
    points, label = source("train").arrays["image"] + np.float32([0.5, 0.25]), source("train").arrays["label"]
    up, down = points[label == 0], points[label == 1]
    np.testing.assert_allclose((up**2).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((down[:, 0] - 1) ** 2 + (down[:, 1] - 0.5) ** 2, 1, atol=1e-5)
    assert up[:, 1].min() > -1e-6 and down[:, 1].max() < 0.5 + 1e-6


def test_the_checkerboard_is_uniform_on_half_the_squares():
    points = Toy("checkerboard")("train").arrays["image"]
    squares = np.floor((points + 1) * 2).astype(int)
    assert (squares.sum(axis=1) % 2 == 0).all() and squares.min() == 0 and squares.max() == 3
    assert stats.chisquare(np.unique(squares @ [4, 1], return_counts=True)[1]).pvalue > 1e-3


def test_a_seed_decides_the_points_and_the_splits_differ():
    a, b, c = Toy(), Toy(), Toy(seed=1)
    np.testing.assert_array_equal(a("train").arrays["image"], b("train").arrays["image"])
    assert not np.array_equal(a("train").arrays["image"], c("train").arrays["image"])
    assert not np.array_equal(a("train").arrays["image"][:2048], a("test").arrays["image"])
    assert a.spec.fingerprint == b.spec.fingerprint != c.spec.fingerprint


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "two_moon"}, "name: 'two_moon' .*did you mean 'two_moons'"),
        ({"num_train": 0}, "num_train: 0"),
        ({"std": -1.0}, "std: -1.0"),
        ({"seed": -1}, "seed: -1"),
        ({"means": [[0, 0]]}, "means: .* for two_moons"),
        ({"name": "mixture", "means": [[0, 0, 0]]}, "means: .* a tuple of"),
        ({"name": "mixture", "means": [[0, 0], [1, 1]], "weights": [0.5, 0.6]}, "weights: .* 2 probabilities"),
    ],
)
def test_point_sets_that_are_none_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        build({"target": "Toy", **fields}, room="score_lab.data")
