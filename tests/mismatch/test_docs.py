"""docs/mismatch.md: its Python runs as it is written, its numbers are those that its command prints, and these are the closed forms."""

import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.proxies import FACTS, calibration_slope, dcw_effects, endings, paired_nulls, two_modes
from score_lab.ablation.correcting import makers_of
from score_lab.mismatch import Spectrum, variance_ratios
from score_lab.mismatch.corrections import Setting
from score_lab.mismatch.estimators import FLAGS
from score_lab.mismatch.study import estimator_of, measure_of
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDIM, UniformLogSNR

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "mismatch.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def block(marker):
    """The one block that has ``marker`` in it."""
    (found,) = [b for b in BLOCKS if marker in b]
    return found


@pytest.fixture(scope="module")
def measured():
    """The names that the page's lines leave behind, on Gaussian data of a 1/f^2 spectrum and their exact network."""
    true, path = Spectrum.power_law((4, 4, 1), s2=0.6), VP()
    exact = true.surrogate(path)
    names = {"my_network": lambda x, t: exact(x, t).eps}
    names["data"] = np.asarray(exact.sample(jax.random.key(5), jnp.arange(800)))
    exec(block("from score_lab.denoiser import"), names)
    names["__name__"] = __name__
    exec(block("class Mine"), names)
    exec(block("null = recorder.collect"), names)
    return true, names


def test_five_lines_measure_a_network_of_ones_own(measured):
    """ln R of the run is the oracle's, level by level; forward samples read no level but the one told."""
    true, names = measured
    lines = block("null = recorder.collect").strip().splitlines()
    assert len(lines) == 5
    level, null, spectrum = names["level"], names["null_level"], names["spectrum"]
    assert len(level.flag) == 20 and (level.flag == "ok").sum() >= 2
    good = null.flag == "ok"
    assert good.sum() >= 2 and (np.abs(null.delta.value[good]) < 4 * null.delta.se[good]).all()
    ratio = names["log_ratio"](names["run"], spectrum, VP())
    by_band = variance_ratios(DDIM(), UniformLogSNR(20), VP(), true, "prior")[:-1]
    V = true.V(VP(), names["run"].t)
    want = np.log((np.exp(by_band) * V) @ true.count / (V @ true.count))
    assert (np.abs(ratio.value - want) < 4 * ratio.se + 0.03).all() and ratio.high[-1] < 0
    assert len(names["log_ratios"](names["run"], spectrum, VP())) == len(spectrum.variance)


def test_parts_of_ones_own_are_found_by_their_import_path(measured, monkeypatch):
    module = types.ModuleType("mine_of_the_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(block("def noise_cosine"), module.__dict__)
    _, names = measured
    name, f = measure_of("mine_of_the_docs:noise_cosine")
    found = f(names["run"], names["spectrum"], VP())
    assert name == "noise_cosine" and found.value.shape == (20,) and (np.diff(found.value[[0, -1]]) < 0).all()  # noise at first
    true, path, t = names["spectrum"], EDM(), np.array([0.5, 0.25])  # sigma 40, 20
    forward = names["forward_run"](true.surrogate(path), names["data"], t, names["recorder"], jax.random.key(2))
    read = estimator_of({"target": "mine_of_the_docs:FromNorm"}).read(names["recorder"].collect(forward), true, path)
    assert read.flag.tolist() == ["ok", "ok"] and (np.abs(read.delta.value) < 4 * read.delta.se + 0.01).all() and read.delta.se.max() < 0.05
    ((_, make),) = makers_of("mine_of_the_docs:damped")
    denoiser, spectrum = names["denoiser"], names["spectrum"]
    made = make(Setting(spectrum.surrogate(VP()), DDIM(), UniformLogSNR(5), spectrum)).denoiser
    x, t = jnp.asarray(names["data"][:2]), jnp.asarray(0.5)
    np.testing.assert_allclose(made(x, t).x0, 0.98 * spectrum.surrogate(VP())(x, t).x0, rtol=1e-3, atol=1e-3)
    assert np.isfinite(np.asarray(denoiser(x, t).x0)).all()


def test_every_flag_and_picture_is_there():
    for flag in FLAGS[1:]:
        assert flag in TEXT, flag
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2
    for name in pictures:
        assert (DOCS / name).read_bytes()[:4] == b"\x89PNG" and (DOCS / name).stat().st_size < 150_000
    assert all((DOCS / name).is_file() for name in re.findall(r"\]\((\w+\.md)\)", TEXT))


QUICK = ("F1", "F2", "F5")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FACTS])
def test_the_numbers_of_the_page_are_what_its_command_prints(name):
    lines = TEXT.splitlines()
    for line in FACTS[name]():
        assert f"{name}  {line}" in lines, line


def test_and_they_are_the_closed_forms():
    """F1: 0.01 / (2 sin^2 phi).  F2: (sqrt(2 s^2) - sigma)^2 at t -> 0.  F5: r = cos d + l (...) in both forms."""
    for kappa, change in calibration_slope(0.5, (5.0, 0.05)).items():
        np.testing.assert_allclose(change, 0.01 / (2 * np.sin(np.arctan(kappa / 0.5)) ** 2), rtol=1e-4)
    sigma = float(VP().sigma(jnp.asarray(0.001)))
    np.testing.assert_allclose(paired_nulls(0.61)["delta"], (np.sqrt(2 * 0.61**2) - sigma) ** 2, rtol=2e-3)
    assert 0.73 < 2 * 0.61**2 < 0.75  # what it goes to at data
    found, size = dcw_effects(), 0.01
    for t in (0.25, 0.75):
        (a, b), (p, q) = (1 - t, 1 - 0.95 * t), (np.arctan2(t, 1 - t), np.arctan2(0.95 * t, 1 - 0.95 * t))
        plain, V = np.cos(p - q), b**2 + (0.95 * t) ** 2
        literal = plain + size * (plain - np.cos(p) / np.sqrt(V))
        covariant = plain + size * np.sin(p) * np.sin(q)
        assert a > 0
        np.testing.assert_allclose(found["literal"][t], 2 * np.log(literal / plain), atol=1e-9)
        np.testing.assert_allclose(found["covariant"][t], 2 * np.log(covariant / plain), atol=1e-9)
    assert found["literal"][0.25] < 0 < found["literal"][0.75] and min(found["covariant"].values()) > 0
    assert LinearFlow().alpha(jnp.asarray(0.25)) == 0.75 and EDM().alpha(jnp.asarray(0.5)) == 1


@pytest.mark.slow
def test_signs_of_f3_and_f4():
    """DDIM and beta-tilde lose, Heun, beta and Euler-Maruyama gain, the analytic variance neither; scaling repairs R and not the level."""
    R = endings()
    assert max(R["DDIM"], R["DDPM, beta-tilde"]) < 1 < min(R["Heun in kappa"], R["DDPM, beta"], R["Euler-Maruyama"])
    np.testing.assert_allclose(R["Analytic-DPM"], 1.0, atol=1e-6)
    plain, scaled = two_modes(11), two_modes(11, True)
    np.testing.assert_allclose(plain, (0.856, 2.124, 1.666), atol=1e-3)  # an independent program's, see test_estimators_mixture.py
    assert plain[0] < scaled[0] < 1.05 and scaled[1] > plain[1] and scaled[2] > plain[2]
