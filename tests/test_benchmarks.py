"""What the benchmarks count and choose; what they time is not tested here."""

import importlib
import subprocess
import sys
import types

import numpy as np
import pytest
from packaging_facts import ROOT

from benchmarks.__main__ import main
from benchmarks.compile import measure as compile_times
from benchmarks.loops import profile
from benchmarks.options import Options
from benchmarks.pairs import Ratio, in_turn, interval, line, verdict
from benchmarks.samplers import draws_per_step, free_denoiser
from score_lab.build import ConfigError
from score_lab.samplers import CATALOGUE


def test_solvers_are_chosen_by_name_family_or_part_of_either():
    assert list(Options(solvers=("DDIM",)).fixed_step()) == ["DDIM"]
    assert set(Options(solvers=("heun in",)).fixed_step()) == {"Heun in t", "Heun in kappa", "Heun in log-SNR"}
    family = Options(solvers=("multistep",)).fixed_step()
    assert family and all("multistep" in CATALOGUE[name].family for name in family)
    assert set(Options().fixed_step()) == {n for n, e in CATALOGUE.items() if not hasattr(e.sampler, "integrate")}


@pytest.mark.parametrize(
    "options, field",
    [
        (Options(19), "--pairs"),
        (Options(solvers=("Huen",)), "--solvers"),
        (Options(networks=("vit",)), "--networks"),
        (Options(batch=0), "--batch"),
    ],
)
def test_bad_options_are_refused_by_name(options, field):
    with pytest.raises(ConfigError, match=field):
        options.check()


def test_the_interval_of_a_median_is_the_sign_tests():
    """Of 20 ordered values: the median between the 10th and 11th, the 6th and the 15th (2 P(B(20, 1/2) <= 5) = 4.1 %)."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    assert interval(values) == (10.5, 6.0, 15.0)
    assert Ratio("", 1, 1, 1.1, 1.02, 1.2, 20, bound=1.03).holds and not Ratio("", 1, 1, 1.1, 1.04, 1.2, 20, bound=1.03).holds


def test_verdicts_are_by_the_interval_and_say_so():
    """The interval reaches the bound: it holds, and where the median does not, that is said; else the run's status is 1."""
    assert verdict(1.0, 0.9, 1.03) == "HOLDS" and verdict(1.1, 1.03, 1.03).startswith("HOLDS, by its interval")
    assert verdict(1.1, 1.04, 1.03) == verdict(float("nan"), float("nan"), 1.0) == "DOES NOT HOLD"
    assert line(Ratio("", 1, 1, 1.1, 1.04, 1.2, 20, bound=1.03)).endswith("DOES NOT HOLD")


@pytest.mark.parametrize(("lines", "status"), [(["a <= 1 HOLDS"], 0), (["a <= 1 HOLDS", "b <= 1 DOES NOT HOLD"], 1), (["refused: x"], 0)])
def test_a_bound_that_does_not_hold_is_the_exit_status(monkeypatch, capsys, lines, status):
    monkeypatch.setattr("benchmarks.samplers.measure", lambda options: iter(lines))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "samplers"])
    assert main() == status
    said = capsys.readouterr().out
    assert all(row in said for row in lines) and ("1 do not" in said) == bool(status)


def test_adaptive_solvers_are_compiled_too(monkeypatch):
    """With tolerances that every step meets; the other tables are of fixed steps."""
    seen = []
    monkeypatch.setattr("benchmarks.compile.denoiser", lambda: None)
    monkeypatch.setattr("benchmarks.compile.seconds", lambda den, sampler, cond: seen.append(sampler) or (3.0, 2.0))
    rows = list(compile_times(Options(solvers=("Tsitouras 5(4)", "DDIM"))))
    assert {type(s).__name__ for s in seen} == {"Tsit5", "DDIM"} and sum("DOES NOT HOLD" in row for row in rows) == 2
    assert all(s.rtol == 100.0 for s in seen if hasattr(s, "rtol")) and "Tsitouras 5(4)" not in Options().fixed_step()


def test_programs_run_in_turn_and_the_first_alternates():
    seen = []
    times = in_turn({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, rounds=3, warmup=1)
    assert "".join(seen) == "ab" + "abbaab" and {len(t) for t in times.values()} == {3}


def test_draws_of_a_step_are_counted():
    counts = {name: draws_per_step(free_denoiser(), CATALOGUE[name].sampler) for name in ("Heun in t", "DDIM, eta = 1", "DPM++ SDE")}
    assert counts == {"Heun in t": 0, "DDIM, eta = 1": 1, "DPM++ SDE": 2}


def test_a_loop_without_branches_holds_the_counter_alone():
    """Everything that depends on the step alone was taken out: one addition, the evaluations', is left."""
    for name in ("DPM-Solver++(2M)", "UniPC-3"):
        found = profile(CATALOGUE[name].sampler)
        assert found["scalars"] == 1 and found["branches"] == 0 and found["kernels"] > 1 and found["columns"] > 1


def test_one_peer_that_is_half_there_is_one_line_and_the_rest_goes_on(monkeypatch):
    """Whatever it raises: of k-diffusion what it imports, of the others themselves.  (Nothing of torch is used here.)"""
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.delitem(sys.modules, "benchmarks.peers.matches", raising=False)
    matches = importlib.import_module("benchmarks.peers.matches")
    monkeypatch.delitem(sys.modules, "benchmarks.peers.matches")

    def half():
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    kept = object()
    monkeypatch.setattr(matches, "OF", {"k-diffusion": half, "azula": lambda: [kept]})
    found, missing = matches.matches_of_all()
    assert found == [kept] and len(missing) == 1 and "\n" not in missing[0]
    assert missing[0].startswith("k-diffusion is not here, or only half (RuntimeError: operator torchvision::nms")
    assert "--no-deps" in missing[0]


def test_peers_that_are_not_there_are_one_line():
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)
sys.meta_path.insert(0, Absent())
from benchmarks import peers
from benchmarks.options import Options
print(*peers.measure(Options()), sep="|")
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 1 and "No module named 'torch'" in ran.stdout and ".[peers]" in ran.stdout
