"""experiments.ablate_samplers on images with labels, from end to end: an untrained network on the digits, two solvers of one evaluation."""

import csv

import matplotlib.image
import numpy as np
import pytest
from test_launchers import run
from test_readme import CONFIG

from score_lab.ablation import pictures
from score_lab.data import DataSpec
from score_lab.training import build_parts
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.record import library_versions, write_workdir
from score_lab.training.state import init_state
from score_lab.training.workdir import record_of

N = 40


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir of digits of 8 x 8 whose network has learned nothing."""
    home = tmp_path_factory.mktemp("images") / "run"
    parts = build_parts(CONFIG, DataSpec((8, 8, 1), 10, "none"), 0.85)
    record = record_of(parts, library_versions())
    write_workdir(home, record)
    with Checkpoints(home, 2) as checkpoints:
        checkpoints.save(20, init_state(parts, 0), {"step": 20, "position": None, "pending": [], "record": record}, {})
    return home


@pytest.mark.slow
def test_images_with_labels(workdir, tmp_path, monkeypatch):
    """Every column of images is a number with its interval; held-out digits agree with their labels, samples of no network do not; the
    picture has the ODE's solution above the solvers, of one noise each."""
    drawn, save = [], pictures.save_same_noise
    monkeypatch.setattr(pictures, "save_same_noise", lambda file, rows, **rest: drawn.append(rows) or save(file, rows, **rest))
    words = ("--solvers=DDIM, Euler", "--grids=UniformLogSNR(start=-4, end=4)", "--nfe=2", "--seeds=0", f"--n={N}")
    short = ("--config.repeats=20", "--config.reference_steps=8")
    assert run("ablate_samplers", f"--workdir={workdir}", f"--output={tmp_path}", *short, *words) == 0
    with open(tmp_path / "table.csv", newline="") as file:
        table = {row["solver"]: row for row in csv.DictReader(file)}
    assert list(table) == ["DDIM", "Euler", "the ODE itself", "held-out data"]
    for name, row in table.items():
        for column in ("frechet", "kid", "agreement", "variance"):
            low, value, high = (float(row[c]) for c in (f"{column}_low", column, f"{column}_high"))
            assert np.isfinite([low, value, high]).all() and low <= value <= high, (name, column)
        assert 0 <= float(row["agreement"]) <= 1 and float(row["variance"]) > 0
    assert float(table["held-out data"]["agreement"]) > 0.8 > 0.4 > float(table["DDIM"]["agreement"])
    assert 0.5 < float(table["held-out data"]["variance"]) < 2
    assert float(table["held-out data"]["frechet"]) < 0.5 * float(table["DDIM"]["frechet"])
    (rows,) = drawn
    assert list(rows) == ["the ODE itself", "DDIM", "Euler"] and all(x.shape[1:] == (8, 8, 1) for x in rows.values())
    far = np.sqrt(np.mean((rows["DDIM"] - rows["the ODE itself"]) ** 2))
    assert float(table["DDIM"]["solver_error"]) == pytest.approx(far, rel=1e-3)
    assert matplotlib.image.imread(tmp_path / "same_noise_0.png").std() > 0.05
