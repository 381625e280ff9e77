"""Counter-based random bits in numpy, the same on every machine and in every version: what decides order, flips and splits.

SplitMix64 (Steele, Lea and Flood 2014): output ``c`` (from 0) from the state ``s`` is ``mix(s + (c + 1) 0x9E3779B97F4A7C15)``, modulo 2^64.
"""

from __future__ import annotations

import numpy as np

__all__ = ["bits"]


def bits(counter: np.ndarray | int, seed: np.ndarray | int) -> np.ndarray:
    """64 random bits per ``counter``: SplitMix64's output number ``counter + 1`` from the state ``seed`` (Steele, Lea, Flood 2014)."""
    z = np.asarray(seed, np.uint64) + (np.asarray(counter, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
