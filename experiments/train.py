"""Trains what a configuration describes, or goes on with the run that its workdir holds.

    python -m experiments.train --config configs/digits.py:flow --workdir runs/x --config.training.steps=500

``--memory`` compiles the step for the configured batch and devices, says what they would hold and the largest batch that fits, and
writes nothing.  ``--profile=20`` traces 20 steps into WORKDIR/profile and names the slowest parts; ``--config.training.mfu=True`` logs
FLOP/s and MFU against the devices' measured peak.

A workdir goes on with the configuration that it was begun with: a command with another one is refused, in a line that names what differs.
``--allow optimizer.learning_rate,data.batch_size`` (or a section, ``--allow optimizer``) lets these change on the way, from the newest
checkpoint on; config.json keeps what was changed and when.  The same command may be given again.  docs/training.md says what may change
freely, so, and never.

Ctrl-C saves and stops; the same command goes on from there, bit by bit.  The workdir says by itself what it is: config.json, checkpoints/,
metrics.jsonl, events/ (pip install tensorboard; tensorboard --logdir runs), and ``score_lab.load("runs/x").denoiser`` is the result in one
line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from absl import flags

from experiments.launcher import FAILED, REFUSED, fail, launch, parse, set_xla_flag
from experiments.preview import preview
from score_lab.build import ConfigError, refuse

HEARTBEAT = 30
"""Seconds without a word from a process after which JAX ends the others."""
PATIENCE = 300
"""Seconds that the processes of a run wait for each other when it begins."""


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""
    flags.DEFINE_string("workdir", None, "the directory of the run, made if need be", flag_values=values)
    about = "say what the run would hold on each device, and what fits; nothing is run or written"
    flags.DEFINE_bool("memory", False, about, flag_values=values)
    flags.DEFINE_integer("profile", None, "steps to trace into WORKDIR/profile (config.training.profile)", flag_values=values)
    about = "keys of the configuration, or sections, that may differ from what the run had so far: optimizer.learning_rate,data"
    flags.DEFINE_multi_string("allow", [], about, flag_values=values)
    about = "one of several processes: auto where the cluster says which, else HOST:PORT,COUNT,INDEX (of process 0, of all, of this one)"
    flags.DEFINE_string("distributed", None, about, flag_values=values)


def main() -> int:
    """Parses the command line and trains; returns the exit status."""
    values = parse(__doc__, sys.argv, define)
    for name in ("config", "workdir"):
        given = values[name].value
        if given == "" or given is None and not (name == "workdir" and values.memory):
            refuse(f"--{name}", given, f"--{name}={'FILE:VARIANT' if name == 'config' else 'DIRECTORY'}, see --help")

    from experiments.sampling import check_sampling
    from score_lab.training import train
    from score_lab.training.options import check_sections, plain
    from score_lab.training.prepare import DETERMINISTIC

    check_sections(plain(values.config))
    training = values.config.training
    if training.get("deterministic"):
        set_xla_flag(DETERMINISTIC)
    join(values.distributed)
    if values.profile is not None:
        with values.config.unlocked():
            values.config.training.profile = values.profile
    if values.memory:
        return say_memory(plain(values.config), values.workdir, values.allow)
    with one_ends_all():
        previews = preview(plain(values.config), values.workdir)
        trained = train(values.config, values.workdir, previews, checks=[check_sampling], allow=values.allow)
    return 128 + signal.Signals[trained.stopped] if trained.stopped else 0


def say_memory(config: dict, workdir: str | None, allow: Sequence[str] = ()) -> int:
    """What the run would hold on each device, in the terminal; 0 if it fits, 1 if not."""
    from pathlib import Path

    from score_lab.training.fits import fit_of
    from score_lab.training.metrics import say
    from score_lab.training.prepare import prepare

    plan = prepare(config, Path(workdir) if workdir else None, allow=allow)
    fit = fit_of(plan)
    if plan.lead:
        for line in fit.lines(plan.layout.devices[0].device_kind):
            say(line)
    return 0 if fit.fits else 1


@contextlib.contextmanager
def one_ends_all() -> Iterator[None]:
    """Of several processes, one that fails ends at once, with one line: what JAX and Orbax do at the end of a process waits for the
    others.  They find that it is gone in the next sum that they make with it, and end in the same way; one that waits for it in a
    checkpoint says so (loop.py), and is ended by JAX after HEARTBEAT seconds, in JAX's words.  A Ctrl-C that interrupts, the second one,
    does the same."""
    import jax

    interrupted = 128 + signal.SIGINT
    try:
        yield
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            raise
        fail("interrupted by Ctrl-C: the same commands go on from the newest checkpoint", interrupted)
        sys.stdout.flush()
        os._exit(interrupted)
    except Exception as error:
        if jax.process_count() == 1:
            raise
        what = _first_line(error)
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        told = f"a process of this run has gone ({what}): the same commands go on from the newest checkpoint" if lost else what
        fail(told, REFUSED if isinstance(error, ConfigError) else FAILED)
        sys.stdout.flush()
        os._exit(REFUSED if isinstance(error, ConfigError) else FAILED)


def join(distributed: str | None) -> None:
    """Joins the other processes of the run; there are none unless they are asked for.

    Raises ConfigError where JAX finds no cluster for ``auto``, and where the processes do not find each other within PATIENCE seconds.
    """
    import jax

    if distributed is None:
        return
    where: tuple = ()
    if distributed != "auto":
        address, *numbers = distributed.split(",")
        host, _, port = address.rpartition(":")
        good = host and port.isdigit() and len(numbers) == 2 and all(number.isdigit() for number in numbers)
        if not good or not int(numbers[1]) < int(numbers[0]):
            refuse("--distributed", distributed, "auto, or HOST:PORT,COUNT,INDEX")
        where = (address, int(numbers[0]), int(numbers[1]))
    three = "HOST:PORT,COUNT,INDEX (of process 0, of all, of this one)"
    late = threading.Timer(PATIENCE, give_up, [f"--distributed: {distributed!r} is refused; allowed: {three} of processes "
                                               f"that find each other within {PATIENCE} seconds: they did not"])  # fmt: skip
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(*where, initialization_timeout=2 * PATIENCE, heartbeat_timeout_seconds=HEARTBEAT)
    except jax.errors.JaxRuntimeError as error:
        refuse("--distributed", distributed, f"{three} of processes that find each other ({_first_line(error)})")
    except (ValueError, TypeError, KeyError) as error:  # of the environment, in which JAX looks for a cluster
        refuse("--distributed", distributed, f"{three}, or auto where JAX finds a cluster ({_first_line(error)})")
    finally:
        late.cancel()


def give_up(line: str) -> None:
    """Ends this process with one line: JAX ends one that waits in vain too, in many lines of its own."""
    fail(line, REFUSED)
    sys.stdout.flush()
    os._exit(REFUSED)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


if __name__ == "__main__":
    launch(main)
