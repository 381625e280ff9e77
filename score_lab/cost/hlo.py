"""The text of a compiled program read for one thing: which line of whose source an instruction comes from.

    %ynn_fusion.9 = f32[...] fusion(...), ..., metadata={op_name="jit(f)/transpose(jvp(vmap(...)))/dot_general" stack_frame_id=722}

Frames, their places and the names of files and functions are tables at the head of the text.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Source", "libraries", "sources"]

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "diffrax", "equinox", "lineax", "optimistix", "beartype", "jaxtyping", "numpy")
"""Packages whose lines are passed over: whoever called them is meant."""

_ROW = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*metadata=\{([^}]*)\}", re.M)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an instruction comes from: ``place`` as ``score_lab/networks/dit.py:88 _Block.__call__``, the ``operation``, and whether it is
    of the backward pass."""

    place: str
    operation: str
    backward: bool

    def __str__(self) -> str:
        return f"{self.place}  {self.operation}{', backward' if self.backward else ''}"


def libraries() -> tuple[Path, ...]:
    """The folders of LIBRARIES, as far as they are imported, and of Python's own modules."""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in LIBRARIES)
    return (*(Path(file).parent for file in files if file), Path(sysconfig.get_path("stdlib")))


def sources(text: str, others: Sequence[Path] | None = None) -> dict[str, Source]:
    """The source of every instruction of ``text`` (``compiled.as_text()``) that has one.

    The place is the innermost frame that is in none of the folders ``others`` (``libraries()``), be it ours or a user's; where there is
    none, the innermost of all.  What is installed beside Python's own modules, in site-packages, is not one of them.
    """
    tables = {name: _table(text, name) for name in ("FileNames", "FunctionNames", "FileLocations", "StackFrames")}
    others, found = libraries() if others is None else others, {}
    for name, metadata in _INSTRUCTION.findall(text):
        operation = re.search(r'op_name="([^"]*)"', metadata)
        if operation is None:
            continue
        frame = re.search(r"stack_frame_id=(\d+)", metadata)
        place = _place(tables, frame[1], tuple(others)) if frame else ""
        found[name] = Source(place, operation[1].rpartition("/")[2], "transpose(" in operation[1])
    return found


def _table(text: str, name: str) -> dict[str, str]:
    """One table of the head: from number to text."""
    start = text.find(f"\n{name}\n")
    rows = {}
    for line in text[start + len(name) + 2 :].splitlines() if start >= 0 else ():
        row = _ROW.match(line)
        if row is None:
            break
        rows[row[1]] = row[2] if row[2] is not None else row[3]
    return rows


def _place(tables: dict[str, dict[str, str]], frame: str, others: tuple[Path, ...]) -> str:
    """In words, the frame or the first one around it that is in none of ``others``.  XLA prints a parent's number plus one, so that 1 is
    none."""
    innermost, seen = "", 0
    while frame in tables["StackFrames"] and seen < 100:
        location, parent = _numbers(tables["StackFrames"][frame], "file_location_id", "parent_frame_id")
        file, function, line = _numbers(tables["FileLocations"].get(location, ""), "file_name_id", "function_name_id", "line")
        name = tables["FileNames"].get(file, "")
        place = f"{_short(name, tuple(sys.path))}:{line} {tables['FunctionNames'].get(function, '')}".strip()
        if not _passed_over(name, others):
            return place
        innermost, frame, seen = innermost or place, str(int(parent or 1) - 1), seen + 1
    return innermost


@functools.lru_cache(4096)
def _passed_over(name: str, others: tuple[Path, ...]) -> bool:
    """Whether the file is in one of the folders ``others`` (site-packages inside them is not), or is none (``<string>``)."""
    file = Path(name)
    inside = [file.relative_to(folder).parts for folder in others if file.is_relative_to(folder)]
    return name.startswith("<") or any(not {"site-packages", "dist-packages"} & set(parts) for parts in inside)


@functools.lru_cache(4096)
def _short(name: str, path: tuple[str, ...]) -> str:
    """The file as it is imported, ``score_lab/networks/mlp.py``: from the longest folder of ``path`` or of ours on; else its name alone."""
    file = Path(name)
    roots = [root for root in (Path(__file__).parents[2], *map(Path.absolute, map(Path, path))) if file.is_relative_to(root)]
    return str(file.relative_to(max(roots, key=lambda root: len(root.parts)))) if roots else file.name


def _numbers(text: str, *names: str) -> list[str]:
    values = dict(re.findall(r"(\w+)=(\d+)", text))
    return [values.get(name, "") for name in names]
