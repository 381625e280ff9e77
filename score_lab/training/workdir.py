"""Whether a run may use a workdir: nothing that was saved there is changed by a run that is refused.

    empty or new                        a new run
    config.json, no checkpoint yet      a new run: nothing that was saved is lost
    config.json of the same run         continues at its newest checkpoint
    config.json of another run          refused, naming what differs
    a file, or checkpoints of no run    refused

More ``training.steps`` alone are allowed where the learning rate does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_lab.build import ConfigError, refuse
from score_lab.training.options import changed
from score_lab.training.parts import Parts
from score_lab.training.record import read_workdir

__all__ = ["check_workdir", "record_of"]

FREE = ("log_every", "keep", "prefetch", "devices", "nonfinite", "spike_", "disk_full", "mfu", "profile", "update_norm")
HARMLESS = tuple(f"config.training.{name}" for name in FREE)
OTHERS = ("config.sampling", "config.preview", "config.parallel")
"""What may differ between the runs that make one workdir: it decides nothing of what is trained."""


def record_of(parts: Parts, versions: Mapping[str, str]) -> dict[str, Any]:
    """What ``config.json`` holds; ``init_from`` of a run that started from another workdir (finetune.py)."""
    data = {"shape": list(parts.spec.shape), "num_classes": parts.spec.num_classes, "fingerprint": parts.spec.fingerprint}
    record = {"config": parts.config, "data": data, "sigma_data": parts.sigma_data, "versions": dict(versions)}
    return record if parts.origin is None else record | {"init_from": dict(parts.origin)}


def check_workdir(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the run that ``workdir`` holds checkpoints of, or None for a new one; ConfigError where ``config`` may not run
    there.
    """
    if workdir.exists() and not workdir.is_dir():
        refuse("workdir", str(workdir), "a directory, or a name that is free: this is a file")
    saved = any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))
    if not saved:
        return None
    if not (workdir / "config.json").exists():
        allowed = "a new or empty directory, or the workdir of a run: this one holds checkpoints, and no config.json that says of what"
        refuse("workdir", str(workdir), allowed)
    record = read_workdir(workdir)
    different = [c for c in changed(record["config"], dict(config)) if not c[0].startswith((*HARMLESS, *OTHERS))]
    if [c[0] for c in different] == ["config.training.steps"] and _longer(different[0], config):
        return record
    if different:
        field, old, new = different[0]
        others = f" (and {', '.join(c[0] for c in different[1:])})" if different[1:] else ""
        raise ConfigError(f"{field}: {new!r} is refused{others}; allowed: {old!r}, with which {workdir} was begun, or another workdir")
    return record


def _longer(change: tuple[str, Any, Any], config: Mapping[str, Any]) -> bool:
    """Whether a run may go on to more steps: its learning rate must not depend on their number."""
    _, old, new = change
    return isinstance(new, int) and new > old and config["optimizer"].get("schedule", "constant") in ("constant", "inverse_sqrt")
