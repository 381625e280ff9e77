"""experiments.runs: what each run below a directory is doing, in a table and as JSON; what two configurations differ in."""

import json
import os
import sys

import pytest

from experiments import launcher, runs
from score_lab.training.lock import Lock, holder
from score_lab.training.seals import seal

LINES = [{"step": 10, "loss": 0.5, "eval/loss": 0.4}, {"step": 20, "loss": 0.25, "eval/loss": 0.6}, {"step": 30, "loss": 0.125}]


def workdir(home, name, steps=40, checkpoint=30, **optimizer):
    """A folder with the files of a run that has come to ``checkpoint``."""
    folder = home / name
    (folder / "checkpoints" / str(checkpoint)).mkdir(parents=True)
    config = {"training": {"steps": steps}, "optimizer": {"name": "adam", **optimizer}}
    (folder / "config.json").write_text(json.dumps({"config": config, "data": {}, "sigma_data": 1.0, "versions": {}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 40, "lo')
    (folder / "checkpoints" / str(checkpoint) / "arrays").write_text("1234")
    (folder / "seals").mkdir()
    seal(folder / "checkpoints" / str(checkpoint), folder / "seals" / f"{checkpoint}.json")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Four runs, one of each state, and a folder that is none."""
    workdir(tmp_path, "runs/a/stopped")
    workdir(tmp_path, "runs/a/finished", steps=30, learning_rate=1e-3)
    broken = workdir(tmp_path, "runs/damaged")
    (broken / "checkpoints" / "30" / "arrays").write_text("12")
    workdir(tmp_path, "runs/running", checkpoint=20)
    (tmp_path / "runs" / "note").mkdir()
    (tmp_path / "runs" / "note" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(monkeypatch, capsys, *words):
    """(status, stdout, stderr) of ``python -m experiments.runs WORDS``."""
    monkeypatch.setattr(sys, "argv", ["runs", *words])
    with pytest.raises(SystemExit) as caught:
        launcher.launch(runs.main)
    return caught.value.code, *capsys.readouterr()


def test_every_state(home, monkeypatch, capsys):
    """Of what it says by default, below runs/: nothing is written, and the torn last line is passed over."""
    with Lock(home / "runs" / "running"):
        before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
        status, out, _ = said(monkeypatch, capsys, "--json")
        status_of_text, text, _ = said(monkeypatch, capsys)
        assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert holder(home / "runs" / "running") is None and status == status_of_text == 0
    found = {run["workdir"]: run for run in json.loads(out)}
    assert {name: run["state"] for name, run in found.items()} == {
        "runs/a/finished": "finished", "runs/a/stopped": "stopped", "runs/damaged": "damaged", "runs/running": "running"
    }  # fmt: skip
    stopped = found["runs/a/stopped"]
    assert (stopped["step"], stopped["steps"], stopped["best"], stopped["best_step"], stopped["loss"]) == (30, 40, 0.4, 10, 0.125)
    assert found["runs/running"]["step"] == 30 and found["runs/running"]["why"].startswith(f"process {os.getpid()} on ")
    assert found["runs/damaged"]["why"] == "checkpoint 30: arrays has 2 bytes of 4" and 0 <= stopped["age"] < 600
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][:3] == ["run", "state", "step"] and rows[1][:6] == ["runs/a/finished", "finished", "30/30", "0.4000", "at", "10"]


def test_every_byte_is_read_where_that_is_asked_for(home, monkeypatch, capsys):
    (home / "runs" / "a" / "stopped" / "checkpoints" / "30" / "arrays").write_text("1235")
    assert [run["state"] for run in json.loads(said(monkeypatch, capsys, "runs/a/stopped", "--json")[1])] == ["stopped"]
    (run,) = json.loads(said(monkeypatch, capsys, "runs/a/stopped", "--json", "--check")[1])
    assert run["state"] == "damaged" and run["why"] == "checkpoint 30: arrays is not what was written"


def test_one_that_cannot_be_looked_at_is_listed_with_the_others(home, monkeypatch, capsys):
    """Its seal cannot be read as a file: it says so, and the others are there."""
    file = home / "runs" / "a" / "stopped" / "seals" / "30.json"
    file.unlink()
    file.mkdir()
    found = {run["workdir"]: run for run in json.loads(said(monkeypatch, capsys, "--json")[1])}
    assert len(found) == 4 and found["runs/a/finished"]["state"] == "finished"
    run = found["runs/a/stopped"]
    assert run["state"] == "unknown" and run["why"].startswith("checkpoint 30 cannot be looked at (") and "Is a directory" in run["why"]


def test_compare(home, monkeypatch, capsys):
    """The fields in which they differ, those that one lacks among them."""
    status, out, _ = said(monkeypatch, capsys, "--compare", "runs/a/stopped", "runs/a/finished")
    assert status == 0 and out.splitlines()[1:] == ["config.training.steps: 40 | 30", "config.optimizer.learning_rate: None | 0.001"]
    _, out, _ = said(monkeypatch, capsys, "--compare", "runs/a/stopped", "runs/a/finished", "--json")
    assert json.loads(out)[0] == {"field": "config.training.steps", "runs/a/stopped": 40, "runs/a/finished": 30}
    assert "have the same configuration" in said(monkeypatch, capsys, "--compare", "runs/a/stopped", "runs/damaged")[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (["run"], "DIR: 'run' is refused; allowed: a directory that is there (did you mean 'runs'?)"),
        (["--compare", "runs/a/stopped", "runs/a/stoped"], "workdir: 'runs/a/stoped' is refused"),
        (["--compare", "runs/a/stopped"], "--compare"),
        (["--compare", "runs/a/stopped", "runs/damaged", "runs"], "DIR: 'runs' is refused; allowed: none beside --compare A B"),
        (["--jsn"], "--jsn"),
    ],
)
def test_refused(home, monkeypatch, capsys, words, message):
    status, _, err = said(monkeypatch, capsys, *words)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_config_that_cannot_be_read_is_a_damaged_run(home, monkeypatch, capsys):
    (home / "runs" / "damaged" / "config.json").write_text('{"config": ')
    (run,) = json.loads(said(monkeypatch, capsys, "runs/damaged", "--json")[1])
    assert run["state"] == "damaged" and run["why"] == "config.json cannot be read" and run["steps"] is None
    (home / "empty").mkdir()
    assert said(monkeypatch, capsys, "empty")[:2] == (0, "no runs below empty\n")
