"""One run at a time writes a workdir: an advisory lock that the operating system takes back when its process ends, however it ends.

    WORKDIR/lock       held by the run that writes; it says which process on which machine that is

It is ``flock``.  A file system that has none (Lustre without the option flock, NFS without its lock daemon) is refused in one line: with a
file that says "taken" in its place, a run that was killed would keep out the one that goes on.  On some others it holds among the
processes of one machine only (docs/scaling.md).
"""

from __future__ import annotations

import errno
import os
import platform
import time
from pathlib import Path
from typing import IO, Any

from score_lab.build import refuse
from score_lab.training.disk import no_space

__all__ = ["Lock", "holder"]

MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What a file system says that knows no lock."""
LOOK = 0.05
"""Seconds after which a lock that is held is tried once more: ``holder`` takes it for an instant."""


class Lock:
    """While entered, this process holds ``workdir``.  Raises ConfigError at once where another does, or where nobody can; the file stays,
    and holds nothing.  A workdir that cannot be made or written into is refused too."""

    def __init__(self, workdir: Path):
        self.workdir = Path(workdir)
        self._file: IO[str] | None = None

    def __enter__(self) -> Lock:
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            file = (self.workdir / "lock").open("a+")
        except OSError as error:
            if no_space(error) is not None:
                raise  # which is no mistake, and told as any other lack of it
            refuse("workdir", str(self.workdir), f"a directory that can be made and written into: {error.strerror} ({error.filename})")
        try:
            free = _taken(file) or time.sleep(LOOK) or _taken(file)
        except OSError as error:
            file.close()
            if error.errno not in MISSING:
                raise
            lacks = f"a directory of a file system that can lock files: here flock is refused ({error.strerror}), and nothing would keep"
            refuse("workdir", str(self.workdir), f"{lacks} two runs apart (see docs/scaling.md)")
        if not free:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            refuse("workdir", str(self.workdir), f"one that no other run is writing: {holder} is")
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def holder(workdir: Path) -> str | None:
    """Who holds ``workdir``, in words, or None; nothing is written, and the lock is free again when this returns."""
    try:
        with (Path(workdir) / "lock").open() as file:
            return None if _taken(file, shared=True) else file.read().strip() or "another process"
    except OSError:
        return None


def _taken(file: IO[str], shared: bool = False) -> bool:
    """Whether the lock is now this process's."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where nobody is kept out
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
