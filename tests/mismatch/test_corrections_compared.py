"""experiments.compare_corrections on an exact mixture: what it finds, what it refuses, a correction from outside, and resumption."""

import csv
import dataclasses
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from elsewhere import folder
from test_launchers import run

from experiments.ablation_parts import corrections_of
from experiments.launcher import again
from score_lab.ablation import correcting, corrections, pooling, running
from score_lab.ablation.correcting import assembled, check_correction, correction_section
from score_lab.ablation.corrections import verdict
from score_lab.ablation.corrections_summary import changed
from score_lab.ablation.counting import Budget
from score_lab.ablation.plan import Run
from score_lab.ablation.results import Contest, Results
from score_lab.ablation.rows import Row
from score_lab.ablation.study import Study, System
from score_lab.ablation.truth import Measured
from score_lab.analytic import GaussianMixture
from score_lab.build import ConfigError
from score_lab.evaluation import Estimate, Pair, Ranking, compared
from score_lab.mismatch import Spectrum
from score_lab.mismatch.corrections import CATALOGUE, AngleStep, StateGain
from score_lab.mismatch.replicates import curve
from score_lab.paths import VP
from score_lab.samplers import DDIM, UniformLogSNR

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "models": {"two": {"denoiser": {"target": "GaussianMixture", "weights": (1.0, 2.0), "means": ((1.0, 0.0), (-1.0, 0.5)),
                                        "variances": (0.05, 0.1)}, "path": {"target": "VP"}}},
        "solvers": ("DDIM",), "grids": ("UniformLogSNR(end=6)",), "nfe": (4,), "corrections": ("angle step",),
        "seeds": (0, 1), "n": 150, "chunk": 150, "repeats": 60, "reference_steps": 0,
    })
"""
OUTSIDE = '''
"""Corrections of somebody else's."""
from score_lab.samplers import DDIM


def more_noise(setting):
    """Ancestral sampling in place of whatever it was."""
    return setting.with_(sampler=DDIM(1.0))


class Broken:
    """Gives what is no Corrected."""

    def make(self, setting):
        """Nothing."""
        return None
