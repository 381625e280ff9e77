"""A file of the workdir that the system refuses: one line that names it and exit status 1, whoever writes it, also in the background."""

import errno
import os
import sys
import time

import pytest

from experiments.launcher import launch
from score_lab.training import arrays, load, train
from score_lab.training.appended import Appended
from score_lab.training.disk import Disk
from score_lab.training.stops import NotWritten

NUMBERS = [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTCONN, errno.ENOTDIR]


def refusal(number, *names):
    """As the system says it of a file, or of two that one would be renamed to the other."""
    return OSError(number, os.strerror(number), *[word for name in names for word in (None, str(name))][1:])


@pytest.mark.parametrize("number", NUMBERS)
def test_of_the_workdir_it_is_one_line(tmp_path, number):
    """Also as the second name of a renaming, as the cause of another error, and in TensorStore's words."""
    said, file = os.strerror(number), tmp_path / "checkpoints" / "5"
    words = ValueError(f"PERMISSION_DENIED: Error writing local file \"{file}\": {said} [os_error_code='{number}']")
    caused = RuntimeError("a future failed")
    caused.__cause__ = refusal(number, file)
    line = rf"(?i)^{tmp_path}: checkpoint 5 could not be written \({said}[^\n]*\): stopped; [^\n]*$"
    for error in (refusal(number, file), refusal(number, "/elsewhere", file), words, caused):
        with pytest.raises(NotWritten, match=line) as told:
            with Disk(tmp_path, go_on=True).writing("checkpoint 5"):
                raise error
        assert error is words or f": {str(file)!r})" in str(told.value)


@pytest.mark.parametrize("number", NUMBERS)
def test_of_other_files_it_is_an_error_as_it_is(tmp_path, number):
    """A file that a callback reads somewhere else, words about it, and what was met and dealt with before another error."""
    for error in (refusal(number, tmp_path.parent / "x"), refusal(number), ValueError(f"{os.strerror(number)}: /x")):
        with pytest.raises(type(error)) as told, Disk(tmp_path, go_on=True).writing("checkpoint 5"):
            raise error
        assert told.value is error
    with pytest.raises(ZeroDivisionError), Disk(tmp_path, go_on=True).writing("checkpoint 5"):
        try:
            raise refusal(number, tmp_path / "x")
        except OSError:
            1 / 0  # noqa: B018


def short(config):
    return config(training__eval_every=0, training__checkpoint_every=5, training__profiles=(0.1, 0.2), training__snapshot_every=5)


@pytest.mark.parametrize(("where", "what"), [
    ("seals/10.json.new", "checkpoint 10"), ("checkpoints", "checkpoint 10"),
    ("snapshot_seals/10.json.new", "the snapshot before"), ("snapshots", "the snapshot of step 10"),
    ("metrics.jsonl", "the line of step 10 in metrics.jsonl and events"), ("previews/x.png", "what draws makes of step 10"),
])  # fmt: skip
def test_wherever_a_run_writes(config, tmp_path, monkeypatch, capsys, where, what):
    """A seal in the background, Orbax's own folders, a line, a preview: refused at step 10, the run ends through the launcher with what it
    saved before."""
    seal, mkdir, write, drawn = arrays.seal, os.mkdir, os.write, tmp_path / "previews" / "x.png"
    seen = []

    def seals(directory, file):
        if file.with_name(file.name + ".new") == tmp_path / where:
            raise refusal(errno.EACCES, tmp_path / where)
        seal(directory, file)

    def makes(path, *args, **words):
        if where in ("checkpoints", "snapshots") and os.path.dirname(path) == str(tmp_path / where) and seen == [10]:
            raise refusal(errno.EACCES, tmp_path / where)
        mkdir(path, *args, **words)

    def writes(number, piece):
        if os.path.basename(os.readlink(f"/proc/self/fd/{number}")) == where:
            raise refusal(errno.EACCES)
        return write(number, piece)

    def draws(denoiser, step):
        seen[:] = [step]
        if step == 10 and where.startswith("previews"):
            raise refusal(errno.EACCES, drawn)

    monkeypatch.setattr(arrays, "seal", seals)
    monkeypatch.setattr(os, "mkdir", makes)
    monkeypatch.setattr(os, "write", writes)
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as left:
        launch(lambda: train(short(config), tmp_path, [(5, draws)]) and 0)
    err = capsys.readouterr().err
    assert left.value.code == 1 and err.count("\n") == 1, err
    assert err.startswith(f"error: {tmp_path}: {what} could not be written (permission denied: '{tmp_path / where}'): stopped; what was")
    assert load(tmp_path).step in (5, 10)


@pytest.mark.parametrize("step", [10, 15])
def test_a_workdir_that_is_moved_under_a_run(config, tmp_path, step):
    """At a line, or where only a checkpoint is due: it stops, makes no new one in its place, and goes on from there under the new name."""
    old, new = tmp_path / "old", tmp_path / "new"

    def moves(denoiser, now):
        if now == step:
            deadline = time.monotonic() + 60
            while not (old / "seals" / f"{step - 5}.json").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.rename(old, new)

    with pytest.raises(NotWritten, match=rf"^{old}: [^\n]* could not be written \(no such file [^\n]*: '{old}[^\n]*was the workdir moved"):
        train(short(config), old, [(5, moves)])
    assert not (old / "config.json").exists() and not (old / "metrics.jsonl").exists()
    assert load(new).step == step - 5
    assert train(short(config), new).step == 20


def test_a_file_that_was_removed_takes_no_line(tmp_path):
    with Appended(tmp_path / "x") as file:
        file.write(b"1")
        os.remove(tmp_path / "x")
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "x")):
            file.write(b"2")
        assert file.waiting == b"2"
