"""Image data sets of TensorFlow Datasets, read by ``as_data_source`` from array_record files: no TensorFlow, no download.

``x0 = 2 (image - low)/(high - low) - 1`` with ``value_range = (low, high)``, (0, 255) for 8-bit images.  What is not on disk is
refused at once with the command that prepares it.  Preparing (not reading) most image data sets needs TensorFlow, once, on any machine:

    pip install tensorflow tensorflow-datasets
    tfds build cifar10 --file_format=array_record --data_dir=DIR
    tfds build imagenet_resized/64x64 --file_format=array_record --data_dir=DIR      # ImageNet at 64x64 with its 1000 labels

``downsampled_imagenet/64x64`` (no labels, splits train and validation) is prepared in the same way.  Where a host no longer serves
an archive, ``Folder`` and ``NPZ`` read the pictures themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from score_lab.build import ConfigError, nearest, refuse
from score_lab.data.images import fit
from score_lab.data.source import CachedRecords, DataSpec, Records, Source, digest

__all__ = ["TFDS", "Digits", "default_data_dir"]


def default_data_dir() -> Path:
    """Where TFDS keeps its data sets: ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


@dataclasses.dataclass(frozen=True)
class TFDS(Source):
    """The TFDS image data set ``name`` (``"cifar10"``, ``"imagenet_resized/64x64"``), prepared as array_record below ``data_dir``.

    Attributes:
      name: of the data set, with ``/config`` and ``:version`` where it has them.
      train, test: what its splits are called; any TFDS split, so ``"train[:90%]"`` and ``"train[90%:]"`` too.
      data_dir: where it is looked for; ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets`` if None.
      image_key, label_key: features; a data set without a feature "label", or ``label_key`` None, is unlabelled.
      size: every image is scaled (shorter side) and cropped (centre) to (size, size); None: as stored, all of one shape.
      flip: training examples may be mirrored left to right.
      value_range: the stored values that become -1 and 1.
      cache_mib: decoded splits up to this size are kept in memory as they are read.

    Its fingerprint covers name, version, features, shard lengths and bytes, and the fields that change ``x0``.
    """

    name: str
    train: str = "train"
    test: str = "test"
    data_dir: str | None = None
    image_key: str = "image"
    label_key: str | None = "label"
    size: int | None = None
    flip: bool = False
    value_range: tuple = (0, 255)
    cache_mib: int = 256

    def check(self):
        """Raises ConfigError (one line, no network) unless the data are there and the fields fit them."""
        if self.size is not None and self.size < 1:
            refuse("size", self.size, "at least 1, or None for the stored size")
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            refuse("value_range", self.value_range, "(low, high) with low < high")
        for split in ("train", "test"):
            self(split)
        self._spec()

    @property
    def directory(self) -> Path:
        """The ``data_dir`` in force."""
        return Path(self.data_dir).expanduser() if self.data_dir else default_data_dir()

    @functools.cached_property
    def _builder(self) -> Any:
        return _find_builder(self.name, self.directory)

    def _absent(self):
        """Refuses a data set that is not on disk, saying how it gets there."""
        command = f"tfds build {self.name} --file_format=array_record --data_dir={self.directory}"
        raise ConfigError(
            f"name: TFDS data {self.name!r} not found as array_record below {str(self.directory)!r}; prepare them once, where TensorFlow"
            f" is installed: {command}"
        )

    def _open(self, split: str) -> Records:
        field, name, builder = split, {"train": self.train, "test": self.test}[split], self._builder
        try:
            data = builder.as_data_source(name)
        except Exception as error:  # noqa: BLE001 - TFDS raises many types here; each is told in one line
            known = list(builder.info.splits)
            if not known or builder.info.file_format is None or "file_format" in str(error):
                self._absent()
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            refuse(field, name, f"a split of {self.name}: {', '.join(known)} ({reason[:120]})", known)
        records = _TFDSRecords(data, self.image_key, self.label_key if self._num_classes else None, self.size, self.spec.shape)
        small = len(records) * int(np.prod(self.spec.shape)) <= self.cache_mib * 2**20
        return CachedRecords(records) if small else records

    @property
    def _num_classes(self) -> int:
        return int(getattr(dict(self._builder.info.features.items()).get(self.label_key), "num_classes", 0) or 0)

    def _spec(self) -> DataSpec:
        info = self._builder.info
        if self.image_key not in info.features:
            refuse("image_key", self.image_key, f"a feature of {self.name}: {', '.join(info.features)}", info.features)
        if self.label_key not in (None, "label", *info.features):
            refuse("label_key", self.label_key, f"a feature of {self.name}: {', '.join(info.features)}", info.features)
        if self.label_key in info.features and not self._num_classes:
            refuse("label_key", self.label_key, f"a feature of {self.name} that is a class label, or None for no labels")
        shape = info.features[self.image_key].shape
        if self.size is not None:
            shape = (self.size, self.size, shape[-1])
        if len(shape) != 3 or None in shape:
            refuse("size", self.size, f"an int: the images of {self.name} are of shape {shape}, None meaning that it varies")
        splits = [(s.name, s.num_bytes, tuple(s.shard_lengths)) for s in info.splits.values()]
        stored = (info.full_name, repr(info.features), splits)
        fields = (self.train, self.test, self.image_key, self.label_key, self.size, self.value_range)
        return DataSpec(tuple(shape), self._num_classes, digest("tfds", stored, fields))


