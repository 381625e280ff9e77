"""``WORKDIR/config.json``: what a run is, its configuration, data, sigma_data and the versions of the libraries that it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from score_lab.build import ConfigError, closest, refuse
from score_lab.training.whole import write_whole

__all__ = ["library_versions", "read_workdir", "write_workdir"]

LIBRARIES = ("score_lab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a checkpoint means."""
    import platform

    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def read_workdir(workdir: str | Path) -> dict[str, Any]:
    """What ``WORKDIR/config.json`` says of the run; ConfigError if this is no workdir."""
    file = Path(workdir) / "config.json"
    try:
        there = file.is_file()
        text = file.read_text() if there else ""
    except OSError as error:
        refuse("workdir", str(workdir), f"a directory that can be looked into: {error.strerror} ({error.filename})")
    if not there:
        near = [other.parent.name for other in Path(workdir).absolute().parent.glob("*/config.json")]
        what = "there is no config.json in it" if Path(workdir).is_dir() else "there is no such directory"
        close = closest(Path(workdir).absolute().name, sorted(near))  # by the last name alone: the rest of the path is alike for all
        hint = "" if close is None else f" (did you mean {str(Path(workdir).parent / close)!r}?)"
        refuse("workdir", str(workdir), f"a directory that a training run has made: {what}{hint}")
    try:
        record = json.loads(text)
        found = {name: record[name] for name in ("config", "data", "sigma_data", "versions")}
        return found | {name: record[name] for name in ("init_from", "allowed") if name in record}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"workdir: {str(file)!r} cannot be read ({why}); allowed: the file that the training run wrote") from None


def write_workdir(workdir: Path, record: Mapping[str, Any]) -> None:
    """Writes ``WORKDIR/config.json`` whole or not at all (whole.py)."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / "config.json", json.dumps(record, indent=2) + "\n")
