"""What every file of a checkpoint was when it was written, so that one that was damaged since is known before it is used.

    WORKDIR/seals/STEP.json      {file: [bytes, CRC-32]} of WORKDIR/checkpoints/STEP

A checkpoint appears whole or not at all, and Orbax notices some damage, but not a byte that changed inside of an array.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

__all__ = ["damage", "seal"]

PIECE = 1 << 24


def seal(directory: Path, file: Path) -> None:
    """Writes into ``file``, whole or not at all, what the files of ``directory`` are."""
    found = {str(path.relative_to(directory)): _mark(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    file.parent.mkdir(exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(found))
    os.replace(new, file)


def damage(directory: Path, file: Path, deep: bool = True) -> str | None:
    """What is wrong with ``directory`` in a few words: a file that is missing, shorter or (``deep``: every byte is read) changed.  None if
    nothing is, or if there is no seal to hold it to."""
    if not any(directory.iterdir()):
        return "it is empty"
    try:
        sealed = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    for name, (size, check) in sealed.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
        if deep and _mark(path)[1] != check:
            return f"{name} is not what was written"
    return None


def _mark(path: Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a file, a piece at a time."""
    check = size = 0
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            check, size = zlib.crc32(piece, check), size + len(piece)
    return size, check
