"""CIFAR-10 and ImageNet at 64x64 through TFDS's own mock; and what is said, at once, where the data are absent."""

import io
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from score_lab.build import ConfigError, build
from score_lab.data import TFDS, batches, statistics
from score_lab.data.images import fit
from score_lab.data.source import CachedRecords, gather

CIFAR10 = {"target": "TFDS", "name": "cifar10", "flip": True}
IMAGENET64 = {"target": "TFDS", "name": "imagenet_resized/64x64", "test": "validation", "flip": True}
DOWNSAMPLED = {"target": "TFDS", "name": "downsampled_imagenet/64x64", "test": "validation", "size": 64}


@pytest.mark.parametrize(
    ("spec", "shape", "classes"), [(CIFAR10, (32, 32, 3), 10), (IMAGENET64, (64, 64, 3), 1000), (DOWNSAMPLED, (64, 64, 3), 0)]
)
def test_a_mocked_data_set_runs_through_the_whole_pipeline(spec, shape, classes, tmp_path):
    with tfds.testing.mock_data(num_examples=10):
        source = build({**spec, "data_dir": str(tmp_path)}, room="score_lab.data")
        assert (source.spec.shape, source.spec.num_classes) == (shape, classes)
        batch = next(batches(source, "train", 16, seed=1))
        passed = list(batches(source, "test", 4, repeat=False))
    assert batch["x0"].shape == (16, *shape) and batch["x0"].dtype == np.float32
    assert -1 <= batch["x0"].min() < -0.9 and 0.9 < batch["x0"].max() <= 1
    assert ("cond" in batch) == bool(classes)
    if classes:
        assert 0 <= batch["cond"]["label"].min() and batch["cond"]["label"].max() < classes and batch["cond"]["label"].dtype == np.int32
    assert sum(part["mask"].sum() for part in passed) == 10
    assert "tensorflow" not in sys.modules


def test_the_values_are_those_of_the_data_set(tmp_path):
    with tfds.testing.mock_data(num_examples=6):
        direct = tfds.data_source("cifar10", split="train", data_dir=str(tmp_path))
        source = build({**CIFAR10, "data_dir": str(tmp_path)}, room="score_lab.data")
        read = gather(source("train"), np.arange(6))
        batch = next(batches(source, "train", 6, shuffle=False, flip=False))
    np.testing.assert_array_equal(read["image"], np.stack([example["image"] for example in direct]))
    np.testing.assert_array_equal(batch["cond"]["label"], [example["label"] for example in direct])
    np.testing.assert_allclose(batch["x0"], read["image"] / 127.5 - 1, rtol=0, atol=2e-7)
    assert (batch["x0"][read["image"] == 255] == 1).all() and (batch["x0"][read["image"] == 0] == -1).all()


def test_size_scales_and_crops(tmp_path):
    with tfds.testing.mock_data(num_examples=3):
        source = build({**CIFAR10, "size": 16, "data_dir": str(tmp_path)}, room="score_lab.data")
        assert statistics(source).mean.shape == source.spec.shape == (16, 16, 3)


