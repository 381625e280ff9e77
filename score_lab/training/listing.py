"""The runs below a directory: what each is doing and how far it has come, from its files alone; nothing is locked, loaded or changed.

    running    another process holds WORKDIR/lock
    finished   its newest checkpoint is of config.training.steps
    stopped    neither
    damaged    config.json or the newest checkpoint cannot be what was written (by the sizes in its seal; every byte with ``deep``)
    unknown    the newest checkpoint cannot be looked at: no permission, a file system that fails
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from score_lab.build import ConfigError
from score_lab.training.checkpoint import BEST
from score_lab.training.lock import holder
from score_lab.training.metrics import lines_of
from score_lab.training.record import read_workdir
from score_lab.training.seals import damage

__all__ = ["Run", "find_runs", "run_in"]

FILES = ("checkpoints", "metrics.jsonl", "lock")
"""One of these lies beside the config.json of a workdir."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a workdir say.

    Attributes:
      state: of the module.
      why: who holds it, what is damaged, or why it cannot be looked at; "" otherwise.
      step, steps: made and asked for; None where that cannot be read.
      best, best_step: the lowest held-out loss that was reported, and where.
      loss: of the last line.
      age: seconds since something was last written.
      allowed: what was changed of its configuration on the way (changes.py).
    """

    workdir: str
    state: str
    why: str
    step: int
    steps: int | None
    best: float | None
    best_step: int | None
    loss: float | None
    age: float
    allowed: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def find_runs(directories: Sequence[str | Path]) -> list[Path]:
    """The workdirs at and below ``directories``, in order; what lies inside one is not looked at."""
    return [workdir for directory in directories for workdir in _below(Path(directory))]


def run_in(workdir: Path, deep: bool = False) -> Run:
    """What there is to know of the run in ``workdir``; ``deep`` reads every byte of its newest checkpoint."""
    figures = lines_of(workdir)
    evaluated = [line for line in figures if isinstance(line.get(BEST), float)]
    best = min(evaluated, key=lambda line: line[BEST], default=None)
    saved = sorted(int(entry.name) for entry in (workdir / "checkpoints").glob("*") if entry.name.isdigit())
    (steps, allowed, why), broken, unknown = _said(workdir), None, ""
    if not why and saved:
        try:
            broken = damage(workdir / "checkpoints" / str(saved[-1]), workdir / "seals" / f"{saved[-1]}.json", deep)
        except OSError as error:
            unknown = f"checkpoint {saved[-1]} cannot be looked at ({error})"
        why = f"checkpoint {saved[-1]}: {broken}" if broken else ""
    held = holder(workdir)
    done = max(saved, default=0)
    looked = "damaged" if why else "unknown" if unknown else "finished" if steps is not None and done >= steps else "stopped"
    return Run(
        workdir=str(workdir),
        state="running" if held else looked,
        why=held or why or unknown,
        step=max(done, figures[-1]["step"] if held and figures else 0),
        steps=steps,
        best=best and best[BEST],
        best_step=best and best["step"],
        loss=next((line["loss"] for line in reversed(figures) if "loss" in line), None),
        age=max(0.0, time.time() - max(path.stat().st_mtime for path in _written(workdir))),
        allowed=allowed,
    )


def _below(directory: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(directory):
        inside.sort()
        if "config.json" in files and any(name in files or name in inside for name in FILES):
            inside.clear()
            yield Path(folder)


def _said(workdir: Path) -> tuple[int | None, list[dict[str, Any]], str]:
    """``(config.training.steps, what was changed on the way, what is wrong with config.json)``."""
    try:
        record = read_workdir(workdir)
        return int(record["config"]["training"]["steps"]), record.get("allowed", []), ""
    except (ConfigError, KeyError, OSError, TypeError, ValueError):
        return None, [], "config.json cannot be read"


def _written(workdir: Path) -> list[Path]:
    return [path for path in (workdir / name for name in ("config.json", "metrics.jsonl", "checkpoints")) if path.exists()]


def as_json(runs: Sequence[Run]) -> str:
    """A list of objects with the fields of ``Run``."""
    return json.dumps([dataclasses.asdict(run) for run in runs], indent=2)
