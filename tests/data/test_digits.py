"""The digits are scikit-learn's, exactly; the split is the one that the docstring defines; no TensorFlow anywhere."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from score_lab.build import ConfigError, build
from score_lab.data import Digits, batches
from score_lab.data.digits import build_digits, split_rows
from score_lab.data.source import gather

LABELS = load_digits().target


def everything(source, split):
    return gather(source(split), np.arange(len(source(split))))


def test_the_8x8_values_are_scikit_learns_exactly(data_dir):
    source, bunch = Digits(8, data_dir), load_digits()
    for split, rows in split_rows(LABELS).items():
        read = everything(source, split)
        assert read["image"].dtype == np.uint8
        np.testing.assert_array_equal(read["image"][..., 0], bunch.images[rows])
        np.testing.assert_array_equal(read["label"], bunch.target[rows])
    x0 = source.preprocess(read)["x0"]
    np.testing.assert_array_equal(x0[..., 0], bunch.images[rows] / 8 - 1)
    assert x0.dtype == np.float32 and source.spec.shape == (8, 8, 1) and source.spec.num_classes == 10


@pytest.mark.parametrize("size", [16, 32])
def test_the_larger_configs_are_scipys_bilinear_zoom_exactly(data_dir, size):
    rows = split_rows(LABELS)["test"]
    read = everything(Digits(size, data_dir), "test")["image"][..., 0]
    factor = size // 8
    expected = zoom(load_digits().images[rows], (1, factor, factor), order=1, mode="nearest", grid_mode=True)
    assert read.shape == (360, size, size)
    np.testing.assert_allclose(read, expected, rtol=0, atol=1e-12)  # scipy's own rounding; ours has none:
    np.testing.assert_array_equal(read * (2 * factor) ** 2, np.round(read * (2 * factor) ** 2))


def test_the_split_is_a_stratified_partition_of_fixed_size():
    split = split_rows(LABELS)
    assert {name: len(rows) for name, rows in split.items()} == {"train": 1437, "test": 360}
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(1797))
    fifth = np.bincount(LABELS) / 5
    assert (np.abs(np.bincount(LABELS[split["test"]]) - fifth) < 1).all()


def test_two_threads_that_build_at_once_both_find_the_whole(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda _: build_digits(tmp_path, 8), range(2))) == {tmp_path / "digits/8x8/1.0.0"}
    assert len(Digits(8, str(tmp_path))("train")) == 1437
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_two_processes_build_at_once_and_read_without_tensorflow(tmp_path):
    code = """
import sys
from score_lab.data import Digits, batches
batch = next(batches(Digits(8, sys.argv[1]), "train", 4))
assert batch["x0"].shape == (4, 8, 8, 1)
print(sorted({"tensorflow", "torch", "clu"} & set(sys.modules)))
"""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", code, str(tmp_path)]
    racers = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for racer in racers:
        shown, trouble = racer.communicate(timeout=600)
        assert (racer.returncode, shown) == (0, "[]\n"), trouble[-500:]
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]  # nothing half-built is left


def test_a_build_that_is_there_is_not_touched(data_dir):
    info = build_digits(data_dir, 8) / "dataset_info.json"
    before = info.stat().st_mtime_ns
    Digits(8, data_dir)
    assert info.stat().st_mtime_ns == before


def test_the_default_place_is_the_one_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = build("Digits", room="score_lab.data")
    assert Path(source.data_dir) == tmp_path and len(source("test")) == 360


@pytest.mark.parametrize(
    ("spec", "says"), [({"size": 9}, "size: 9 .* 8, 16, 32"), ({"data_dir": "/proc/none"}, "data_dir: '/proc/none' cannot be written")]
)
def test_what_cannot_be_built_is_refused_in_one_line(spec, says, at_once):
    with pytest.raises(ConfigError, match=says) as caught:
        build({"target": "Digits", **spec}, room="score_lab.data")
    assert "\n" not in str(caught.value)


def test_labels_come_with_the_batch(data_dir):
    batch = next(batches(Digits(8, data_dir), "test", 360, shuffle=False))
    np.testing.assert_array_equal(batch["cond"]["label"], LABELS[split_rows(LABELS)["test"]])
