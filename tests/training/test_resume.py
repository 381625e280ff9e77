"""A run that was stopped and killed ends in the same bits as one that never was: parameters, averages, optimizer, metrics, next batch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import network_guard
import numpy as np
import pytest
from training import processes

from score_lab.training import load, train
from score_lab.training.metrics import CLOCK, read_metrics


def bits(tree):
    """Every leaf's bytes by name; keys by their words."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    words = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for _, x in leaves]
    return {jax.tree_util.keystr(name): np.asarray(x).tobytes() for (name, _), x in zip(leaves, words, strict=True)}


def lines(workdir):
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_metrics(workdir)]


def position(workdir, step):
    return json.loads((workdir / "checkpoints" / str(step) / "host" / "metadata").read_text())["position"]


class Kill(Exception):
    pass


def test_a_run_stopped_at_20_and_killed_at_50_is_the_run_that_was_not(config, tmp_path):
    """60 steps on four devices, dropout, labels dropped, two averages, two microbatches, an objective with a parameter and a state of its
    own, ten steps a dispatch: 60 == 20, Ctrl-C, 30, kill, 60.
    """
    often = {"training__spike_window": 10, "training__spike_threshold": 0.5}  # so that a window that begins anew counts fewer spikes
    long = config(training__steps=60, training__log_every=20, training__checkpoint_every=30, training__eval_every=30, **often)
    long["objective"]["target"] = "training.remembering:Remembering"

    def callbacks(**acts):
        def probe(denoiser, step):
            acts.get(f"at_{step}", lambda: None)()
            return {"probe": float(denoiser.params["inward"]["bias"][0])}

        return [(10, probe)]

    def kill():
        raise Kill

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    unbroken = train(long, straight, callbacks())
    stopped = train(long, broken, callbacks(at_20=lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert (stopped.stopped, stopped.step) == ("SIGINT", 20)
    with pytest.raises(Kill):
        train(long, broken, callbacks(at_50=kill))
    assert read_metrics(broken)[-1]["step"] == 40  # beyond the checkpoint of step 30, and cut off by the next run
    resumed = train(long, broken, callbacks())

    assert len(jax.devices()) == 4 and len(resumed.state.ema) == 2
    assert bits(resumed.state) == bits(unbroken.state)
    assert int(resumed.state.objective["calls"]) == 60 and float(resumed.state.params["objective"]["scale"]) != 1.0
    assert lines(broken) == lines(straight) and [line["step"] for line in lines(broken)] == [10, 20, 30, 40, 50, 60]
    assert next(line["spikes"] for line in lines(broken) if line["step"] == 40) > 0
    assert position(broken, 60) == position(straight, 60)
    assert bits(load(broken, ema=0.99).denoiser.params) == bits(load(straight, ema=1).denoiser.params)


@pytest.mark.slow
def test_a_learned_weighting_goes_on_to_the_bit_and_its_loss_stays_comparable(config, tmp_path):
    """20 steps == 10, Ctrl-C, 10; u has moved, and the first update's unweighted loss is the loss of the run without."""
    own = config(training__log_every=1, training__eval_every=0)
    own["objective"] = {"target": "LearnedWeighting", "objective": own["objective"]}

    def probe(denoiser, step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    unbroken = train(own, straight)
    stopped = train(own, broken, [(10, probe)])
    assert (stopped.stopped, stopped.step) == ("SIGINT", 10)
    resumed = train(own, broken)
    assert bits(resumed.state) == bits(unbroken.state) and lines(broken) == lines(straight)
    assert np.all(np.asarray(resumed.state.params["objective"]["u"]) != 0)
    assert "u" not in load(straight).denoiser.params
    first, last = lines(straight)[0], lines(straight)[-1]
    assert first["loss"] == first["unweighted_loss"] and last["loss"] != last["unweighted_loss"]


@pytest.mark.slow
def test_sigkill_of_the_launcher(tmp_path):
    """The same with a process that is really killed, through the launcher."""
    environment = network_guard.environment()
    command = [sys.executable, "-m", "experiments.train", "--config=configs/toy.py:ot", "--config.data.batch_size=64"]
    command += [f"--config.training.{word}" for word in ("steps=600", "accumulate=2", "checkpoint_every=100")]
    command += [f"--config.network.{word}" for word in ("width=16", "dropout=0.1")]

    def start(workdir):
        return subprocess.Popen([*command, f"--workdir={workdir}"], env=environment, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "straight").wait(900) == 0
    broken = start(tmp_path / "broken")
    deadline = time.time() + 900
    while not (tmp_path / "broken" / "checkpoints" / "200").exists() and time.time() < deadline:
        time.sleep(0.05)
    broken.kill()
    assert broken.wait() == -signal.SIGKILL
    assert start(tmp_path / "broken").wait(900) == 0
    straight, again = (load(tmp_path / name, ema=None) for name in ("straight", "broken"))
    assert bits(straight.denoiser.params) == bits(again.denoiser.params)
    straight, again = (load(tmp_path / name, ema=0) for name in ("straight", "broken"))
    assert bits(straight.denoiser.params) == bits(again.denoiser.params)
    assert position(tmp_path / "straight", 600) == position(tmp_path / "broken", 600)
    assert lines(tmp_path / "straight") == lines(tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(), ("fsdp=1",), ("fsdp=2", "min_size=8"), ("fsdp=4", "min_size=8")], ids=" ".join)
def test_two_processes_are_one(tmp_path, mesh):
    """Two processes of two devices each write the run that one process of four writes, by pmap or on a mesh (of four: parameters shared
    out across the processes); they go on from their own checkpoints to the bit, and one process goes on from theirs by pmap.
    """
    words = [f"--config.training.{word}" for word in ("steps=60", "log_every=20", "checkpoint_every=20", "keep=9")]
    meshed = [*words, *(f"--config.parallel.{word}" for word in mesh)]
    one, two = tmp_path / "one", tmp_path / "two"
    processes.run(one, *words, count=1, devices=4)
    processes.run(two, *meshed)
    before = bits(load(two).denoiser.params)
    for step in (40, 60):
        shutil.rmtree(two / "checkpoints" / str(step))
    processes.run(two, *meshed)
    assert bits(load(two).denoiser.params) == before
    shutil.rmtree(two / "checkpoints" / "60")
    processes.run(two, *words, count=1, devices=4)
    for x, y in zip(*(jax.tree.leaves(load(workdir).denoiser.params) for workdir in (one, two)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    for a, b in zip(lines(one), lines(two), strict=True):
        np.testing.assert_allclose([a["loss"], a["grad_norm"]], [b["loss"], b["grad_norm"]], rtol=1e-4)
