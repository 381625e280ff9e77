"""Whether a run may use a workdir: nothing that was saved there is changed by a run that is refused.

    empty or new                        a new run
    config.json, no checkpoint yet      a new run: nothing that was saved is lost
    config.json of the same run         continues at its newest checkpoint
    config.json of another run          what differs decides (changes.py): it continues with that, or is refused
    a file, or checkpoints of no run    refused
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_lab.build import refuse
from score_lab.training.parts import Parts
from score_lab.training.record import read_workdir

__all__ = ["record_in", "record_of"]


def record_of(parts: Parts, versions: Mapping[str, str], allowed: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What ``config.json`` holds; ``init_from`` of a run that started from another workdir (finetune.py), ``allowed`` of one whose
    configuration was changed on the way (changes.py)."""
    data = {"shape": list(parts.spec.shape), "num_classes": parts.spec.num_classes, "fingerprint": parts.spec.fingerprint}
    record = {"config": parts.config, "data": data, "sigma_data": parts.sigma_data, "versions": dict(versions)}
    record |= {} if parts.origin is None else {"init_from": dict(parts.origin)}
    return record | ({"allowed": list(allowed)} if allowed else {})


def record_in(workdir: Path) -> dict[str, Any] | None:
    """The record of the run that ``workdir`` holds checkpoints of, or None for a new one; ConfigError where no run may use it."""
    try:
        taken = workdir.exists() and not workdir.is_dir()
        saved = any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))
    except OSError as error:
        refuse("workdir", str(workdir), f"a directory that can be looked into: {error.strerror} ({error.filename})")
    if taken:
        refuse("workdir", str(workdir), "a directory, or a name that is free: this is a file")
    if not saved:
        return None
    if not (workdir / "config.json").exists():
        allowed = "a new or empty directory, or the workdir of a run: this one holds checkpoints, and no config.json that says of what"
        refuse("workdir", str(workdir), allowed)
    return read_workdir(workdir)