def _find_builder(name: str, directory: Path) -> Any:
    """The TFDS builder of ``name``: of the files below ``directory`` if they are there, else of TFDS's code.

    The code tells features and configurations where there are no files, and it is what ``tfds.testing.mock_data`` fills with examples.
    Names with a namespace (``huggingface:...``), which TFDS would look up on the network, are found as files only.
    """
    import tensorflow_datasets as tfds

    unknown = tfds.core.registered.DatasetNotFoundError
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=directory)
    except unknown:
        pass
    bare, _, config = name.partition(":")[0].partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if bare not in known:
        allowed = f"a data set prepared below {str(directory)!r} (there is none of this name) or one that TFDS knows"
        refuse("name", name, f"{allowed}{nearest(bare, known)}")
    configs = tfds.builder_cls(bare).builder_configs
    if config and config not in configs:
        names = [f"{bare}/{c}" for c in configs] or [bare]
        refuse("name", name, f"one of {', '.join(names)}", names)
    return tfds.builder(name.partition(":")[0], data_dir=directory)


class _TFDSRecords:
    """One split of a TFDS data source as ``Records``, images brought to ``shape``."""

    def __init__(self, data: Any, image_key: str, label_key: str | None, size: int | None, shape: tuple[int, ...]):
        self.data, self.image_key, self.label_key, self.size, self.shape = data, image_key, label_key, size, shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.data[int(index)]
        image = np.asarray(example[self.image_key])
        if self.size is not None:
            image = fit(image, self.size)
        if image.shape != self.shape:
            refuse("size", self.size, f"an int, because example {index} has shape {image.shape} and not {self.shape}")
        return {"image": image} if self.label_key is None else {"image": image, "label": int(example[self.label_key])}


def Digits(size: int = 8, data_dir: str | None = None) -> TFDS:
    """The handwritten digits (score_lab.data.digits) at side ``size`` 8, 16 or 32, built on first use (about a second): a ``TFDS``.

    1437 train and 360 test images (size, size, 1) with values 0..16, so ``x0 = v/8 - 1``, and labels 0..9.

    Raises ConfigError for another size or a ``data_dir`` that cannot be written.
    """
    from score_lab.data.digits import build_digits

    directory = Path(data_dir).expanduser() if data_dir else default_data_dir()
    build_digits(directory, size)
    return TFDS(f"digits/{size}x{size}", data_dir=str(directory), value_range=(0, 16))
