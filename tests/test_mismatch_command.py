"""experiments.snr_mismatch end to end on an exact mixture: what it writes and says, stopped and resumed, extended, with an estimator and a
measure from a folder of somebody's own, and what it refuses.
"""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from elsewhere import folder
from test_launchers import run

from experiments.launcher import read_config
from experiments.mismatch_parts import announced, asked
from score_lab.build import build
from score_lab.mismatch.study import recording

CONFIG = '''
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "models": {"two": {"denoiser": {"target": "GaussianMixture", "weights": (1.0, 2.0), "means": ((1.0, 0.0), (-1.0, 0.5)),
                                        "variances": (0.05, 0.1)}, "path": {"target": "VP"}}},
        "solvers": ("DDIM", "Heun"), "grids": ("UniformLogSNR(end=6)",), "nfe": (5,), "seeds": (0,), "n": 64, "chunk": 64,
        "estimators": ("TotalVariance", "SpectralRegression", "a_package.mine:Half(nats=0.25)"), "basis": "pca", "read_outs": ("P1",),
        "measures": ("a_package.mine:mean_square",), "replicates": 40,
    })
'''


PICTURES = ("found_0", "effective_0", "effective_1", "effective_2", "log_ratios", "layers", "read_outs", "as_drawn")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration, in a folder that also holds a package of an estimator, measures and samplers."""
    here = Path(__file__).parent
    files = {"mine": (here / "mismatch" / "outside.py").read_text(), "samplers": (here / "ablation" / "outside.py").read_text()}
    with folder(tmp_path_factory.mktemp("mismatch"), "a_package", files, CONFIG) as file:
        yield file


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """The folder of a whole run."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert run("snr_mismatch", f"--config={config}", f"--output={output}") == 0
    return output


def test_it_says_at_once_what_it_will_do_and_where():
    """Runs, trajectories, evaluations and the folder, of the study alone: before a workdir is opened."""
    from ml_collections import ConfigDict

    config = ConfigDict({"models": {"a": {"workdir": "runs/a"}}, "solvers": ("DDIM", "Heun"), "nfe": (5, 10), "seeds": (0, 1), "n": 64})
    line = announced(*asked(config, {"solvers": "DDIM, Heun, DDPM", "output": "here"}))
    assert line.startswith("a: 6 runs (3 systems at 5, 10 NFE) of 128 trajectories; at most 11,520 evaluations, half of them of forward")
    assert line.endswith("; into here") and "SpectralRegression" in line


@pytest.fixture
def copy(done, tmp_path, monkeypatch):
    """A folder with what ``done`` recorded; pictures are its pictures: drawing takes longer than sampling."""
    import score_lab.report.mismatch.page as page

    shutil.copytree(done, tmp_path / "out")
    for name in ("save_found", "save_effective", "save_log_ratios", "save_layers", "save_read_outs", "save_as_drawn"):
        monkeypatch.setattr(page, name, lambda file, *_: shutil.copy(done / "found_0.png", file))
    return tmp_path / "out"


def rows(folder, name="table"):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def names(folder):
    return sorted(file.name for file in (folder / "records").iterdir())


