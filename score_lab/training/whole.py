"""Files that are there whole or not at all, also after the power has failed.

    write FILE.new, fsync it;  rename it to FILE;  fsync the folder          (else a file system may keep the name and lose what it held)
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["on_disk", "write_whole"]

NOT_THERE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR)
"""What systems say that cannot do this with a folder."""


def write_whole(file: Path, text: str) -> None:
    """Writes ``text`` into ``file``, whole or not at all; raises OSError, and leaves nothing half-written."""
    new = file.with_name(file.name + ".new")
    try:
        with new.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, file)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    on_disk(file.parent)


def on_disk(path: Path) -> None:
    """Returns when what ``path`` holds, bytes or (a folder) names, has reached the disk; of a folder, where the system knows how."""
    folder = path.is_dir()
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if not folder or error.errno not in NOT_THERE:
            raise OSError(error.errno, error.strerror, str(path)) from None