def test_a_small_split_is_decoded_once_and_a_large_one_is_not_kept(tmp_path):
    with tfds.testing.mock_data(num_examples=4):
        kept = build({**CIFAR10, "data_dir": str(tmp_path)}, room="score_lab.data")("train")
        assert isinstance(kept, CachedRecords)
        first = kept[2]["image"]
        kept.records.data = None  # nothing is decoded again
        np.testing.assert_array_equal(kept[2]["image"], first)
        loose = build({**CIFAR10, "cache_mib": 0, "data_dir": str(tmp_path)}, room="score_lab.data")("train")
        np.testing.assert_array_equal(loose[2]["image"], first)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (CIFAR10, "TFDS data 'cifar10' not found .* below '.*'; .* tfds build cifar10 --file_format=array_record --data_dir="),
        (IMAGENET64, "tfds build imagenet_resized/64x64 --file_format=array_record"),
        ({"target": "TFDS", "name": "cifarr10"}, "name: 'cifarr10' .*did you mean 'cifar10'"),
        ({"target": "TFDS", "name": "imagenet_resized/65x65"}, "did you mean 'imagenet_resized/64x64'"),
        ({"target": "TFDS", "name": "huggingface:mnist"}, "name: 'huggingface:mnist'"),
        ({"target": "TFDS", "name": "cifar10", "size": 0}, "size: 0"),
        ({"target": "TFDS", "name": "cifar10", "value_range": (1, 1)}, "value_range"),
    ],
)
def test_absent_data_are_told_at_once_in_one_line(spec, says, tmp_path, at_once):
    with pytest.raises(ConfigError, match=says) as caught:
        build({**spec, "data_dir": str(tmp_path)}, room="score_lab.data", field="config.data")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config.data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"test": "validation"}, "test: 'validation' .* train, test"),
        ({"train": "train[5"}, "train: 'train\\[5'"),
        ({"image_key": "imag"}, "image_key: 'imag' .*did you mean 'image'"),
        ({"label_key": "lable"}, "label_key: 'lable' .*did you mean 'label'"),
        ({"label_key": "image"}, "label_key: 'image' .* class label, or None"),
    ],
)
def test_splits_and_features_that_a_data_set_lacks_are_refused(fields, says, data_dir):
    from score_lab.data.digits import build_digits

    build_digits(data_dir, 8)
    with pytest.raises(ConfigError, match=says) as caught:
        build({"target": "TFDS", "name": "digits/8x8", "data_dir": data_dir, **fields}, room="score_lab.data")
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_ask_for_one(tmp_path):
    with tfds.testing.mock_data(num_examples=2), pytest.raises(ConfigError, match="size: None .* None meaning that it varies"):
        build({**DOWNSAMPLED, "size": None, "data_dir": str(tmp_path)}, room="score_lab.data")


def test_a_source_travels_to_a_worker(data_dir):
    from score_lab.data import Digits

    source = Digits(8, data_dir)
    expected = source("train")[5]
    copy = pickle.loads(pickle.dumps((source, source("train"))))
    np.testing.assert_array_equal(copy[1][5]["image"], expected["image"])
    assert copy[0] == source and copy[0].spec == source.spec


def test_tfds_slices_are_splits(data_dir):
    from score_lab.data.digits import build_digits

    build_digits(data_dir, 8)
    source = TFDS("digits/8x8", train="train[:100]", test="train[100:130]", data_dir=data_dir, value_range=(0, 16))
    assert (len(source("train")), len(source("test"))) == (100, 30)


def test_fit_keeps_the_centre_and_the_shape():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200  # the middle square
    np.testing.assert_array_equal(fit(wide, 20), np.full((20, 20, 3), 200, np.uint8))
    assert fit(wide[..., :1], 8).shape == (8, 8, 1) and fit(wide[:5, :7], 16).shape == (16, 16, 3)


def test_pictures_that_tfds_stored_as_png_are_read_back_exactly(tmp_path):
    """The real path of an Image feature, not the mock's: PNG bytes in array_record files, decoded here."""

    class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image, label = tfds.features.Image(shape=(5, 4, 3), encoding_format="png"), tfds.features.ClassLabel(num_classes=3)
            features = {"image": image, "label": label}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 7), "test": self._generate_examples(7, 9)}

        def _generate_examples(self, first, last):
            for k in range(first, last):
                png = io.BytesIO()
                Image.fromarray(pictures[k]).save(png, "png")
                yield k, {"image": png.getvalue(), "label": k % 3}

    pictures = np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3)).astype(np.uint8)
    TinyPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = build({"target": "TFDS", "name": "tiny_pictures", "data_dir": str(tmp_path)}, room="score_lab.data")
    for split, rows in (("train", slice(0, 7)), ("test", slice(7, 9))):
        read = gather(source(split), np.arange(len(source(split))))
        np.testing.assert_array_equal(read["image"], pictures[rows])
        np.testing.assert_array_equal(read["label"], np.arange(9)[rows] % 3)


def test_data_prepared_in_another_format_are_told_apart(tmp_path):
    """TFDS's default, tfrecord, cannot be read at random: the answer is the command with the right format."""
    from score_lab.data.digits import build_digits

    info = build_digits(tmp_path, 8) / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ConfigError, match="not found as array_record .* --file_format=array_record"):
        build({"target": "TFDS", "name": "digits/8x8", "data_dir": str(tmp_path)}, room="score_lab.data")
