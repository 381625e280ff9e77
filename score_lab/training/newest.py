"""The newest checkpoint that can be read: which one that is, and how several processes agree on it.

    sealed, and not what its seal says        damaged: passed over, with a line, for the one before
    without a seal, and cannot be read        likewise, where the error says that it is the files
    sealed, and cannot be read                no memory, a file system that fails for a while: Unreadable, one line, and nothing is moved

Of several processes the first looks (every byte is read by it alone) and tells the others; all go on from the same checkpoint, or end.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from score_lab.build import ConfigError, refuse
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.seals import is_sealed
from score_lab.training.stops import Unreadable

__all__ = ["newest", "read_sound"]

SOUND, UNSEALED, DAMAGED, UNKNOWN, NONE = range(5)
"""What the first process finds of a checkpoint: as it was sealed, nothing to hold it to, damaged, not to be looked at; no further one."""
FOR_A_WHILE = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.EACCES)
"""Errors that say nothing of what a file holds."""


def newest(checkpoints: Checkpoints, read: Callable[[int], Any]) -> tuple[int, Any, dict[int, str]]:
    """``(step, read(step), {later step: what is wrong with it})`` of the newest checkpoint that is not damaged, the same in all
    processes.

    Raises ConfigError where there is none, whatever ``read`` refuses, and Unreadable for one that is sound and cannot be read.
    """
    damaged: dict[int, str] = {}
    while True:
        step, found, why = _look(checkpoints, damaged)
        if found == NONE:
            what = "; ".join(f"checkpoint {step}: {why}" for step, why in damaged.items())
            refuse("workdir", str(checkpoints.directory.parent), f"the workdir of a run with a checkpoint that can be read ({what})")
        if found == UNKNOWN:
            raise Unreadable(_unreadable(checkpoints, step, why))
        result = None
        if found != DAMAGED:
            result, why = _attempt(checkpoints, read, step, found == SOUND)
            if found == SOUND or not _any(why is not None):
                return step, result, damaged
        damaged[step] = why or "another process could not read it"


def read_sound(checkpoints: Checkpoints, read: Callable[[int], Any], step: int) -> Any:
    """``read(step)`` of a checkpoint that is not damaged.  Raises Unreadable where it cannot be read."""
    return _attempt(checkpoints, read, step, sound=True)[0]


def _attempt(checkpoints: Checkpoints, read: Callable[[int], Any], step: int, sound: bool) -> tuple[Any, str | None]:
    """``(read(step), None)``, or ``(None, what is wrong)``.  Raises Unreadable where that cannot be because its files are damaged: they
    are ``sound``, or the error says nothing of them."""
    try:
        return read(step), None
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes Orbax raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if sound or _for_a_while(error):
            raise Unreadable(_unreadable(checkpoints, step, why)) from error
        return None, why


def _look(checkpoints: Checkpoints, damaged: Mapping[int, str]) -> tuple[int, int, str | None]:
    """``(step, what is found of it, what is wrong with it)`` of the newest checkpoint that is not among ``damaged``, as the first
    process sees it: every byte is read by it alone."""
    step, found, why = -1, NONE, None
    if jax.process_index() == 0:
        step = max((s for s in checkpoints.steps if s not in damaged), default=-1)
        if step >= 0:
            try:
                why = checkpoints.damage(step)
                found = DAMAGED if why else SOUND if is_sealed(checkpoints.seals / f"{step}.json") else UNSEALED
            except (OSError, Unreadable) as error:
                found, why = UNKNOWN, str(error.__cause__ or error)
    if jax.process_count() > 1:
        step, found = multihost_utils.broadcast_one_to_all(np.array([step, found], np.int32)).tolist()
        if jax.process_index() and found in (DAMAGED, UNKNOWN):
            why = "as the first process says"
    return step, found, why


def _unreadable(checkpoints: Checkpoints, step: int, why: str) -> str:
    again = "nothing was changed, and the same command tries again"
    return f"{checkpoints.directory.parent}: checkpoint {step} is not known to be damaged, and could not be read ({why}): {again}"


def _any(mine: bool) -> bool:
    """Whether it is so in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(mine)))) if jax.process_count() > 1 else mine


def _for_a_while(error: BaseException | None) -> bool:
    """Whether ``error``, or one that it came from, is a lack of memory or of the file system that says nothing of what a file holds."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in FOR_A_WHILE or "RESOURCE_EXHAUSTED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
