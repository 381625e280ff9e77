"""The launchers end to end on one tiny run: train, sample, evaluate, snr_mismatch; what they write, and that overrides do what they say."""

import collections
import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from experiments import counting, evaluate, launcher, overrides
from experiments.sampling import completed, with_steps
from experiments.system import examples
from score_lab import load
from score_lab.build import ConfigError
from score_lab.guidance import CFG
from score_lab.paths import VP
from score_lab.samplers import DDIM, AnalyticDPM, Heun, UniformTime, measure_gamma, open_written, sample, sample_chunked
from score_lab.specs import literal

ROOT = Path(__file__).resolve().parent.parent
LAUNCHERS = ("train", "sample", "evaluate", "snr_mismatch", "digits")
TRAIN = """--config=configs/toy.py:moons --config.data.num_train=100 --config.data.num_test=64 --config.data.batch_size=16
    --config.network.width=16 --config.network.depth=1 --config.network.num_classes=2 --config.objective.label_dropout=0.2
    --config.training.steps=20
    --config.training.log_every=10 --config.training.eval_every=10 --config.training.checkpoint_every=10 --config.training.ema=(0.9,0.5)
    --config.training.profiles=(0.05,0.1) --config.training.snapshot_every=10
    --config.optimizer.warmup=5 --config.sampling.grid.num_steps=3 --config.preview.every=20 --config.preview.n=4"""


