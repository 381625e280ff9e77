"""Buffers of a training step are kept by the process, not given back to the system after every step.

XLA:CPU allocates a step's temporaries anew for every step.  glibc maps what is larger than 32 MB from fresh, zeroed pages each time, and
touching those is a third of the step of a small network (measured: benchmarks/memory.py).
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_buffers"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGEST = 2**30
"""Bytes: a larger buffer is mapped, and given back when it is freed."""


def keep_buffers() -> bool:
    """Has glibc's malloc serve buffers of up to ``LARGEST`` bytes from memory that it keeps once they are freed; whether it could be told
    (False without glibc, where nothing changes).  It is for the whole process and stays."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, 2 * LARGEST - 1))