'''
WORDS = "angle step; fresh noise, by band; a_stranger.corrections:more_noise; a_stranger.corrections:Broken"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    with folder(tmp_path_factory.mktemp("compare"), "a_stranger", {"corrections": OUTSIDE}, CONFIG) as file:
        yield file


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared") / "out"
    assert run("compare_corrections", f"--config={config}", f"--corrections={WORDS}", f"--output={output}") == 0
    return output


def rows(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_each_stands_beside_the_uncorrected_run_at_n_and_at_2n(done):
    table = {(r["NFE"], r["correction"]): r for r in rows(done / "table.csv")}
    assert set(table) == {("4", "none"), ("8", "none"), ("4", "angle step"), ("4", "a_stranger.corrections:more_noise")}
    ln_R = {key: float(r["ln R"]) for key, r in table.items()}
    assert ln_R["4", "none"] < ln_R["8", "none"] < -0.02 and abs(ln_R["4", "angle step"]) < 0.5 * abs(ln_R["4", "none"])
    kl = {key: float(r["band_kl"]) for key, r in table.items()}
    assert kl["4", "angle step"] < 0.2 * kl["4", "none"]
    assert float(table["4", "none"]["energy"]) > float(table["8", "none"]["energy"])
    text = (done / "report.html").read_text()
    assert "FreshNoise.sampler" in text and "Broken gives NoneType" in text and "data:image/png" in text
    assert "a_stranger.corrections:more_noise" in text and "Calibrated by gaussian" in text


def test_before_and_after_say_which_differences_are_real(done):
    """corrections.md: values of the table, words of the paired intervals, refusals in one line each; the change of |ln R| is paired."""
    text = (done / "corrections.md").read_text()
    table = {(r["NFE"], r["correction"]): r for r in rows(done / "table.csv")}
    lines = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert {"*none, N*", "*none, 2N*", "angle step", "a_stranger.corrections:more_noise"} < set(lines) and "### DDIM, N = 4" in text
    plain, angle = table["4", "none"], table["4", "angle step"]
    change = {end: float(angle[f"change of |ln R|{end}"]) for end in ("", "_low", "_high")}
    assert change[""] == pytest.approx(abs(float(angle["ln R"])) - abs(float(plain["ln R"]))) and change["_high"] < 0
    alone = [float(r["ln R_high"]) - float(r["ln R_low"]) for r in (plain, angle)]
    assert change["_low"] < change[""] and change["_high"] - change["_low"] < 1.5 * np.hypot(*alone)
    assert f"{float(angle['ln R']):+.3f} better" in lines["angle step"] and f"{float(plain['ln R']):+.3f} |" in lines["*none, N*"]
    outcome = {r["column"]: r for r in rows(done / "outcomes.csv") if r["correction"] == "angle step"}
    for column, r in outcome.items():
        real = float(r["minus_N_high"]) < 0
        word = f"{float(angle[column]):.3g} better" if real else f"{float(angle[column]):.3g} ="
        assert (f"{word} (2N)" if real and r["verdict"] in ("better", "reached") else word) in lines["angle step"]
    refused = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(refused) == 2 and "draws nothing" in refused[0] and "around DDIM at 4" in refused[0]
    assert (done / "before_after_DDIM_4.png").is_file()
    assert "Exact samples or held-out data read: energy distance" in text and [changed(None), changed(pair(0, 1))] == ["", "="]
    assert [changed(pair(-2, 1)), changed(pair(-2, 1), -1.0), changed(pair(2, 1))] == ["better", "worse", "worse"]


@pytest.fixture
def documents(monkeypatch):
    """tools/findings_docs.py."""
    spec = importlib.util.spec_from_file_location("findings_docs", Path(__file__).parents[2] / "tools" / "findings_docs.py")
    docs = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(docs)
    return docs


def test_the_documents_repeat_what_the_command_left(done, documents, tmp_path, monkeypatch):
    """tools/findings_docs.py: values of table.csv, words of outcomes.csv between the marks, all else as it was; one mark must be there."""
    docs = documents
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "docs" / "findings.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- mixture -->\nold\n<!-- end mixture -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["docs", "findings", f"mixture={done}"])
    docs.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    table = {(r["NFE"], r["correction"]): r for r in rows(done / "table.csv")}
    words = {(r["correction"], r["column"]): r["verdict"] for r in rows(done / "outcomes.csv")}
    line = next(v for v in text.splitlines() if v.startswith("| DDIM | 4 | energy |"))
    cells = [v.strip() for v in line.strip("|").split("|")]
    keys = (("4", "none"), ("8", "none"), ("4", "angle step"), ("4", "a_stranger.corrections:more_noise"))
    assert [float(c.split()[0]) for c in cells[3:]] == pytest.approx([float(table[k]["energy"]) for k in keys], rel=5e-3)
    assert cells[5].split()[1] == docs.WORDS.get(words["angle step", "energy"], words["angle step", "energy"])
    assert set(docs.shares({"mixture": done})) == {"mixture, energy", "mixture, W2"} and "Exact samples or held-out data read" in text
    monkeypatch.setattr(sys, "argv", ["docs", "corrections", f"gaussian={done}"])
    docs.main()
    written = (page.parent / "corrections.md").read_text()
    assert (done / "corrections.md").read_text().strip() in written and "--nfe 10" in written and "2 seeds of 150" in written
    head = written.split("In the tables:")[0]
    assert "can be made on this network" in head and "- fresh noise, by band: FreshNoise.sampler" in head and "- angle step" not in head
    page.write_text("no marks")
    monkeypatch.setattr(sys, "argv", ["docs", "findings", f"mixture={done}"])
    with pytest.raises(SystemExit, match="has no <!-- mixture -->"):
        docs.main()


def test_what_one_section_could_not_make_points_to_the_one_that_did(documents):
    """A reason stays where nobody made it, where the section itself made it around another sampler, and where it was made above."""
    refused = "- Restart (around DDIM at 10): nfe: 10 is refused\n- DCW (around PNDM at 10): memory\n- churn (around DDIM at 10): no\n"
    gaussian = f"| DCW | +0.1 |\n\n{refused}"
    texts = {"gaussian": gaussian, "restart": "| Restart | +0.1 |\n"}
    made = documents.places(texts)
    text = documents.pointed(gaussian, made, documents.SECTIONS["gaussian"][0])
    assert f"- Restart (around DDIM at 10): made below under *{documents.SECTIONS['restart'][0]}*\n" in text
    above = documents.pointed("- DCW (around DDIM at 10): of a run\n", made, documents.SECTIONS["restart"][0])
    assert above == "- DCW (around DDIM at 10): of a run\n"
    assert "- DCW (around PNDM at 10): memory\n- churn (around DDIM at 10): no\n" in text
    assert documents.unmade(texts) == "- churn: no" and documents.unmade({"restart": texts["restart"]}) == "- none"


def test_every_section_names_a_command_that_can_be_typed(documents):
    """Every comparison: flags with their values, corrections of the catalogue, and a folder of its own but for the first."""
    folders = []
    for _, _, text in documents.SECTIONS.values():
        for line in re.findall(r"python -m experiments\.compare_corrections(?:\\\n|'[^']*'|[^\n'])*", text):
            words = shlex.split(line.replace("\\\n", " "))[3:]
            given = dict(zip(words[::2], words[1::2], strict=True))
            assert all(name.startswith("--") for name in given) and given["--nfe"] in ("10", "20")
            for word in corrections_of(given.get("--corrections", "none")):
                check_correction(word, "gaussian") if word != "none" else None
            folders += [given["--output"]] if "--output" in given else []
    assert len(folders) == len(set(folders)) == 8 and "runs/digits/corrections-measured" in folders


def test_the_verdicts_are_those_of_the_intervals(done):
    found = rows(done / "outcomes.csv")
    assert {r["column"] for r in found} == {"energy", "mmd", "w2", "band_kl"} and len(found) == 8
    plain = {r["NFE"]: r for r in rows(done / "table.csv") if r["correction"] == "none"}
    for r in found:
        step = float(plain["4"][r["column"]]) - float(plain["8"][r["column"]])
        assert float(r["share_value"]) == pytest.approx(-float(r["minus_N_value"]) / step)
        assert float(r["minus_2N_value"]) - float(r["minus_N_value"]) == pytest.approx(step)
        assert float(r["minus_N_low"]) < float(r["minus_N_value"]) < float(r["minus_N_high"])
        if r["verdict"] in ("reached", "part"):
            assert float(r["minus_N_high"]) < 0
        if r["verdict"] == "worse":
            assert float(r["minus_N_low"]) > 0
    by = {(r["correction"], r["column"]): r["verdict"] for r in found}
    assert by["angle step", "band_kl"] in ("reached", "better")


@pytest.mark.slow
def test_again_it_samples_nothing_and_a_new_correction_its_own_cells_only(config, done, monkeypatch):
    drawn, real = [], running.draw_cell
    monkeypatch.setattr(running, "draw_cell", lambda *args: drawn.append(args[2]) or real(*args))
    monkeypatch.setattr("score_lab.ablation.corrections_page.save_shares", lambda file, *_: file)
    before = {name: (done / name).read_text() for name in ("table.csv", "outcomes.csv")}
    words = (f"--config={config}", f"--output={done}")
    assert run("compare_corrections", *words, f"--corrections={WORDS}") == 0 and not drawn
    assert {name: (done / name).read_text() for name in before} == before
    assert run("compare_corrections", *words, "--corrections=angle step; a_stranger.corrections:more_noise + angle step") == 0
    assert {r.system.correction for r in drawn} == {"a_stranger.corrections:more_noise + angle step"} and len(drawn) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--corrections=angel step",), "angel step.*angle step"),
        (("--corrections=input perturbation",), "made in sampling"),
        (("--corrections=none",), "beside none"),
        (("--corrections=a_stranger.corrections:nothing",), "nothing"),
        (("--calibrate=fitted",), "gaussian, measured, or a number"),
        (("--basis=dct",), "pca"),
    ],
)
def test_bad_input_is_one_line(config, tmp_path, capfd, words, says):
    assert run("compare_corrections", f"--config={config}", f"--output={tmp_path}", *words) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and re.search(says, line)


def test_words_between_semicolons_may_have_commas():
    assert corrections_of("none; epsilon scaling, by band ;DCW") == ["none", "epsilon scaling, by band", "DCW"]
    every = corrections_of("all; DCW")
    assert every == [n for n, entry in CATALOGUE.items() if entry.make is not None]
    with pytest.raises(ConfigError, match="calibrate"):
        check_correction("DCW", True)


def model(law):
    x0 = np.asarray(law.sample(jax.random.key(1), jax.numpy.arange(2000)), np.float32)
    return SimpleNamespace(
        name="law", denoiser=law, shape=(2,), digest="law", made={}, spectrum=Spectrum.of(x0, "pca", "each"), forward_data=(x0, None),
        assemble=lambda section, denoiser: (denoiser, DDIM(), UniformLogSNR(3, end=6.0)), cond=lambda n: None,
    )  # fmt: skip


def test_a_measured_calibration_has_a_seed_of_its_own_and_reads_forward_samples():
    law = model(GaussianMixture(VP(), np.ones(2, np.float32), np.array([[1, 0.4], [-1, -0.4]], np.float32), np.full(2, 0.05, np.float32)))
    asked = correction_section("angle step, forward", "measured", (0, 4), 250)
    assert asked["seed"] not in (0, 4) and correction_section("none", "measured", (0,), 9) is None
    parts = assembled(law, {"correction": asked})
    assert isinstance(parts.sampler, AngleStep) and parts.sampler.root.shape == (3, 2) and parts.sampler.root.max() > 0.5
    assert assembled(law, {"correction": asked}) is parts
    number = assembled(law, {"correction": correction_section("state gain, by band", 1.25, (0,), 20)})
    assert isinstance(number.sampler, StateGain) and float(np.asarray(number.sampler.constants.values).max()) == pytest.approx(0.25)


def test_one_measured_run_serves_all_corrections_of_it(monkeypatch):
    law = model(GaussianMixture(VP(), np.ones(2, np.float32), np.array([[1, 0.4], [-1, -0.4]], np.float32), np.full(2, 0.05, np.float32)))
    law.assemble = lambda section, denoiser: (denoiser, DDIM(), UniformLogSNR(3, end=float(section.get("end", 6.0))))
    runs = []
    monkeypatch.setattr("score_lab.ablation.correcting.measured", lambda *args: runs.append(args) or {})
    for words, end, made in (("angle step", 6, 1), ("angle step, own", 6, 1), ("angle step", 7, 2), ("angle step + angle step, own", 7, 3)):
        asked = correction_section(words, "measured", (0,), 100)
        if "+" in words:
            with pytest.raises(ConfigError, match="in place of DDIM"):
                assembled(law, {"correction": asked, "end": end})
        else:
            assembled(law, {"correction": asked, "end": end})
        assert len(runs) == made, words


def test_guidance_without_the_noise_label_is_refused_of_a_network_that_always_had_it():
    law = model(GaussianMixture(VP(), np.ones(2, np.float32), np.array([[1, 0.4], [-1, -0.4]], np.float32), np.full(2, 0.05, np.float32)))
    asked = {"correction": correction_section("angle step + noise awareness guidance", "gaussian", (0,), 100)}
    for blind, says in ((False, "law was never without its noise label"), (None, "blind: 'GaussianMixture'")):
        law.blind = blind
        with pytest.raises(ConfigError, match=says):
            assembled(law, asked)


def test_a_measured_run_that_tells_no_other_level_is_no_calibration_of_the_label(monkeypatch):
    """Re-conditioning that would leave every step as it is, is refused with the estimator's flags; one step is enough to make it."""
    law = model(GaussianMixture(VP(), np.ones(2, np.float32), np.array([[1, 0.4], [-1, -0.4]], np.float32), np.full(2, 0.05, np.float32)))
    t = np.asarray(UniformLogSNR(3, end=6.0).steps(VP()).t, np.float64)
    for shift, flags in ((0.0, ("off curve", "ok", "ok")), (0.5, ("ok", "ok", "ok"))):
        delta = curve(np.full((3, 41), shift) + 0.01 * np.random.default_rng(0).standard_normal((3, 41)) * (np.arange(41) > 0),
                      flag=np.array(flags, dtype=object))  # fmt: skip
        gain = curve(np.ones((3, 41)))
        seen = {"record": None, "last": None, "effective": SimpleNamespace(delta=delta, signal_gain=gain), "t": t}
        monkeypatch.setattr("score_lab.ablation.correcting.measured", lambda *args, seen=seen: seen)
        law.made.clear()
        asked = {"correction": correction_section("re-conditioning", "measured", (0,), 100)}
        if shift:
            assert float(np.abs(assembled(law, asked).sampler.shift).max()) == pytest.approx(0.1)
        else:
            with pytest.raises(ConfigError, match="re-conditioning, measured.*off curve, ok"):
                assembled(law, asked)


def pair(difference, half, least=0.0):
    return Pair("a", "b", difference, difference - half, difference + half, 0.0, 0.0, least)


@pytest.mark.parametrize(
    ("gain", "twice", "step", "word"),
    [
        ((-3, 1), (-1, 0.5), (2, 1), "better"), ((-2, 1), (0, 1), (2, 1), "reached"), ((-1, 0.5), (1, 0.5), (2, 1), "part"),
        ((-0.2, 1), (1.8, 1), (2, 1), "-"), ((2, 1), (4, 1), (2, 1), "worse"), ((-1, 2), (0, 2), (1, 2), "same"),
        ((3, 1), (3, 1), (0, 2), "worse"), ((-3, 1), (-3, 1), (0, 2), "better"), ((-3, 1), (1, 0.5), (-4, 5), "part"),
        ((-3, 1), (0, 1), (-3, 4), "same"), ((0, 1), (-3, 1), (3, 4), "same"), ((0, 1), (3, 1), (-3, 4), "same"),
        ((3, 1), (-1, 0.5), (4, 5), "worse"), ((3, 1), (1, 0.5), (2, 3), "worse"),
    ],
)  # fmt: skip
def test_the_word_for_every_case(gain, twice, step, word):
    """Less is better here; of agreement more is, and the same numbers with the other sign mean the same."""
    assert verdict(pair(*gain), pair(*twice), pair(*step), "energy") == word
    turned = [pair(-d, half) for d, half in (gain, twice, step)]
    assert verdict(*turned, "agreement") == word


def test_pairs_that_are_asked_for_have_the_intervals_of_their_own_family():
    rng = np.random.default_rng(0)
    common = rng.standard_normal(401)
    noise = lambda: 0.3 * common[1:] + 0.1 * rng.standard_normal(400)  # noqa: E731
    values = {name: np.concatenate([[v], v + noise()]) for name, v in (("a", 1), ("b", 2), ("c", 5))}
    few, one = compared(values, [("a", "b"), ("c", "b")]), compared(values, [("a", "b")])[0]
    assert [(p.better, p.worse, p.difference) for p in few] == [("a", "b", -1), ("c", "b", 3)]
    every = {(p.better, p.worse): p for p in Ranking.of(values).pairs}
    assert one.high - one.low < few[0].high - few[0].low < every["a", "b"].high - every["a", "b"].low
    spread = np.std(values["a"][1:] - values["b"][1:], ddof=1)
    assert 1.9 < (one.high - one.difference) / spread < 2.1 and not compared(values, [])


def test_models_are_resampled_too():
    """Three models whose own intervals are narrow: the interval of their mean is that of three numbers, sd / sqrt(3)."""
    levels, rng = np.array([1.0, 2.0, 3.0]), np.random.default_rng(0)
    draws = levels[:, None] + 1e-3 * np.concatenate([np.zeros((3, 1)), rng.standard_normal((3, 4000))], axis=1)
    pooled = pooling.pooled(draws, pooling.picks_of(3, 4000))
    assert pooled[0] == 2.0 and np.std(pooled[1:]) == pytest.approx(1.0 / np.sqrt(3), rel=0.05)
    np.testing.assert_array_equal(pooling.pooled(draws[:1], pooling.picks_of(1, 4000)), draws[0])


def test_what_diverged_is_called_that_whatever_its_intervals():
    """KID -12400 where lower is better is no result: the row's own word, the word of those that are held against it, and the page's."""
    study = Study(models={"m": {"workdir": "runs/it"}}, solvers=("DDIM",), grids=("LogSNR",), nfe=(4,), seeds=(0,), repeats=60)
    noise = 1e-3 * np.random.default_rng(0).standard_normal((3, 1, 61)) * (np.arange(61) > 0)
    keys, found = [("DDIM", "none", 4), ("DDIM", "angle step", 4), ("DDIM", "none", 8)], []
    truth = SimpleNamespace(columns=("kid",), describe=list, floor=([0], None), floor_name="floor")
    floors = {"m": Measured({"kid": Estimate(0.0, -0.01, 0.01, 50)})}
    for levels in ((0.5, -12400.0, 0.2), (-12400.0, 0.5, 0.2)):
        wide = 500 * noise if levels[0] < 0 else noise
        stacks = {key: {"kid": level * (1 + n)} for key, level, n in zip(keys, levels, wide, strict=True)}
        runs = [Run(System("m", None, None, None, {"target": "DDIM"}, correction=c), Budget(n, n, 1.0), {}, ("k",)) for _, c, n in keys]
        seen = [Measured({"kid": Estimate(v, v, v, 50)}, {"kid": stacks[key]["kid"][0]}) for key, v in zip(keys, levels, strict=True)]
        made = [Row(run, (), measured) for run, measured in zip(runs, seen, strict=True)]
        results = Results(study, {"m": SimpleNamespace(truth=truth)}, tuple(made[:2]), (), floors, (), {"m": "kid"})
        rows_of = {" ".join(key[:2]): row for key, row in zip(keys[:2], made[:2], strict=True)}
        results = dataclasses.replace(results, contests=(Contest("m", "1", 4, rows_of, Ranking.of({})),))
        off = corrections._off(results)
        far = {key: tuple(c for r, c in off if r is row) for key, row in zip(keys, made, strict=True)}
        (outcome,) = corrections._outcomes(results, stacks, far)
        found.append((far[keys[0]], far[keys[1]], outcome.verdict))
    assert found == [((), ("kid",), "diverged"), (("kid",), (), "N diverged")]


def test_the_line_to_see_it_again_can_be_typed():
    words = ["--corrections=epsilon scaling, by band; DCW; 'mine'", "--solvers", "DDIM, DDIM(eta=1)", "--n=200"]
    assert shlex.split(again("compare_corrections", words)) == ["python", "-m", "experiments.compare_corrections", *words]


def test_a_measured_run_uses_all_its_trajectories_and_is_not_made_of_a_few(monkeypatch):
    """100 in calls of 40 are the 100 of one call, not 80; fewer than 32 are refused in one line."""
    law = model(GaussianMixture(VP(), np.ones(2, np.float32), np.array([[1, 0.4], [-1, -0.4]], np.float32), np.full(2, 0.05, np.float32)))
    law.forward_data = None
    parts, found = correcting.Parts(*law.assemble({}, law.denoiser)), {}
    for chunk in (40, 100):
        monkeypatch.setattr(correcting, "CHUNK", chunk)
        found[chunk] = correcting.measured(law, parts, 3, 100)
    np.testing.assert_allclose(found[40]["last"], found[100]["last"], rtol=1e-4)
    np.testing.assert_allclose(found[40]["record"].weight, found[100]["record"].weight)
    with pytest.raises(ConfigError, match="^n: 31 is refused; allowed: at least 32 trajectories"):
        correction_section("DCW", "measured", (0,), 31)
    assert correction_section("DCW", "measured", (0,), 32)["n"] == 32 and "n" not in correction_section("DCW", "gaussian", (0,), 31)
