"""The leaves of a tree by name, ``network.blocks.0.first.kernel``, and the patterns that a configuration writes for them.

A pattern is a shell's: ``*`` stands for any characters, dots too, ``?`` for one, ``[01]`` for one of these; it is matched with the whole
name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from score_lab.build import nearest, refuse
from score_lab.types import PyTree

__all__ = ["check_list", "check_patterns", "leaf_name", "matches", "named"]


def leaf_name(path: Any) -> str:
    """``network.blocks.0.first.kernel`` of a key path of JAX."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by name, in the tree's order."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of ``patterns`` matches ``name``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_list(patterns: Any, field: str) -> None:
    """ConfigError for what is no list of strings."""
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
        refuse(field, patterns, "a list of patterns of leaf names, for example ['network.blocks.0.*']")


def check_patterns(patterns: Any, names: Sequence[str], field: str) -> None:
    """ConfigError for what is no list of strings, and for a pattern that matches none of ``names``, with the nearest of them."""
    check_list(patterns, field)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            prefixes = {name.rsplit(".", depth)[0] + ".*" for name in names for depth in range(1, 1 + name.count("."))}
            near = nearest(pattern, prefixes if pattern.endswith("*") else names) or f" (for example {names[0]!r})"
            refuse(field, pattern, f"a pattern that matches a leaf of the parameters{near}")
