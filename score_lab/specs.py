"""Parts in words: ``DDIM(eta=0.5)`` <-> ``{"target": "DDIM", "eta": 0.5}``, and the axes that vary a field of them.

    spec    NAME | module:NAME | NAME(field=value, ...)        a value is a Python literal, a plain word, or a part again
    words   spec, spec, ...                                    commas inside brackets separate nothing

Command lines and configurations are read with it, tables and pages are labelled with it, and what was made of parts is kept under their
key.  A field that is a part itself takes a bare name: ``Heun(variable=T)``, ``Churn(grid=Karras(rho=5), s_churn=10)``.  A bare word is a
part if it is the capitalised name of one of ``score_lab.samplers``, or an import path; any other is text (``increment=exact``).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from score_lab.build import find, refuse

__all__ = ["counted", "innermost", "key_of", "literal", "name_of", "part_of", "plain", "spec_of", "split", "stepped", "takes", "vary"]

ROOM = "score_lab.samplers"
"""Whose names are parts without being told so."""

_SPEC = re.compile(r"([A-Za-z_][\w.]*(?::\w+)?)(?:\((.*)\))?", re.DOTALL)


def split(text: str) -> list[str]:
    """The words of ``a, b(c, d), e``: split at the commas that stand in no bracket; nothing between two commas is nothing."""
    words, depth, start = [], 0, 0
    for i, letter in enumerate(text + ","):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            words.append(text[start:i].strip())
            start = i + 1
    if depth:
        refuse("command line", text, "as many closing as opening brackets")
    return [word for word in words if word]


def spec_of(part: Any, field: str) -> dict[str, Any]:
    """The specification of a word or of a mapping; ConfigError for text that is none."""
    if isinstance(part, Mapping) or hasattr(part, "to_dict"):
        return plain(part)
    match = _SPEC.fullmatch(part.strip()) if isinstance(part, str) else None
    if match is None:
        refuse(field, part, "a name, 'my_package.my_module:Name', or NAME(field=value, ...)")
    spec: dict[str, Any] = {"target": match[1]}
    for word in split(match[2] or ""):
        name, equals, value = (side.strip() for side in word.partition("="))
        if not (equals and name.isidentifier()):
            refuse(f"{field}: {part}", word, "field=value")
        found = literal(value)
        spec[name] = part_of(value, f"{field}.{name}") if found is value else found
    return spec


def literal(text: str) -> Any:
    """A Python literal (``inf`` and ``-inf`` too), or the text itself."""
    if text in ("inf", "-inf"):
        return float(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def part_of(text: str, field: str) -> Any:
    """The specification of the part that a field's ``text`` names, or the text itself (see the module)."""
    part = "(" in text or ":" in text or (text[:1].isupper() and hasattr(importlib.import_module(ROOM), text))
    return spec_of(text, field) if part else text


def plain(value: Any) -> Any:
    """``value`` as JSON has it: dicts, lists, numbers, text; numpy's and ConfigDict's types taken off."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def key_of(what: Mapping[str, Any]) -> str:
    """32 hex digits of the SHA-256 of ``what`` as canonical JSON (sorted names, no spaces)."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def name_of(spec: Mapping[str, Any] | None, none: str = "own", whole: bool = False) -> str:
    """``DDIM(eta=0.5)``; the module of an import path is left out unless ``whole``, which is unique; ``none`` for no part at all."""
    if spec is None:
        return none

    def value(v: Any) -> str:
        return name_of(v, whole=whole) if isinstance(v, Mapping) and "target" in v else repr(v) if whole else str(v)

    fields = ", ".join(f"{k}={value(v)}" for k, v in spec.items() if k != "target")
    target = str(spec["target"])
    return (target if whole else target.rpartition(":")[2]) + (f"({fields})" if fields else "")


def takes(spec: Mapping[str, Any], field: str, where: str = "target") -> bool:
    """Whether the sampler or grid that ``spec`` names has this field; ConfigError, which begins with ``where``, for a name that is none."""
    target = find(spec["target"], ROOM, where)
    return callable(target) and field in inspect.signature(target).parameters


def stepped(grid: Mapping[str, Any], num_steps: int | None) -> dict[str, Any]:
    """``grid`` with that many steps (of a grid around a grid, the inner one); as it is for None."""
    if num_steps is None:
        return dict(grid)
    if isinstance(grid.get("grid"), Mapping):
        return {**grid, "grid": stepped(grid["grid"], num_steps)}
    return {**grid, "num_steps": num_steps}


def innermost(grid: Mapping[str, Any]) -> Mapping[str, Any]:
    """The grid that all others are around: of ``Churn(grid=Karras)`` the ``Karras``."""
    while isinstance(grid.get("grid"), Mapping):
        grid = grid["grid"]
    return grid


def counted(grid: Mapping[str, Any]) -> bool:
    """Whether the innermost grid has a number of steps."""
    return takes(innermost(grid), "num_steps")


def vary(specs: Sequence[Mapping[str, Any]], field: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Every spec that has ``field`` once for each of ``values``, the others as they are; ConfigError if none has it."""
    varied = []
    for spec in specs:
        varied += [{**spec, field: value} for value in values] if takes(spec, field) else [dict(spec)]
    if not any(field in spec for spec in varied):
        refuse(f"vary.{field}", list(values), f"a field of one of {', '.join(name_of(spec) for spec in specs)}")
    return varied
