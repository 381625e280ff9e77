"""Runs a grid of configurations, each in a workdir of its own, on this machine or on Slurm, and makes one table of what came out.

    python -m experiments.sweep --config configs/toy.py:moons --output runs/sweep --grid 'config.optimizer.learning_rate=1e-3,3e-3; config.seed=0,1' --jobs 2
    python -m experiments.sweep --config configs/digits.py:flow --output runs/sweep --grid 'config.seed=0,1,2' --cluster slurm --partition gpu --gpus 1 --time 240

Every cell is `python -m experiments.train` with the values of its name, `--config.a.b=VALUE` for all of them; nothing is begun before every
cell was checked.  A cell that is done is not run again, one that died is queued again up to --retries times, and one that is refused or dies
once more is told with its reason while the others go on.  --allow is handed on: cells go on with what was changed.  A sweep that was stopped goes on by the same command: on Ctrl-C the runs of this
machine save and stop, those of Slurm go on, and are found again.  OUTPUT/table.csv and table.json are the table, OUTPUT/jobs has the logs.

Needs submitit: pip install 'score-lab[sweep]'.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.compiled import elsewhere, taken
from experiments.launcher import FAILED, REFUSED, launch, parse, split
from experiments.sweep_parts import Cell, Job, cells_of, ends_of, parse_grid, rows_of, table, write_tables
from score_lab.build import ConfigError, refuse
from score_lab.training.listing import run_in
from score_lab.training.lock import Lock, holder

CLUSTERS = ("local", "slurm", "debug")
REQUEUES = 100
"""How often one job may reach its time limit and be queued again; preemptions are not counted."""
LOOK = {"local": 0.3, "slurm": 5.0, "debug": 0.0}
"""Seconds between two looks at the jobs."""
OPEN = ("UNKNOWN", "PREEMPTED")
"""What sacct says also of a job that is gone: without accounting, and where preempted jobs are cancelled.  submitit waits for these."""
LONG = 60 * 24 * 365
"""Minutes that a local job may take if --time says nothing."""


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""

    def number(name: str, default: int | None, least: int, about: str) -> None:
        flags.DEFINE_integer(name, default, about, lower_bound=least, flag_values=values)

    flags.DEFINE_string("output", None, "the directory in which every cell has its workdir, made if need be", flag_values=values)
    flags.DEFINE_string("grid", None, "'config.a.b=VALUE,VALUE; config.c=VALUE': every combination is a cell", flag_values=values)
    about = "local: processes of this machine; slurm; debug: one after the other in this process, their words in this terminal"
    flags.DEFINE_enum("cluster", "local", list(CLUSTERS), about, flag_values=values)
    number("jobs", None, 1, "how many cells at once (1; of slurm all)")
    number("retries", 2, 0, "how often a cell that dies is queued again")
    number("time", None, 1, "minutes after which a job saves, stops and is queued again (slurm: 60)")
    number("grace", 120, 1, "seconds before that at which it is told: longer than a checkpoint takes")
    number("gpus", None, 0, "GPUs of each cell (local: cells at once get different ones; without it every cell sees all)")
    number("cpus", None, 1, "CPU cores of each cell (slurm)")
    flags.DEFINE_string("partition", None, "Slurm's", flag_values=values)
    flags.DEFINE_list("slurm", [], "more options of sbatch: account=ours,qos=long", flag_values=values)
    about = "keys of the configuration, or sections, that may differ from what the cells' runs had so far (experiments.train)"
    flags.DEFINE_multi_string("allow", [], about, flag_values=values)


def main() -> int:
    """Parses the command line, checks every cell, runs what is not done; 0 if every cell is done, 1 if not."""
    values = parse(__doc__, sys.argv, define)
    for name in ("config", "output", "grid"):
        given = values[name].value
        if given is None or given == "" and name == "output":
            refuse(f"--{name}", given, f"--{name}={'FILE:VARIANT' if name == 'config' else 'WHAT'}, see --help")
    _only_where(values)
    output, shared = Path(values.output), _shared(sys.argv[1:])
    grid = parse_grid(values.grid)
    twice = [word for word in shared for field in grid if word.startswith(f"--{field}=")]
    if twice:
        refuse("--grid", values.grid, f"fields that the command line does not set: {twice[0]}")
    cells = cells_of(grid, shared, output)
    if output.exists() and not output.is_dir():
        refuse("--output", str(output), "a directory, or a name that is free: this is a file")
    steps = checked(cells)
    executor = executor_of(values, output / "jobs")
    with Lock(output):
        sweep = Sweep(values, executor, cells, steps, output)
        try:
            with _terminable():
                sweep.run()
        except KeyboardInterrupt as stop:
            sweep.stop()
            sweep.tell()
            print("stopped: the same command goes on", flush=True)
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)
        return sweep.tell()


def _only_where(values: flags.FlagValues) -> None:
    """Refuses flags that the cluster that was asked for does not read."""
    unread = {"local": ("cpus", "partition", "slurm"), "slurm": (), "debug": ("cpus", "partition", "slurm", "gpus", "time", "jobs")}
    for name in unread[values.cluster]:
        if values[name].value not in (None, []):
            refuse(f"--{name}", values[name].value, f"none with --cluster={values.cluster}")
    for pair in values.slurm:
        if not all(pair.partition("=")):
            refuse("--slurm", pair, "NAME=VALUE,NAME=VALUE, options of sbatch")


def _shared(words: Sequence[str]) -> list[str]:
    """Of the command line what every cell is told: ``--config``, the overrides, ``--allow`` and ``--compilation_cache``."""
    overrides, others = split(words)
    known = ("--config", "--allow")
    told = [word if "=" in word else f"{word}={others[k + 1]}" for k, word in enumerate(others) if word.partition("=")[0] in known]
    return [*told, *(f"--config.{name}={value}" for name, value in overrides), *elsewhere()[0]]


def executor_of(values: flags.FlagValues, folder: Path) -> Any:
    """submitit's executor of the cluster; ConfigError where submitit is not installed, or Slurm is not there."""
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"  # it would configure the logging of this process, and close the handlers that are there
    try:
        import submitit
    except ImportError:
        refuse("--cluster", values.cluster, "submitit, which is not installed: pip install 'score-lab[sweep]'")
    finally:
        os.environ.pop("SUBMITIT_LOG_LEVEL")
        os.environ.update({} if before is None else {"SUBMITIT_LOG_LEVEL": before})
    if values.cluster == "debug":
        return submitit.DebugExecutor(folder)
    if values.cluster == "local":
        executor = submitit.LocalExecutor(folder, max_num_timeout=REQUEUES)
        executor.update_parameters(timeout_min=values.time or LONG, signal_delay_s=values.grace)
        return executor
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    except RuntimeError as error:
        refuse("--cluster", "slurm", f"local, or slurm where its commands are ({error})")
    asked = {"partition": values.partition, "gpus_per_node": values.gpus, "cpus_per_task": values.cpus}
    more = {"requeue": True} | dict(pair.split("=", 1) for pair in values.slurm)
    executor.update_parameters(
        time=values.time or 60, signal_delay_s=values.grace, nodes=1, ntasks_per_node=1, stderr_to_stdout=False,
        additional_parameters=more, **{name: value for name, value in asked.items() if value is not None},
    )  # fmt: skip
    return executor


