"""``experiments.train --memory``: what a run would hold on each device, from its compiled step, before anything runs or is written.

    total(b) = state + batches + temporaries,      what XLA planned for the dispatch that the run would make, b examples on a device
    batches  = prefetch in the queue + 1 placed behind it + 1 taken and held back + in_flight that run or wait on the device

The largest batch that fits comes from two compilations, at the configured batch and at twice that, and a line through both: temporaries
grow in proportion to the batch, as far as XLA makes the same program of it.  Not in it: what previews and evaluation need, and the copy
of the state that a checkpoint makes.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import jax

from score_lab.build import refuse
from score_lab.cost import Memory, memory_of
from score_lab.training.parallel import in_flight
from score_lab.training.prepare import Plan
from score_lab.training.speed import abstract_batch
from score_lab.training.state import abstract_state
from score_lab.types import PyTree

__all__ = ["Fit", "device_memory", "fit_of", "held_at_once", "largest_batch"]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Bytes on one device.

    Attributes:
      parts: of the state by name, and of the batches in flight.
      memory: of the compiled dispatch at the configured batch.
      doubled: at twice that.
      batch: global examples of an update; ``grain``: a global batch is a multiple of it.
      device: bytes that one device has, None where it does not say; ``shared``: devices that share them.
    """

    parts: dict[str, int]
    memory: Memory
    doubled: Memory
    batch: int
    grain: int
    devices: int
    device: int | None
    shared: int

    @property
    def largest(self) -> int | None:
        """The largest global batch that fits, 0 where none does, None where the device's memory is not known or no batch needs more."""
        if self.device is None:
            return None
        return largest_batch(self.batch, self.memory.total, self.doubled.total, self.device // self.shared, self.grain)

    @property
    def fits(self) -> bool:
        """Whether the configured batch fits, as far as the device says."""
        return self.device is None or self.memory.total * self.shared <= self.device

    def lines(self, kind: str) -> list[str]:
        """The table, and whether it fits, in words."""
        rows = [*self.parts.items(), ("activations and other temporaries", self.memory.temporaries), ("total", self.memory.total)]
        table = [f"  {name:34s} {_size(count):>11s}" for name, count in rows]
        head = f"on each of {self.devices} x {kind}, batch {self.batch}, compiled and not run:"
        if self.device is None:
            return [head, *table, "  the device does not say how much memory it has"]
        among = f", shared by {self.shared} devices" if self.shared > 1 else ""
        share = 100 * self.memory.total * self.shared / self.device
        fits = f"  of {_size(self.device)}{among}: {share:.3g} %, {'it fits' if self.fits else 'it does not fit'}"
        by = f"compiled at {self.batch} and {2 * self.batch}, taken as linear in the batch"
        largest = "any batch fits" if self.largest is None else f"the largest batch that fits is about {self.largest}"
        return [head, *table, fits, f"  {largest} ({by})"]


def fit_of(plan: Plan) -> Fit:
    """The memory of the run that ``plan`` would be: two compilations, nothing run, nothing written."""
    batch, layout = abstract_batch(plan), plan.layout
    state = layout.like(abstract_state(plan.parts))
    memory, doubled = (_compiled(plan, state, layout.shapes(batch, plan.several, factor), factor) for factor in (1, 2))
    devices, each = len(layout.devices), bytes_of(layout.share(batch)) * plan.several
    held = held_at_once(plan.options.prefetch, in_flight(layout))
    parts = {
        "parameters": bytes_of(state.params),
        "optimizer": bytes_of(state.opt_state),
        f"averages ({len(state.ema)})": bytes_of(state.ema),
        "the objective's state": bytes_of(state.objective),
        f"batches ({held} dispatches of {plan.several} steps)": each * held,
    }
    parts = {name: count for name, count in parts.items() if count}
    has, shared = device_memory(layout.devices)
    extra = each * (held - 1)  # the others beside the one in the program
    memory, doubled = (dataclasses.replace(m, arguments=m.arguments + k * extra) for m, k in ((memory, 1), (doubled, 2)))
    grain = devices * layout.processes * layout.accumulate
    return Fit(parts, memory, doubled, plan.parts.batch_size, grain, devices * layout.processes, has, shared)


def held_at_once(prefetch: int, flying: int) -> int:
    """The most dispatches whose batches lie on the devices at one moment: in the queue of feed.py, behind it the one that found it full,
    the one that the loop holds back (``Reports.throttle``), and those that it has handed to the devices."""
    return prefetch + 2 + flying


def largest_batch(batch: int, at_batch: int, at_double: int, available: int, grain: int) -> int | None:
    """The largest multiple of ``grain`` whose total, on the line through (batch, at_batch) and (2 batch, at_double), is at most
    ``available``; 0 where none is, None where a larger batch needs no more."""
    slope = (at_double - at_batch) / batch
    if slope <= 0:
        return None
    return max(math.floor((available - (at_batch - slope * batch)) / slope / grain) * grain, 0)


def device_memory(devices: tuple[Any, ...]) -> tuple[int | None, int]:
    """``(bytes, how many devices share them)``: what the device's allocator may use; on a CPU what the machine has."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]), 1
    if devices[0].platform != "cpu" or not hasattr(os, "sysconf"):
        return None, 1
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), len(devices)


def bytes_of(tree: PyTree) -> int:
    """Of all arrays of ``tree``, abstract or not, on one device (a key counts its words)."""

    def shape(x: Any) -> tuple[int, ...]:
        return x.sharding.shard_shape(x.shape) if getattr(x, "sharding", None) else x.shape

    return sum(math.prod(shape(x)) * _width(x.dtype) for x in jax.tree.leaves(tree))


def _width(dtype: Any) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def _compiled(plan: Plan, state: PyTree, batch: PyTree, factor: int) -> Memory:
    parts = dataclasses.replace(plan.parts, batch_size=factor * plan.parts.batch_size)
    found = memory_of(plan.layout.dispatch(parts).lower(state, batch).compile())
    if found is None:
        refuse("--memory", True, "a backend on which XLA says what memory a program takes: this one does not")
    return found


def _size(count: int) -> str:
    """``1.23 GiB``."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count} B"