def test_what_it_leaves_behind(done):
    table = rows(done)
    assert [(r["solver"], r["NFE"], r["n"], r["not finite"]) for r in table] == [("DDIM", "5", "64", "0"), ("Heun", "5", "64", "0")]
    for row in table:
        assert float(row["R last_low"]) < float(row["R last"]) < float(row["R last_high"]) and row["R last_n"] == "64"
        assert float(row["half"]) == pytest.approx(0.25, abs=0.05)
    calls = rows(done, "calls")
    ours = [c for c in calls if c["quantity"] == "ln R"]
    assert [c["run"] for c in ours] == ["DDIM, 5 NFE"] * 5 + ["Heun, 5 NFE"] * 5
    for c in ours:
        assert float(c["low"]) <= float(c["value"]) <= float(c["high"])
        assert float(c["excess"]) == pytest.approx(float(c["value"]) - float(c["null"]))
    kinds = {c["quantity"] for c in calls}
    assert {"ln R band 0", "ln R band 1", "mean leak", "mean gain", "ln eps2 gap", "KL off the curve", "mean_square", "delta log-SNR, half",
            "P1: norm of the predicted noise"} <= kinds  # fmt: skip
    found = json.loads((done / "table.json").read_text())
    assert set(found["findings"]["runs"]) == {"DDIM, 5 NFE", "Heun, 5 NFE"} and len(found["calls"]) == len(calls)
    text = (done / "report.html").read_text()
    heads = ("What was found", "What cannot be concluded", "Every run", "How to read the pictures", "DDIM, 5 NFE", "See it again")
    places = [text.index(f"<h2>{part}</h2>") for part in heads]
    assert places == sorted(places) and "data:image/png" in text and "The denoiser is exact" in text
    assert "Heun: 3 steps" not in text and len(list(done.glob("spectrum_pca.npz"))) == 1
    assert all((done / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in PICTURES)


def test_stopped_and_resumed_is_the_same_table(config, done, copy, monkeypatch, capsys):
    """Without one record, as after a kill: it alone is made, and the table is that of the run that was not stopped."""
    before, kept = (copy / "table.csv").read_bytes(), names(copy)
    (copy / "records" / kept[0]).unlink()
    (copy / "table.csv").unlink()
    capsys.readouterr()
    assert run("snr_mismatch", f"--config={config}", f"--output={copy}") == 0
    assert names(copy) == kept and (copy / "table.csv").read_bytes() == before
    assert "1 records made" in capsys.readouterr().out

    def nothing(*_, **__):
        raise AssertionError("something was sampled again")

    monkeypatch.setattr(recording.Chunks, "of", nothing)
    monkeypatch.setattr(recording, "forward_run", nothing)
    assert run("snr_mismatch", f"--config={config}", f"--output={copy}") == 0
    said = capsys.readouterr().out
    assert "0 records made" in said and (copy / "table.csv").read_bytes() == before


@pytest.mark.slow
def test_terminated_midway_it_goes_on_to_the_same_numbers(config, tmp_path):
    """Processes of their own: SIGTERM as soon as one record is there, then the same command again, and one that nobody stopped."""
    import signal
    import subprocess
    import sys
    import time

    import network_guard

    root = Path(__file__).resolve().parent.parent
    environment = network_guard.environment() | {"PYTHONPATH": f"{config.parent}:{root}"}

    def start(where):
        words = [sys.executable, "-m", "experiments.snr_mismatch", f"--config={config}", f"--output={tmp_path / where}"]
        return subprocess.Popen(words, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start("stopped")
    records = tmp_path / "stopped" / "records"
    while first.poll() is None and not list(records.glob("*.npz")):
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=900)
    kept = {file.name: file.read_bytes() for file in records.glob("*.npz")}
    assert first.returncode == -signal.SIGTERM and kept and not (tmp_path / "stopped" / "table.csv").exists()
    for where in ("stopped", "whole"):
        again = start(where)
        said, error = again.communicate(timeout=900)
        assert again.returncode == 0, error
        if where == "stopped":
            assert f" {len(names(tmp_path / 'stopped')) - len(kept)} records made" in said
            assert all((records / name).read_bytes() == text for name, text in kept.items())
    assert names(tmp_path / "stopped") == names(tmp_path / "whole") and len(names(tmp_path / "whole")) > len(kept)
    for name in ("table.csv", "calls.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_solver_more_adds_its_own_and_one_that_fails_is_told(config, done, copy, capsys):
    """DDIM(eta=1) calls at the levels of DDIM, so it adds one record; a solver from outside that raises is a line, and the rest go on."""
    before = names(copy)
    words = "--solvers=DDIM, Heun, DDIM(eta=1), a_package.samplers:Raises"
    assert run("snr_mismatch", f"--config={config}", f"--output={copy}", words) == 0
    assert len(set(names(copy)) - set(before)) == 1 and set(before) <= set(names(copy))
    table, old = rows(copy), rows(done)
    assert [r["solver"] for r in table] == ["DDIM", "Heun", "DDIM(eta=1)"]
    for one, other in zip(table[:2], old, strict=True):
        assert {k: v for k, v in one.items() if k in other} == other
    said, text = capsys.readouterr().out, (copy / "report.html").read_text()
    assert "RuntimeError: the third order is not written yet" in said and "the third order is not written yet" in text


def test_with_nothing_but_the_axes(config, done, copy, capsys, monkeypatch):
    """No estimator, no read-out: the ratios alone; a budget that Heun does not divide into whole steps is noted; the other reports of the
    workdir are linked where they are."""
    from experiments import mismatch_parts

    assert "Of the same model" not in (done / "report.html").read_text()
    monkeypatch.setattr(mismatch_parts, "homes_of", lambda study: [copy.parent])  # an exact model has no workdir
    (copy.parent / "decomposition").mkdir()
    (copy.parent / "decomposition" / "report.html").write_text("parts")
    words = ("--estimators=", "--read_outs=", "--measures=", "--solvers=Heun", "--nfe=6")
    assert run("snr_mismatch", f"--config={config}", f"--output={copy}", *words) == 0
    said = capsys.readouterr().out
    assert "estimators" in said and "steps cost" in said
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', (copy / "report.html").read_text())
    assert [(copy / where).read_text() for where, _ in links] == ["parts"] and links[0][1].startswith("What causes it")


def test_the_report_is_six_solvers_at_four_budgets_of_any_workdir():
    """The variant as its one line in the README asks for it: built, and its budgets counted."""
    from absl import flags

    from experiments.mismatch_parts import asked, folder_of
    from experiments.snr_mismatch import define
    from score_lab import samplers
    from score_lab.specs import spec_of

    words = shlex.split("it --config configs/mismatch.py:report --workdir runs/other")
    for page in ("README.md", "docs/mismatch.md"):
        text = (Path(__file__).parents[1] / page).read_text()
        assert "python -m experiments.snr_mismatch --config configs/mismatch.py:report --workdir runs/digits" in text
    values = flags.FlagValues()
    define(values)
    flags.DEFINE_string("config", None, "", flag_values=values)
    values(words)
    study, questions = asked(read_config(values.config), {name: values[name].value for name in ("workdir", "output")})
    made = [build(spec_of(word, "solvers"), "score_lab.samplers", "solvers") for word in study.solvers]
    kinds = ("Euler", "DDIM", "DDPM", "Heun", "DPMSolverPP2M", "EulerMaruyama")
    assert [type(s) for s in made] == [getattr(samplers, kind) for kind in kinds] and study.nfe == (5, 10, 20, 50) and study.n == 512
    assert len(study.systems()) == 6 and list(study.models.values()) == [{"workdir": "runs/other"}] and questions.built()
    assert folder_of(study) == Path("runs/other/mismatch")


REFUSED = [
    ("--n=5", "--n: 5", "at least 32"),
    ("--estimators=TotalVarianc", "estimators.target: 'TotalVarianc'", "did you mean 'TotalVariance'?"),
    ("--estimators=a_package.mine:Blind", "estimators: 'a_package.mine:Blind'", "read(record, spectrum, path)"),
    ("--estimators=TotalVariance(toll=1)", "estimators.toll: 1", "did you mean 'tol'?"),
    ("--measures=a_package.mine:nothing", "measures: 'nothing'|measures: 'a_package.mine:nothing'", "one of"),
    ("--measures=a_package.mine:banded", "measures", "one of"),
    ("--read_outs=P9", "read_outs: 'P9'", "P1, P3, P4"),
    ("--read_outs=P2", "read_outs: 'P2'", "pair a run with data"),
    ("--basis=dtc", "basis: 'dtc'", "did you mean 'dct'?"),
    ("--basis=dct", "Spectrum.of.basis: 'dct'", "identity or pca"),
    ("--replicates=5", "replicates: 5", "at least 20"),
    ("--sampler=DDIM", "command line: '--sampler=DDIM'", "--solvers 'DDIM"),
    ("--sampler.eta=1", "command line: '--sampler.eta=1'", "--solvers 'DDIM"),
    ("--steps=5", "command line: '--steps=5'", "--nfe 5,10,20"),
    ("--solver=DDIM", "command line: Unknown command line flag 'solver'", "Did you mean: solvers"),
    ("--solvers=DDMI", "solvers.target: 'DDMI'", "did you mean"),
    ("--config.corrections=('DCW',)", "corrections: 'DCW'", "experiments.compare_corrections"),
    ("--nfe=0", "nfe: 0", "whole numbers from 1"),
]


@pytest.mark.parametrize(("words", "field", "allowed"), REFUSED, ids=[w for w, *_ in REFUSED])
def test_bad_input_is_one_line_and_writes_nothing(words, field, allowed, config, tmp_path, capsys):
    assert run("snr_mismatch", f"--config={config}", f"--output={tmp_path / 'out'}", words) == 2
    out = capsys.readouterr().err.strip().splitlines()[-1]
    assert out.startswith("error: ") and any(f in out for f in field.split("|")) and allowed in out, out
    assert not (tmp_path / "out").exists()


def test_another_spectrum_and_another_measure_are_refused(config, copy, capsys):
    """Data of another law in the same folder; a measure that is no curve over the calls."""
    assert run("snr_mismatch", f"--config={config}", f"--output={copy}", "--config.models.two.denoiser.variances=(0.2,0.1)") == 2
    assert "spectrum_pca.npz" in (said := capsys.readouterr().err) and "or another --output" in said
    assert run("snr_mismatch", f"--config={config}", f"--output={copy}", "--measures=a_package.mine:too_short") == 2
    assert "measures: too_short" in (said := capsys.readouterr().err) and "a Curve over the 5 calls" in said
