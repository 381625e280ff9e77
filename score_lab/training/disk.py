"""A disk that is full, a quota that is used up, a file that may not grow: the run stops with one line or goes on, as configured.

    config.training.disk_full = "stop"      DiskFull: one line, exit status 1; what was saved before is whole
                              = "go_on"     one line; what did not fit is tried again with the next of its kind, and the last state must fit
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from score_lab.build import ConfigError
from score_lab.training.metrics import say
from score_lab.training.stops import DiskFull, NotWritten, RunStopped

__all__ = ["Disk", "no_space", "not_written"]

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
FAILING = (errno.EIO, errno.ESTALE, errno.EROFS)
"""What a file system says that fails, is gone, or can only be read."""


def no_space(error: BaseException | None) -> str | None:
    """``no space left on device`` or its like where that is what ``error``, or one that it came from, says; None for any other error.

    TensorStore, which writes arrays, tells of it in words alone.
    """
    return _said_of(error, FULL)


def not_written(error: BaseException | None) -> str | None:
    """The same of a file system that fails, is gone or can only be read: ``input/output error``, ``read-only file system``."""
    return _said_of(error, FAILING)


def _said_of(error: BaseException | None, numbers: tuple[int, ...]) -> str | None:
    """The words of the first of ``numbers`` that ``error``, or one that it came from, says."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for number in numbers:
            words = os.strerror(number)
            if isinstance(error, OSError) and error.errno == number or words in str(error):
                return words[0].lower() + words[1:]
        error = error.__cause__ or error.__context__
    return None


class Disk:
    """What is done where something finds no space: ``go_on`` or stop.  ``lead``: whether this process speaks."""

    def __init__(self, workdir: object, go_on: bool, lead: bool = True):
        self.workdir, self.go_on, self.lead = workdir, go_on, lead

    @contextlib.contextmanager
    def writing(self, what: str, last: bool = False) -> Iterator[None]:
        """Around the writing of ``what``.  Raises DiskFull where there is no space and the run is to stop, or this was the ``last`` of its
        kind, NotWritten where the file system fails; other errors as they are."""
        try:
            yield
        except (RunStopped, ConfigError):
            raise
        except Exception as error:  # noqa: BLE001 - Orbax and TensorStore raise this in several types
            why = no_space(error)
            if why is None and (failing := not_written(error)) is not None:
                again = "stopped; what was saved before is whole, and the same command goes on from there"
                raise NotWritten(f"{self.workdir}: {what} could not be written ({failing}): {again}") from error
            if why is None:
                raise
            if last or not self.go_on:
                raise DiskFull(f"{self.workdir}: {what} could not be written ({why}): {self._advice(last)}") from error
            if self.lead:
                say(f"{self.workdir}: {what} could not be written ({why}): training goes on, and the next one is tried")

    def _advice(self, last: bool) -> str:
        saved = "what was saved before is whole, and with space the same command goes on from there"
        return saved if last or self.go_on else f"stopped; {saved} (or config.training.disk_full=go_on)"
