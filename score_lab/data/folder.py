"""One's own folder of pictures.

Every file below ``path`` with a picture's suffix, in the order of its relative path.  If all of them lie in subfolders, the first level
of subfolders, sorted, is the classes 0, 1, ...; otherwise there are no labels.  A file is held out for ``test`` if the SHA-256 of its
relative path, read as a fraction of 2^256, is below ``holdout``: adding files never moves one from one split to the other.
Pictures are turned as their EXIF says, brought to (size, size) as in score_lab.data.images, and mapped from 0..255 to [-1, 1].
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from score_lab.build import refuse
from score_lab.data.images import as_array, fit_picture
from score_lab.data.source import CachedRecords, DataSpec, Records, Source, digest

__all__ = ["Folder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Folder(Source):
    """The pictures below ``path`` at (size, size, channels).

    Attributes:
      path: the folder; ``~`` is understood.
      size: side in pixels.
      channels: 3 (colour) or 1 (grey).
      holdout: the fraction held out for the split ``test``, 0 to below 1.
      flip: training examples may be mirrored left to right.
      cache_mib: decoded splits up to this size are kept in memory as they are read.

    Its fingerprint covers the relative paths, the files' sizes, and the fields that change ``x0``.
    """

    path: str
    size: int
    channels: int = 3
    holdout: float = 0.1
    flip: bool = False
    cache_mib: int = 256

    value_range = (0, 255)

    def check(self):
        """Raises ConfigError unless the folder is there, holds pictures that open, and the fields make sense."""
        if not self.path:
            refuse("path", self.path, "the folder of your pictures: --config.data.path=FOLDER")
        if not os.path.isdir(self._root):
            refuse("path", self.path, "a folder that exists")
        if self.size < 1:
            refuse("size", self.size, "at least 1")
        if self.channels not in (1, 3):
            refuse("channels", self.channels, "1 (grey) or 3 (colour)")
        if not 0 <= self.holdout < 1:
            refuse("holdout", self.holdout, "0 to below 1")
        if not self._files:
            refuse("path", self.path, f"a folder with pictures ({', '.join(SUFFIXES)}) in it")
        if not self._members("train"):
            refuse("holdout", self.holdout, f"a fraction that leaves training pictures: all {len(self._files)} are held out")
        _FolderRecords(self._root, self._members("train")[:1], self.size, self.channels)[0]

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    @functools.cached_property
    def _files(self) -> tuple[str, ...]:
        """Relative paths, ``/`` between folders, sorted."""
        found = []
        for folder, _, names in os.walk(self._root, followlinks=True):
            found += [Path(folder, n).relative_to(self._root).as_posix() for n in names if n.lower().endswith(SUFFIXES) and n[0] != "."]
        return tuple(sorted(found))

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ...; empty if unlabelled."""
        if not all("/" in file for file in self._files):
            return ()
        return tuple(sorted({file.split("/")[0] for file in self._files}))

    def _members(self, split: str) -> list[tuple[str, int | None]]:
        """(file, label) of ``split``."""
        number = {name: k for k, name in enumerate(self.classes)}
        bound = int(self.holdout * 2**64)
        members = [f for f in self._files if (int.from_bytes(hashlib.sha256(f.encode()).digest()[:8], "big") < bound) == (split == "test")]
        return [(f, number.get(f.split("/")[0])) for f in members]

    def _open(self, split: str) -> Records:
        records = _FolderRecords(self._root, self._members(split), self.size, self.channels)
        small = len(records) * self.size**2 * self.channels <= self.cache_mib * 2**20
        return CachedRecords(records) if small else records

    def _spec(self) -> DataSpec:
        sizes = [(self._root / file).stat().st_size for file in self._files]
        mark = digest("folder", self._files, sizes, self.size, self.channels, self.holdout)
        return DataSpec((self.size, self.size, self.channels), len(self.classes), mark)


class _FolderRecords:
    """Pictures of one split, opened and brought to size one by one."""

    def __init__(self, root: Path, members: list[tuple[str, int | None]], size: int, channels: int):
        self.root, self.members, self.size, self.channels = root, members, size, channels

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, label = self.members[index]
        try:
            with Image.open(self.root / file) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB" if self.channels == 3 else "L")
        except OSError as error:
            refuse("path", str(self.root / file), f"a picture that opens ({error})")
        image = as_array(fit_picture(upright, self.size))
        return {"image": image} if label is None else {"image": image, "label": label}
