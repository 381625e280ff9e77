"""How a run ends before its time, each a line for the terminal and exit status 1: nothing that was saved is lost."""

from __future__ import annotations

__all__ = ["DiskFull", "NonFiniteLoss", "NotWritten", "PipelineFailed", "RunStopped", "Unreadable"]


class RunStopped(RuntimeError):
    """A run that could not go on; the message is one line that says what happened, at which step, and what to do."""


class NonFiniteLoss(RunStopped):
    """The loss or the gradient became infinite or NaN; the message says at which step and what to try."""


class DiskFull(RunStopped):
    """Something could not be written because the disk is full, a quota is used up or a file may not grow."""


class NotWritten(RunStopped):
    """Something could not be written for another reason: a file system that fails, no permission, a workdir that somebody has moved."""


class PipelineFailed(RunStopped):
    """The data pipeline raised or one of its processes died."""


class Unreadable(RunStopped):
    """A checkpoint that is not known to be damaged could not be read; nothing was changed."""
