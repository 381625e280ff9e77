"""``kill -9``, again and again: a run that was killed wherever that can hurt ends in the bits of the run that was never killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from score_lab.training import train
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.metrics import CLOCK, read_metrics
from score_lab.training.options import plain
from score_lab.training.prepare import prepare
from score_lab.training.snapshots import Snapshots
from score_lab.training.state import abstract_state

ROOT = Path(__file__).resolve().parents[2]


def environment(cache):
    """Of a process that runs ``training.killed`` on the devices of this one, and compiles what was not compiled before."""
    words = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return network_guard.environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **words)


def run(workdir, config, cache, point="none", number=0):
    """The exit status of a process of the run, and what it said."""
    file = workdir.with_suffix(".json")
    file.write_text(json.dumps(plain(config)))
    command = [sys.executable, "-m", "training.killed", str(workdir), str(file), point, str(number)]
    done = subprocess.run(command, env=environment(cache), capture_output=True, text=True, timeout=900)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def bits(tree):
    """Every leaf's bytes by name; keys by their words."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    words = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for _, x in leaves]
    return {jax.tree_util.keystr(name): np.asarray(x).tobytes() for (name, _), x in zip(leaves, words, strict=True)}


def outcome(workdir, config):
    """All that a run ends with: the state (parameters, averages, optimizer, objective, step, key), what the host goes on from (the next
    position in the data among it), every line but the clock's columns, the snapshots, and the checkpoints that are kept.
    """
    parts = prepare(plain(config), None).parts
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.steps[-1]
        state, host = checkpoints.restore(abstract_state(parts), step)
        kept, best = checkpoints.steps, checkpoints.best
        assert [checkpoints.damage(s) for s in kept] == [None] * len(kept)
    assert step == parts.options.steps == host["step"] and host["position"] is not None
    snapshots = {}
    if parts.options.profiles:
        like = abstract_state(parts).ema[len(parts.options.ema) :]
        with Snapshots(workdir) as stored:
            snapshots = {s: bits(stored.part({"profiles": like}, s)) for s in stored.steps}
    lines = [{k: v for k, v in line.items() if k not in CLOCK} for line in read_metrics(workdir)]
    sealed = sorted(int(file.stem) for file in (workdir / "seals").iterdir())
    return {"state": bits(state), "host": host, "lines": lines, "snapshots": snapshots, "kept": kept, "best": best, "sealed": sealed}


def left_over(workdir):
    """Files and folders that a kill has left half-made, and nobody has removed."""
    return [str(p.relative_to(workdir)) for p in workdir.rglob("*") if "tmp" in p.name or p.name.endswith((".new", ".damaged"))]


def same(broken, straight, config):
    ours, theirs = outcome(broken, config), outcome(straight, config)
    for name in theirs:
        assert ours[name] == theirs[name], name
    assert left_over(broken) == left_over(straight) == [] and theirs["sealed"] == theirs["kept"]


def test_killed_before_a_commit_and_in_the_first_step_after_a_restore(trained, config, tmp_path):
    """The run of all tests of this folder, in which two processes are killed before it ends in this one."""
    cache, broken = jax.config.jax_compilation_cache_dir, tmp_path / "broken"
    assert run(broken, config(), cache, "commit", 2)[0] == -signal.SIGKILL
    assert [e.name for e in (broken / "checkpoints").glob("*") if e.name.isdigit()] == ["10"]
    status, said = run(broken, config(), cache, "first")
    assert status == -signal.SIGKILL and "goes on from step 10" in said
    train(config(), broken)
    same(broken, trained[0], config())


INJECTED = [("commit", 1), ("commit", 2), ("commit", 1), ("files", 1), ("files", 2), ("item", 1), ("seal", 1), ("seal", 2), ("sealed", 1)]
INJECTED += [("first", 0)] * 3
TIMED = [("start", 4.0)] * 4 + [("loop", 0.2)] * 4
"""Points of training/killed.py and their number; for random moments the most seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["item", "files", "seal", "sealed"])
def test_killed_within_and_after_a_commit(trained, config, tmp_path, point):
    """Each of the other points alone, at the first checkpoint of the run; what has no seal gets it when the run goes on."""
    broken = tmp_path / "broken"
    assert run(broken, config(), jax.config.jax_compilation_cache_dir, point, 1)[0] == -signal.SIGKILL
    assert (broken / "checkpoints" / "10").exists() == (point in ("seal", "sealed"))
    assert not (broken / "seals" / "10.json").exists()
    train(config(), broken)
    same(broken, trained[0], config())


@pytest.mark.slow
def test_killed_twenty_times(config, tmp_path):
    """One run of 40 dispatches with dropout, labels dropped, two averages, a profile with snapshots, two microbatches, and an objective
    with a parameter and a state of its own; twelve kills at injected points and eight at random moments, in an order drawn once.
    """
    long = config(training__steps=400, training__checkpoint_every=10, training__log_every=20, training__eval_every=50)
    long["training"] |= {"profiles": [0.1], "snapshot_every": 50}
    long["objective"]["target"] = "training.remembering:Remembering"
    rng = random.Random(0)
    others = [*INJECTED[1:], *((point, rng.uniform(0.0, most)) for point, most in TIMED)]
    kills = [INJECTED[0], *rng.sample(others, len(others))]  # the first, when there is no checkpoint yet
    straight, broken, cache = tmp_path / "straight", tmp_path / "broken", tmp_path / "compiled"
    assert run(straight, long, cache)[0] == 0
    reached = []
    for point, number in kills:
        if point == "first":  # needs one to go on from
            assert any(entry.name.isdigit() for entry in (broken / "checkpoints").iterdir())
        status, said = run(broken, long, cache, point, number)
        reached.append((point, number, max((int(e.name) for e in (broken / "checkpoints").glob("*") if e.name.isdigit()), default=0)))
        assert status == -signal.SIGKILL, (reached, said)
    assert len(reached) == 20 and reached[0][2] == 0 < reached[-1][2] < 400, reached
    assert run(broken, long, cache)[0] == 0
    same(broken, straight, long)


@pytest.mark.slow
def test_sigterm_at_a_random_moment(tmp_path):
    """Exit status 143, a checkpoint of the very step that it was in, and the same bits when it goes on."""
    command = [sys.executable, "-m", "experiments.train", "--config=configs/toy.py:ot", "--config.data.batch_size=64"]
    command += [f"--config.training.{word}" for word in ("steps=2000", "accumulate=2", "checkpoint_every=200")]
    command += [f"--config.network.{word}" for word in ("width=16", "dropout=0.1")]

    def start(workdir):
        words = [*command, f"--workdir={workdir}"]
        return subprocess.Popen(words, env=environment(tmp_path / "compiled"), cwd=ROOT, stdout=subprocess.PIPE, text=True)

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = start(straight)
    assert process.communicate(timeout=900) and process.returncode == 0
    process, deadline = start(broken), time.time() + 900
    while not (broken / "checkpoints" / "400").exists() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(1).uniform(0.0, 0.2))
    process.terminate()
    said = process.communicate(timeout=900)[0]
    step = int(re.search(r"stopped by SIGTERM at step (\d+), which is saved: the same command goes on from there", said)[1])
    assert process.returncode == 128 + signal.SIGTERM == 143 and 400 <= step < 2000
    with Checkpoints(broken) as checkpoints:
        assert checkpoints.steps[-1] == step and checkpoints.damage(step) is None and (broken / "seals" / f"{step}.json").exists()
    process = start(broken)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0 and f"goes on from step {step}" in said
    same(broken, straight, json.loads((straight / "config.json").read_text())["config"])