def run(name, *words):
    """``python -m experiments.NAME WORDS`` in this process; its exit status."""
    module = importlib.import_module(f"experiments.{name}")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [f"experiments.{name}", *words])
        launcher.launch(module.main)
    return exit_.value.code


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of twenty steps, made by the launcher."""
    home = tmp_path_factory.mktemp("launchers") / "run"
    assert run("train", *TRAIN.split(), f"--workdir={home}") == 0
    return home


@pytest.fixture(scope="module")
def drawn(workdir, tmp_path_factory):
    """``drawn("--seed=3", ...)``: what experiments.sample writes into samples.npz for six samples, and the bytes of that file."""

    def draw(*words):
        output = tmp_path_factory.mktemp("samples")
        assert run("sample", f"--workdir={workdir}", "--n=6", f"--output={output}", *words) == 0
        file = output / "samples.npz"
        with np.load(file) as stored:
            return {name: stored[name] for name in stored.files}, file.read_bytes()

    return draw


def test_train_leaves_a_workdir_that_says_what_it_is(workdir):
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["network"] == {"target": "MLP", "width": 16, "depth": 1, "num_classes": 2}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20] and all("eval/loss" in line and "loss" in line for line in lines)
    assert (workdir / "checkpoints" / "20").is_dir() and list((workdir / "events").iterdir())
    assert [p.suffix for p in (workdir / "previews").iterdir()] == [".png"]
    loaded = load(workdir)
    assert (loaded.step, loaded.ema) == (20, 0.9)


def test_train_again_has_nothing_left_to_do(workdir, capsys):
    before = (workdir / "metrics.jsonl").read_bytes()
    assert run("train", *TRAIN.split(), f"--workdir={workdir}") == 0
    assert "goes on from step 20" in "".join(capsys.readouterr()) and (workdir / "metrics.jsonl").read_bytes() == before


def test_sample_without_overrides_is_the_section_of_the_configuration(workdir, drawn, capsys):
    """Heun on the path of training with three steps, seed 0, the classes in turn: one call from pure noise, two, and one to the data."""
    stored, _ = drawn()
    denoiser, label = load(workdir).denoiser, np.array([0, 1, 0, 1, 0, 1], np.int32)
    direct = sample(denoiser, Heun(), UniformTime(3), (6, 2), jax.random.key(0), cond={"label": label})
    np.testing.assert_allclose(stored["x"], direct.x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(stored["label"], label)
    assert stored["nfe"] == 4 and json.loads(str(stored["made_by"]))["step"] == 20
    default = workdir / "samples"
    assert run("sample", f"--workdir={workdir}") == 0
    assert (default / "samples.png").read_bytes()[:4] == b"\x89PNG" and np.load(default / "samples.npz")["x"].shape == (1000, 2)
    assert "in place of" not in capsys.readouterr().out
    assert run("sample", f"--workdir={workdir}", "--n=6") == 0 and "in place of" in capsys.readouterr().out


def test_every_override_takes_effect(workdir, drawn):
    parts = "--path=VP --path.beta_max=10 --sampler.eta=0.5 --sampler=DDIM --guidance.scale=2"
    stored, _ = drawn(*parts.split(), "--steps=5", "--seed=3", "--labels=1,-1", "--ema=none")
    denoiser, label = load(workdir, ema=None).denoiser.on(VP(beta_max=10.0)), np.array([1, -1] * 3, np.int32)
    direct = sample(CFG(denoiser, scale=2.0), DDIM(0.5), UniformTime(5), (6, 2), jax.random.key(3), cond={"label": label})
    np.testing.assert_allclose(stored["x"], direct.x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(stored["label"], label)
    assert stored["nfe"] == direct.nfe == 10
    made_by = json.loads(str(stored["made_by"]))
    assert made_by["sampling"]["sampler"] == {"target": "DDIM", "eta": 0.5} and made_by["ema"] is None and made_by["seed"] == 3


def test_the_same_seed_is_the_same_file_and_the_chunk_changes_nothing(drawn):
    (first, bytes_), (_, again) = drawn("--seed=1"), drawn("--seed=1")
    assert bytes_ == again
    chunks, _ = drawn("--seed=1", "--chunk=4")
    np.testing.assert_allclose(chunks["x"], first["x"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(chunks["label"], first["label"])
    other, _ = drawn("--seed=2")
    assert np.abs(other["x"] - first["x"]).max() > 0.1


def test_evaluate_writes_its_table(workdir, capsys):
    assert run("evaluate", f"--workdir={workdir}", "--n=64", "--sampler=DDIM", "--steps=4") == 0
    said = capsys.readouterr().out
    (row,) = csv.DictReader((workdir / "evaluation.csv").open())
    assert (row["path"], row["sampler"], row["NFE"], row["n"]) == ("LinearFlow", "DDIM", "4", "64")
    assert float(row["energy"]) > 0 and "energy" in said and json.loads((workdir / "evaluation.json").read_text())


def test_evaluate_counts_its_cells_and_samples(monkeypatch, capsys):
    """The time left is that of the work done so far, at its pace."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("time.monotonic", lambda: 30.0)
    line = counting.Line()
    for done in (0, 50, 100):
        evaluate.progress(line, "cell 1/2: ema 0.9", 20.0, 0.0, 0.5, done, 100)
    evaluate.progress(line, "cell 2/2: ema none", 20.0, 0.5, 0.5, 100, 100)
    assert [said.rstrip() for said in capsys.readouterr().err.split("\r")[1:]] == [
        "cell 1/2: ema 0.9, 0 of 100 samples", "cell 1/2: ema 0.9, 50 of 100 samples, about 30 s left",
        "cell 1/2: ema 0.9, measuring, about 10 s left", "cell 2/2: ema none, measuring",
    ]  # fmt: skip


