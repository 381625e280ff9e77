"""Ctrl-C and SIGTERM as a request that the training loop answers between two dispatches, in all processes at once.

    one process        the signal is noted, and the loop stops after the dispatch that is under way
    several            the signal goes to JAX, which tells the other processes by its coordination service, away from the devices: it asks
                       each for the number of its last dispatch, and all stop after dispatch  max + 1

JAX looks for the signal once a second, so that all stop within two seconds and five dispatches (``parallel.in_flight`` of them may be under
way), whatever the cadence of logs.  The question costs a dispatch a look at a number in memory.
(``jax.experimental.multihost_utils.reached_preemption_sync_point``)
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
import numpy as np

__all__ = ["StopRequest"]


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is a request to stop; a second Ctrl-C interrupts at once.  A second SIGTERM changes
    nothing: schedulers send more than one (Slurm's proctrack/linuxproc to every process of a job, some of which pass it on).

    Attributes:
      signal: the one that asked, None for none; with several processes what ``named`` found.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}
        self._several = jax.process_count() > 1
        self._dispatches = 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)  # of several, SIGTERM is JAX's
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            return
        self.signal = signal.Signals(number)
        if self._several:
            signal.raise_signal(signal.SIGTERM)

    def agreed(self) -> bool:
        """Whether to stop now, asked once after every dispatch: in all processes at the same one."""
        if not self._several:
            return self.signal is not None
        from jax.experimental import multihost_utils

        self._dispatches += 1
        return bool(multihost_utils.reached_preemption_sync_point(self._dispatches))

    def named(self) -> signal.Signals | None:
        """What asked this run to stop, the same in all processes: SIGINT where one of them was told so by Ctrl-C.  They all ask at once,
        where ``agreed`` was true and nothing is under way on the devices."""
        if self._several:
            from jax.experimental import multihost_utils

            pressed = multihost_utils.process_allgather(np.array(self.signal is not None))
            self.signal = signal.SIGINT if np.any(pressed) else signal.SIGTERM
        return self.signal
