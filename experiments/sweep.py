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
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.compiled import elsewhere, taken
from experiments.launcher import launch, parse, split
from experiments.sweep_parts import Cell, cells_of, parse_grid
from experiments.sweep_queue import Sweep
from score_lab.build import ConfigError, refuse
from score_lab.training.lock import Lock

CLUSTERS = ("local", "slurm", "debug")
REQUEUES = 100
"""How often one job may reach its time limit and be queued again; preemptions are not counted."""
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


if __name__ == "__main__":
    launch(main)
