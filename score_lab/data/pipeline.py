"""Batches from a source, by Grain: a pure function of the batch number, so that the number is the whole state.

Position ``i`` of the stream holds record ``order(i)``: with ``(epoch, j) = divmod(i, n)``, ``order(i) = j`` unshuffled, else
``pi_epoch(j)``, a permutation of ``0..n-1`` of its own for every epoch: the ``argsort`` of a counter-based hash, the same on every
machine.  (Grain's ``MapDataset.shuffle().repeat().batch()`` means the same, at 25 us a record; this takes 60 us a batch of 128 digits.)

Global batch ``b`` holds positions ``s + b B .. s + b B + B - 1``, with B the global batch size and s = ``start`` (0 unless one stream goes
on where another has ended), so a batch may reach into the next epoch and none is short.  Of these, process ``p`` of ``P`` reads the rows
``p B/P .. (p + 1) B/P - 1`` and no other.  So the examples, their order and their flips are the same whatever the number of processes,
threads or workers.

A batch is ``{"x0": float32 (B/P, *shape), "cond": {"label": int32 (B/P,)}, "index": int32 (B/P,)}``; unlabelled data have no ``cond``.
``index`` is the row in the global batch, 0 .. B - 1.  One pass (``repeat=False``) ends with the split; its last batch is filled up with
copies of the last record, ``mask`` (B/P,) is False there, and ``index`` is the position in the pass, 0 .. n - 1 (and on where filled
up), so that noise keyed by it does not depend on the batch size.

The iterator is Grain's: ``get_state()`` is a small JSON-able dict, ``set_state`` continues bit by bit, and Orbax saves it through
``grain.checkpoint``.  Without workers the state counts global batches, so it can be restored at another number of processes.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

import grain
import numpy as np
from absl import flags

from score_lab.build import refuse
from score_lab.data.hashing import bits
from score_lab.data.source import ArrayRecords, Records, Source, gather

__all__ = ["BatchSource", "batches", "numbered", "permutation", "stream_order"]


@functools.lru_cache(maxsize=4)
def permutation(num_records: int, epoch: int, seed: int) -> np.ndarray:
    """``pi_epoch``: 0 .. num_records - 1 sorted by the bits that ``(seed, epoch)`` gives each."""
    key = bits(np.array([epoch]), np.array([seed]))
    return np.argsort(bits(np.arange(num_records), key), kind="stable")


def stream_order(positions: np.ndarray, num_records: int, seed: int | None) -> np.ndarray:
    """Record ``order(i)`` for each stream position ``i`` (n,), int64; ``seed`` None leaves every epoch in order."""
    epochs, places = np.divmod(np.asarray(positions, np.int64), num_records)
    if seed is None:
        return places
    records = np.empty_like(places)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        records[here] = permutation(num_records, epoch, seed)[places[here]]
    return records


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """The batches of one process as a Grain random-access source: ``[b]`` is this process's share of global batch ``b``.

    Attributes:
      source, records: where examples come from; ``batch_size`` is global.
      order_seed: of the shuffling, or None; flip_seed: of the mirroring, or None.
      repeat: endless, or one pass with a mask.
      start: the position at which batch 0 begins.
    """

    source: Source
    records: Records
    batch_size: int
    order_seed: int | None
    flip_seed: int | None
    repeat: bool
    process_index: int
    process_count: int
    start: int = 0

    def __len__(self) -> int:
        return (sys.maxsize - self.start) // self.batch_size if self.repeat else -(-len(self.records) // self.batch_size)

    def rows_of(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(row in the global batch, position in the stream, record of the split)`` of the examples of batch ``number``, (B/P,) each."""
        share = self.batch_size // self.process_count
        rows = self.process_index * share + np.arange(share)
        positions = self.start + int(number) * self.batch_size + rows
        return rows, positions, stream_order(self._inside(positions), len(self.records), self.order_seed)

    def _inside(self, positions: np.ndarray) -> np.ndarray:
        """``positions``, those behind the end of one pass moved to its last record."""
        return positions if self.repeat else np.minimum(positions, len(self.records) - 1)

    def __getitem__(self, number: int) -> dict[str, Any]:
        rows, positions, records = self.rows_of(number)
        inside = self._inside(positions)
        examples = self.source.preprocess(gather(self.records, records))
        x0 = examples["x0"]
        if self.flip_seed is not None:
            mirrored = bits(inside, self.flip_seed) >> np.uint64(63) == 1
            x0 = np.where(mirrored[:, None, None, None], x0[:, :, ::-1], x0)
        batch = {"x0": x0, "index": (rows if self.repeat else positions).astype(np.int32)}
        if "label" in examples:
            batch["cond"] = {"label": examples["label"]}
        return batch if self.repeat else batch | {"mask": positions < len(self.records)}


