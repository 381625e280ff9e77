"""Processes that make one run together, as tests of this folder start them: of experiments.train, or of a program of their own."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import network_guard
import numpy as np

from score_lab.training.checkpoint import Checkpoints
from score_lab.training.metrics import CLOCK, read_metrics
from score_lab.training.options import plain
from score_lab.training.prepare import prepare
from score_lab.training.record import read_workdir
from score_lab.training.state import abstract_state

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "experiments.train"]
TINY = ["--config=configs/toy.py:ot", "--config.network.width=16", "--config.data.batch_size=64", "--config.optimizer.warmup=5"]


@contextlib.contextmanager
def started(commands, devices=2, cache=None, **pipes):
    """A process for each of ``commands``, with ``devices`` and a group of its own; those that are left are killed.  ``cache``: where what
    was compiled is kept."""
    compiled = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])  # else the same: some of what is drawn hangs on them
    environment = network_guard.environment(
        PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", XLA_FLAGS=flags, JAX_ENABLE_X64=str(int(jax.config.jax_enable_x64)),
        no_proxy="localhost,127.0.0.1", **compiled,
    )  # fmt: skip  # gRPC reads no_proxy in small letters
    processes = [subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def start(workdir, *words, count=2, devices=2, program=PROGRAM, cache=None):
    """The processes of the run of TINY with ``words``, as ``started``; what they say is kept."""
    with network_guard.held_port() as port:
        joined = [[f"--distributed=localhost:{port},{count},{index}"] if count > 1 else [] for index in range(count)]
        commands = [[*program, *TINY, f"--workdir={workdir}", *words, *own] for own in joined]
        with started(commands, devices, cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as processes:
            yield processes


def ended(processes, timeout=900):
    """``(statuses, what each said, what each said of errors)``."""
    said = [process.communicate(timeout=timeout) for process in processes]
    return [process.returncode for process in processes], [out for out, _ in said], [err for _, err in said]


def run(workdir, *words, **options):
    """To the end, which is good."""
    with start(workdir, *words, **options) as processes:
        statuses, said, errors = ended(processes)
    assert statuses == [0] * len(processes), errors
    return said


def until(there, processes, seconds=600):
    """Waits until ``there()``, while all ``processes`` live."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.02)


def bits(tree):
    """Every leaf's bytes by name; keys by their words."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    words = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for _, x in leaves]
    return {jax.tree_util.keystr(name): np.asarray(x).tobytes() for (name, _), x in zip(leaves, words, strict=True)}


def saved(workdir, step=None):
    """``(step, state, host)`` of a checkpoint, the newest for None: parameters, optimizer, averages, key; data position."""
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.steps[-1] if step is None else step
        parts = prepare(plain(read_workdir(workdir)["config"]), None).parts
        assert checkpoints.damage(step) is None
        return step, *checkpoints.restore(abstract_state(parts), step)


def lines(workdir):
    """Those of metrics.jsonl but the columns of the clock."""
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_metrics(workdir)]


def same(ours, theirs):
    """Two runs have ended alike, to the bit: the state, the host's part of it, and every line."""
    (step, state, host), (other, expected, wanted) = saved(ours), saved(theirs)
    assert step == other and bits(state) == bits(expected)
    assert host == wanted and host["position"] is not None
    assert lines(ours) == lines(theirs)
