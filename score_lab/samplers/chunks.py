"""Any number of samples in chunks of one compiled program, on one device or spread over several.

Sample i depends on (key, index[i]) alone, so the chunk size and the devices change nothing but the speed: the draws are the same bits,
values agree to rounding, and are the same bits too where the chunk size and the devices are.

``chunk`` is a number of samples, or the memory that one device may give, "2GiB": then it is the largest chunk whose compiled program says
that it needs no more.  bytes(chunk) = a + b chunk is measured at two sizes, solved, and what comes out is compiled and measured again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.samplers.base import Integrator, Recorder, Sampler, Samples
from score_lab.samplers.loop import count, memory_of, sample, shape_of
from score_lab.types import Array, PyTree

__all__ = ["Chunks", "bytes_of", "sample_chunked"]

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
PROBES = (1, 17)
"""Samples on each device at which a program's memory is measured."""


def bytes_of(text: str, field: str = "sample.chunk") -> int:
    """``"2GiB"``, ``"500MB"`` or ``"1e9B"`` in bytes; ConfigError for anything else."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]i?)?b\s*", str(text).lower())
    try:
        size = int(float(found[1]) * UNITS[found[2] or ""])
    except (TypeError, ValueError):
        size = 0
    return size if size > 0 else refuse(field, text, "a number of samples, or memory as 2GiB or 500MB")


@dataclasses.dataclass(frozen=True)
class Chunks:
    """A run cut into chunks: ``run(first)`` draws samples first, first + 1, ...; made by ``Chunks.of``, which checks everything."""

    denoiser: Denoiser
    sampler: Sampler | Integrator
    grid: Any
    key: Array
    n: int
    like: Any
    chunk: int
    batch: dict[str, Any]
    place: Callable[[Any], Any]

    @classmethod
    def of(cls, denoiser, sampler, grid, shape, key, *, chunk, x_T=None, index=None, cond=None, devices=None, recorder=None) -> Chunks:
        """Arguments as of ``sample_chunked``."""
        n, like = count(shape, x_T, cond)
        multiple = len(devices) if devices is not None else 1
        budget = bytes_of(chunk) if isinstance(chunk, str) else None
        size = multiple if budget is not None else int(chunk)
        if size < 1 or not multiple or size % multiple:
            allowed = f"a multiple of {multiple}, the number of devices" if devices else "at least 1 sample, on at least 1 device"
            refuse("sample.chunk", chunk, allowed)
        grid = grid.steps(denoiser.path) if hasattr(grid, "steps") else grid
        index = np.arange(n, dtype=np.int32) if index is None else np.asarray(index, np.int32)
        if index.shape != (n,):
            refuse("sample.index", index.shape, f"one global index per sample, shape ({n},)")
        if getattr(sampler, "together", False) and (budget is not None or size < n):
            refuse(f"{type(sampler).__name__}.together", True, "False in chunks: one step size for a batch is another for each chunk")
        key, place = jax.random.key(0) if key is None else key, lambda batch: batch
        if devices is not None:
            mesh = Mesh(np.asarray(devices), ("batch",), axis_types=(AxisType.Auto,))
            everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
            denoiser, grid, key = jax.device_put((denoiser, grid, key), everywhere)
            place = lambda batch: jax.device_put(batch, split)  # noqa: E731
        run = cls(denoiser, sampler, grid, key, n, like, size, {"index": index, "cond": cond, "x_T": x_T}, place)
        return run if budget is None else dataclasses.replace(run, chunk=run.largest(budget, multiple, recorder))

    def starts(self) -> range:
        """The first sample of every chunk."""
        return range(0, self.n, self.chunk)

    def run(self, first: int, recorder: Recorder | None = None) -> Samples:
        """The samples from ``first`` on, as numpy arrays; the last chunk is filled up and cut, but with a recorder, which sees all rows, it
        is a smaller one."""
        wanted = min(self.chunk, self.n - first)
        done = self._sample(first, wanted if recorder is not None else self.chunk, recorder)
        cut = lambda a: np.asarray(a)[:wanted]  # noqa: E731
        per_sample = np.ndim(done.nfe) == 1
        record = None if recorder is None else jax.tree.map(np.asarray, done.record)
        nfe = cut(done.nfe) if per_sample else np.asarray(done.nfe)
        return Samples(jax.tree.map(cut, done.x), nfe, record, None if done.num_steps is None else cut(done.num_steps))

    def _sample(self, first: int, size: int, recorder: Recorder | None, function: Callable | None = None) -> Any:
        rows = np.minimum(np.arange(first, first + size), self.n - 1)
        batch = self.place(jax.tree.map(lambda a: np.asarray(a)[rows], self.batch))
        rest = {} if recorder is None else {"recorder": recorder}
        return (function or sample)(self.denoiser, self.sampler, self.grid, shape_of(self.like, size), self.key, **batch, **rest)

    def largest(self, budget: int, multiple: int, recorder: Recorder | None) -> int:
        """The largest chunk whose program needs at most ``budget`` bytes on each device; ConfigError where not even the smallest fits."""
        measure = lambda size: self._sample(0, size, recorder, memory_of)  # noqa: E731
        most = -(-self.n // multiple) * multiple
        small, large = (min(p * multiple, most) for p in PROBES)
        at_small = measure(small)
        if at_small > budget:
            refuse("sample.chunk", f"{budget} bytes", f"at least {at_small}: what {small} sample(s) need at once")
        if small == large:
            return small
        slope = max((measure(large) - at_small) / (large - small), 1.0)
        size = int(min(most, small + (budget - at_small) // slope)) // multiple * multiple
        while size > small and measure(size) > budget:
            size = max(small, int(0.9 * size) // multiple * multiple)
        return size


def sample_chunked(
    denoiser: Denoiser,
    sampler: Sampler | Integrator,
    grid: Any,
    shape: Any = None,
    key: Array | None = None,
    *,
    chunk: int | str,
    x_T: PyTree | None = None,
    index: Any = None,
    cond: Any = None,
    devices: Sequence[jax.Device] | None = None,
    recorder: Recorder | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """``sample`` of n samples, ``chunk`` at a time; arguments as there.  Returns numpy arrays on the host.

    The last chunk is filled up and cut, so that every chunk is the same program.  ``chunk``: samples, or the memory of one device, "2GiB".
    ``devices`` (``jax.local_devices()``): each chunk is spread over them along its batch axis, with the denoiser's parameters on every one.
    ``recorder``: one that has ``merge(records) -> record``.  ``progress(done, n)`` is called after each chunk.

    Raises ConfigError for a chunk below 1 or not divisible by the number of devices, a memory too small for one sample (a device), a
    recorder that cannot merge, and what ``sample`` raises.
    """
    run = Chunks.of(denoiser, sampler, grid, shape, key, chunk=chunk, x_T=x_T, index=index, cond=cond, devices=devices, recorder=recorder)
    if recorder is not None and len(run.starts()) > 1:
        if not hasattr(recorder, "merge"):
            refuse("sample.recorder", type(recorder).__name__, "one with merge(records), or all samples in one chunk")
        if devices is not None and run.n % run.chunk % len(devices):
            refuse("sample.shape", run.n, f"with a recorder, a multiple of {len(devices)}, the number of devices")
    return _joined(list(_counted(run, recorder, progress)), recorder)


def _counted(run: Chunks, recorder: Recorder | None, progress: Callable[[int, int], None] | None) -> Iterator[Samples]:
    for first in run.starts():
        yield run.run(first, recorder)
        if progress is not None:
            progress(min(first + run.chunk, run.n), run.n)


def _joined(parts: list[Samples], recorder: Recorder | None) -> Samples:
    """One result of all chunks, in their order."""
    join = lambda *a: np.concatenate(a)  # noqa: E731
    nfe = parts[-1].nfe if np.ndim(parts[-1].nfe) == 0 else join(*(p.nfe for p in parts))
    record = None
    if recorder is not None:
        record = parts[0].record if len(parts) == 1 else recorder.merge([p.record for p in parts])
    num_steps = None if parts[0].num_steps is None else join(*(p.num_steps for p in parts))
    return Samples(jax.tree.map(join, *(p.x for p in parts)), nfe, record, num_steps)
