"""What a workdir survives: files that were damaged after they were written, and two runs that want it at once."""

import os
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import network_guard
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.training import load, train
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.lock import Lock


def files_of(workdir, step):
    found = [path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(found, key=lambda path: -path.stat().st_size)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    directory = path
    while not directory.name.isdigit():
        directory = directory.parent
    shutil.rmtree(directory)
    directory.mkdir()


DAMAGE = {"truncated": (truncate, "bytes of"), "flipped": (flip, "is not what was written"), "missing": (os.remove, "is missing"),
          "empty": (empty, "it is empty")}  # fmt: skip


@pytest.mark.parametrize("kind", ["flipped", "empty", *(pytest.param(k, marks=pytest.mark.slow) for k in ("truncated", "missing"))])
def test_a_damaged_newest_checkpoint_is_passed_over(trained, config, tmp_path, capsys, kind):
    """A line says what is wrong with it; the run goes on from the one before, to the same bits; the damaged one is kept aside."""
    act, words = DAMAGE[kind]
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    act(files_of(workdir, 20)[0])
    with pytest.warns(UserWarning, match=rf"checkpoint 20 is damaged \(.*{words}.*\): passed over for that of step 10"):
        assert load(workdir).step == 10
    with pytest.raises(ConfigError, match="step: 20 is refused; allowed: a checkpoint that can be read: this one is damaged"):
        load(workdir, step=20)
    again = train(config(), workdir)
    said = capsys.readouterr().out
    assert "checkpoint 20 is damaged (" in said and words in said
    assert "passed over, and kept as checkpoints/20.damaged" in said and "goes on from step 10" in said
    assert (workdir / "checkpoints" / "20.damaged").is_dir() and load(workdir).step == 20
    for a, b in zip(jax.tree.leaves(again.state.params), jax.tree.leaves(trained[1].state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_byte_is_sealed(trained, tmp_path):
    """Whichever file is changed, by one bit in its middle, it is known; and what nobody touched is sound."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    with Checkpoints(workdir) as checkpoints:
        assert [checkpoints.damage(step) for step in (10, 20)] == [None, None]
        for path in files_of(workdir, 20):  # the figures of "best" among them
            before = path.read_bytes()
            flip(path)
            assert checkpoints.damage(20) == f"{path.relative_to(workdir / 'checkpoints' / '20')} is not what was written"
            path.write_bytes(before)


def test_what_has_no_seal_is_told_by_what_cannot_be_read(trained, config, tmp_path, capsys):
    """A run that was killed between a checkpoint and its seal, then half of the arrays lost."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    (workdir / "seals" / "20.json").unlink()
    for path in files_of(workdir, 20):
        truncate(path)
    train(config(), workdir)
    said = capsys.readouterr().out
    assert "checkpoint 20 is damaged (" in said and "goes on from step 10" in said


def test_no_checkpoint_that_can_be_read_is_one_line(trained, config, tmp_path):
    """Nothing is moved, and no new run begins over the damaged ones."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    for step in (10, 20):
        truncate(files_of(workdir, step)[0])
    with pytest.raises(ConfigError, match=r"workdir: .* a checkpoint that can be read \(checkpoint 20: .*; checkpoint 10: "):
        train(config(), workdir)
    assert sorted(entry.name for entry in (workdir / "checkpoints").iterdir()) == ["10", "20"]


def test_seals_go_with_their_checkpoints(config, tmp_path):
    train(config(training__keep=1, training__eval_every=0), tmp_path)
    names = {entry.name for entry in (tmp_path / "checkpoints").iterdir()}
    assert names == {"20"} and [entry.name for entry in (tmp_path / "seals").iterdir()] == ["20.json"]


def test_saving_is_in_the_background(trained, tmp_path, monkeypatch):
    """``save`` returns while the checkpoint cannot appear yet, and the arrays that it was given may go; then it is whole, and theirs."""
    appear, held, rename = threading.Event(), [], os.rename

    def waits(source, target, **words):
        if os.path.basename(target) == "10":
            held.append(threading.current_thread())
            if held[-1] is not threading.main_thread():
                assert appear.wait(60)
        return rename(source, target, **words)

    monkeypatch.setattr(os, "rename", waits)
    wanted, state = jax.device_get(trained[1].state.params), jax.tree.map(jnp.copy, trained[1].state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(10, state, {"step": 10}, {})
        assert not (tmp_path / "checkpoints" / "10").exists() and checkpoints.manager.is_saving_in_progress()
        jax.tree.map(lambda leaf: leaf.delete(), state)
        appear.set()
        checkpoints.wait()
        assert held and threading.main_thread() not in held and (tmp_path / "seals" / "10.json").is_file()
        saved = checkpoints.restore({"params": trained[1].state.params}, 10)[0]["params"]
    jax.tree.map(np.testing.assert_array_equal, saved, wanted)


def test_two_runs_cannot_write_one_workdir(trained, config, tmp_path):
    """The second is refused at once and changes nothing; a holder that is killed holds nothing."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    hold = "import pathlib, sys; from score_lab.training.lock import Lock\n"
    hold += "with Lock(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", hold, str(workdir)], env=network_guard.environment(), **pipes)
    try:
        assert holder.stdout.readline() == "held\n"
        before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match=rf"workdir: .* allowed: one that no other run is writing: process {holder.pid} on "):
            train(config(), workdir)
        assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    finally:
        holder.kill()
        holder.wait()
    with Lock(workdir):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"), Lock(workdir):
            pass
    with Lock(workdir):
        pass