def test_a_line_that_counts_is_written_over_on_a_terminal_alone(monkeypatch, capsys):
    """In a log whole lines, ten seconds apart, and the last one always; what was longer is overwritten."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for terminal, said in ((True, "\rcell 1\rlong cell 2\rcell 3     \n"), (False, "long cell 2\ncell 3\n")):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        now[0] = 0.0
        line = counting.Line()
        for text, seconds in (("cell 1", 9.0), ("long cell 2", 2.0)):
            now[0] += seconds
            line(text)
        line("cell 3", last=True)
        assert capsys.readouterr().err == said


def test_averages_of_several_widths(workdir, capsys, tmp_path):
    """A row for each, tracked or put together from the snapshots, which the table says; a width outside is refused before anything."""
    assert run("evaluate", f"--workdir={workdir}", "--n=64", "--sampler=DDIM", "--steps=4", "--ema=0.05,0.07,none") == 0
    said = capsys.readouterr().out
    assert [row["ema"] for row in csv.DictReader((workdir / "evaluation.csv").open())] == ["0.05", "0.07", "none"]
    assert "ema 0.07: put together from the snapshots up to step 20, residual of its profile" in said and "ema 0.05:" not in said
    assert run("sample", f"--workdir={workdir}", "--n=6", f"--output={tmp_path}", "--ema=0.07") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ema ")]
    assert len(told) == 1 and "above 0.001: of 2 snapshots; more of them" in told[0]
    before = (workdir / "evaluation.csv").read_bytes()
    allowed = {"0.2": "ema: 0.2 is refused; allowed: a position below 4, one of the decays (0.9, 0.5), a width from", "": "--ema: ''"}
    for wrong, line in (allowed | {"wide": "--ema: 'wide' is refused; allowed: a decay or width"}).items():
        assert run("evaluate", f"--workdir={workdir}", "--n=64", f"--ema=0.05,0.07,{wrong}") == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {line}") and told.count("\n") == 1  # 0.07 was not put together before
    assert (workdir / "evaluation.csv").read_bytes() == before


def test_snr_mismatch_reads_every_call(workdir, capsys):
    """One row for each network call of each run, beside the same read-out on forward samples."""
    words = ("--n=40", "--solvers=DDIM", "--grids=UniformLogSNR", "--nfe=3,5", "--estimators=TotalVariance")
    assert run("snr_mismatch", f"--workdir={workdir}", *words) == 0
    at = workdir / "mismatch"
    rows = [r for r in csv.DictReader((at / "calls.csv").open()) if r["quantity"] == "ln R"]
    assert collections.Counter(r["run"] for r in rows) == {"DDIM, 3 NFE": 3, "DDIM, 5 NFE": 5}
    assert all(np.isfinite([float(r["value"]), float(r["null"]), float(r["excess"])]).all() for r in rows)
    levels = [float(r["log_snr"]) for r in rows if r["run"] == "DDIM, 5 NFE"]
    np.testing.assert_allclose(levels, np.linspace(-10, 10, 5), atol=1e-3)
    said = capsys.readouterr().out
    assert (at / "found_0.png").read_bytes()[:4] == b"\x89PNG" and "R at the last call" in said and "says nothing of the method" in said


@pytest.mark.slow
def test_a_workdir_is_all_that_they_need(workdir, capsys):
    """``evaluate`` and ``snr_mismatch`` with --workdir and nothing else: as the configuration and configs/mismatch.py say."""
    for file in ("evaluation.csv", "evaluation.json"):
        (workdir / file).unlink(missing_ok=True)
    assert run("evaluate", f"--workdir={workdir}") == 0
    (row,) = csv.DictReader((workdir / "evaluation.csv").open())
    assert (row["path"], row["sampler"], row["NFE"], row["n"]) == ("LinearFlow", "Heun", "4", "1000") and float(row["energy"]) > 0
    assert run("snr_mismatch", f"--workdir={workdir}") == 0
    config = launcher.read_config("configs/mismatch.py:digits")
    rows = [r for r in csv.DictReader((workdir / "mismatch" / "calls.csv").open()) if r["quantity"] == "ln R"]
    runs = {r["run"] for r in rows}
    wanted = {(solver.partition("(")[0], nfe) for solver in config.solvers for nfe in config.nfe}
    assert len(runs) >= len(config.solvers) * len(config.nfe)
    assert all(any(name.startswith(solver) for name in runs) for solver, _ in wanted)
    assert all(np.isfinite([float(r["value"]), float(r["null"])]).all() for r in rows)
    assert "<html" in (workdir / "mismatch" / "report.html").read_text().lower() and "Open " in capsys.readouterr().out


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_says_how_and_exits_with_0(name, capsys):
    assert run(name, "--help") == 0
    said = capsys.readouterr().out
    assert f"python -m experiments.{name}" in said and "--workdir" in said


def test_help_with_a_configuration_lists_its_values(capsys):
    assert run("train", "--config=configs/toy.py:moons", "--help") == 0
    assert "--config.optimizer.learning_rate=0.002" in capsys.readouterr().out


SECTION = {"sampler": {"target": "Heun", "variable": {"target": "T"}}, "grid": {"target": "UniformTime", "num_steps": 7}, "path": None}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([("sampler", "DDIM")], {"sampler": {"target": "DDIM"}}),
        ([("sampler.eta", 1), ("sampler", "DDIM")], {"sampler": {"target": "DDIM", "eta": 1}}),
        ([("sampler.variable", "Kappa")], {"sampler": {"target": "Heun", "variable": {"target": "Kappa"}}}),
        ([("sampler.form", "NoisePrediction")], {"sampler": SECTION["sampler"] | {"form": {"target": "NoisePrediction"}}}),
        ([("sampler.increment", "exact")], {"sampler": SECTION["sampler"] | {"increment": "exact"}}),
        ([("grid", "Churn"), ("grid.grid", "Karras")], {"grid": {"target": "Churn", "grid": {"target": "Karras"}}}),
        ([("grid", "Churn"), ("grid.grid.rho", 5)], {"grid": {"target": "Churn", "grid": {"rho": 5}}}),
        ([("path.beta_max", 9)], {"path": {"target": "VP", "beta_max": 9}}),
        ([("guidance.scale", 2)], {"guidance": {"scale": 2}}),
        ([("guidance", None)], {"guidance": None}),
        ([("guidance", 2)], {"guidance": {"scale": 2}}),
        ([("sampler", "DDIM(eta=0.5)")], {"sampler": {"target": "DDIM", "eta": 0.5}}),
        ([("sampler", "m:Mine(a=1)"), ("sampler.b", 2)], {"sampler": {"target": "m:Mine", "a": 1, "b": 2}}),
        ([("grid", "Churn"), ("grid.grid", "Karras(rho=5)")], {"grid": {"target": "Churn", "grid": {"target": "Karras", "rho": 5}}}),
    ],
)  # fmt: skip
def test_overrides_replace_parts_and_then_set_fields(words, expected):
    assert overrides.apply(SECTION, words, {"path": {"target": "VP"}}) == SECTION | expected
    assert SECTION["sampler"] == {"target": "Heun", "variable": {"target": "T"}}


def test_a_grid_named_on_the_command_line_keeps_the_number_of_steps():
    assert completed({"target": "Karras"}, SECTION["grid"]) == {"target": "Karras", "num_steps": 7}
    assert completed({"target": "Karras", "num_steps": 3}, SECTION["grid"]) == {"target": "Karras", "num_steps": 3}
    churn = completed({"target": "Churn", "grid": {"target": "Karras"}}, SECTION["grid"])
    assert churn == {"target": "Churn", "grid": {"target": "Karras", "num_steps": 7}}
    assert with_steps(churn, 4)["grid"]["num_steps"] == 4
    assert completed({"target": "Times"}, SECTION["grid"]) == {"target": "Times"}
    with pytest.raises(ConfigError, match="--steps: 4 is refused; allowed: nothing: Times has no num_steps"):
        with_steps({"target": "Times"}, 4)


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("None", None), ("(1, 2)", (1, 2)), ("-inf", -np.inf), ("VP", "VP"), ("3", 3)])
def test_values_are_literals_or_words(text, value):
    assert literal(text) == value


@pytest.mark.slow
def test_shards_are_written_and_resumed(workdir, tmp_path, capsys):
    """The same samples as in one file; the same command finds nothing left to do, another is refused by what differs."""
    words = (f"--workdir={workdir}", "--n=6", "--chunk=4", f"--shards={tmp_path / 'out'}")
    assert run("sample", *words) == 0
    label, key = np.array([0, 1] * 3), jax.random.key(0)
    whole = sample_chunked(load(workdir).denoiser, Heun(), UniformTime(3), (6, 2), key, chunk=4, cond={"label": label})
    np.testing.assert_allclose(open_written(tmp_path / "out").load()["x"], whole.x, rtol=1e-5, atol=1e-6)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert run("sample", *words) == 0 and {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
    assert run("sample", *words, "--seed=3") == 2
    assert "manifest.json: key: " in capsys.readouterr().err
    assert run("sample", f"--workdir={workdir}", "--format=zarr") == 2
    assert run("sample", *words[:2], "--chunk=1GiB", "--sampler=Tsit5", "--sampler.rtol=1e-2", f"--output={tmp_path}") == 0
    assert "NFE" in capsys.readouterr().out and np.load(tmp_path / "samples.npz")["nfe"].shape == (6,)


@pytest.mark.slow
def test_the_table_of_analytic_dpm_is_measured_once(workdir, drawn, capsys):
    """Gamma of the very network, beside its checkpoint; another checkpoint has another."""
    first, _ = drawn("--sampler=AnalyticDPM", "--steps=4", "--path=VP", "--clip")
    (file,) = (workdir / "gamma").iterdir()
    assert str(file) in capsys.readouterr().err and file.name.startswith("20-")
    before, loaded, table = file.stat().st_mtime_ns, load(workdir), json.loads(file.read_text())
    x0, label = examples(loaded, "train")
    levels, gamma = measure_gamma(loaded.denoiser, x0, table["log_snrs"], jax.random.key(0), cond={"label": label})
    np.testing.assert_allclose(table["gamma"], gamma, rtol=1e-5)
    assert len(levels) == 16 and levels[0] < -9 and levels[-1] > 9 and (np.diff(gamma) < 0.1).all() and (gamma > 0).all()
    sampler, cond = AnalyticDPM(levels, gamma), {"label": first["label"]}
    direct = sample(loaded.denoiser.on(VP(), clip=True), sampler, UniformTime(4), (6, 2), jax.random.key(0), cond=cond)
    np.testing.assert_allclose(first["x"], direct.x, rtol=1e-4, atol=1e-5)
    again, _ = drawn("--sampler=AnalyticDPM(eta=1)", "--steps=4", "--path=VP", "--clip")
    np.testing.assert_array_equal(again["x"], first["x"])
    assert file.stat().st_mtime_ns == before and "measured" not in capsys.readouterr().err
    drawn("--sampler=AnalyticDPM", "--steps=4", "--step=10")
    assert len(list((workdir / "gamma").iterdir())) == 2
    assert run("sample", f"--workdir={workdir}", "--sampler=AnalyticDPM(eta=2)", "--step=10", "--ema=1") == 2
    assert "eta: 2" in capsys.readouterr().err and len(list((workdir / "gamma").iterdir())) == 2


def test_the_configurations_are_found_from_any_folder(tmp_path):
    """Those of the package stand where this folder has none; one of this folder comes first."""
    say = "from experiments.launcher import read_config; import sys; print(read_config(sys.argv[1]).network.target)"

    def network(spec):
        environment = network_guard.environment(PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
        return subprocess.run([sys.executable, "-c", say, spec], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    found = network("configs/toy.py:moons")
    assert found.stdout == "MLP\n", found.stderr
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "toy.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(v):\n    return ConfigDict({'network': {'target': v}})"
    )
    assert network("configs/toy.py:Mine").stdout == "Mine\n"
