"""Batches on the devices before they are asked for: data pipeline -> coupling -> devices, in a background thread.

    batch b of the run  ->  coupling(fold_in(key, b), x0)  over the global batch  ->  rows of this process  ->  Layout.place

Update k (from 0) reads batch k, so the step says everything about randomness; the position of the data is that *behind the batches handed
out*, whatever has been read ahead.  A pipeline that raises, or a process of it that dies, ends the iteration with PipelineFailed: whoever
trains never waits for what will not come.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from score_lab.build import ConfigError, build
from score_lab.data import batches
from score_lab.training.options import data_options
from score_lab.training.parallel import Layout
from score_lab.training.parts import Parts
from score_lab.training.stops import PipelineFailed
from score_lab.types import Array, PyTree

__all__ = ["BEGINNING", "Feed", "Start", "open_source", "train_stream"]

AGAIN = "the same command goes on from the newest checkpoint"
LOOK, GRACE = 1.0, 10.0
"""Seconds of waiting for a batch between two looks at the pipeline's processes, and those that Grain has to say itself why one is gone."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a stream begins: its first batch is number ``batch`` of the run, at position ``example`` in the order of the data.

    Both are 0 but where a run goes on with batches of another size, or read by other processes (carried.py).
    """

    batch: int = 0
    example: int = 0

    def at(self, step: int, size: int) -> Start:
        """Where a stream begins that goes on after update ``step - 1``, all updates of this one having been of ``size`` examples."""
        return Start(step, self.example + (step - self.batch) * size)


BEGINNING = Start()


def open_source(config: Mapping[str, Any]) -> Any:
    """The data source that ``config.data`` names; ConfigError where it is misspelt or the data are absent."""
    return build(data_options(config)[0], "score_lab.data", "config.data", needs=("preprocess",))


def train_stream(parts: Parts, source: Any, layout: Layout, seed: int, start: Start = BEGINNING) -> Iterator[dict[str, Any]]:
    """The endless iterator over training batches from ``start`` on: the rows of this process, or all of them where a coupling pairs the
    global batch.
    """
    pipeline = data_options(parts.config)[1]
    shared = {} if parts.coupling is not None else {"process_index": layout.process, "process_count": layout.processes}
    return batches(source, "train", seed=seed, start=start.example, **pipeline, **shared)


class Feed:
    """An iterator of ``(batches on the devices, position behind them)``, one item per dispatch of ``plan``.

    Args:
      stream: of batches; ``get_state`` gives its position.
      plan: the number of steps of every dispatch.
      first: the number of the stream's next batch.
      coupling, key: the pairing over the global batch, or None, and the key of the run: it draws what the devices would draw at that step.
      ahead: dispatches prepared in advance.
    """

    def __init__(self, stream: Any, layout: Layout, plan: Sequence[int], first: int, coupling: Any, key: Array, ahead: int):
        self._stream, self._layout, self._plan, self._first = stream, layout, plan, first
        self._coupling, self._key = coupling, key
        self._queue: queue.Queue = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._others, self._workers = _workers(), set()  # processes of other streams; those of this one, which begin with its first batch
        self._begun = self._lost = False
        self._thread = threading.Thread(target=self._run, name="score_lab feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[PyTree, dict[str, Any]]]:
        number = self._first
        for count in self._plan:
            item = self._next(number)
            if isinstance(item, ConfigError):
                raise item
            if isinstance(item, BaseException):
                what = " ".join(f"{type(item).__name__}: {item}".split())[:500]
                raise PipelineFailed(f"the data pipeline failed before step {number + 1}: {what}; {AGAIN}") from item
            number += count
            yield item

    def _next(self, number: int) -> Any:
        """The next item.  Raises PipelineFailed where a process of the pipeline is gone and nobody says why."""
        lost: float | None = None
        while True:
            if not self._begun:  # the thread that trains waits here, and opens no other stream meanwhile
                self._workers |= _workers() - self._others
            try:
                item = self._queue.get(timeout=LOOK)
                if not self._begun:
                    self._workers, self._begun = self._workers | (_workers() - self._others), True
                return item
            except queue.Empty:
                gone = self._workers - _workers()
                lost = (lost or time.monotonic()) if gone else None
                if gone and time.monotonic() - lost > GRACE:
                    self._lost = True
                    pids = ", ".join(map(str, sorted(gone)))
                    what = f"the data pipeline failed before step {number + 1}: its process {pids} is gone; {AGAIN}"
                    raise PipelineFailed(what) from None

    def close(self) -> None:
        """Ends the thread, unless it waits in the pipeline for a process that is gone: then it ends with this one."""
        self._closed.set()
        while self._thread.is_alive() and not self._lost:
            self._drain()
            self._thread.join(timeout=0.05)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _drain(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            pass

    def _run(self) -> None:
        try:
            number = self._first
            for count in self._plan:
                rows = [self._couple(number + k, next(self._stream)) for k in range(count)]
                number += count
                item = (self._layout.place(rows), self._stream.get_state())
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that trains, which raises it
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _couple(self, number: int, batch: dict[str, Any]) -> dict[str, Any]:
        """``batch`` with the pairs that the coupling makes over the global batch, cut to the rows of this process."""
        if self._coupling is None:
            return batch
        batch = batch | self._coupling(jax.random.fold_in(self._key, number), batch["x0"])
        start = self._layout.process * self._layout.local_size
        return jax.tree.map(lambda x: np.asarray(x)[start : start + self._layout.local_size], batch)


def _workers() -> set[int]:
    """The processes that Grain has started and that are alive."""
    return {child.pid for child in multiprocessing.active_children() if child.name.startswith("grain")}
