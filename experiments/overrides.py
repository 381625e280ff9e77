"""Command lines of the launchers that read a workdir: fixed options, and ``--sampler.eta=1``-like overrides of its ``sampling`` section.

``--sampler=NAME`` (or ``--path``, ``--grid``, ``--guidance``) replaces that part by a fresh one of this name; ``--sampler.FIELD=VALUE`` sets a field of it.
Values are Python literals (``1e-3``, ``None``, ``(1, 2)``) or plain words.
"""

from __future__ import annotations

import argparse
import ast
import copy
from typing import Any

from score_lab.build import ConfigError, nearest

PARTS = ("path", "sampler", "grid", "guidance")


def literal(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> tuple[argparse.Namespace, list[tuple[str, Any]]]:
    """The parser's own options, and the overrides ``[("sampler.eta", 1), ...]``; ConfigError for anything else, with the nearest name."""
    args, rest = parser.parse_known_args(argv)
    known = [option for action in parser._actions for option in action.option_strings] + [f"--{part}" for part in PARTS]
    overrides, words = [], list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name[2:].split(".")[0] not in PARTS:
            raise ConfigError(f"command line: {word!r} is refused; allowed: {', '.join(known)} and fields as --sampler.eta=1{nearest(name, known)}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"{name}: no value; allowed: {name}=VALUE")
            value = words.pop(0)
        overrides.append((name[2:], literal(value)))
    return args, overrides


def apply(sampling: dict[str, Any], overrides: list[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of the ``sampling`` section with the overrides in their order."""
    sampling = copy.deepcopy(sampling)
    for name, value in overrides:
        part, *fields = name.split(".")
        if not fields:
            sampling[part] = None if value in (None, "none", "None") else {"target": value}
            if part == "grid" and isinstance(value, str) and value != "Times":
                sampling[part].setdefault("num_steps", 50)
            continue
        node = sampling.setdefault(part, None) or {}
        sampling[part] = node
        for field in fields[:-1]:
            child = node.get(field)
            node[field] = {"target": child} if isinstance(child, str) else dict(child or {})
            node = node[field]
        if fields[-1] in ("variable", "grid") and isinstance(value, str):
            value = {"target": value}
        node[fields[-1]] = value
    return sampling
