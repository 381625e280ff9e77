"""One run at a time writes a workdir: an advisory lock that the operating system takes back when its process ends, however it ends.

    WORKDIR/lock       held by the run that writes; it says which process on which machine that is
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import IO, Any

from score_lab.build import refuse

__all__ = ["Lock"]


class Lock:
    """While entered, this process holds ``workdir``.  Raises ConfigError at once where another does; the file stays, and holds nothing."""

    def __init__(self, workdir: Path):
        self.workdir = Path(workdir)
        self._file: IO[str] | None = None

    def __enter__(self) -> Lock:
        self.workdir.mkdir(parents=True, exist_ok=True)
        file = (self.workdir / "lock").open("a+")
        if not _taken(file):
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


def _taken(file: IO[str]) -> bool:
    """Whether the lock is now this process's."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where nobody is kept out
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
