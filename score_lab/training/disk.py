"""What cannot be written: on a full disk the run stops or goes on, as configured; for any other reason it stops.  One line, no traceback.

    no space, a quota used up, a file that may not grow:
        config.training.disk_full = "stop"      DiskFull: exit status 1; what was saved before is whole
                                  = "go_on"     what did not fit is tried again with the next of its kind, and the last state must fit
    a file system that fails, is gone or can only be read; or a file of the workdir of which the system says anything else (no permission,
    a name that is too long, no such folder because somebody has moved it):
        NotWritten: exit status 1, naming the file
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from score_lab.build import ConfigError
from score_lab.training.metrics import say
from score_lab.training.stops import DiskFull, NotWritten, RunStopped

__all__ = ["Disk", "no_space", "not_written"]

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
FAILING = (errno.EIO, errno.ESTALE, errno.EROFS)
"""What a file system says that fails, is gone, or can only be read."""
REFUSING = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOTCONN, errno.ETIMEDOUT)
"""What it says of one file; other files than the workdir's are no matter of a run's."""
IN_WORDS = {"NOT_FOUND": errno.ENOENT, "PERMISSION_DENIED": errno.EACCES}
"""What TensorStore, which has no numbers, begins with where it leaves out the system's words."""


def no_space(error: BaseException | None) -> str | None:
    """``no space left on device`` or its like where that is what ``error``, or one that it came from, says; None for any other error.

    TensorStore, which writes arrays, tells of it in words alone.
    """
    return _said_of(error, FULL)


def not_written(error: BaseException | None, workdir: Path) -> str | None:
    """The same of a file system that fails, is gone or can only be read (``input/output error``), and of whatever the system says of a file
    of ``workdir``, with its name: ``permission denied: 'x/checkpoints/20'``.

    Of the errors that ``error`` came from only its causes are asked about that: another may have been met and dealt with before.
    """
    if (failing := _said_of(error, FAILING)) is not None:
        return failing
    while error is not None:
        if (file := _file_of(error, workdir)) is not None:
            return f"{_lower(error.strerror or type(error).__name__)}: {file!r}"
        if not isinstance(error, OSError) and str(workdir.absolute()) in (text := str(error)):
            number = next((number for number in REFUSING if os.strerror(number) in text), IN_WORDS.get(text.partition(":")[0]))
            if number is not None:
                return _lower(os.strerror(number))
        error = error.__cause__
    return None


def _file_of(error: BaseException, workdir: Path) -> str | None:
    """The file of ``workdir`` that ``error`` is about, None for none."""
    if not isinstance(error, OSError):
        return None
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    return next((name for name in names if Path(name).absolute().is_relative_to(workdir.absolute())), None)


def _said_of(error: BaseException | None, numbers: tuple[int, ...]) -> str | None:
    """The words of the first of ``numbers`` that ``error``, or one that it came from, says."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for number in numbers:
            words = os.strerror(number)
            if isinstance(error, OSError) and error.errno == number or words in str(error):
                return _lower(words)
        error = error.__cause__ or error.__context__
    return None


def _lower(words: str) -> str:
    return words[0].lower() + words[1:]


class Disk:
    """What is done where something finds no space: ``go_on`` or stop.  ``lead``: whether this process speaks."""

    def __init__(self, workdir: Path, go_on: bool, lead: bool = True):
        self.workdir, self.go_on, self.lead = Path(workdir), go_on, lead

    @contextlib.contextmanager
    def writing(self, what: str, last: bool = False) -> Iterator[None]:
        """Around the writing of ``what``.  Raises DiskFull where there is no space and the run is to stop, or this was the ``last`` of its
        kind, NotWritten where the file system fails or refuses a file of the workdir; other errors as they are."""
        try:
            yield
        except (RunStopped, ConfigError):
            raise
        except Exception as error:  # noqa: BLE001 - Orbax and TensorStore raise this in several types
            why = no_space(error)
            if why is None and (failing := not_written(error, self.workdir)) is not None:
                raise NotWritten(f"{self.workdir}: {what} could not be written ({failing}): {self._again(failing)}") from error
            if why is None:
                raise
            if last or not self.go_on:
                raise DiskFull(f"{self.workdir}: {what} could not be written ({why}): {self._advice(last)}") from error
            if self.lead:
                say(f"{self.workdir}: {what} could not be written ({why}): training goes on, and the next one is tried")

    def _again(self, failing: str) -> str:
        if failing.startswith(_lower(os.strerror(errno.ENOENT))) and not os.path.exists(self.workdir / "config.json"):
            return "stopped; was the workdir moved or removed?"
        return "stopped; what was saved before is whole, and the same command goes on from there"

    def _advice(self, last: bool) -> str:
        saved = "what was saved before is whole, and with space the same command goes on from there"
        return saved if last or self.go_on else f"stopped; {saved} (or config.training.disk_full=go_on)"
