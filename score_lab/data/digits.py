"""The TFDS builder ``digits``: scikit-learn's 1797 handwritten digits (UCI optdigits, test half), exact, at 8x8, 16x16 and 32x32.

Values.  A pixel ``v`` of the 8x8 images is the count of ink pixels in a 4x4 block, an integer in 0..16, stored as uint8.  The
larger configs are *bilinear* with half-pixel centres and clamped edges: output pixel ``i`` of an enlargement by ``f`` sits at
``u = (i + 1/2)/f - 1/2`` and is ``(1 - w) v[floor u] + w v[floor u + 1]``, ``w = u - floor u``, in each direction.  ``w`` is a multiple
of 1/(2f), so the result is an exact dyadic rational in [0, 16], stored as float32 without rounding.  In every config the map to
[-1, 1] is ``x0 = v/8 - 1``.

Split.  Systematic sampling within classes: the rows of ``load_digits`` are listed by (label, row) and every fifth of the list, from
the first, is held out: 1437 train, 360 test, each class within one example of a fifth.  No random number is involved.
Order within a split is scikit-learn's.  Written as array_record; neither building nor reading imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from score_lab.build import ConfigError, refuse

__all__ = ["SIZES", "DigitsBuilder", "build_digits", "enlarge", "split_rows"]

SIZES = (8, 16, 32)
"""The sides at which the digits exist."""


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """``images`` (n, h, w) enlarged by an integer ``factor`` in both directions, bilinear (see the module), float32 (n, f h, f w)."""
    for axis in (1, 2):
        side = images.shape[axis]
        place = (np.arange(side * factor) + 0.5) / factor - 0.5
        low = np.floor(place).astype(int)
        weight = (place - low).astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
        below, above = (images.take(np.clip(k, 0, side - 1), axis) for k in (low, low + 1))
        images = (1 - weight) * below + weight * above
    return images.astype(np.float32)


def split_rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the train and test split, ascending: every fifth of the rows sorted by (label, row) is test."""
    by_label = np.argsort(labels, kind="stable")
    test = np.zeros(len(labels), bool)
    test[by_label[::5]] = True
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}


def _digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, size, size, 1), uint8 at size 8 and float32 above, in 0..16, and labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    return (images if size == 8 else enlarge(images, size // 8))[..., None], bunch.target.astype(np.int64)


class DigitsBuilder(tfds.core.GeneratorBasedBuilder):
    """``tfds.builder("digits/16x16")`` after this module is imported; configs 8x8, 16x16, 32x32 (see the module for what is stored)."""

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "1437 train, 360 test; exact values in 0..16."}
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"{s}x{s}", description=f"{s} pixels square") for s in SIZES]

    def _info(self) -> tfds.core.DatasetInfo:
        size = int(self.builder_config.name.split("x")[0])
        features = {
            "image": tfds.features.Tensor(shape=(size, size, 1), dtype=np.uint8 if size == 8 else np.float32),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 1797 handwritten digits of scikit-learn's load_digits, with a fixed stratified split.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        images, labels = _digits(int(self.builder_config.name.split("x")[0]))
        return {split: self._generate_examples(images, labels, rows) for split, rows in split_rows(labels).items()}

    def _generate_examples(self, images, labels, rows):
        for row in rows.tolist():
            yield row, {"image": images[row], "label": int(labels[row])}


def build_digits(data_dir: str | os.PathLike, size: int = 8) -> Path:
    """Builds ``digits/{size}x{size}`` below ``data_dir`` unless it is there; returns its folder.  About two seconds.

    Processes that build at once do not meet: each builds in a folder of its own beside the target and renames it into place, which
    is atomic; who comes second finds the target and throws its own away.

    Raises ConfigError if ``size`` is none of SIZES or ``data_dir`` cannot be written.
    """
    if size not in SIZES:
        refuse("size", size, f"one of {', '.join(map(str, SIZES))}")
    data_dir = Path(data_dir).expanduser()
    folder = Path("digits") / f"{size}x{size}" / str(DigitsBuilder.VERSION)
    if (data_dir / folder / "dataset_info.json").exists():
        return data_dir / folder
    try:
        (data_dir / folder).parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=".digits-", dir=data_dir))
    except OSError as error:
        raise ConfigError(f"data_dir: {str(data_dir)!r} cannot be written ({error.strerror}); give another or set TFDS_DATA_DIR") from None
    try:
        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            builder = DigitsBuilder(data_dir=private, config=f"{size}x{size}", file_format="array_record")
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        try:
            os.rename(private / folder, data_dir / folder)
        except OSError:
            if not (data_dir / folder / "dataset_info.json").exists():
                raise
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return data_dir / folder
