"""The collectives of a compiled program, and what each is for.

    %all-reduce.55 = (f32[64]{0}, f32[64,2]{1,0}) all-reduce(...), metadata={op_name="jit(f)/(gradient/psum:metrics/psum)" ...}

XLA joins small ones into one with several results; the scopes of ``jax.named_scope`` that each result had stand in its ``op_name``.
An asynchronous one, as an accelerator has them, is two instructions, ``all-gather-start`` and ``all-gather-done``: the second is counted,
whose type is that of the results alone (that of the first holds operands too, for some kinds and in some versions).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["COLLECTIVES", "Collective", "collectives", "purposes"]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
_LINE = re.compile(rf"([\w.\-]+) = (.+?) ({'|'.join(COLLECTIVES)})(-start|-done)?\((.*)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction.

    Attributes:
      kind: one of COLLECTIVES.
      results: (dtype, shape) of what it leaves on one device.
      scope: ``op_name``, the scopes in which its parts were traced; "" where XLA says nothing.
    """

    kind: str
    results: tuple[tuple[str, tuple[int, ...]], ...]
    scope: str

    @property
    def moved(self) -> int:
        """Bytes of the results on one device."""
        return sum(_BYTES.get(dtype, 4) * math.prod(shape) for dtype, shape in self.results)


def collectives(text: str) -> list[Collective]:
    """Those of the compiled program ``text`` (``compiled.as_text()``), in its order; the body of a loop once."""
    found, begun = [], {}
    for line in text.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        name, types, kind, half, rest = match.groups()
        said = re.search(r'op_name="([^"]*)"', rest)
        scope = said[1] if said else ""
        if half == "-start":
            begun[name] = scope
            continue
        if half and not scope:
            scope = next((begun[word] for word in re.findall(r"[\w.\-]+", rest) if word in begun), "")
        results = [(dtype, tuple(map(int, filter(None, dims.split(","))))) for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", types)]
        found.append(Collective(kind, tuple(results), scope))
    return found


def purposes(found: Iterable[Collective], names: Sequence[str]) -> Counter:
    """How many there are by ``(kind, those of names in the scope)``."""
    return Counter((one.kind, tuple(name for name in names if re.search(rf"\b{name}\b", one.scope))) for one in found)
