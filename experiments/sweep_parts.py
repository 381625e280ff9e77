"""A grid in words -> the cells of a sweep, what one of them does as a job, and the table that all of them make."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.launcher import again
from score_lab.build import nearest, refuse
from score_lab.specs import key_of, literal, split
from score_lab.training.listing import Run, run_in

__all__ = ["Cell", "Job", "Row", "cells_of", "ends_of", "parse_grid", "rows_of", "table", "write_tables"]

POLL = 0.1
"""Seconds between two looks at whether a run has ended."""
LONGEST = 120
"""Letters of a cell's name; a longer one is cut, and told from others by its key."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration of a grid.

    Attributes:
      name: of its workdir: every field of the grid with its value, also those that do not vary yet, so that a longer grid keeps it.
      values: ``{"config.seed": "0", ...}``, as they were typed.
      words: what ``experiments.train`` is told.
    """

    name: str
    values: Mapping[str, str]
    words: tuple[str, ...]
    workdir: Path

    @property
    def command(self) -> str:
        """The line that runs this cell alone, or goes on with it."""
        return again("train", self.words)


def parse_grid(text: str) -> dict[str, list[str]]:
    """``config.a=1,2; config.b=x`` -> ``{"config.a": ["1", "2"], "config.b": ["x"]}``; commas inside brackets separate nothing.

    Raises ConfigError for a field that does not begin with ``config.``, one without values, a field or one of its values given twice.
    """
    grid: dict[str, list[str]] = {}
    example = "'config.optimizer.learning_rate=1e-3,3e-3; config.seed=0,1'"
    for axis in filter(None, map(str.strip, text.split(";"))):
        field, _, values = (side.strip() for side in axis.partition("="))
        if not re.fullmatch(r"config(\.\w+)+", field):
            near = "" if field.startswith("config.") else nearest(f"config.{field}", [f"config.{field}"])
            refuse("--grid", axis, f"config.SECTION.FIELD=VALUE,VALUE, for example {example}{near}")
        if field in grid:
            refuse("--grid", axis, f"every field once: {field} has its values already")
        grid[field] = split(values)
        if not grid[field]:
            refuse("--grid", axis, f"at least one value: {field}=VALUE,VALUE")
        seen: list[Any] = []
        for value in map(literal, grid[field]):
            if any(value == other and type(value) is type(other) for other in seen):
                refuse("--grid", axis, f"every value once: {value!r} is there twice")
            seen.append(value)
    if not grid:
        refuse("--grid", text, f"at least one field with its values, for example {example}")
    return grid


def cells_of(grid: Mapping[str, Sequence[str]], base: Sequence[str], output: Path) -> list[Cell]:
    """Every combination of the grid's values, the last field fastest.  ``base``: the words for ``experiments.train`` that all share."""
    short, cells = _short(list(grid)), []
    for values in itertools.product(*grid.values()):
        at = dict(zip(grid, values, strict=True))
        name = "_".join(f"{short[field]}={re.sub(r'[^A-Za-z0-9.+(),=-]', '-', value)}" for field, value in at.items())
        cells.append((name, at))
    names = [name for name, _ in cells]
    for k, (name, at) in enumerate(cells):
        if names.count(name) > 1 or len(name) > LONGEST:
            name = f"{name[:LONGEST]}-{key_of(at)[:8]}"
        words = (*base, *(f"--{field}={value}" for field, value in at.items()), f"--workdir={output / name}")
        cells[k] = Cell(name, at, words, output / name)
    return cells


def _short(fields: Sequence[str]) -> dict[str, str]:
    """The fewest last parts of each field that no other ends with: ``{"config.optimizer.learning_rate": "learning_rate"}``."""
    short = {}
    for field in fields:
        parts = field.split(".")[1:]
        endings = [".".join(parts[-k:]) for k in range(1, len(parts) + 1)]
        others = [other.removeprefix("config.") for other in fields if other != field]
        alone = (end for end in endings if not any(f".{other}".endswith(f".{end}") for other in others))
        short[field] = next(alone, endings[-1])
    return short


