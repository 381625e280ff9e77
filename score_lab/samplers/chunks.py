"""Any number of samples in chunks of one compiled program, on one device or spread over several.

Sample i depends on (key, index[i]) alone, so the chunk size and the devices change nothing but the speed: the draws are the same bits,
values agree to rounding, and are the same bits too where the chunk size and the devices are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.samplers.base import Sampler, Samples
from score_lab.samplers.loop import count, sample, shape_of
from score_lab.types import Array, PyTree

__all__ = ["sample_chunked"]


def sample_chunked(
    denoiser: Denoiser,
    sampler: Sampler,
    grid: Any,
    shape: Any = None,
    key: Array | None = None,
    *,
    chunk: int,
    x_T: PyTree | None = None,
    index: Any = None,
    cond: Any = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """``sample`` of n samples, ``chunk`` at a time; arguments as there.  Returns numpy arrays on the host.

    The last chunk is filled up and cut, so that every chunk is the same program.  ``devices`` (``jax.local_devices()``): each chunk is
    spread over them along its batch axis, with the denoiser's parameters on every one.  ``progress(done, n)`` is called after each chunk.

    Raises ConfigError for a chunk below 1 or not divisible by the number of devices, and what ``sample`` raises.
    """
    n, like = count(shape, x_T, cond)
    chunk = int(chunk)
    if chunk < 1 or (devices is not None and (not len(devices) or chunk % len(devices))):
        allowed = f"a multiple of {len(devices)}, the number of devices" if devices else "at least 1 sample, on at least 1 device"
        refuse("sample.chunk", chunk, allowed)
    grid = grid.steps(denoiser.path) if hasattr(grid, "steps") else grid
    index = np.arange(n, dtype=np.int32) if index is None else np.asarray(index, np.int32)
    if index.shape != (n,):
        refuse("sample.index", index.shape, f"one global index per sample, shape ({n},)")
    place = lambda batch: batch  # noqa: E731
    if devices is not None:
        mesh = Mesh(np.asarray(devices), ("batch",), axis_types=(AxisType.Auto,))
        everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
        denoiser, grid, key = jax.device_put((denoiser, grid, jax.random.key(0) if key is None else key), everywhere)
        place = lambda batch: jax.device_put(batch, split)  # noqa: E731
    parts, nfe = [], 0
    for first in range(0, n, chunk):
        rows = np.minimum(np.arange(first, first + chunk), n - 1)
        batch = place(jax.tree.map(lambda a, rows=rows: np.asarray(a)[rows], {"index": index, "cond": cond, "x_T": x_T}))
        done = sample(denoiser, sampler, grid, shape_of(like, chunk), key, **batch)
        parts.append(jax.tree.map(lambda a, wanted=n - first: np.asarray(a)[:wanted], done.x))
        nfe = int(done.nfe)
        if progress is not None:
            progress(min(first + chunk, n), n)
    return Samples(x=jax.tree.map(lambda *a: np.concatenate(a), *parts), nfe=np.int32(nfe))
