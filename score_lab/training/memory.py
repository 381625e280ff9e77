"""Buffers of a training step are kept by the process, not given back to the system after every step.

XLA:CPU allocates a step's temporaries anew for every step.  glibc maps what is larger than 32 MB from fresh, zeroed pages each time, and
touching those is a third of the step of a small network (measured: benchmarks/memory.py).
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["glibc_buffers", "keep_buffers"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGEST = 2**30
"""Bytes: a larger buffer is mapped, and given back when it is freed."""


def keep_buffers() -> bool:
    """Has glibc's malloc serve buffers of up to ``LARGEST`` bytes from memory that it keeps once they are freed; whether it could be told
    (False without glibc, where nothing changes).  It is for the whole process and stays."""
    return _thresholds(LARGEST, 2 * LARGEST - 1)


def glibc_buffers() -> bool:
    """Has malloc do again what glibc does by itself, at the most that it raises its thresholds to: map what is larger than 32 MB, give
    back more than 64 MB at the end of the heap.  For the comparison of benchmarks/memory.py."""
    return _thresholds(32 * 2**20, 64 * 2**20)


def _thresholds(mapped: int, trimmed: int) -> bool:
    """mallopt(3): larger buffers than ``mapped`` bytes are mapped, more than ``trimmed`` free bytes at the heap's end are given back."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, mapped) and mallopt(_TRIM_THRESHOLD, trimmed))
