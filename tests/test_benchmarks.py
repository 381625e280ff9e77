"""What the benchmarks count and choose; what they time is not tested here."""

import subprocess
import sys

import numpy as np
import pytest
from packaging_facts import ROOT

from benchmarks.loops import profile
from benchmarks.options import Options
from benchmarks.pairs import Ratio, in_turn, interval
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
    "options, field", [(Options(19), "--pairs"), (Options(solvers=("Huen",)), "--solvers"), (Options(networks=("vit",)), "--networks")]
)
def test_bad_options_are_refused_by_name(options, field):
    with pytest.raises(ConfigError, match=field):
        options.check()


def test_the_interval_of_a_median_is_the_sign_tests():
    """Of 20 ordered values: the median between the 10th and 11th, the 6th and the 15th (2 P(B(20, 1/2) <= 5) = 4.1 %)."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    assert interval(values) == (10.5, 6.0, 15.0)
    assert Ratio("", 1, 1, 1.1, 1.02, 1.2, 20, bound=1.03).holds and not Ratio("", 1, 1, 1.1, 1.04, 1.2, 20, bound=1.03).holds


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
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 1 and "No module named 'torch'" in ran.stdout and ".[peers]" in ran.stdout
