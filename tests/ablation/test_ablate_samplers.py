"""experiments.ablate_samplers end to end on an exact mixture: what it writes, killed and resumed, extended, with samplers from outside that
work, raise and break.
"""

import csv
import html
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest
from elsewhere import folder
from test_launchers import ROOT, TRAIN, run

from score_lab.ablation import pictures, running
from score_lab.analytic import GaussianMixture
from score_lab.paths import VP
from score_lab.samplers import DDIM, UniformLogSNR, sample

CONFIG = '''
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "models": {"two": {"denoiser": {"target": "GaussianMixture", "weights": (1.0, 2.0), "means": ((1.0, 0.0), (-1.0, 0.5)),
                                        "variances": (0.05, 0.1)}, "path": {"target": "VP"}}},
        "solvers": ("DDIM", "outside_of_here.samplers:Midway"), "grids": ("UniformLogSNR(end=6)",), "nfe": (4, 8),
        "seeds": (0, 1), "n": 80, "chunk": 80, "repeats": 60, "reference_steps": 32,
    })
'''
TIMES = ("ms", "ms_low", "ms_high", "ms_n", "compile s", "MB")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration file, in a folder that also holds a package of samplers."""
    files = {"samplers": (Path(__file__).parent / "outside.py").read_text()}
    with folder(tmp_path_factory.mktemp("ablate"), "outside_of_here", files, CONFIG) as file:
        yield file


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """The folder of a whole run."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert run("ablate_samplers", f"--config={config}", f"--output={output}") == 0
    return output


@pytest.fixture
def unpainted(done, monkeypatch):
    """Pictures are those of ``done``: drawing takes longer than sampling."""
    for name, picture in (("save_quality", "quality.png"), ("save_scatter", "same_noise_0.png")):
        monkeypatch.setattr(pictures, name, lambda file, *_, picture=picture, **__: shutil.copy(done / picture, file))


