"""What a study has recorded, one npz for each thing that cost network evaluations: killed at any moment, it goes on where it was.

    records/KEY.npz      KEY the SHA-256 of the canonical JSON of what produced it; written whole, by renaming
    counts.json          evaluations of solvers on grids that were counted while planning
    spectrum_*.npz       of the data, measured once; one of other data is refused

Nothing is written before the first record is.
"""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.spectrum import Spectrum, digest_of
from score_lab.specs import key_of

__all__ = ["Records", "spectrum_of"]


class Records:
    """The folder of a study; ``made`` counts the records that this process had to make, ``there`` those that it found."""

    def __init__(self, folder: str | Path):
        self.folder, self.made, self.there = Path(folder), 0, 0
        self._lock, self._making = threading.Lock(), {}
        if self.folder.exists() and not self.folder.is_dir():
            refuse("output", str(self.folder), "a folder, or a name that does not exist yet")
        file = self.folder / "counts.json"
        self._counts = json.loads(file.read_text()) if file.is_file() else {}

    def kept(self, what: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays recorded for ``what`` (JSON), or those of ``make()``, which are then recorded.  A file that cannot be read is made
        again."""
        text, key = json.dumps(what, sort_keys=True), key_of(what)
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:  # two runs that need the same null make it once
            return self._kept(text, self.folder / "records" / f"{key}.npz", make)

    def _kept(self, text: str, file: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        if file.is_file():
            try:
                with np.load(file) as stored:
                    arrays = {name: stored[name] for name in stored.files if name != "what"}
                with self._lock:
                    self.there += 1
                return arrays
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                pass
        arrays = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        with open(part, "wb") as out:
            np.savez(out, what=text, **arrays)
        os.replace(part, file)
        with self._lock:
            self.made += 1
        return arrays

    def count(self, key: str) -> tuple[float | None, str] | None:
        """(nfe, "") or (None, reason), if it was counted."""
        return tuple(self._counts[key]) if key in self._counts else None

    def put_count(self, key: str, nfe: float | None, reason: str = "") -> None:
        """Remembers a count, or why it was refused; ``save_counts`` writes them."""
        self._counts[key] = (nfe, reason)

    def save_counts(self) -> None:
        """Writes the counts for the next run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"counts.json.{os.getpid()}.part"
        part.write_text(json.dumps(self._counts))
        os.replace(part, self.folder / "counts.json")


def spectrum_of(x: np.ndarray, basis: str, file: Path, what: str = "") -> Spectrum:
    """The spectrum of data ``x`` (n, *shape) in a basis of ``BASES``: as stored in ``file``, or measured and stored there.  Every
    coefficient is a band where the states are no images.

    ConfigError for a stored one of other data, another preprocessing (``what``) or another basis, and what ``Spectrum.of`` raises.
    """
    expected = digest_of(x, basis, what)
    if file.is_file():
        try:
            found = Spectrum.load(file)
        except Exception:  # noqa: BLE001 - whatever a broken file raises
            refuse("spectrum", str(file), "a file that Spectrum.save wrote; delete it and it is measured again")
        if found.digest != expected:
            refuse("spectrum", str(file), f"one of these data and this preprocessing ({expected}, not {found.digest}), or another --output")
        return found
    found = Spectrum.of(x, basis, "radial" if x.ndim == 4 else "each", what=what)
    part = file.with_name(f".{os.getpid()}.{file.name}")
    found.save(part)
    os.replace(part, file)
    return found
