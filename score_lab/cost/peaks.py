"""The peaks of the devices at hand, measured: floating-point operations a second in products of matrices, and bytes a second in copies.

    peak        2 n^3 / (seconds of one product),      square matrices of normal numbers, the best of a few sizes n and repetitions
    bandwidth   2 (bytes of x) / (seconds of x <- x + 1 in place),      x larger than the caches
    ridge       peak / bandwidth,      operations a byte: below it a program waits for memory, above it for arithmetic

All devices work at once, so that devices that share cores or memory are measured as they are used.  Each kind is measured once in a process
and kept.  On a CPU that takes about a second.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Peaks", "measured_peaks"]

SIZES = {"cpu": (512, 1024), "accelerator": (4096, 8192)}
"""Sides of the matrices."""
COPIED = {"cpu": 2**27, "accelerator": 2**30}
"""Bytes of x, on each device."""
CHAIN = {"cpu": 1, "accelerator": 10}
"""Products in one call: what a call costs the host is not the device's."""
REPEATS = 10


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Of ``devices`` devices together: ``flops`` a second in ``dtype``, ``bandwidth`` in bytes a second."""

    flops: float
    bandwidth: float
    dtype: str
    devices: int

    @property
    def ridge(self) -> float:
        """Operations per byte at which both peaks are reached."""
        return self.flops / self.bandwidth

    def line(self, kind: str) -> str:
        """In words, for devices of ``kind``."""
        return (
            f"measured on {self.devices} x {kind}: {self.flops / 1e9:.4g} GFLOP/s in {self.dtype} products, "
            f"{self.bandwidth / 1e9:.3g} GB/s in copies, ridge at {self.ridge:.3g} FLOP/byte"
        )


def measured_peaks(devices: Sequence[Any], dtype: str | None = None) -> Peaks:
    """The peaks of ``devices`` with operands of ``dtype`` (None: float32), measured at the first call."""
    return _measured(tuple(devices), dtype or "float32")


@functools.cache
def _measured(devices: tuple, dtype: str) -> Peaks:
    kind = "cpu" if devices[0].platform == "cpu" else "accelerator"
    sizes, chain, size = SIZES[kind], CHAIN[kind], COPIED[kind]
    flops = max(len(devices) * 2 * n**3 * chain / _product_seconds(devices, dtype, n, chain) for n in sizes)
    return Peaks(flops, len(devices) * 2 * size / _copy_seconds(devices, size), dtype, len(devices))


def _product_seconds(devices: tuple, dtype: str, n: int, chain: int) -> float:
    def products(a: jax.Array, b: jax.Array) -> jax.Array:
        for _ in range(chain):
            a = a @ b
        return a

    def drawn(device: Any) -> tuple:
        a, b = jax.random.normal(jax.random.key(0), (2, n, n), jnp.float32)
        return tuple(jax.device_put(x.astype(dtype), device) for x in (a, b / n**0.5))  # of variance 1 however long the chain

    run, held = jax.jit(products), [drawn(device) for device in devices]
    return _best(lambda: jax.block_until_ready([run(a, b) for a, b in held]))


def _copy_seconds(devices: tuple, size: int) -> float:
    run = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jax.device_put(jnp.zeros(size // 4, jnp.float32), device) for device in devices]

    def copies() -> None:
        held[:] = [run(x) for x in held]
        jax.block_until_ready(held)

    return _best(copies)


def _best(run: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs: what else the machine does can only add."""
    run()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)