def rows(folder, name="table"):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def same_numbers(a, b):
    """Two tables that differ in what was timed alone."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMES} == {k: v for k, v in other.items() if k not in TIMES}


def cells(folder):
    with sqlite3.connect(folder / "ablation.sqlite") as db:
        return db.execute("SELECT key, what, status, reason FROM cells ORDER BY key").fetchall()


def test_what_it_leaves_behind(done):
    table = rows(done)
    assert [r["solver"] for r in table] == [*["DDIM", "Midway"] * 2, "the ODE itself", "exact samples"]
    assert [r["budget"] for r in table[:4]] == ["4", "4", "8", "8"] and [r["NFE"] for r in table[:4]] == ["4", "3", "8", "7"]
    for row in table[:4]:
        assert row["n"] == "160" and float(row["energy_low"]) <= float(row["energy"]) <= float(row["energy_high"])
        assert row["gap at"] == "unidentifiable" or float(row["snr_gap_low"]) < float(row["snr_gap_high"])
        assert float(row["solver_error"]) > 0 and float(row["ms"]) > 0 and float(row["compile s"]) > 0 and float(row["MB"]) > 0
    error = {(r["solver"], r["budget"]): float(r["solver_error"]) for r in table[:4]}
    assert error["DDIM", "8"] < error["DDIM", "4"] and error["Midway", "8"] < error["Midway", "4"]
    text = (done / "report.html").read_text()
    places = [text.index(part) for part in ("Which sampler should I use?", "At 4 NFE: use", "At 8 NFE: use", "data:image/png")]
    assert places == sorted(places)
    assert "Not distinguishable" in text or "distinguishable from all" in text
    assert "The ODE itself reads" in text
    assert "Midway: 2 steps cost 3 of 4; 3 would cost 5" in text
    assert "grid UniformLogSNR(end=6) on path own ends at data, by a last step from kappa = 0.04979" in text  # exp(-6 / 2)
    assert [r["flag"] for r in table] == ["-", "diverged (energy)", *["-"] * 4] and float(table[1]["R_last"]) > 100
    assert "not shown, no row has a number: snr_gap (unidentifiable; log-SNR 6" in text  # 160 points
    assert [r["family"] for r in table] == ["one-step", "-"] * 2 + ["-"] * 2
    pairs = rows(done, "pairs")
    assert len(pairs) == 2 and all(float(p["p"]) <= float(p["p_adjusted"]) <= 1 for p in pairs)
    for p in pairs:
        apart = not float(p["low"]) <= 0 <= float(p["high"]) and abs(float(p["difference"])) > float(p["resolution"]) > 0
        assert p["distinguishable"] == str(apart)
    ranks = rows(done, "ranking")
    assert [float(r["minus_best"]) == 0 for r in ranks] == [True, False] * 2
    assert float(ranks[1]["minus_best"]) == pytest.approx(float(ranks[1]["value"]) - float(ranks[0]["value"]))
    assert "minus the best" in text and "1 % of the better value" in text
    assert [r["rank"] for r in rows(done, "ranking")] == ["1", "2"] * 2


def test_the_samples_are_those_of_sample(done, n=80):
    """Sample i of seed s is what the library draws from that key and index: the common random numbers of every cell."""
    weights, means, variances = (np.array(v, np.float32) for v in ([1, 2], [[1, 0], [-1, 0.5]], [0.05, 0.1]))
    mixture = GaussianMixture(VP(), weights, means, variances)
    (key,) = [
        key for key, what, *_ in cells(done)
        if (w := json.loads(what))["section"]["sampler"] == {"target": "DDIM"} and w["section"]["grid"]["num_steps"] == 4 and w["seed"] == 1
    ]  # fmt: skip
    with np.load(done / "samples" / f"{key}.npz") as stored:
        direct = sample(mixture, DDIM(), UniformLogSNR(4, end=6.0), (n, 2), jax.random.key(1))
        np.testing.assert_allclose(stored["x"], direct.x, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_killed_half_way_and_resumed_is_the_same_table(config, done, unpainted, tmp_path, monkeypatch):
    """The process dies in its fourth cell; what was there is not sampled again, and the table is that of the run that was not killed."""
    drawn, real = [], running.draw_cell

    def dies(program, model, run_, seed, before):
        drawn.append(seed)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return real(program, model, run_, seed, before)

    monkeypatch.setattr(running, "draw_cell", dies)
    words = (f"--config={config}", f"--output={tmp_path / 'out'}")
    assert run("ablate_samplers", *words) == 130 and len(cells(tmp_path / "out")) == 3
    before = {key for key, *_ in cells(tmp_path / "out")}
    (tmp_path / "out" / "samples" / "half.part").write_text("what a kill leaves")
    assert run("ablate_samplers", *words) == 0
    assert len(drawn) == 4 + len(cells(done)) - 3 and before < {key for key, *_ in cells(tmp_path / "out")}
    same_numbers(rows(tmp_path / "out"), rows(done))


def test_more_solvers_add_their_cells_only_and_failures_do_not_stop_the_rest(
    config, done, unpainted, tmp_path, monkeypatch, capsys
):
    shutil.copytree(done, tmp_path / "out")
    drawn, real = [], running.draw_cell
    monkeypatch.setattr(running, "draw_cell", lambda *a: drawn.append(a[2].system.solver["target"]) or real(*a))
    outside = "outside_of_here.samplers:"
    solvers = f"--solvers=DDIM, {outside}Midway, {outside}Raises, {outside}Breaks"
    grids = "--grids=UniformLogSNR(end=6), Churn(grid=UniformLogSNR(end=6), s_churn=3)"
    assert run("ablate_samplers", f"--config={config}", f"--output={tmp_path / 'out'}", solvers, "--nfe=8") == 0
    assert set(drawn) == {outside + "Breaks"}
    (again,) = re.findall(r"<pre>python -m experiments.ablate_samplers (.*?)</pre>", (tmp_path / "out" / "report.html").read_text())
    assert shlex.split(html.unescape(again)) == [f"--config={config}", f"--output={tmp_path / 'out'}", solvers, "--nfe=8"]
    said = capsys.readouterr().out
    table = {r["solver"]: r for r in rows(tmp_path / "out")}
    same_numbers([table["DDIM"], table["Midway"]], [r for r in rows(done) if r["budget"] == "8" and r["solver"] in ("DDIM", "Midway")])
    assert "failed  Raises at 8 NFE: RuntimeError: the third order is not written yet" in said
    lost = int(table["Breaks"]["not finite"])
    assert table["Breaks"]["flag"] == "not finite" and table["Raises"]["flag"] == table["DDIM"]["flag"] == "-"
    assert 0 < lost < 160 and table["Breaks"]["energy"] == "nan" and f"{table['Breaks']['n']}" == "160"
    assert "samples are not finite, at index" in said and "Breaks" in (tmp_path / "out" / "report.html").read_text()
    ranking = {r["sampler"]: r for r in rows(tmp_path / "out", "ranking")}
    assert ranking["Raises"]["rank"] == ranking["Breaks"]["rank"] == "" and "not finite" in ranking["Breaks"]["not_distinguishable_from"]

    words = (f"--config={config}", f"--output={tmp_path / 'out'}", "--solvers=DDIM,DPMSolverPP2M")
    assert run("ablate_samplers", *words, grids, "--nfe=8") == 0
    assert drawn[2:] == ["DPMSolverPP2M"] * 2 + ["DDIM"] * 2  # on the old grid, and what does not remember on the new one
    failed = [r for r in cells(tmp_path / "out") if r[2] == "failed" and "remembers" in r[3]]
    assert len(failed) == 2 and "DPMSolverPP2M" in failed[0][3]  # a grid that renoises and a solver that remembers: one line, one per seed
    churned = [r for r in rows(tmp_path / "out") if r["grid"].startswith("Churn") and r["solver"] == "DDIM"]
    assert len(churned) == 1 and churned[0]["solver_error"] == "nan"  # not defined for what is stochastic


@pytest.mark.slow
def test_more_samples_are_added_and_fewer_are_read(config, done, unpainted, tmp_path, monkeypatch):
    """n is no part of a cell: 80 samples a seed become 120 by 40 new ones; asked for 80 again, it draws nothing."""
    shutil.copytree(done, tmp_path / "out")
    drawn, real = [], running.draw_cell

    def counted(*parts):
        cell, arrays = real(*parts)
        drawn.append((len(arrays["x"]), 0 if parts[4] is None else len(parts[4]["x"])))
        return cell, arrays

    monkeypatch.setattr(running, "draw_cell", counted)
    words = (f"--config={config}", f"--output={tmp_path / 'out'}")
    assert run("ablate_samplers", *words, "--n=120") == 0
    keys = {key for key, *_ in cells(done)}
    assert drawn == [(120, 80)] * (len(keys) - 1)  # of the reference in half its steps no more are wanted
    assert {key for key, *_ in cells(tmp_path / "out")} == keys and {r["n"] for r in rows(tmp_path / "out")[:4]} == {"240"}
    for key in keys:
        with np.load(done / "samples" / f"{key}.npz") as old, np.load(tmp_path / "out" / "samples" / f"{key}.npz") as new:
            np.testing.assert_array_equal(old["x"], new["x"][:80])
            assert new["square"].shape == (len(new["t"]), len(new["x"]))
    test_the_samples_are_those_of_sample(tmp_path / "out", 120)
    assert run("ablate_samplers", *words) == 0 and len(drawn) == len(keys) - 1
    same_numbers(rows(tmp_path / "out"), rows(done))


def test_a_narrower_question_does_not_overwrite_the_answer_to_a_wider_one(config, done, unpainted, tmp_path):
    """Each study keeps its page and tables; the folder's own are the newest's and lead to the others; asked again, it is the same study."""
    shutil.copytree(done, tmp_path / "out")
    (wide,) = (tmp_path / "out" / "studies").iterdir()
    before, page_before = rows(wide), (wide / "report.html").read_bytes()
    words = (f"--config={config}", f"--output={tmp_path / 'out'}")
    assert run("ablate_samplers", *words, "--solvers=DDIM", "--nfe=8") == 0
    (narrow,) = (folder for folder in (tmp_path / "out" / "studies").iterdir() if folder != wide)
    assert rows(wide) == before and (wide / "report.html").read_bytes() == page_before
    assert rows(narrow) == rows(tmp_path / "out") and len(rows(narrow)) < len(before)
    text = (tmp_path / "out" / "report.html").read_text()
    assert f'href="studies/{wide.name}/report.html"' in text and "DDIM, Midway; 4 rows; NFE 4, 8; 2 x 80 samples" in text
    assert run("ablate_samplers", *words, "--config.chunk=40") == 0
    assert {f.name for f in (tmp_path / "out" / "studies").iterdir()} == {wide.name, narrow.name}
    same_numbers(rows(tmp_path / "out"), before)
    assert f'href="studies/{narrow.name}/report.html"' in (tmp_path / "out" / "report.html").read_text()


def test_a_budget_that_one_solver_does_not_fit_is_a_row_with_its_reason(config, unpainted, tmp_path, capsys):
    """Two steps of Midway cost 3, two of DDIM 2: the study goes on without the one row."""
    output = tmp_path / "out"
    assert run("ablate_samplers", f"--config={config}", f"--output={output}", "--nfe=2", "--config.reference_steps=0") == 0
    assert "failed  Midway at 2 NFE: nfe: 2 is refused; allowed: at least 3" in capsys.readouterr().out
    ranks = {r["sampler"]: r["rank"] for r in rows(output, "ranking")}
    assert ranks == {"DDIM": "1", "Midway": ""} and [r["steps"] for r in rows(output)[:2]] == ["2", "-"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--solvers=DDIMM"], "did you mean 'DDIM'"),
        (["--solvers=DDIM(etta=1)"], "did you mean 'eta'"),
        (["--solvers=nowhere.at_all:Mine"], "'nowhere' cannot"),
        (["--solvers=Heun", "--nfe=0"], "nfe"),
        (["--nfe=1"], "nfe: 1 is refused; allowed: at least 2"),
        (["--nfe=five"], "nfe: 'five'"),
        (["--grids=own"], "has none of its own"),
        (["--guidance=2,x"], "guidance: 'x' is refused; allowed: numbers (1: none), none, or a part of score_lab.guidance: "),
        (["--guidance=2,CFGG"], "did you mean 'CFG'"),
        (["--solvers=DDIM, Huen, UniPC"], "solvers.target: 'Huen' is refused"),
        (["--labels=cat"], "'labels'"),
        (["--features=PCAA"], "did you mean 'PCA'"),
        (["--least_difference=2"], "least_difference: 2.0 is refused; allowed: from 0"),
        (["--rank_by=fid"], "rank_by: 'fid' is refused; allowed: energy, mmd, w2, solver_error"),
        (["--vary=solver.eta"], "--vary"),
        (["--workdir=/nowhere"], "workdir: '/nowhere'"),
        (["--n=5"], "n: 5 is refused; allowed: a whole number, at least 20"),
        (["--solverss=DDIM"], "'solverss'. Did you mean: solvers"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_bad_input_is_one_line(words, says, config, tmp_path, capsys):
    output = tmp_path / "out"
    assert run("ablate_samplers", f"--config={config}", f"--output={output}", *words) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert says in line and "Traceback" not in said


def test_without_a_configuration_it_is_run_from_any_folder(tmp_path, monkeypatch, capsys):
    """The default one is found where the package is, not where the user is: what is refused is the workdir."""
    monkeypatch.chdir(tmp_path)
    assert run("ablate_samplers", "--workdir=nowhere") == 2
    assert "workdir: 'nowhere' is refused" in capsys.readouterr().err


@pytest.mark.slow
def test_sigkill_loses_the_cell_in_progress_and_nothing_else(config, done, tmp_path):
    """kill -9 of the launcher itself, again and again, until it is through; the table is that of the run that was not killed."""
    output, kept = tmp_path / "out", set()
    command = [sys.executable, "-m", "experiments.ablate_samplers", f"--config={config}", f"--output={output}"]
    env = network_guard.environment() | {"PYTHONPATH": f"{ROOT}:{config.parent}", "JAX_PLATFORMS": "cpu"}
    for wanted in (3, 8):
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not (output / "ablation.sqlite").exists() or len(cells(output)) < wanted):
            time.sleep(0.02)
        process.kill()
        process.wait()
        there = {key for key, *_ in cells(output)}
        assert kept <= there and len(there) >= wanted
        kept = there
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    same_numbers(rows(output), rows(done))


@pytest.mark.slow
def test_a_trained_network_on_two_paths_with_and_without_guidance(tmp_path):
    """From a workdir alone: its own grid, labels in turn, both passes of guidance counted within the budget."""
    workdir = tmp_path / "run"
    assert run("train", *TRAIN.split(), f"--workdir={workdir}") == 0
    words = ("--solvers=DDIM,DDIM(eta=0.5)", "--grids=own", "--paths=own,VP", "--guidance=1,2", "--nfe=8", "--seeds=0,1", "--n=40")
    assert run("ablate_samplers", f"--workdir={workdir}", *words) == 0
    table = rows(workdir / "ablation")
    assert len(table) == 8 + 4 + 1 and {r["NFE"] for r in table[:8]} == {"8"}
    assert {(r["guidance"], r["steps"]) for r in table[:8]} == {("1", "8"), ("2", "4")}
    assert all(np.isfinite(float(r["energy"])) for r in table)
    text = (workdir / "ablation" / "report.html").read_text()
    assert "At 8 NFE, guidance 1: use" in text and "At 8 NFE, guidance 2: use" in text
    commands = re.findall(r"<pre>python -m experiments.sample (.*?)</pre>", text)
    assert len(commands) == 2 and "--guidance.scale=2" in commands[1]
    assert run("sample", *shlex.split(html.unescape(commands[1])), "--n=8", f"--output={tmp_path / 'drawn'}") == 0
    with np.load(tmp_path / "drawn" / "samples.npz") as drawn:
        assert set(np.ravel(drawn["nfe"]).tolist()) == {8}


@pytest.mark.slow
def test_what_is_fitted_to_a_trained_network(tmp_path):
    """AnalyticDPM's table is measured once, kept in the workdir and part of the cell; Dopri5 and dpm_fast are given their budgets."""
    workdir = tmp_path / "run"
    assert run("train", *TRAIN.split(), f"--workdir={workdir}") == 0
    words = ("--solvers=AnalyticDPM, dpm_fast, Dopri5", "--grids=UniformLogSNR(end=6)", "--nfe=40", "--seeds=0,1", "--n=40")
    words = (f"--workdir={workdir}", *words, "--config.reference_steps=0")
    assert run("ablate_samplers", *words) == 0
    (file,) = (workdir / "gamma").iterdir()
    sections = [json.loads(what)["section"] for _, what, *_ in cells(workdir / "ablation")]
    tables = [s["sampler"]["gamma"] for s in sections if s["sampler"]["target"] == "AnalyticDPM"]
    assert tables == [json.loads(file.read_text())["gamma"]] * 2
    table = {r["solver"]: r for r in rows(workdir / "ablation")}
    assert table["DPMFast"]["NFE"] == table["DPMFast"]["most NFE"] == table["AnalyticDPM"]["NFE"] == "40"
    assert float(table["Dopri5"]["NFE"]) < 44 and float(table["Dopri5"]["most NFE"]) > float(table["Dopri5"]["NFE"])
    assert all(np.isfinite(float(r["energy"])) for r in table.values())
    before = file.stat().st_mtime_ns
    assert run("ablate_samplers", *words, "--solvers=AnalyticDPM(eta=0.0)") == 0 and file.stat().st_mtime_ns == before
