"""One of two processes is told to stop, or is killed: what both do then, and that the run goes on to the very bits; one becomes two."""

import re
import shutil
import signal
import sys

import numpy as np
import pytest
from jax import tree
from training import processes

STEPS, SECONDS = 40, 0.2
RUN = [f"--config.training.{word}" for word in (f"steps={STEPS}", f"log_every={STEPS}", "checkpoint_every=10", "eval_every=0", "keep=9")]
RUN += ["--config.training.steps_per_dispatch=1", "--config.training.ema=(0.9,)"]
MESH = ["--config.parallel.fsdp=2", "--config.parallel.min_size=8"]


def signalled(name, victim, last):
    """The program of a run of which a process sends itself a signal after ``last`` dispatches."""
    return [sys.executable, "-m", "training.signalled", name, str(victim), str(last), str(SECONDS)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
    """``straight(words)``: the workdir of the run of two processes that nobody stopped."""
    homes = {}

    def made(*words):
        if words not in homes:
            homes[words] = tmp_path_factory.mktemp("straight")
            processes.run(homes[words], *RUN, *words, devices=1, cache=cache)
        return homes[words]

    return made


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "name"), [(1, "SIGTERM"), (0, "SIGINT")])
def test_a_signal_to_one_of_two_processes_stops_both(straight, cache, tmp_path, victim, name):
    """Long before a line or a checkpoint is due both save and exit with 128 + the signal; the same commands then make the same bits."""
    words = ["--config.training.checkpoint_every=40"]
    with processes.start(tmp_path, *RUN, *words, devices=1, program=signalled(name, victim, 3), cache=cache) as both:
        statuses, said, errors = processes.ended(both)
    assert statuses == [128 + getattr(signal, name)] * 2, (said, errors)
    assert not any("Traceback" in text for text in errors), errors
    step = int(re.search(rf"stopped by {name} at step (\d+), which is saved", said[0])[1])
    assert 3 < step < STEPS and processes.saved(tmp_path)[0] == step
    print(f"{name} after step 3: stopped at step {step}")
    processes.run(tmp_path, *RUN, *words, devices=1, cache=cache)
    processes.same(tmp_path, straight(*words))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [[], MESH], ids=["pmap", "mesh"])
def test_when_one_of_two_processes_is_killed_the_other_ends_and_both_go_on(straight, cache, tmp_path, mesh):
    """kill -9 of the one, then of the other: who is left ends within the heartbeat, in one line of ours or in JAX's words, with no
    traceback; then the same bits: parameters, optimizer, averages, position in the data, lines.
    """
    for victim, last in ((1, 13), (0, 9)):
        with processes.start(tmp_path, *RUN, *mesh, devices=1, program=signalled("SIGKILL", victim, last), cache=cache) as both:
            statuses, _, errors = processes.ended(both)
        assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] != 0, errors
        said = errors[1 - victim]
        assert "Traceback" not in said, said
        assert "a process of this run has gone" in said or "another task died" in said or "coordinator" in said.lower(), said
        assert processes.saved(tmp_path)[0] >= 10
    processes.run(tmp_path, *RUN, *mesh, devices=1, cache=cache)
    processes.same(tmp_path, straight(*mesh))


@pytest.mark.slow
def test_one_process_becomes_two(straight, cache, tmp_path):
    """Stopped after some steps on two devices, it goes on as two processes of one device each: parameters, optimizer and averages are those
    of the run that was two from the start, to the order of sums; the data go on where they were.
    """
    with processes.start(tmp_path, *RUN, count=1, program=signalled("SIGTERM", 0, 15), cache=cache) as both:
        statuses, said, errors = processes.ended(both)
    assert statuses == [143] and "stopped by SIGTERM at step 15" in said[0], errors
    said = processes.run(tmp_path, *RUN, devices=1, cache=cache)
    assert "goes on from step 15" in said[0]
    (step, state, host), (other, expected, wanted) = processes.saved(tmp_path), processes.saved(straight())
    assert step == other == STEPS and host["position"] == wanted["position"]
    assert processes.bits(state.key) == processes.bits(expected.key)
    for name in ("params", "opt_state", "ema"):
        for x, y in zip(tree.leaves(getattr(state, name)), tree.leaves(getattr(expected, name)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    for a, b in zip(processes.lines(tmp_path), processes.lines(straight()), strict=True):
        np.testing.assert_allclose([a["loss"], a["grad_norm"]], [b["loss"], b["grad_norm"]], rtol=1e-4)


CANNOT_READ = """
import jax
from experiments import launcher, train
from score_lab.training.checkpoint import Checkpoints
restore = Checkpoints.restore

def fails(self, like, step):
    if jax.process_index() == 1:
        raise OSError(5, "Input/output error")
    return restore(self, like, step)

Checkpoints.restore = fails
launcher.launch(train.main)
"""


@pytest.mark.slow
def test_two_processes_go_on_from_the_same_checkpoint(straight, cache, tmp_path):
    """One cannot read a sound one: it says so in one line, the other ends, nothing is renamed.  A damaged one is passed over by both."""
    home = tmp_path / "run"
    shutil.copytree(straight(), home)
    shutil.rmtree(home / "checkpoints" / "40")
    with processes.start(home, *RUN, devices=1, program=[sys.executable, "-c", CANNOT_READ], cache=cache) as both:
        statuses, _, errors = processes.ended(both)
    assert statuses[1] == 1 and statuses[0] != 0, errors
    said = errors[1].strip().splitlines()[-1]
    assert said.startswith(f"error: {home}: checkpoint 30 is not known to be damaged, and could not be read (")
    assert "Traceback" not in errors[0] + errors[1], errors
    assert sorted(int(entry.name) for entry in (home / "checkpoints").iterdir()) == [10, 20, 30]
    file = max(path for path in (home / "checkpoints" / "30" / "state").rglob("*") if path.is_file() and path.stat().st_size)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    said = processes.run(home, *RUN, devices=1, cache=cache)
    assert "checkpoint 30 is damaged (" in said[0] and "goes on from step 20" in said[0] and "goes on" not in said[1]
    processes.same(home, straight())
