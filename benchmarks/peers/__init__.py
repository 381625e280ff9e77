"""Diffusers, k-diffusion and azula beside ours in one process: the same network with the same weights, the same grid, the same noise.

For each network (an MLP on points, dit8 on images; fp32, batch 64): torch's and ours are first shown to agree to 1e-4 of the output's
largest entry; then, for each peer's sampler, its last states and ours are compared, and both are timed in turn.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

from benchmarks.options import Options

__all__ = ["measure"]


def measure(options: Options) -> Iterator[str]:
    """One row per network and peer's sampler; one line that names the extra where the peers are not installed."""
    try:
        beside = importlib.import_module("benchmarks.peers.beside")
    except ImportError as error:
        pip = f"{sys.executable} -m pip install"
        yield f"peers are not all here ({error}); try: {pip} -e '.[peers]' && {pip} --no-deps k-diffusion"
        return
    yield from beside.measure(options)
