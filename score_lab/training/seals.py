"""What every file of a checkpoint was when it was written, so that one that was damaged since is known before it is used.

    WORKDIR/seals/STEP.json      {file: [bytes, CRC-32]} of WORKDIR/checkpoints/STEP

A checkpoint appears whole or not at all, and Orbax notices some damage, but not a byte that changed inside of an array.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from score_lab.training.whole import on_disk, write_whole

__all__ = ["damage", "is_sealed", "seal"]

PIECE = 1 << 24


def seal(directory: Path, file: Path) -> None:
    """Writes into ``file``, whole or not at all, what the files of ``directory`` are, after they have reached the disk."""
    there = sorted(directory.rglob("*"))
    for path in (*there, directory, directory.parent):
        on_disk(path)
    file.parent.mkdir(exist_ok=True)
    write_whole(file, json.dumps({str(path.relative_to(directory)): _mark(path) for path in there if path.is_file()}))


def damage(directory: Path, file: Path, deep: bool = True) -> str | None:
    """What is wrong with ``directory`` in a few words: a file that is missing, shorter or (``deep``: every byte is read) changed.  None if
    nothing is, or if there is no seal to hold it to.  Raises OSError where it cannot be known."""
    if not any(directory.iterdir()):
        return "it is empty"
    for name, (size, check) in _sealed(file).items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
        if deep and _mark(path)[1] != check:
            return f"{name} is not what was written"
    return None


def is_sealed(file: Path) -> bool:
    """Whether ``file`` is a seal."""
    return bool(_sealed(file))


def _sealed(file: Path) -> dict[str, list[int]]:
    """What ``file`` says; nothing where there is none, or where it was torn."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _mark(path: Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a file, a piece at a time."""
    check = size = 0
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            check, size = zlib.crc32(piece, check), size + len(piece)
    return size, check
