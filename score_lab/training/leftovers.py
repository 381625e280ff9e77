"""What Orbax and TensorStore leave behind where a save or a read has failed: folders half-written, and callbacks that come too late.

A failed read or write of many arrays is told as soon as one of them fails, and Orbax closes the event loop that waited for all.  The
others go on in TensorStore's own threads; each finds the loop closed, and Python prints a traceback for it (``sys.unraisablehook``), dozens
after the one line that tells of the failure.  The callbacks hold the loop, so once it is gone none of them is left.  What had not begun
is never awaited, which Python would warn of when it is thrown away, at the latest when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import sys
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["quiet", "remove_half_written", "try_folder"]

TRIES, GONE, PAUSE = 200, 10, 0.05
"""How often a folder that is still written into is removed, how many looks in a row must not find it, and the seconds between."""

NOT_BEGUN = r"coroutine '[\w.<>]*serialize[\w.<>]*' was never awaited"
"""Of what reads or writes one array."""


def remove_half_written(directory: Path) -> None:
    """Removes what a save of Orbax that failed has left in ``directory``: it would fill the disk, and is read by nobody.  Of its writers
    one has failed, and others may be writing still: it may be there again a moment after it was not."""
    for left in directory.glob("*.orbax-checkpoint-tmp*"):
        gone = 0
        for _ in range(TRIES):
            shutil.rmtree(left, ignore_errors=True)
            gone = 0 if left.exists() else gone + 1
            if gone == GONE:
                break
            time.sleep(PAUSE)


def try_folder(directory: Path) -> None:
    """Makes a folder in ``directory`` and removes it; raises OSError where it may not.  A save of Orbax that cannot make its own leaves
    threads that wait for it, and Python, which waits for them at its end, ends five minutes later.  ``directory`` is made where it is gone,
    and what it lies in is not."""
    directory.mkdir(exist_ok=True)
    tried = directory / "tried.orbax-checkpoint-tmp"
    tried.mkdir(exist_ok=True)
    tried.rmdir()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While entered, late callbacks print nothing; where an error leaves it, until the closed event loops that there are then are gone.
    After that ``sys.unraisablehook`` is what it was; of Orbax's coroutines that have not begun nothing is said from now on."""
    hook = _Hook()
    warnings.filterwarnings("ignore", NOT_BEGUN, RuntimeWarning)
    try:
        yield
    except BaseException:
        hook.remove_after(_closed_loops())
        raise
    hook.remove()


class _Hook:
    """``sys.unraisablehook``, from now on, without the late callbacks; several may lie one on the other."""

    def __init__(self) -> None:
        self.before, self.removed, self.left = sys.unraisablehook, False, 0
        sys.unraisablehook = self

    def __call__(self, told: Any) -> None:
        if self.removed or not _is_late(told):
            self.before(told)

    def remove(self) -> None:
        """Takes it away, at once or as soon as nobody else's lies on it; until then it passes everything on."""
        self.removed = True
        while isinstance(hook := sys.unraisablehook, _Hook) and hook.removed:
            sys.unraisablehook = hook.before

    def remove_after(self, loops: list[Any]) -> None:
        """Takes it away when the last of ``loops`` is gone."""
        self.left = len(loops)
        for loop in loops:
            weakref.finalize(loop, self._one_gone).atexit = False
        if not loops:
            self.remove()

    def _one_gone(self) -> None:
        self.left -= 1
        if not self.left:
            self.remove()


def _is_late(told: Any) -> bool:
    """Whether this is a callback from a thread that is not Python's: it names no object whose it would be."""
    return told.object is None and isinstance(told.exc_value, RuntimeError) and str(told.exc_value) == "Event loop is closed"


def _closed_loops() -> list[Any]:
    """The closed event loops that somebody still holds."""
    return [x for x in gc.get_objects() if isinstance(x, asyncio.AbstractEventLoop) and x.is_closed()]
