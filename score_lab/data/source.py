"""What every data source gives: records at random access, a spec, and one map to the network's range.

    source(split)[i] = {"image": (*shape), "label": int}          i = 0 .. len(source(split)) - 1, split "train" or "test"
    source.preprocess(records) = {"x0": float32 (n, *shape) = 2 (image - low)/(high - low) - 1, "label": int32 (n,)}

``(low, high) = value_range`` of the stored values; None leaves the values as they are (toys, arrays that are scaled already).
``label`` is absent where a source has none (``spec.num_classes == 0``).  Records never change between calls: augmentation belongs to
the pipeline, which seeds it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from typing import Any, Protocol, runtime_checkable

import numpy as np

from score_lab.build import refuse

__all__ = ["ArrayRecords", "CachedRecords", "DataSpec", "Records", "Source", "digest", "gather"]

SPLITS = ("train", "test")
"""What every source calls its two splits; how they are cut is each source's own."""


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What is known of the data before an example is read.

    Attributes:
      shape: of one ``x0``, (height, width, channels) or (dimensions,).
      num_classes: labels are 0 .. num_classes - 1; 0 says that there are none.
      fingerprint: sixteen hex digits of a hash of what identifies the data (each source says what that is) and of every field that
        changes ``x0``.
    """

    shape: tuple[int, ...]
    num_classes: int
    fingerprint: str


@runtime_checkable
class Records(Protocol):
    """Random access to the examples of one split."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{"image": array, "label": int}``; the same at every call."""


def gather(records: Records, indices: np.ndarray) -> dict[str, np.ndarray]:
    """The records at ``indices`` (n,), stacked: one vectorised lookup where ``records`` has ``gather``, else one by one."""
    if hasattr(records, "gather"):
        return records.gather(indices)
    rows = [records[int(i)] for i in indices]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class ArrayRecords:
    """Records that lie in memory as arrays of equal length: ``ArrayRecords(image=..., label=...)``."""

    def __init__(self, **arrays: np.ndarray):
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["image"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: array[index] for name, array in self.arrays.items()}

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``indices`` of every array."""
        return {name: array[indices] for name, array in self.arrays.items()}


class CachedRecords:
    """Slow records, each decoded once and then kept in arrays.

    A row is marked as filled after it was written, and writing it twice writes the same bytes, so that several threads may read; the
    arrays are made under a lock.
    """

    def __init__(self, records: Records):
        self.records = records
        self._lock = threading.Lock()
        self._filled = np.zeros(len(records), bool)
        self._arrays: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: rows[0] for name, rows in self.gather(np.asarray([index])).items()}

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``indices``; those that were never asked for are decoded first."""
        missing = np.unique(indices[~self._filled[indices]])
        if len(missing):
            rows = gather(self.records, missing)
            with self._lock:
                if not self._arrays:
                    self._arrays = {name: np.empty((len(self), *row.shape[1:]), row.dtype) for name, row in rows.items()}
            for name, row in rows.items():
                self._arrays[name][missing] = row
            self._filled[missing] = True
        return {name: array[indices] for name, array in self._arrays.items()}

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to a worker process: the records, not the cache, which each process fills for itself."""
        return {"records": self.records}

    def __setstate__(self, state: dict[str, Any]):
        self.__init__(state["records"])


def digest(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of ``parts``: arrays by dtype, shape and bytes, everything else by ``repr``."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).data if part.size else b"")
        else:
            total.update(repr(part).encode())
    return total.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Source:
    """The base of the sources, which write ``_open(split) -> Records`` and ``_spec() -> DataSpec``.

    ``value_range`` and ``flip`` are read from the subclass, as fields or as constants: the stored values that become -1 and 1 (None:
    no map), and whether the pipeline may mirror an image left to right in training.
    """

    value_range = None
    flip = False

    def __call__(self, split: str) -> Records:
        """The records of ``split``, opened once.  Raises ConfigError for a split that is none of ``train`` and ``test``."""
        if split not in SPLITS:
            refuse("split", split, " or ".join(SPLITS), SPLITS)
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Shape, number of classes and fingerprint."""
        return self._spec()

    @functools.cached_property
    def _opened(self) -> dict[str, Records]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what was opened or computed is not sent to a worker process."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def preprocess(self, records: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``x0`` (n, *shape) float32 and ``label`` (n,) int32 of stacked records; the value range is mapped to [-1, 1]."""
        x0 = records["image"].astype(np.float32)
        if self.value_range is not None:
            low, high = (np.float32(v) for v in self.value_range)
            x0 = (x0 - low) / ((high - low) / np.float32(2)) - np.float32(1)
        if "label" not in records:
            return {"x0": x0}
        return {"x0": x0, "label": np.asarray(records["label"], np.int32)}

    def _open(self, split: str) -> Records:
        raise NotImplementedError

    def _spec(self) -> DataSpec:
        raise NotImplementedError
