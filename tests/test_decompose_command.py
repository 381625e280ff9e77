"""experiments.decompose_mismatch end to end: an exact Gaussian wrong by a known amount, a trained run, stopped and resumed, refused."""

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from test_launchers import run

from experiments import decompose_parts

CONFIG = '''
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "model": {"denoiser": {"target": "GaussianBands", "mean": [0.5, 0.0], "std": [1.2, 0.5]}, "path": {"target": "VP"},
                  "wrong": {"eta": 0.1, "tau": 0.1}},
        "solvers": ("DDIM",), "grid": "UniformLogSNR(end=5)", "path": "own", "guidance": 1.0, "nfe": (4,), "n": 400, "most": 16,
        "seed": 0, "chunk": 400, "basis": "", "replicates": 40, "output": "",
    })
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("decompose") / "config.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("done") / "out"
    assert run("decompose_mismatch", f"--config={config}", f"--output={output}") == 0
    return output


def rows(folder):
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def value(folder, part, band="total"):
    return next(float(r["value"]) for r in rows(folder) if r["part"] == part and r["band"] == band)


def test_what_it_leaves_behind(done):
    assert {f.name for f in done.iterdir()} == {"records", "spectrum_pca.npz", "table.csv", "table.json", "parts.png", "report.html"}
    assert len(list((done / "records").iterdir())) == 7  # true start at 4, 8, 16 steps, exact too; the prior at 4
    parts = [r["part"] for r in rows(done) if r["band"] == "total"]
    assert parts == ["whole", "prior", "discretisation", "model", "guidance", "draws", "interaction", "discretisation of a Gaussian"]
    for band in ("0", "1", "total"):
        np.testing.assert_allclose(sum(value(done, p, band) for p in parts[1:-1]), value(done, "whole", band), atol=1e-9)
    found = json.loads((done / "table.json").read_text())
    assert len(found["rows"]) == 8 * 3 and found["coverage"] == {} and "Most of it" in found["words"]["DDIM, 4 NFE"][0]
    page = (done / "report.html").read_text()
    assert "data:image/png" in page and "gain 1.1" in page and "python -m experiments.decompose_mismatch" in page
    measured = next(r for r in rows(done) if r["part"] == "discretisation" and r["band"] == "0")
    assert float(measured["low"]) < float(measured["value"]) < float(measured["high"]) < 0


def test_the_same_command_goes_on_where_it_stopped(done, config, tmp_path, monkeypatch, capsys):
    """A cell that is there is not sampled again; one that was lost, or is broken, is made to the same number."""
    before, cells = rows(done), sorted((done / "records").iterdir())
    cells[0].unlink()
    cells[1].write_bytes(b"broken")
    made, cell = [], decompose_parts.cube._cell
    monkeypatch.setattr(decompose_parts.cube, "_cell", lambda *a: (made.append(1), cell(*a))[1])
    assert run("decompose_mismatch", f"--config={config}", f"--output={done}") == 0
    assert len(made) == 2 and rows(done) == before and "2 records made, 5 were there" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_2(config, tmp_path, capsys):
    cases = {
        "--most=8": "--most", "--n=3": "--n", "--nfe=x": "--nfe", "--basis=dcd": "--basis", "--solvers=DDIMM": "DDIM",
        "--guidance=2": "--guidance", "--grid=own": "--grid",
    }  # fmt: skip
    for word, named in cases.items():
        assert run("decompose_mismatch", f"--config={config}", f"--output={tmp_path / 'out'}", word) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ") and named in said and "allowed" in said, said
    assert run("decompose_mismatch", f"--config={config}", f"--output={config}") == 2


@pytest.mark.slow
def test_a_trained_run_with_guidance_and_coverage(tmp_path, capsys):
    """The surrogate stands beside what was measured, the levels beside where training looked; guidance is a part of its own."""
    home = tmp_path / "run"
    words = """--config=configs/toy.py:moons --config.data.num_train=200 --config.data.num_test=64 --config.data.batch_size=16
        --config.network.width=16 --config.network.depth=1 --config.network.num_classes=2 --config.objective.label_dropout=0.2
        --config.training.steps=20 --config.training.log_every=10 --config.training.eval_every=20 --config.training.checkpoint_every=20
        --config.optimizer.warmup=5 --config.sampling.grid.num_steps=3"""
    assert run("train", *words.split(), f"--workdir={home}") == 0
    options = ("--solvers=DDIM, DDIM(eta=1)", "--nfe=8", "--most=16", "--n=64", "--guidance=2", "--grid=UniformLogSNR(end=4)")
    assert run("decompose_mismatch", f"--workdir={home}", *options) == 0
    output = home / "decomposition"
    found = rows(output)
    assert {r["run"] for r in found} == {"DDIM", "DDIM(eta=1)"}
    assert {r["nfe"] for r in found} == {"8.0"} and all(int(r["steps"]) <= 4 for r in found)  # a guided step costs two
    assert abs(value(output, "guidance")) > 0 and value(output, "draws") == 0
    kept = json.loads((output / "table.json").read_text())
    assert len(kept["coverage"]["DDIM, 8 NFE"]) == 4 and (output / "coverage.png").is_file()
    assert Path(output / "report.html").is_file() and "coverage: " in capsys.readouterr().out
    jax.clear_caches()
