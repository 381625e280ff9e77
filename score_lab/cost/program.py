"""What XLA says of a program that it compiled: bytes moved, operations, and memory, each for one device.

    bytes moved     operands and results of every kernel (fused operations are one kernel), as if nothing stayed in a cache between kernels
    operations      products, convolutions (padding left out), and one for every elementwise result
    memory          arguments + results - results that take an argument's place (donated) + temporaries

XLA counts the body of a loop once, whatever its length: hand over a program without a loop, or one whose loops are a small part.
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["Memory", "bytes_of_program", "memory_of", "xla_flops"]


def bytes_of_program(compiled: Any) -> float:
    """Bytes that one run of ``compiled`` (``jax.jit(f).lower(x).compile()``) reads and writes on one device; NaN where XLA is silent."""
    return _analysis(compiled).get("bytes accessed", float("nan"))


def xla_flops(compiled: Any) -> float:
    """Operations of one run on one device as XLA counts them, to be held against ``flops_of``; NaN where XLA does not say."""
    return _analysis(compiled).get("flops", float("nan"))


def _analysis(compiled: Any) -> dict[str, float]:
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return dict(found or {})


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a program runs: its arguments, its results, of these what lies in an argument's place, temporaries."""

    arguments: int
    results: int
    in_place: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.results - self.in_place + self.temporaries


def memory_of(compiled: Any) -> Memory | None:
    """What XLA planned for ``compiled``; None on a backend that does not tell."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return Memory(
        stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes, stats.temp_size_in_bytes
    )
