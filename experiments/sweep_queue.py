"""The cells of a sweep on their way through submitit: which are queued, active, done or given up, and why.

    queued -> active (a job, or somebody else's run that is waited for) -> done | queued again: died, at most --retries times; preempted,
    however often | given up: refused (status 2), cancelled, or died once more
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.compiled import elsewhere
from experiments.launcher import FAILED, REFUSED
from experiments.sweep_parts import Cell, Job, ends_of, rows_of, table, write_tables
from score_lab.build import refuse
from score_lab.training.listing import run_in
from score_lab.training.lock import holder

__all__ = ["LOOK", "Sweep"]

LOOK = {"local": 0.3, "slurm": 5.0, "debug": 0.0}
"""Seconds between two looks at the jobs."""
OPEN = ("UNKNOWN", "PREEMPTED")
"""What sacct says also of a job that is gone: without accounting, and where preempted jobs are cancelled.  submitit waits for these."""


@dataclasses.dataclass
class Active:
    """A cell that is being run: by ``job``, or by somebody else (None).  ``ended``: how many of its jobs had told of their end before."""

    cell: Cell
    job: Any
    ended: int
    slot: int


class Sweep:
    """The cells on their way: which are queued, active, given up; ``OUTPUT/jobs/NAME.jsonl`` has how each job of a cell ended."""

    def __init__(self, values: flags.FlagValues, executor: Any, cells: Sequence[Cell], steps: dict[str, int], output: Path):
        self.values, self.executor, self.cells, self.steps, self.output = values, executor, cells, steps, output
        self.ends = output / "jobs"
        self.at_once = values.jobs or (len(cells) if values.cluster == "slurm" else 1)
        self.tries = dict.fromkeys(steps, 0)
        self.failed: dict[str, str] = {}
        self.queue = [cell for cell in cells if not self.done(cell)]
        self.active: list[Active] = []

    def done(self, cell: Cell) -> bool:
        """Whether its newest checkpoint is of all steps that the configuration asks for."""
        if not (cell.workdir / "config.json").is_file():
            return False
        run = run_in(cell.workdir)
        return run.state not in ("running", "damaged") and run.step >= self.steps[cell.name]

    def run(self) -> None:
        """Until nothing is queued or active."""
        if len(self.queue) < len(self.cells):
            print(f"{len(self.cells) - len(self.queue)} of {len(self.cells)} cells are done already", flush=True)
        while self.queue or self.active:
            while self.queue and len(self.active) < self.at_once:
                self.start(self.queue.pop(0))
            time.sleep(LOOK[self.values.cluster])
            for active in [a for a in self.active if self.ended(a)]:
                self.active.remove(active)
                self.judge(active)

    def start(self, cell: Cell) -> None:
        """Hands the cell to submitit, or waits for whoever is at it: a job of a sweep that was killed, or a command typed by hand."""
        slot = min(set(range(self.at_once)) - {active.slot for active in self.active})
        ended, job, held = len(ends_of(self.ends / f"{cell.name}.jsonl")), self.queued(cell), holder(cell.workdir)
        if job is None and held is None:
            job = self.submit(cell, slot)
            print(f"{cell.name}: begun as job {job.job_id}, log {self.log(job)}", flush=True)
        else:
            print(f"{cell.name}: waits for {held or f'job {job.job_id}'}, which is at it", flush=True)
        self.active.append(Active(cell, job, ended, slot))

    def submit(self, cell: Cell, slot: int) -> Any:
        """A new job.  Ctrl-C is for this process alone: it tells the jobs.  ConfigError, in sbatch's words, for what it does not take."""
        local, gpus = self.values.cluster == "local", self.values.gpus
        if local and gpus:
            self.executor.update_parameters(gpus_per_node=gpus, visible_gpus=tuple(range(slot * gpus, (slot + 1) * gpus)))
        if self.values.cluster == "slurm":
            self.executor.update_parameters(job_name=cell.name)
        kept = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if local and gpus is None else {}
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            job = self.executor.submit(Job(cell.words, self.ends / f"{cell.name}.jsonl", kept | elsewhere()[1]))
        except RuntimeError as error:  # submitit's FailedJobError
            if self.values.cluster != "slurm":
                raise
            refuse("--cluster", self.values.cluster, f"what sbatch takes ({error}); jobs that are queued go on, and are found again")
        finally:
            signal.signal(signal.SIGINT, before)
        if self.values.cluster == "slurm":
            (self.ends / f"{cell.name}.job").write_text(job.job_id)
        return job

    def queued(self, cell: Cell) -> Any:
        """The job of Slurm that an earlier command left in the queue for this cell, or None."""
        file = self.ends / f"{cell.name}.job"
        if self.values.cluster != "slurm" or not file.is_file():
            return None
        import submitit

        job = submitit.SlurmJob(self.ends, file.read_text())
        return None if job.done(force_check=True) or self.lost(job) else job

    def ended(self, active: Active) -> bool:
        """Whether whoever was at the cell is gone."""
        if active.job is None:
            return holder(active.cell.workdir) is None
        return active.job.done() or self.lost(active.job)

    def lost(self, job: Any) -> bool:
        """Whether Slurm has ended ``job`` although submitit waits for it."""
        return self.values.cluster == "slurm" and job.state in OPEN and not in_queue(job.job_id)

    def judge(self, active: Active) -> None:
        """Done, queued again, or given up with the reason."""
        cell, (why, refused) = active.cell, self.reason(active)
        if self.done(cell):
            print(f"{cell.name}: done", flush=True)
        elif active.job is None or holder(cell.workdir) is not None:
            self.queue.insert(0, cell)  # somebody else was, or is at it: that is no death
        elif self.values.cluster == "slurm" and active.job.state == "PREEMPTED":
            self.queue.insert(0, cell)
            print(f"{cell.name}: preempted, and not queued again by Slurm: begun anew", flush=True)
        elif refused or self.tries[cell.name] >= self.values.retries:
            self.failed[cell.name] = why
            print(f"{cell.name}: given up: {why}", flush=True)
        else:
            self.tries[cell.name] += 1
            self.queue.append(cell)
            print(f"{cell.name}: {why}; queued again ({self.tries[cell.name]} of {self.values.retries})", flush=True)

    def reason(self, active: Active) -> tuple[str, bool]:
        """``(why the job ended, whether it was refused and would be again)``; a reason is one line."""
        if active.job is None:
            return "", False
        state = active.job.state
        if self.values.cluster == "slurm" and state not in OPEN:
            active.job.exception()  # waits for what a slow file system has not shown yet
        told = ends_of(self.ends / f"{active.cell.name}.jsonl")[active.ended :]
        if not told or told[-1]["requeued"]:
            if state.startswith("CANCELLED"):
                return f"its job was cancelled; log {self.log(active.job)}", True
            return f"its job ended without a word ({state}): killed, or out of memory; log {self.log(active.job)}", False
        status = told[-1]["status"]
        if status < 0:
            return f"killed by {signal.Signals(-status).name}", False
        words = _lines(active.job.paths.stderr)
        error = next((line.removeprefix("error: ") for line in reversed(words) if line.startswith("error: ")), None)
        last = error or (words[-1] if words else f"log {self.log(active.job)}")
        return f"exit status {status}: {last}", status == REFUSED

    @staticmethod
    def log(job: Any) -> Path:
        """Where a job's words are."""
        path = job.paths.stderr
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    def stop(self) -> None:
        """The runs of this machine save and stop; the jobs of Slurm are left to it."""
        if self.values.cluster != "local":
            return
        mine = [active.job for active in self.active if active.job is not None]
        while mine := [job for job in mine if not job.done()]:
            for job in mine:  # again and again: one that had just begun may not have heard it; it passes it on once
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(LOOK["local"])

    def tell(self) -> int:
        """Prints and writes the table; 0 if every cell is done, 1 if not."""
        rows = rows_of(self.cells, self.failed, self.ends)
        write_tables(rows, self.output)
        print(f"\n{table(rows)}\n\n{self.output / 'table.csv'}, {self.output / 'table.json'}", flush=True)
        return 0 if all(self.done(cell) for cell in self.cells) else FAILED


def in_queue(job: str) -> bool:
    """Whether Slurm has ``job`` in its queue, running or not; also if it does not answer."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%A"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return job in asked.stdout.split() or (asked.returncode != 0 and "Invalid job id" not in asked.stderr)


def _lines(path: Path) -> list[str]:
    """The lines of a log that say something."""
    return [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.is_file() else []