def numbered(
    source: Source,
    split: str,
    batch_size: int,
    seed: int = 0,
    *,
    shuffle: bool | None = None,
    repeat: bool = True,
    flip: bool | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchSource:
    """This process's share of the global batches of ``split`` by number; the arguments, and what is refused, are those of ``batches``."""
    if not isinstance(batch_size, int) or batch_size < 1 or batch_size % process_count:
        refuse("batch_size", batch_size, f"a positive multiple of the {process_count} processes")
    if not 0 <= process_index < process_count:
        refuse("process_index", process_index, f"0 to {process_count - 1}")
    if seed < 0:
        refuse("seed", seed, "an int from 0")
    if start < 0 or start and not repeat:
        refuse("start", start, "an int from 0, and 0 for one pass")
    records = source(split)
    if not len(records):
        refuse("split", split, "a split with at least one example")
    flip = (source.flip and repeat) if flip is None else flip
    if flip and len(source.spec.shape) != 3:
        refuse("flip", flip, f"False: examples of shape {source.spec.shape} are no images")
    shuffle = repeat if shuffle is None else shuffle
    order_seed, flip_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    seeds = order_seed if shuffle else None, flip_seed if flip else None
    return BatchSource(source, records, batch_size, *seeds, repeat, process_index, process_count, start)


def batches(
    source: Source,
    split: str,
    batch_size: int,
    seed: int = 0,
    *,
    shuffle: bool | None = None,
    repeat: bool = True,
    flip: bool | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
    num_workers: int = 0,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """An iterator over this process's share of the global batches of ``split``: endless, or one pass if not ``repeat``.

    Args:
      source, split: what ``source(split)`` gives.
      batch_size: global, over all processes.
      seed: at least 0; decides the order and the flips.
      shuffle: None shuffles an endless stream and leaves one pass in order.
      flip: mirror images left to right, at even odds, afresh in every epoch; None: ``source.flip`` in an endless stream, else not.
      start: the position of the stream at which the first batch begins.
      process_index, process_count: ``jax.process_index()`` and ``jax.process_count()`` in a multi-host run.
      num_threads: that read ahead; None is 0 (in the caller's thread) for arrays in memory, else 4.
      num_workers: processes that read ahead, for decoding that threads cannot hide; 0 is none.
      prefetch: batches read ahead.

    Raises ConfigError for a batch size that the processes cannot share, an empty split, a negative seed or start, flips of what is no
    image.
    """
    share = {"process_index": process_index, "process_count": process_count}
    by_number = numbered(source, split, batch_size, seed, shuffle=shuffle, repeat=repeat, flip=flip, start=start, **share)
    num_threads = (0 if isinstance(by_number.records, ArrayRecords) else 4) if num_threads is None else num_threads
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0)
    dataset = grain.MapDataset.source(by_number).to_iter_dataset(options)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain's worker pool reads its own flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=prefetch)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_apart)
        _at_exit()
    return iter(dataset)


def _apart(index: int, count: int) -> None:
    """In a process that reads ahead: a signal to the group of the process that asked for it (Ctrl-C of a terminal), or SIGTERM to every
    process of a job (Slurm's proctrack/linuxproc, systemd), is not for it, which is still read from until a checkpoint is written.  It
    ends with the one that asked, however that one ends."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


@functools.cache
def _at_exit() -> None:
    """A process that ends without having closed its streams ends who reads ahead for it: Python would send them SIGTERM, and wait."""
    atexit.register(lambda: [child.kill() for child in multiprocessing.active_children() if child.name.startswith("grain")])
