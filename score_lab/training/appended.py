"""A file that only grows, by whole pieces: one that does not fit is taken back, kept in memory, and written with the next.

So a disk that is full for a while leaves no torn line and no gap.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["Appended"]


class Appended:
    """``path``, opened at its end; every write goes to the system at once.  Raises OSError, naming the file, where there is no space; then
    nothing of the piece is in the file, and ``waiting`` holds it.  So it does where ``path`` is no more: moved or removed, it would take
    whatever is written with it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.waiting = b""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._size = os.fstat(self._file).st_size

    def write(self, piece: bytes = b"") -> None:
        """Appends what is waiting and ``piece``, all of it or nothing."""
        self.waiting += piece
        if not self.waiting:
            return
        os.stat(self.path)
        rest = memoryview(self.waiting)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self._size += len(self.waiting)
        self.waiting = b""

    def __enter__(self) -> Appended:
        return self

    def __exit__(self, *_: Any) -> None:
        """What still finds no space is given up: whoever wrote it has said so."""
        try:
            self.write()
        except OSError:
            pass
        os.close(self._file)
