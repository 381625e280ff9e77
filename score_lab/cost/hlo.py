"""The text of a compiled program read for one thing: which line of whose source an instruction comes from.

    %ynn_fusion.9 = f32[...] fusion(...), ..., metadata={op_name="jit(f)/transpose(jvp(vmap(...)))/dot_general" stack_frame_id=722}

Frames, their places and the names of files and functions are tables at the head of the text.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

__all__ = ["Source", "sources"]

_ROW = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*metadata=\{([^}]*)\}", re.M)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an instruction comes from: ``place`` as ``dit.py:88 _Block.__call__``, the ``operation``, and whether it is of the backward
    pass."""

    place: str
    operation: str
    backward: bool

    def __str__(self) -> str:
        return f"{self.place}  {self.operation}{', backward' if self.backward else ''}"


def sources(text: str, ours: str = "score_lab") -> dict[str, Source]:
    """The source of every instruction of ``text`` (``compiled.as_text()``) that has one.  The place is the innermost frame in a folder
    ``ours``, else the innermost of all."""
    tables = {name: _table(text, name) for name in ("FileNames", "FunctionNames", "FileLocations", "StackFrames")}
    found = {}
    for name, metadata in _INSTRUCTION.findall(text):
        operation = re.search(r'op_name="([^"]*)"', metadata)
        if operation is None:
            continue
        frame = re.search(r"stack_frame_id=(\d+)", metadata)
        place = _place(tables, frame[1], ours) if frame else ""
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


def _place(tables: dict[str, dict[str, str]], frame: str, ours: str) -> str:
    """In words, the frame or the first one around it that is ours.  XLA prints a parent's number plus one, so that 1 is none."""
    places: list[tuple[bool, str]] = []
    while frame in tables["StackFrames"] and len(places) < 100:
        location, parent = _numbers(tables["StackFrames"][frame], "file_location_id", "parent_frame_id")
        file, function, line = _numbers(tables["FileLocations"].get(location, ""), "file_name_id", "function_name_id", "line")
        name = Path(tables["FileNames"].get(file, ""))
        places.append((ours in name.parts, f"{name.name}:{line} {tables['FunctionNames'].get(function, '')}".strip()))
        frame = str(int(parent or 1) - 1)
    return next((place for mine, place in places if mine), places[0][1] if places else "")


def _numbers(text: str, *names: str) -> list[str]:
    values = dict(re.findall(r"(\w+)=(\d+)", text))
    return [values.get(name, "") for name in names]
