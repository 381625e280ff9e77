"""The identity of a result: SHA-256 over the canonical JSON of everything that produced it.

    model (its arrays), path, guidance, solver, grid (also its resolved levels), labels, seed, the source of every part, versions

The name under which something appears, the budget for which its steps were chosen, the chunk and the devices are not in it: they change
nothing but rounding, so a cell that two budgets or two names share is sampled once.  Nor is n: a larger one adds the samples that are new.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_lab.evaluation import digest
from score_lab.samplers import calls, loop
from score_lab.samplers.steps import Steps

__all__ = ["code_of", "code_of_modules", "levels_of", "model_digest", "versions"]

LIBRARIES = ("score-lab", "jax", "jaxlib", "numpy")


def model_digest(denoiser: Any, *described: Any) -> str:
    """Of every array of the denoiser, and of what ``described`` says in JSON."""
    return digest(*(np.asarray(leaf) for leaf in jax.tree.leaves(denoiser)), json.dumps(described, sort_keys=True, default=str))


def levels_of(steps: Steps) -> str:
    """Digest of the rows of a grid."""
    return digest(*(np.asarray(v) for v in (steps.t, steps.s, steps.r, steps.start, steps.noise_scale)))


def code_of(*parts: Any) -> str:
    """Digest of the source of the classes of ``parts`` (or of ``parts`` that are classes, functions or modules), of the parts in their
    fields, and of the loop; and of all that these modules import, and what that imports, inside the package that they belong to."""
    modules = {loop.__name__, calls.__name__}
    for part in parts:
        _modules(part, modules, 0)
    return code_of_modules(*modules)


def code_of_modules(*names: str) -> str:
    """Digest of the source of modules and of what they import inside their own top-level packages, directly or not."""
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imported(name)
    return digest(*(f"{name} {_source(name)}" for name in sorted(seen)))


def _modules(part: Any, modules: set[str], depth: int) -> None:
    if inspect.ismodule(part):
        modules.add(part.__name__)
    elif inspect.isfunction(part):
        modules.add(part.__module__)
    else:
        modules.update(kind.__module__ for kind in (part if isinstance(part, type) else type(part)).__mro__[:-1])
    if dataclasses.is_dataclass(part) and not isinstance(part, type) and depth <= 8:
        for field in dataclasses.fields(part):
            if dataclasses.is_dataclass(value := getattr(part, field.name, None)):
                _modules(value, modules, depth + 1)


@functools.cache
def _imported(name: str) -> tuple[str, ...]:
    """The modules of the same top-level package that the source of ``name`` imports.  A name taken from a package is followed to the module
    that defines it, so that a package that exports everything does not make everything a part of everything."""
    file = _file(name)
    if file is None or file.suffix != ".py":
        return ()
    top, found = name.partition(".")[0], set()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            if source.partition(".")[0] == top:
                found.update(_home(source, alias.name) for alias in node.names)
    return tuple(sorted(module for module in found if module.partition(".")[0] == top))


def _home(source: str, name: str) -> str:
    """The module that ``from source import name`` brings in, or in which the object that it brings is defined."""
    if f"{source}.{name}" in sys.modules:
        return f"{source}.{name}"
    module = sys.modules.get(source)
    home = getattr(getattr(module, name, None), "__module__", None) if hasattr(module, "__path__") else None
    return home if isinstance(home, str) else source


def _file(name: str) -> Path | None:
    """Where the source of a module is, without running it if it has not been imported; None for one without source."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        try:
            origin = getattr(importlib.util.find_spec(name), "origin", None)
        except (ImportError, ValueError):
            origin = None
    return Path(origin) if origin and Path(origin).is_file() else None


@functools.cache
def _source(name: str) -> str:
    file = _file(name)
    return name if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Of the libraries that decide the numbers."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"backend": jax.default_backend(), "x64": str(jax.config.jax_enable_x64)}