def checked(cells: Sequence[Cell]) -> dict[str, int]:
    """The steps of every cell, by name; ConfigError for the first that ``experiments.train`` would refuse.

    On the CPU, so that no accelerator is taken from the cells; whether a batch divides among the devices is left to the run.
    """
    import jax

    from experiments.preview import preview
    from experiments.sampling import check_sampling
    from experiments.train import define as define_train
    from score_lab.training.options import parallel_of, plain
    from score_lab.training.prepare import prepare

    jax.config.update("jax_platforms", "cpu")
    steps = {}
    for cell in cells:
        try:
            words = ["train", *taken(cell.words)[1]]
            values = parse("", words, define_train)
            config = plain(values.config)
            parallel_of(config)
            preview(config, cell.workdir)
            alone = config | {"parallel": None, "training": {**config.get("training", {}), "devices": 1}}
            plan = prepare(alone, cell.workdir if cell.workdir.exists() else None, allow=values.allow)
            check_sampling(plan.parts)
        except ConfigError as error:
            raise ConfigError(f"{error} (cell {cell.name}; nothing was begun)") from None
        steps[cell.name] = plan.options.steps
    return steps


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


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """While entered, SIGTERM is what Ctrl-C is."""

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(path: Path) -> list[str]:
    """The lines of a log that say something."""
    return [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.is_file() else []


if __name__ == "__main__":
    launch(main)
