"""Networks that a correction was trained into, beside those without: their configurations, the command, and what it refuses."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_launchers import run

from configs import corrected
from experiments.compare_corrections import check_data, trained_of
from experiments.sampling import check_sampling
from score_lab.ablation.study import Study
from score_lab.build import ConfigError
from score_lab.mismatch import Spectrum
from score_lab.objectives import InputPerturbation, MixFlow, NoiseLabelDropout, Regression, SelfForcing
from score_lab.targets import F, Velocity
from score_lab.training.options import plain as plain_of
from score_lab.training.prepare import prepare

SMALL = (
    "--config.network.width=8", "--config.network.depth=1", "--config.network.heads=2", "--config.training.steps=2",
    "--config.optimizer.warmup=0",
)  # fmt: skip
MADE = {
    "plain": (Regression, F), "perturbed": (InputPerturbation, F), "velocity": (Regression, Velocity), "mixflow": (MixFlow, Velocity),
    "self_forced": (SelfForcing, F), "blind": (NoiseLabelDropout, F),
}  # fmt: skip


def test_every_variant_differs_from_the_plain_one_by_what_it_is_called(tmp_path):
    assert set(MADE) == set(corrected.VARIANTS)
    plain = corrected.get_config("plain").to_dict()
    for variant, (objective, target) in MADE.items():
        config = corrected.get_config(variant)
        parts = prepare(plain_of(config), tmp_path / variant).parts
        check_sampling(parts)
        assert type(parts.objective) is objective and type(parts.target) is target
        rest = {name: value for name, value in config.to_dict().items() if name not in ("objective", "target")}
        assert rest == {name: value for name, value in plain.items() if name not in ("objective", "target")}
    with pytest.raises(ConfigError, match="mixflo.*did you mean 'mixflow'"):
        corrected.get_config("mixflo")


def study(*homes, corrections=("none", "DCW")):
    return Study({h: {"workdir": h} for h in homes}, ("DDIM",), corrections=corrections)


def test_workdirs_are_named_once_and_are_as_many_as_those_without(tmp_path):
    for k in range(2):
        (tmp_path / f"mix-{k}").mkdir()
    found = trained_of(f"MixFlow={tmp_path}/mix-*; self-forcing=a,b", study("x", "y"))
    assert [m["workdir"] for m in found["MixFlow"].models.values()] == [str(tmp_path / f"mix-{k}") for k in range(2)]
    assert list(found["self-forcing"].models) == ["self-forcing 0", "self-forcing 1"] and not found["MixFlow"].corrected()
    bad = {"MixFlow=a": "2: seed beside seed", "DCW=a,b": "none of a correction", "a,b": "NAME=WORKDIR", "A=a,b;A=c,d": "once"}
    for words, says in (bad | {f"A={tmp_path}/nothing-*": "nothing matches"}).items():
        with pytest.raises(ConfigError, match=f"^--trained: .*{says}"):
            trained_of(words, study("x", "y"))


def test_networks_of_other_data_are_no_comparison():
    """Told by the spectrum's hash of the data: one value of one example is enough."""
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    other = x.copy()
    other[7, 2] += 1
    mine, same, others = ({name: SimpleNamespace(spectrum=Spectrum.of(v, "pca", "each"))} for name, v in (("a", x), ("b", x), ("b", other)))
    check_data(mine, same)
    with pytest.raises(ConfigError, match="^--trained: 'b' is refused; allowed: networks of the data of a"):
        check_data(mine, others)


@pytest.mark.slow
def test_the_table_has_other_networks_among_the_corrections(tmp_path, capfd):
    """Two seeds each of the plain network and of a perturbed one; their rows, paired differences and words are those of corrections."""
    for variant in ("plain", "perturbed"):
        for seed in (0, 1):
            words = (f"--config={Path(corrected.__file__)}:{variant}", f"--workdir={tmp_path}/{variant}-{seed}", f"--config.seed={seed}")
            assert run("train", *words, *SMALL) == 0
    homes = f"--workdir={tmp_path}/plain-0,{tmp_path}/plain-1"
    shared = (homes, "--solvers=DDIM", "--nfe=4", "--n=40", "--seeds=0", f"--output={tmp_path}/out")
    assert run("compare_corrections", *shared, "--corrections=none", f"--trained=input perturbation={tmp_path}/perturbed-*") == 0
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = {(r["NFE"], r["correction"]): r for r in csv.DictReader(file)}
    assert set(rows) == {("4", "none"), ("8", "none"), ("4", "input perturbation")}
    assert float(rows["4", "none"]["ln R"]) != float(rows["4", "input perturbation"]["ln R"])
    assert "Trained with it" in capfd.readouterr().out
    with open(tmp_path / "out" / "outcomes.csv", newline="") as file:
        outcomes = list(csv.DictReader(file))
    for r in outcomes:
        gain = float(rows["4", "input perturbation"][r["column"]]) - float(rows["4", "none"][r["column"]])
        assert r["correction"] == "input perturbation" and float(r["minus_N_value"]) == pytest.approx(gain, rel=1e-4, abs=1e-9)
    assert run("compare_corrections", *shared, "--corrections=none") == 2
