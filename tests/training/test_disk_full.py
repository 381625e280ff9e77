"""A disk that is full, a file that may not grow: the run stops in one line or goes on, and nothing is lost that was saved."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from score_lab.build import ConfigError, refuse
from score_lab.training import DiskFull, arrays, load, train
from score_lab.training.arrays import Arrays
from score_lab.training.disk import Disk, no_space
from score_lab.training.metrics import read_metrics
from score_lab.training.stops import NotWritten

ROOT = Path(__file__).resolve().parents[2]


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def no_space_for(monkeypatch):
    """``no_space_for("seal", 10)``: sealing that checkpoint, in the background, fails; ``"write"``: writing it does, halfway."""
    seal, write = arrays.seal, Arrays.write

    def install(what, *steps):
        def seals(directory, file):
            if what == "seal" and int(directory.name) in steps:
                file.with_suffix(".new").write_text("{")
                raise full()
            seal(directory, file)

        def writes(self, step, *args, **words):
            if what == "write" and step in steps:
                (self.directory / f"{step}.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
                raise ValueError("OUT_OF_RANGE: Error writing d/fe63") from full()
            write(self, step, *args, **words)

        monkeypatch.setattr(arrays, "seal", seals)
        monkeypatch.setattr(Arrays, "write", writes)

    return install


def short(config, **changes):
    """A run with checkpoints at 5, 10, 15 and 20, of which the two newest are kept."""
    return config(training__eval_every=0, training__checkpoint_every=5, **{f"training__{k}": v for k, v in changes.items()})


@pytest.mark.parametrize("what", [pytest.param("seal", marks=pytest.mark.slow), "write"])
def test_it_stops_in_one_line_and_keeps_what_was_saved(config, no_space_for, tmp_path, what):
    """Half-written files are removed, the run before is whole, and with space the same command ends where it would have."""
    no_space_for(what, 10)
    said = rf"^{re.escape(str(tmp_path / 'run'))}: checkpoint 10 could not be written \(no space left on device\): stopped; what was saved"
    with pytest.raises(DiskFull, match=said) as caught:
        train(short(config), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path / "run" / "checkpoints") == (["10", "5"] if what == "seal" else ["5"])
    assert names_in(tmp_path / "run" / "seals") == ["5.json"] and load(tmp_path / "run").step == (10 if what == "seal" else 5)
    no_space_for("nothing")
    resumed, straight = train(short(config), tmp_path / "run"), train(short(config), tmp_path / "straight")
    for a, b in zip(jax.tree.leaves(resumed.state.params), jax.tree.leaves(straight.state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_goes_on_and_tries_again(config, no_space_for, tmp_path, capsys):
    """A line says so; the next checkpoint is there; the run is the one that had space."""
    no_space_for("write", 10)
    run = train(short(config, disk_full="go_on"), tmp_path)
    said = capsys.readouterr().out
    assert said.count("checkpoint 10 could not be written (no space left on device): training goes on, and the next one is tried") == 1
    assert run.step == 20 and names_in(tmp_path / "checkpoints") == ["15", "20"] == [name[:2] for name in names_in(tmp_path / "seals")]


def test_the_last_state_must_be_saved(config, no_space_for, tmp_path):
    """"go_on" has no next one at the end: status 1, and the one before is the newest."""
    no_space_for("write", 20)
    with pytest.raises(DiskFull, match=r"checkpoint 20 could not be written \(no space left on device\): what was saved before is whole"):
        train(short(config, disk_full="go_on"), tmp_path)
    assert names_in(tmp_path / "checkpoints") == ["10", "15"]


def test_what_is_no_lack_of_space_is_an_error_as_it_is():
    with pytest.raises(OSError, match="denied"), Disk("w", go_on=True).writing("x"):
        raise PermissionError(errno.EACCES, "denied")
    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        assert no_space(ValueError(f"OUT_OF_RANGE: Failed to write 10 bytes: {os.strerror(number)} [os_error_code='{number}']"))
    assert no_space(ValueError("a value")) is None and no_space(None) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS])
def test_a_file_system_that_fails_is_one_line(number):
    """Also where that is told in words alone, and where more space would be waited for; a refusal stays one."""
    said = os.strerror(number)
    for error in (OSError(number, said), ValueError(f"UNKNOWN: Error writing d/fe63: {said} [os_error_code='{number}']")):
        with pytest.raises(NotWritten, match=rf"(?i)^w: checkpoint 5 could not be written \({said}\): stopped; what was saved[^\n]*$"):
            with Disk("w", go_on=True).writing("checkpoint 5"):
                raise error
    with pytest.raises(ConfigError, match="^workdir"), Disk("w", go_on=True).writing("the lock"):
        try:
            raise OSError(number, said)
        except OSError:
            refuse("workdir", "w", said)


@pytest.mark.parametrize("kind", ["stop", pytest.param("go_on", marks=pytest.mark.slow)])
def test_a_limit_on_the_size_of_files(config, trained, tmp_path, kind):
    """The system's own refusal, in this process: what is saved after step 5 may not grow; the same command then ends as it would have."""
    workdir, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(denoiser, step):
        if step == 10:
            deadline = time.monotonic() + 60
            while not (workdir / "seals" / "5.json").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))

    try:
        with pytest.raises(DiskFull, match=r"^[^\n]* could not be written \(file too large\)[^\n]*$"):
            train(short(config, disk_full=kind), workdir, [(5, limit)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names_in(workdir / "checkpoints") == ["5"] and names_in(workdir / "seals") == ["5.json"] and load(workdir).step == 5
    again = train(short(config, disk_full=kind), workdir)
    for a, b in zip(jax.tree.leaves(again.state.params), jax.tree.leaves(trained[1].state.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("kind", "what"), [pytest.param("stop", "write", marks=pytest.mark.slow), ("go_on", "write"), ("stop", "seal")]
)
def test_a_snapshot_that_finds_no_space(config, tmp_path, monkeypatch, capsys, kind, what):
    """The one of step 10 of four: nothing half-written stays, the others and the checkpoints are whole; it is tried again, or left out."""
    seal, write, fails = arrays.seal, Arrays.write, [True]

    def refused(folder, step):
        return fails and folder.name == "snapshots" and step == 10

    def seals(directory, file):
        if what == "seal" and refused(directory.parent, int(directory.name)):
            raise full()
        seal(directory, file)

    def writes(self, step, *args, **words):
        if what == "write" and refused(self.directory, step):
            (self.directory / f"{step}.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
            raise ValueError("OUT_OF_RANGE: Error writing d/fe63") from full()
        write(self, step, *args, **words)

    monkeypatch.setattr(arrays, "seal", seals)
    monkeypatch.setattr(Arrays, "write", writes)
    begin = short(config, profiles=(0.1, 0.2), snapshot_every=5, disk_full=kind)
    if kind == "stop":
        with pytest.raises(DiskFull, match=r"the snapshot (of step 10|before) could not be written \(no space left on device\): stopped"):
            train(begin, tmp_path)
        assert names_in(tmp_path / "checkpoints") == ["5"] and "5" in names_in(tmp_path / "snapshots")
        fails.clear()
    run = train(begin, tmp_path)
    assert run.step == 20 and not list(tmp_path.rglob("*tmp*"))
    stored = ["15", "20", "5"] if kind == "go_on" else ["10", "15", "20", "5"]
    assert names_in(tmp_path / "snapshots") == stored == [name[:-5] for name in names_in(tmp_path / "snapshot_seals")]
    assert ("snapshot of step 10 could not be written" in capsys.readouterr().out) == (kind == "go_on")
    assert load(tmp_path, ema=0.15).step == 20


LIMITED = """
import resource, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from training.conftest import tiny
from experiments.launcher import launch
from score_lab.training import train

def limit(denoiser, step):
    if step == 10:
        while not (Path({workdir!r}) / "seals" / "5.json").exists():
            time.sleep(0.02)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

quick = dict(training__eval_every=0, training__checkpoint_every=5, training__disk_full={kind!r})
launch(lambda: train(tiny(**quick), {workdir!r}, [(5, limit)]) and 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stop", "go_on"])
def test_files_that_may_not_grow(config, tmp_path, kind):
    """In a process whose files are limited after step 10: status 1 and one line; the checkpoints before it load; then the same bits."""
    workdir = tmp_path / "run"
    program = LIMITED.format(root=str(ROOT), kind=kind, workdir=str(workdir))
    ran = subprocess.run([sys.executable, "-c", program], env=network_guard.environment(), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 1 and len(ran.stderr.strip().splitlines()) == 1, ran.stderr[-3000:]
    assert re.match(r"error: .*(checkpoint \d+|metrics.jsonl and events) could not be written \(file too large\)", ran.stderr)
    assert ("training goes on" in ran.stdout) == (kind == "go_on")
    saved = names_in(workdir / "checkpoints")
    assert saved == ["5"] and load(workdir).step == 5
    assert [line["step"] for line in read_metrics(workdir)] in ([10], [10, 20])
    run = train(short(config, disk_full=kind), workdir)
    assert run.step == 20 and [line["step"] for line in read_metrics(workdir)] == [10, 20]


MOUNTED = "mkdir -p {folder} && mount -t tmpfs -o size=400k tmpfs {folder} && {python} -c {program}"
TMPFS = MOUNTED + "; status=$?; ls {folder}/run/checkpoints; exit $status"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare to mount a small file system with")
def test_a_small_file_system(tmp_path):
    """Checkpoints until it is full: status 1, one line, and only whole ones are left."""
    import shlex

    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this user may make no mount namespace")
    program = LIMITED.format(root=str(ROOT), kind="stop", workdir=str(tmp_path / "small" / "run"))
    program = program.replace("step == 10", "False").replace("quick = dict(", "quick = dict(training__keep=50, ")
    command = TMPFS.format(folder=tmp_path / "small", python=sys.executable, program=shlex.quote(program))
    words = ["unshare", "-Urm", "sh", "-c", command]
    ran = subprocess.run(words, env=network_guard.environment(), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 1 and len(ran.stderr.strip().splitlines()) == 1, ran.stderr[-3000:]
    assert "(no space left on device): stopped" in ran.stderr
    assert ran.stdout.strip().splitlines()[-1] == "5", "the newest whole one, and nothing half-written after it"
