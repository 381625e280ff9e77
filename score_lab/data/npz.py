"""Arrays in an ``.npz``: images (n, h, w, c) or (n, h, w), or points (n, d); labels (n,) of integers 0 .. K - 1 beside them.

uint8 is mapped from 0..255 to [-1, 1]; floats are taken as they are unless ``value_range`` says what becomes -1 and 1.  The test split
is an array of its own where the file has one, else the rows ``i`` whose hash ``bits(i, 0)/2^64`` is below ``holdout``: appending rows
never moves one from one split to the other.
"""

from __future__ import annotations

import dataclasses
import functools
import zipfile
from pathlib import Path

import numpy as np

from score_lab.build import refuse
from score_lab.data.hashing import bits
from score_lab.data.source import ArrayRecords, DataSpec, Records, Source, digest

__all__ = ["NPZ"]

NAMES = {
    "x": ("x", "x_train", "images", "image", "data", "arr_0"),
    "label": ("label", "labels", "y", "y_train", "label_train", "arr_1"),
    "x_test": ("x_test", "images_test", "test_images"),
    "label_test": ("label_test", "labels_test", "y_test", "test_labels"),
}
"""The keys that are looked for, in this order, where a field is None."""


@dataclasses.dataclass(frozen=True)
class NPZ(Source):
    """The arrays of the file ``path``, in memory.

    Attributes:
      path: the ``.npz``; ``~`` is understood.
      x, label, x_test, label_test: keys in the file; None takes the first of NAMES that is there.  Labels are optional.
      holdout: the fraction held out for ``test`` where the file has no test array, 0 to below 1.
      value_range: the stored values that become -1 and 1; None is (0, 255) for uint8 and no map for floats.
      flip: training images may be mirrored left to right.

    Its fingerprint covers every value of the arrays, and the fields that change ``x0``.
    """

    path: str
    x: str | None = None
    label: str | None = None
    x_test: str | None = None
    label_test: str | None = None
    holdout: float = 0.1
    value_range: tuple | None = None
    flip: bool = False

    def check(self):
        """Raises ConfigError unless the file opens, has the arrays, and they fit together."""
        if not 0 <= self.holdout < 1:
            refuse("holdout", self.holdout, "0 to below 1")
        if self.value_range is not None and (len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]):
            refuse("value_range", self.value_range, "(low, high) with low < high")
        self("train")

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """``x``, and ``label``, ``x_test``, ``label_test`` where there are such."""
        if not self.path:
            refuse("path", self.path, "the .npz with your arrays: --config.data.path=FILE.npz")
        file = Path(self.path).expanduser()
        if not file.is_file():
            refuse("path", self.path, "an .npz file that exists")
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except (zipfile.BadZipFile, ValueError, AttributeError, TypeError) as error:
            refuse("path", self.path, f"an .npz of plain arrays, as numpy.savez writes it ({error})")
        keys = {field: self._key(field, list(arrays)) for field in NAMES}
        return {field: arrays[key] for field, key in keys.items() if key is not None}

    def _key(self, field: str, there: list[str]) -> str | None:
        """The key of ``field`` among those that the file has."""
        asked = getattr(self, field)
        if asked is None:
            asked = next((name for name in NAMES[field] if name in there), None)
        if (asked is None and field == "x") or (asked is not None and asked not in there):
            refuse(field, asked, f"a key of {self.path}: {', '.join(there) or 'it has none'}", there if asked else None)
        return asked

    @functools.cached_property
    def _splits(self) -> dict[str, ArrayRecords]:
        """The two splits, checked."""
        arrays = self._arrays
        x, label = _examples("x", arrays["x"]), arrays.get("label")
        _labels("label", label, len(x))
        if "x_test" in arrays:
            x_test, label_test = _examples("x_test", arrays["x_test"]), arrays.get("label_test") if label is not None else None
            if x_test.shape[1:] != x.shape[1:]:
                refuse("x_test", x_test.shape[1:], f"examples of the training array's shape {x.shape[1:]}")
            if label is not None and label_test is None:
                refuse("label_test", None, "labels of the test array, because the training array has labels")
            _labels("label_test", label_test, len(x_test))
            return {"train": _records(x, label), "test": _records(x_test, label_test)}
        held = bits(np.arange(len(x)), 0) < np.uint64(int(self.holdout * 2**64))
        if held.all():
            refuse("holdout", self.holdout, f"a fraction that leaves training examples: all {len(x)} are held out")
        return {name: _records(x[rows], None if label is None else label[rows]) for name, rows in (("train", ~held), ("test", held))}

    def _open(self, split: str) -> Records:
        return self._splits[split]

    def _spec(self) -> DataSpec:
        arrays = self._arrays
        classes = [int(arrays[k].max()) + 1 for k in ("label", "label_test") if k in arrays and "label" in arrays and len(arrays[k])]
        values = [part for item in sorted(arrays.items()) for part in item]
        mark = digest("npz", *values, self.holdout, self.value_range)
        return DataSpec(self._splits["train"].arrays["image"].shape[1:], max(classes, default=0), mark)

    def preprocess(self, records: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``Source.preprocess``, with (0, 255) for uint8."""
        if self.value_range is None and records["image"].dtype == np.uint8:
            return dataclasses.replace(self, value_range=(0, 255)).preprocess(records)
        return super().preprocess(records)


def _examples(field: str, x: np.ndarray) -> np.ndarray:
    """``x`` with a channel axis, if it is numbers of rank 2, 3 or 4."""
    if x.ndim not in (2, 3, 4) or x.dtype.kind not in "uif" or not len(x):
        refuse(field, f"{x.dtype} {x.shape}", "numbers of shape (n, h, w, c), (n, h, w) or (n, d) with n > 0")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        refuse(field, "values that are not finite", "finite values")
    return x[..., None] if x.ndim == 3 else x


def _labels(field: str, label: np.ndarray | None, count: int):
    """Refuses labels that are no integers from 0, one per example."""
    if label is not None and (label.shape != (count,) or label.dtype.kind not in "ui" or label.min() < 0):
        refuse(field, f"{label.dtype} {label.shape}", f"integers from 0, one for each of {count} examples")


def _records(x: np.ndarray, label: np.ndarray | None) -> ArrayRecords:
    return ArrayRecords(image=x) if label is None else ArrayRecords(image=x, label=label)
