"""Trains what a configuration describes, or goes on with the run that its workdir holds.

    python -m experiments.train --config configs/digits.py:flow --workdir runs/x --config.training.steps=500

Ctrl-C saves and stops; the same command goes on from there, bit by bit.  The workdir says by itself what it is: config.json, checkpoints/,
metrics.jsonl, events/ (tensorboard --logdir), and ``score_lab.load("runs/x").denoiser`` is the result in one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from absl import flags

from experiments.launcher import FAILED, REFUSED, fail, launch, parse, set_xla_flag
from experiments.preview import preview
from score_lab.build import ConfigError, refuse

HEARTBEAT = 30
"""Seconds without a word from a process after which JAX ends the others."""


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""
    flags.DEFINE_string("workdir", None, "the directory of the run, made if need be", flag_values=values)
    about = "one of several processes: auto where the cluster says which, else HOST:PORT,COUNT,INDEX (of process 0, of all, of this one)"
    flags.DEFINE_string("distributed", None, about, flag_values=values)


def main() -> int:
    """Parses the command line and trains; returns the exit status."""
    values = parse(__doc__, sys.argv, define)
    for name in ("config", "workdir"):
        if values[name].value is None:
            refuse(f"--{name}", None, f"--{name}={'FILE:VARIANT' if name == 'config' else 'DIRECTORY'}, see --help")

    from experiments.sampling import check_sampling
    from score_lab.training import train
    from score_lab.training.options import plain
    from score_lab.training.prepare import DETERMINISTIC

    training = values.config.get("training") or {}
    if training.get("deterministic"):
        set_xla_flag(DETERMINISTIC)
    join(values.distributed)
    with together():
        trained = train(values.config, values.workdir, preview(plain(values.config), values.workdir), checks=[check_sampling])
    return 128 + signal.Signals[trained.stopped] if trained.stopped else 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Of several processes, one that fails ends at once, with one line: what JAX and Orbax do at the end of a process waits for the
    others.  They find that it is gone in the next sum that they make with it, and end in the same way; one that waits for it in a
    checkpoint is ended by JAX after HEARTBEAT seconds, in JAX's words."""
    import jax

    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        told = f"a process of this run has gone ({what}): the same commands go on from the newest checkpoint" if lost else what
        fail(told, REFUSED if isinstance(error, ConfigError) else FAILED)
        sys.stdout.flush()
        os._exit(REFUSED if isinstance(error, ConfigError) else FAILED)


def join(distributed: str | None) -> None:
    """Joins the other processes of the run; there are none unless they are asked for."""
    import jax

    if distributed is None:
        return
    if distributed == "auto":
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
        return
    address, *numbers = distributed.split(",")
    host, _, port = address.rpartition(":")
    good = host and port.isdigit() and len(numbers) == 2 and all(number.isdigit() for number in numbers)
    if not good or not int(numbers[1]) < int(numbers[0]):
        refuse("--distributed", distributed, "auto, or HOST:PORT,COUNT,INDEX")
    jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]), heartbeat_timeout_seconds=HEARTBEAT)


if __name__ == "__main__":
    launch(main)
