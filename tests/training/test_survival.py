"""What a workdir survives: files that were damaged after they were written, and two runs that want it at once."""

import errno
import fcntl
import json
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

from experiments import launcher
from experiments import train as command
from score_lab.build import ConfigError
from score_lab.training import Unreadable, load, newest, seals, train
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.lock import Lock, holder
from score_lab.training.metrics import Metrics, lines_of, read_metrics
from score_lab.training.newest import DAMAGED, SOUND, UNKNOWN, UNSEALED
from score_lab.training.record import write_workdir


def files_of(workdir, step):
    found = [path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(found, key=lambda path: (-path.stat().st_size, path))


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


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, number):
    """As Lustre and NFS say it; who looks at the workdir sees a run that nobody is at."""

    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = rf"^workdir: .* allowed: a directory of a file system that can lock files: here flock is refused \({os.strerror(number)}\), "
    with pytest.raises(ConfigError, match=said) as caught, Lock(tmp_path):
        pass
    assert "\n" not in str(caught.value) and holder(tmp_path) is None


@pytest.mark.parametrize("number", [None, errno.EROFS, errno.EACCES], ids=["below a file", "read-only", "no permission"])
def test_a_workdir_that_cannot_be_made_is_one_line(config, tmp_path, monkeypatch, capsys, number):
    """Through the launcher: exit status 2, and nothing is there that was not."""
    file, mkdir = tmp_path / "config.py", os.mkdir
    file.write_text(f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({config()!r})\n")
    workdir = (tmp_path if number else file) / "new"

    def refused(path, *args, **words):
        if number and os.fspath(path) == str(workdir):
            raise OSError(number, os.strerror(number), str(path))
        mkdir(path, *args, **words)

    monkeypatch.setattr(os, "mkdir", refused)
    monkeypatch.setattr(sys, "argv", ["train", f"--config={file}", f"--workdir={workdir}"])
    with pytest.raises(SystemExit) as left:
        launcher.launch(command.main)
    err, why = capsys.readouterr().err, os.strerror(number or errno.ENOTDIR)
    assert left.value.code == 2 and err.count("\n") == 1, err
    assert err.startswith(f"error: workdir: '{workdir}' is refused; allowed: a directory that can be made and written into: {why} ("), err
    assert not workdir.exists()


def failing(error):
    """A restore that raises ``error``."""

    def restore(self, like, step):
        raise error

    return restore


LACKS = [OSError(errno.EIO, "Input/output error"), MemoryError("17 GiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")]


@pytest.mark.parametrize(
    ("error", "sealed"), [*((error, kind) for error in LACKS for kind in (True, False)), (ValueError("whatever Orbax says"), True)]
)
def test_a_sound_checkpoint_that_cannot_be_read_is_not_damaged(trained, config, tmp_path, monkeypatch, error, sealed):
    """One line, and nothing is renamed, however it fails; without a seal where the error says nothing of the files.  Then it goes on."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    if not sealed:
        (workdir / "seals" / "20.json").unlink()
    names = sorted(path.relative_to(workdir) for path in workdir.rglob("*"))
    what = str(error).splitlines()[0]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "restore", failing(error))
        for begin in (lambda: train(config(), workdir), lambda: load(workdir)):
            with pytest.raises(Unreadable, match=r"checkpoint 20 is not known to be damaged, and could not be read \(") as caught:
                begin()
            assert what in str(caught.value) and "\n" not in str(caught.value)
    assert names == sorted(path.relative_to(workdir) for path in workdir.rglob("*"))
    assert load(workdir).step == 20


def test_a_file_system_that_fails_while_it_is_looked_at(trained, tmp_path, monkeypatch):
    """The bytes that the seal is compared with cannot be read for a while: one line, and no verdict."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)

    def mark(path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(seals, "_mark", mark)
        with pytest.raises(Unreadable, match="checkpoint 20 .*Input/output error"):
            load(workdir)
        with pytest.raises(Unreadable, match="checkpoints/20 could not be looked at .*Input/output error.*: nothing was changed$"):
            load(workdir, step=20)
    assert load(workdir).step == 20


def test_of_several_processes_all_go_on_from_what_the_first_finds(trained, tmp_path, monkeypatch):
    """Stood in for JAX: the second finds nothing wrong with step 20, and is told that it is damaged; one that alone cannot read an
    unsealed one passes over it with the others; and a sound one that it cannot read ends it."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    told = {"process_count": 2, "process_index": 1}
    for name, value in told.items():
        monkeypatch.setattr(f"score_lab.training.newest.jax.{name}", lambda value=value: value)
    script = iter([(20, DAMAGED), (10, UNSEALED), (5, SOUND)])
    monkeypatch.setattr(newest.multihost_utils, "broadcast_one_to_all", lambda mine: np.array(next(script)))
    monkeypatch.setattr(newest.multihost_utils, "process_allgather", lambda mine: np.array([True, mine]))
    checkpoints = object.__new__(Checkpoints)
    checkpoints.directory = workdir / "checkpoints"
    step, read, damaged = newest.newest(checkpoints, lambda step: f"the state of {step}")
    assert (step, read) == (5, "the state of 5")
    assert damaged == {20: "as the first process says", 10: "another process could not read it"}
    script = iter([(20, SOUND)])
    with pytest.raises(Unreadable, match="checkpoint 20"):
        newest.newest(checkpoints, lambda step: failing(OSError(errno.EIO, "Input/output error"))(None, None, step))
    script = iter([(20, UNKNOWN)])
    with pytest.raises(Unreadable, match="as the first process says"):
        newest.newest(checkpoints, int)


def test_lines_are_on_the_disk_before_their_checkpoint_is_sealed(trained, tmp_path, monkeypatch):
    """In the thread that seals it: no step waits for that."""
    done, sync = [], os.fsync

    def fsync(number):
        done.append((os.path.basename(os.readlink(f"/proc/self/fd/{number}")), threading.current_thread() is threading.main_thread()))
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "metrics.jsonl").write_text("")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(10, trained[1].state, {"step": 10}, {})
        checkpoints.wait()
    names = [name for name, _ in done]
    assert names[0] == "metrics.jsonl" and names[-2:] == ["10.json.new", "seals"] and not any(main for _, main in done)


TAILS = {"nothing": b"", "half a line": b'{"step": 30, "lo', "zeros": bytes(4096), "half a line, then zeros": b'{"step": 2' + bytes(9),
         "other bytes": b"\xff\xfe\x00{", "a line ahead": b'{"step": 40, "loss": 4.0}\n', "a number": b"17\n"}  # fmt: skip


@pytest.mark.parametrize("tail", TAILS)
def test_what_a_power_failure_leaves_after_the_lines_is_cut_off(tmp_path, tail):
    """And the next line begins on a line of its own."""
    file, lines = tmp_path / "metrics.jsonl", [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}]
    file.write_bytes("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 30, "loss": 3.0}]).encode() + TAILS[tail])
    assert lines_of(tmp_path)[:3] == [*lines, {"step": 30, "loss": 3.0}]
    with Metrics(tmp_path, 20) as metrics:
        assert read_metrics(tmp_path) == lines
        metrics.write(30, {"loss": 5.0})
    assert read_metrics(tmp_path) == [*lines, {"step": 30, "loss": 5.0}]


def test_what_is_whole_is_on_the_disk(trained, tmp_path, monkeypatch):
    """A file is synchronised before it has its name, and the folder after; every file of a checkpoint before its seal."""
    done, sync, replace = [], os.fsync, os.replace

    def fsync(number):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: done.append(f"to {os.path.basename(b)}") or replace(a, b))
    write_workdir(tmp_path / "x", {"config": 1})
    assert done == ["config.json.new", "to config.json", "x"]
    done.clear()
    folder = trained[0] / "checkpoints" / "20"
    seals.seal(folder, tmp_path / "seals" / "20.json")
    assert done[-3:] == ["20.json.new", "to 20.json", "seals"]
    assert set(done[:-3]) == {path.name for path in folder.rglob("*")} | {"20", "checkpoints"}
    assert (tmp_path / "seals" / "20.json").read_text() == (trained[0] / "seals" / "20.json").read_text()
