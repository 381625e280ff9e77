"""Ctrl-C and SIGTERM as a request that the training loop answers between two dispatches, in all processes at once."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
import numpy as np

__all__ = ["StopRequest"]


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted in ``signal``; a second one interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def agreed(self, meeting: bool) -> bool:
        """Whether to stop now.  Several processes must stop at the same step: they compare notes where all of them are at a ``meeting``."""
        if jax.process_count() == 1:
            return self.signal is not None
        if not meeting:
            return False
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(self.signal is not None))))