class Job:
    """What is handed to submitit: a cell's run in a process of its own, told by its exit status.

    Each run adds a line ``{"status": -9, "seconds": 3.1, "requeued": false}`` to ``ends`` (a negative status is the signal that ended it).
    SIGTERM is passed on to the run, which saves and stops.  ``checkpoint`` is submitit's, called before a time limit or at preemption:
    the run saves and stops, and the same job is queued again; the run goes on in its workdir.  Under Slurm SIGTERM means that the job is
    preempted or cancelled: once the run has saved, a job that has a grace period left is queued again, so that its place is free at once,
    and of one that has none Slurm has decided already.  Then the job ends without a result, which submitit would take for its end.
    """

    def __init__(self, words: Sequence[str], ends: Path, environment: Mapping[str, str | None] | None = None):
        self.words, self.ends = tuple(words), Path(ends).absolute()
        self.environment = dict(environment or {})
        self._child: subprocess.Popen | None = None
        self._begun, self._asked = 0.0, False

    def __call__(self) -> int:
        environment = {name: value for name, value in (os.environ | self.environment).items() if value is not None}
        self._begun = time.monotonic()
        sys.stdout.flush()
        # A session of its own: a Ctrl-C of the terminal is for the sweep.  SIGUSR2 is submitit's and would end the run, which Slurm's
        # proctrack/linuxproc sends it to, as to every process of the job: it is blocked there.
        command = [sys.executable, "-m", "experiments.train", *self.words]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        child = self._child = subprocess.Popen(command, env=environment, start_new_session=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        before = _on_sigterm(self._pass_on)
        try:
            self._wait(child)
            if self._asked and child.returncode != 0 and os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and left_to_slurm():
                self._told(requeued=True)
                sys.exit(128 + signal.SIGTERM)
        finally:
            if child.returncode is None:
                self._pass_on()
            if before is not None:
                _on_sigterm(before)
        self._told(requeued=False)
        return child.returncode

    def checkpoint(self) -> Any:
        """submitit's: what is to be queued again, once the run has saved."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._pass_on()
            self._wait(self._child)
            self._told(requeued=True)
        return DelayedSubmission(Job(self.words, self.ends, self.environment))

    def _pass_on(self, *_: Any) -> None:
        """SIGTERM for the run, once."""
        if not self._asked:
            self._asked = True
            self._child.send_signal(signal.SIGTERM)

    @staticmethod
    def _wait(child: subprocess.Popen) -> None:
        """Until ``child`` has ended.  A thread waits, so that a signal's handler may wait once more inside this."""
        threading.Thread(target=child.wait, daemon=True).start()
        while child.returncode is None:
            time.sleep(POLL)

    def _told(self, requeued: bool) -> None:
        """Adds the line of this run to ``ends``, once."""
        if self._child is None:
            return
        line = {"status": self._child.returncode, "seconds": round(time.monotonic() - self._begun, 2), "requeued": requeued}
        self.ends.parent.mkdir(parents=True, exist_ok=True)
        with self.ends.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._child = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_child": None}


def _on_sigterm(handler: Any) -> Any:
    """Sets what SIGTERM does; returns what it did, or None where no handler may be set (not in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def left_to_slurm() -> bool:
    """Whether Slurm goes on with this job, which was told to stop: it is queued again here if it still counts as running."""
    job = os.environ["SLURM_JOB_ID"]
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
    return "JobState=RUNNING" not in shown or subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0


def ends_of(file: Path) -> list[dict[str, Any]]:
    """The lines that the jobs of one cell have added to ``file``; none where there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      values: what the cell differs in.
      state: of ``score_lab.training.listing``, or "failed" (it died too often, or was refused), "waiting" (not begun).
      seconds: of all its jobs, those that died among them; None where none has told.
      why: the reason of the state, or "".
    """

    values: Mapping[str, str]
    state: str
    step: int
    steps: int | None
    best: float | None
    best_step: int | None
    loss: float | None
    seconds: float | None
    jobs: int
    why: str
    workdir: str
    command: str


def rows_of(cells: Sequence[Cell], failed: Mapping[str, str], ends: Path) -> list[Row]:
    """A row per cell, from the files of its workdir and of ``ends``; ``failed``: the reasons of cells that were given up, by name."""
    return [_row(cell, failed.get(cell.name), ends_of(ends / f"{cell.name}.jsonl")) for cell in cells]


def _row(cell: Cell, failed: str | None, ends: Sequence[Mapping[str, Any]]) -> Row:
    there = (cell.workdir / "config.json").is_file()
    run = run_in(cell.workdir) if there else Run(str(cell.workdir), "waiting", "", 0, None, None, None, None, 0.0)
    seconds = round(sum(end["seconds"] for end in ends), 2) if ends else None
    state, why = ("failed", failed) if failed is not None else (run.state, run.why)
    figures = (run.step, run.steps, run.best, run.best_step, run.loss)
    return Row(cell.values, state, *figures, seconds, len(ends), why, str(cell.workdir), cell.command)


FIGURES = ("state", "step", "steps", "best", "best_step", "loss", "seconds", "jobs", "why", "workdir", "command")
HEAD = ("state", "step", "best held-out loss", "last loss", "seconds", "jobs", "why")


def table(rows: Sequence[Row]) -> str:
    """A line per row, columns aligned, the fields of the grid first; a dash for what was never reported.  The commands are in the files."""
    fields = list(rows[0].values)
    lines = [(*_short(fields).values(), *HEAD), *(tuple(_cells(row)) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cells(row: Row) -> Iterator[str]:
    yield from row.values.values()
    yield row.state
    yield f"{row.step}/{'?' if row.steps is None else row.steps}"
    yield "-" if row.best is None else f"{row.best:.4f} at {row.best_step}"
    yield "-" if row.loss is None else f"{row.loss:.4f}"
    yield "-" if row.seconds is None else f"{row.seconds:.0f}"
    yield str(row.jobs)
    yield row.why or "-"


def write_tables(rows: Sequence[Row], output: Path) -> None:
    """``OUTPUT/table.csv`` and ``OUTPUT/table.json``, each whole or not at all: numbers unrounded, nothing for what was never reported."""
    flat = [dict(row.values) | {name: getattr(row, name) for name in FIGURES} for row in rows]
    with (output / "table.csv.new").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
    nested = [{"values": dict(row.values)} | {name: getattr(row, name) for name in FIGURES} for row in rows]
    (output / "table.json.new").write_text(json.dumps(nested, indent=2) + "\n")
    for name in ("table.csv", "table.json"):
        os.replace(output / f"{name}.new", output / name)
