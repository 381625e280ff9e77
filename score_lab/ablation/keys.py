"""The identity of a result: SHA-256 over the canonical JSON of everything that produced it.

    model (its arrays), path, guidance, solver, grid (also its resolved levels), labels, seed, n, the source of every part, versions

The name under which something appears, the budget for which its steps were chosen, the chunk and the devices are not in it: they change
nothing but rounding, so a cell that two budgets or two names share is sampled once.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_lab.evaluation import digest
from score_lab.samplers import calls, loop
from score_lab.samplers.steps import Steps

__all__ = ["code_of", "key_of", "levels_of", "model_digest", "versions"]

LIBRARIES = ("score-lab", "jax", "jaxlib", "numpy")


def key_of(what: Mapping[str, Any]) -> str:
    """32 hex digits of the SHA-256 of ``what`` as canonical JSON (sorted names, no spaces)."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def model_digest(denoiser: Any, *described: Any) -> str:
    """Of every array of the denoiser, and of what ``described`` says in JSON."""
    return digest(*(np.asarray(leaf) for leaf in jax.tree.leaves(denoiser)), json.dumps(described, sort_keys=True, default=str))


def levels_of(steps: Steps) -> str:
    """Digest of the rows of a grid."""
    return digest(*(np.asarray(v) for v in (steps.t, steps.s, steps.r, steps.start, steps.noise_scale)))


def code_of(*parts: Any) -> str:
    """Digest of the source files that the classes of ``parts``, and of the parts in their fields, come from, and of the loop."""
    files = {Path(inspect.getfile(module)) for module in (loop, calls)}
    for part in parts:
        _files(part, files, 0)
    return digest(*(_source(file) for file in sorted(files)))


def _files(part: Any, files: set[Path], depth: int) -> None:
    if not dataclasses.is_dataclass(part) or depth > 8:
        return
    for kind in type(part).__mro__[:-1]:
        try:
            files.add(Path(inspect.getfile(kind)))
        except (TypeError, OSError):
            continue
    for field in dataclasses.fields(part):
        _files(getattr(part, field.name, None), files, depth + 1)


@functools.cache
def _source(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else str(file)


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
