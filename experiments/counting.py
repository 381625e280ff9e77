"""A line on stderr that says how far a command has come: on a terminal one that is written over, in a log whole lines now and then."""

from __future__ import annotations

import sys
import time

__all__ = ["Line"]

EVERY = 10.0
"""Seconds between two lines where stderr is no terminal."""


class Line:
    """``line("cell 2/9")`` in place of what it said before; ``line("cell 9/9", last=True)`` ends it.

    Where stderr is no terminal nothing can be written over: what comes less than EVERY seconds after the line before is left out, but for
    the last.
    """

    def __init__(self) -> None:
        self._width, self._said = 0, time.monotonic()

    def __call__(self, text: str, last: bool = False) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:{self._width}}", end="\n" if last else "", file=sys.stderr, flush=True)
            self._width = 0 if last else len(text)
        elif last or time.monotonic() - self._said >= EVERY:
            print(text, file=sys.stderr, flush=True)
            self._said = time.monotonic()
