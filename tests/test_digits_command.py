"""experiments.digits from end to end on a network that has learned nothing: everything is written, and the table says so."""

import json
import signal
import sys

import pytest

from experiments import digits, gallery, launcher

CONFIG = """
from configs.digits import get_config as whole


def get_config(variant=""):
    config = whole("tiny")
    config.network.update({"width": 16, "depth": 1, "heads": 2})
    config.optimizer.warmup = 5
    config.training.update({"steps": 20, "log_every": 10, "eval_every": 0, "checkpoint_every": 0})
    return config
"""


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["experiments.digits", *words])
    with pytest.raises(SystemExit) as exit_:
        launcher.launch(digits.main)
    return exit_.value.code


@pytest.mark.slow
def test_a_network_that_learned_nothing_fails_the_table(tmp_path, monkeypatch, capsys):
    """Exit status 1, one line, after all of it was written; the last lines say where the time went and what to open."""
    (tmp_path / "config.py").write_text(CONFIG)
    home = tmp_path / "run"
    assert run(monkeypatch, f"--workdir={home}", f"--config={tmp_path / 'config.py'}", "--n=100") == 1
    out, err = capsys.readouterr()
    assert err.strip().splitlines()[-1] == "error: the table: some cells, marked x, do not meet their criterion"
    for name in ("table.csv", "samples.npz", "overview.png", "film.png", "snr_mismatch.png", "loss.png", "report.html"):
        assert (home / name).stat().st_size > 0, name
    rows = json.loads((home / "table.json").read_text())["rows"]
    assert len(rows) == 15 and " x" in out and "sampling 15/15" in err
    times = next(line for line in out.splitlines() if line.startswith("seconds for a cell's 100 samples"))
    spent = [float(word) for word in times.partition(": ")[2].replace(",", "").split() if word[0].isdigit()]
    assert len(spent) == 13 and all(0 < seconds < 600 for seconds in spent)  # fifteen cells, two of which are others of them
    last = next(line for line in out.splitlines() if f"Open {home / 'report.html'}" in line)
    assert all(f"{phase} " in last for phase in ("training", "table", "mismatch", "pictures"))


def test_a_signal_is_the_exit_status(tmp_path, monkeypatch):
    """130 after Ctrl-C, 143 after SIGTERM, and nothing is sampled."""
    monkeypatch.setattr(gallery.Gallery, "open", lambda *_, **__: pytest.fail("sampled"))

    class Stopped:
        stopped = "SIGTERM"

    monkeypatch.setattr("score_lab.training.train", lambda *_, **__: Stopped)
    assert run(monkeypatch, f"--workdir={tmp_path}", "--short") == 128 + signal.SIGTERM
    Stopped.stopped = "SIGINT"
    assert run(monkeypatch, f"--workdir={tmp_path}", "--short") == 130
