"""The parts of an ablation one by one: words and specifications, budgets, keys, the store."""

import dataclasses
import importlib
import shlex
import sqlite3
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from configs.ablate import get_config
from experiments import overrides
from experiments.ablation_models import command_of
from experiments.ablation_parts import study_fields
from experiments.sampling import completed
from experiments.system import add_options
from score_lab.ablation import Cell, Images, Model, Store, Study, System, keys, plan
from score_lab.ablation.counting import Budget, BudgetError, blank_of, count_nfe, fit
from score_lab.ablation.keys import code_of, model_digest
from score_lab.ablation.plan import REFERENCE, Run, levels
from score_lab.ablation.results import Contest, Results, diverged, unresolved
from score_lab.ablation.rows import Row
from score_lab.ablation.spaces import feature_space
from score_lab.ablation.tables import full_table
from score_lab.ablation.truth import Measured, snr_gap
from score_lab.analytic import GaussianMixture
from score_lab.build import ConfigError, build
from score_lab.evaluation import Estimate, Ranking
from score_lab.guidance import CFG
from score_lab.mismatch import DataMoments
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDIM, RK4, AdamsBashforth, Churn, Heun, Karras, T, Times, UniformLogSNR, UniformTime, UniPC, sample
from score_lab.specs import counted, key_of, name_of, spec_of, split, stepped, vary

MIXTURE = GaussianMixture(
    VP(), np.ones(2, np.float32), np.array([[1.0, 0], [-1, 0]], np.float32), np.full(2, 0.1, np.float32), np.array([0, 1])
)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("DDIM", {"target": "DDIM"}),
        ("DDIM(eta=0.5)", {"target": "DDIM", "eta": 0.5}),
        ("my_package.my_module:Mine(order=2, kind=fast)", {"target": "my_package.my_module:Mine", "order": 2, "kind": "fast"}),
        ("Heun(variable=T, at_data=True)", {"target": "Heun", "variable": {"target": "T"}, "at_data": True}),
        (
            "Churn(grid=Karras(rho=5), s_tmax=inf)",
            {"target": "Churn", "grid": {"target": "Karras", "rho": 5}, "s_tmax": float("inf")},
        ),
        ("Times(values=(1.0, 0.5, 0.0))", {"target": "Times", "values": (1.0, 0.5, 0.0)}),
    ],
)
def test_words_are_specifications(text, spec):
    assert spec_of(text, "x") == spec
    assert spec_of(name_of(spec), "x")["target"] == spec["target"].rpartition(":")[2]


@pytest.mark.parametrize(
    ("solver", "grid", "path", "guidance"),
    [
        ("DDIM", "UniformLogSNR(end=8, num_steps=10)", None, None),
        ("Heun(variable=T, at_data=True)", "Churn(grid=Karras(rho=5, num_steps=4), s_tmax=inf)", {"target": "EDM", "sigma_max": 80}, None),
        ("a.b:Mine(kind=fast, base=DDIM(eta=0.5), name='1')", "Times(values=(1.0, 0.0))", {"target": "VP"}, {"target": "CFG", "scale": 2}),
    ],
)
@pytest.mark.parametrize("base", [{}, {"path": {"target": "VE"}, "guidance": {"target": "CFG", "scale": 9.0}}], ids=["plain", "own parts"])
def test_the_command_that_is_advised_says_what_was_measured(solver, grid, path, guidance, base):
    """Read back by the parser of experiments.sample, through a shell, it is the section that was sampled, whatever the workdir's own is."""
    base = {"path": None, "guidance": None, "sampler": {"target": "RK4"}, "grid": {"target": "Karras", "num_steps": 99, "rho": 3}} | base
    section = {"path": path, "guidance": guidance, "sampler": spec_of(solver, "s"), "grid": spec_of(grid, "g"), "clip": True}
    words = shlex.split(command_of({"workdir": "runs/a b", "ema": 0.99}, base, section))
    assert words[:3] == ["python", "-m", "experiments.sample"]
    parser = overrides.Parser("sample", "")
    add_options(parser)
    args, changes = overrides.parse(parser, words[3:])
    assert (args.workdir, args.ema, args.clip) == ("runs/a b", "0.99", True)
    found = overrides.apply(base, changes, {"path": {"target": "LinearFlow"}})
    assert {part: found[part] for part in overrides.PARTS} == {part: section[part] for part in overrides.PARTS}
    assert completed(found["grid"], base["grid"]) == section["grid"]


def test_commas_inside_brackets_separate_nothing():
    assert split("DDIM(eta=0.5), Times(values=(1.0, 0.0)),Heun,") == ["DDIM(eta=0.5)", "Times(values=(1.0, 0.0))", "Heun"]


@pytest.mark.parametrize(("text", "says"), [("DDIM(0.5)", "field=value"), ("3x", "NAME"), ("DDIM(eta=0.5", "NAME|brackets")])
def test_text_that_is_no_part_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        spec_of(text, "solvers")


def test_vary_gives_each_part_that_has_the_field_every_value():
    specs = vary([{"target": "DDIM"}, {"target": "Heun"}], "eta", (0.0, 1.0))
    assert [name_of(s) for s in specs] == ["DDIM(eta=0.0)", "DDIM(eta=1.0)", "Heun"]
    with pytest.raises(ConfigError, match="vary.etta"):
        vary([{"target": "DDIM"}], "etta", (0.0,))


def test_steps_go_to_the_innermost_grid():
    churn = spec_of("Churn(grid=Karras, s_churn=5)", "grids")
    assert stepped(churn, 7)["grid"] == {"target": "Karras", "num_steps": 7} and counted(churn)
    assert not counted(spec_of("Times(values=(1.0, 0.0))", "grids"))
    assert build(stepped(churn, 7), "score_lab.samplers").steps(VP()).t.shape == (7,)


CASES = [
    (Heun(variable=T()), UniformTime(3), False),
    (DDIM(), Churn(Karras(4)), False),
    (DDIM(1.0), UniformTime(3), True),
]


@pytest.mark.parametrize(("sampler", "grid", "guided"), CASES, ids=lambda v: getattr(type(v), "__name__", v))
def test_the_dry_count_is_what_the_run_counts(sampler, grid, guided):
    denoiser, cond = MIXTURE.on(LinearFlow()), {"label": np.zeros(1, np.int32)} if guided else None
    wrap = (lambda d: CFG(d, scale=2.0)) if guided else (lambda d: d)
    blank = blank_of(denoiser)
    assert count_nfe(wrap(blank), sampler, grid, cond) == int(sample(wrap(denoiser), sampler, grid, (1, 2), cond=cond).nfe)


def heun(steps):
    return 2.0 * steps - 1


@pytest.mark.parametrize(("budget", "steps", "nfe"), [(5, 3, 5), (10, 5, 9), (1, 1, 1), (50, 25, 49)])
@pytest.mark.parametrize("guess", [1.0, 2.0, 5.0])
def test_a_budget_buys_the_most_steps(budget, steps, nfe, guess):
    found = fit(heun, budget, guess)
    assert (found.steps, found.nfe) == (steps, nfe) and (found.note == "") == (nfe == budget)
    if found.note:
        assert f"{steps} steps cost {nfe} of {budget}" in found.note and f"{steps + 1} would cost" in found.note


def test_a_budget_below_the_fewest_steps_says_what_they_cost():
    def needs_three(steps):
        return 2.0 * steps if steps >= 3 else build({"target": "DDIM", "eta": 3.0}, "score_lab.samplers")

    with pytest.raises(BudgetError, match="at least 6"):
        fit(needs_three, 4, 1.0)
    assert fit(needs_three, 7, 2.0).steps == 3
    with pytest.raises(ConfigError, match="eta"):
        fit(lambda steps: build({"target": "DDIM", "eta": 3.0}, "score_lab.samplers"), 9, 1.0)
    assert fit(lambda steps: 12.0, 20, 1.0, fixed=True).note and fit(lambda steps: 12.0, 12, 1.0, fixed=True).steps is None
    with pytest.raises(BudgetError, match="at least 12"):
        fit(lambda steps: 12.0, 11, 1.0, fixed=True)


def test_the_reference_goes_from_the_same_start_to_the_same_end_and_every_step_moves():
    for path, grid in ((VP(), UniformLogSNR(5, end=8.0)), (LinearFlow(), UniformTime(5)), (LinearFlow(), Karras(6, to_data=False))):
        steps = grid.steps(path)
        times = levels(steps, MIXTURE.on(path), 32)
        assert (times[0], times[-1]) == (float(steps.t[0]), float(steps.s[-1])) and len(times) == 33
        assert (np.diff(times) < 0).all()
        inner = np.asarray(path.log_snr(jnp.asarray(times[1:-1])))
        np.testing.assert_allclose(np.diff(inner)[1:-1], np.diff(inner)[2], rtol=1e-2)


def test_the_reference_is_nearer_to_the_solution_than_it_says(x64):
    """The distance to half its steps bounds its own error, seen from RK4 with 4000; and UniPC-3 at 50 NFE reads what is true."""
    path, x_T = VP(), np.random.default_rng(0).standard_normal((40, 2))
    mixture = GaussianMixture(path, np.ones(2), np.array([[1.0, 0], [-1, 0.5]]), np.array([0.02, 0.1]))
    grid = UniformLogSNR(50, end=8.0)

    def solution(solver, count):
        return np.asarray(sample(mixture, solver, Times(tuple(levels(grid.steps(path), mixture, count))), x_T=jnp.asarray(x_T)).x)

    def apart(a, b):
        return np.sqrt(np.mean((a - b) ** 2))

    reference = build(REFERENCE, "score_lab.samplers")
    truth, whole, half = solution(RK4(), 4000), solution(reference, 400), solution(reference, 200)
    assert apart(whole, truth) < 0.2 * apart(whole, half)
    shown = np.asarray(sample(mixture, UniPC(3), grid, x_T=jnp.asarray(x_T)).x)
    np.testing.assert_allclose(apart(shown, whole), apart(shown, truth), rtol=0.02)


def test_a_solver_error_below_what_the_reference_is_known_to_is_not_ranked():
    system = System("m", None, None, None, {"target": "DDIM"})
    solved = Row(Run(system, Budget(400, 400, 400.0), {}, ("r",)), (), Measured())
    error = Measured({"solver_error": Estimate(1e-3, 9e-4, 1.1e-3, 50)})
    row = Row(Run(system, Budget(50, 50, 50.0), {}, ("k",), reference=("r",)), (), error)
    for halving, said in ((2e-3, "below the 0.002 to which the reference is known"), (5e-4, "")):
        results = Results(Study(**GOOD), {}, (row,), ((solved, halving),), {}, (), {"m": "solver_error"})
        assert said in unresolved(results, row) and bool(said) == bool(unresolved(results, row))


def test_what_is_far_off_is_flagged_and_a_column_without_a_number_is_not_shown():
    """More than 100 times the best, or than what perfect samples may read where the best is less; the reason stands at the foot."""
    names = ("good", "fair", "far")

    def study(values, floor):
        rows = tuple(
            Row(Run(System("m", None, None, None, {"target": name}), Budget(5, 5, 5.0), {}, ("k",)), (), Measured({
                "energy": Estimate(v, v, v, 50), "snr_gap": Estimate.missing(50, note="unidentifiable; here")}))
            for name, v in zip(names, values, strict=True)
        )  # fmt: skip
        truth = SimpleNamespace(columns=("energy",), describe=list, floor=([0], None), floor_name="floor")
        floors = {"m": Measured({"energy": Estimate(0.0, -floor, floor, 50)})}
        results = Results(Study(**GOOD), {"m": SimpleNamespace(truth=truth)}, rows, (), floors, (), {"m": "energy"})
        contest = Contest("m", "1", 5, dict(zip(names, rows, strict=True)), Ranking.of({}))
        return dataclasses.replace(results, contests=(contest,))

    results = study((0.01, 0.5, 2.0), 0.001)
    assert diverged(results, results.contests[0]) == {"far": ["energy"]}
    table = full_table(results)
    assert [row.name["flag"] for row in table.rows[:3]] == ["-", "-", "diverged (energy)"] and table.columns == ["energy"]
    assert "not shown, no row has a number: snr_gap (unidentifiable; here)" in table.notes
    assert full_table(results, whole=True).columns == ["energy", "snr_gap"]
    results = study((-0.001, 0.5, 2.0), 0.1)
    assert diverged(results, results.contests[0]) == {}
    results = study((0.01, 0.5, -2.0), 0.001)
    assert diverged(results, results.contests[0]) == {"far": ["energy"]}
    results = study((1e-6, 0.5, -2.0), 0.001)
    below = {"m": Measured({"energy": Estimate(-0.008, -0.012, -0.002, 50)})}
    assert diverged(dataclasses.replace(results, floors=below), results.contests[0]) == {"far": ["energy"]}


@pytest.mark.parametrize("gap", [0.4, -0.4])
def test_the_gap_of_a_known_contamination_is_read(gap):
    """Gaussian states with more or less noise than their level says: the gap with its sign, narrower than a third of it, at the last call
    that tells; at log-SNR 12 the noise is 1e-5 of the variance, and none does."""
    path, n, d, s = EDM(), 400, 16, 0.5
    rng, levels = np.random.default_rng(0), np.array([-2.0, 0.0, 12.0])
    std = np.sqrt(s**2 + np.exp(-(levels + gap)))
    square = np.square(std[:, None, None] * rng.standard_normal((3, n, d))).sum(axis=2)
    data = (s * rng.standard_normal((n, d))).astype(np.float32)
    times, moments = np.asarray(path.time_of(jnp.asarray(levels))), DataMoments.isotropic(s**2, (d,))
    found = snr_gap(times, square, path, moments, data)["snr_gap"]
    assert found.low < gap < found.high and abs(found.value - gap) < 0.1 and found.high - found.low < 0.14 and found.low * found.high > 0
    assert found.note.startswith("at log-SNR 0;")
    last = snr_gap(times[2:], square[2:], path, moments, data)["snr_gap"]
    assert np.isnan(last.value) and "unidentifiable" in last.note


def test_a_key_changes_with_everything_that_makes_the_samples():
    what = {"section": {"sampler": {"target": "DDIM", "eta": 0.0}}, "seed": 0, "n": 5}
    assert key_of(what) == key_of(dict(reversed(what.items()))) and len(key_of(what)) == 32
    changes = ({}, {"seed": 1}, {"n": 6}, {"section": {"sampler": {"target": "DDIM", "eta": 0.1}}})
    assert len({key_of(what | change) for change in changes}) == 4
    other = dataclasses.replace(MIXTURE, means=MIXTURE.means * 1.0001)
    assert model_digest(MIXTURE, {}) == model_digest(MIXTURE, {}) != model_digest(other, {})
    assert code_of(DDIM()) == code_of(DDIM(1.0)) != code_of(Heun())


def test_the_store_gives_back_what_was_put(tmp_path):
    store = Store(tmp_path / "out")
    cell = Cell("k1", {"seed": 0}, "done", "", 9.0, 5, (3,), 1e-3, 2.0, 1e6)
    assert store.cell("k1") is None
    store.put(cell, {"x": np.arange(6.0).reshape(2, 3)})
    store.put(Cell("k2", {"seed": 1}, "failed", "TypeError: no"))
    store.put_count("c", 5.0)
    store.put_count("d", None, "why")
    measures = {"frechet": Estimate(1.0, 0.5, 1.5, 9, (2,), "note"), "gap": Estimate.missing(4)}
    store.put_measures("m", measures, {"frechet": np.arange(3.0)})
    store.close()
    store = Store(tmp_path / "out")
    assert store.cell("k1") == cell and store.cell("k2").reason == "TypeError: no" and np.isnan(store.cell("k2").nfe)
    np.testing.assert_array_equal(store.arrays("k1")["x"], np.arange(6.0).reshape(2, 3))
    assert store.count("c") == (5.0, "") and store.count("d") == (None, "why") and store.count("e") is None
    estimates, draws = store.measures("m")
    assert estimates["frechet"] == measures["frechet"] and np.isnan(estimates["gap"].value) and draws["frechet"].tolist() == [0, 1, 2]


def test_a_row_without_its_samples_is_no_cell(tmp_path):
    store = Store(tmp_path)
    store.put(Cell("k", {}, "done"), {"x": np.zeros(1)})
    (tmp_path / "samples" / "k.npz").unlink()
    assert store.cell("k") is None


def test_a_folder_that_is_none_of_ours_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="this is a file"):
        Store(tmp_path / "file")
    (tmp_path / "ablation.sqlite").write_text("no data base, but a text that is long enough to be looked at" * 20)
    with pytest.raises(ConfigError, match="ablation.sqlite"):
        Store(tmp_path)
    assert issubclass(sqlite3.DatabaseError, Exception)


GOOD = {"models": {"m": {"workdir": "w"}}, "solvers": ("DDIM",)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"solvers": ("DDIMM",)}, "did you mean 'DDIM'"),
        ({"solvers": ("DDIM(etta=1)",)}, "did you mean 'eta'"),
        ({"solvers": ("DDIM(eta=2)",)}, "0 <= eta <= 1"),
        ({"solvers": ("UniformTime",)}, "solvers"),
        ({"solvers": ()}, "solvers.*at least one"),
        ({"solvers": ("DPMAdaptive(atol=1e-3)",)}, r"DPMAdaptive\(atol=0.001\).*one with fields rtol and atol, neither given, has one"),
        ({"solvers": ("EulerMaruyama(multiplier=-1)",)}, "EulerMaruyama.multiplier: -1"),
        ({"solvers": ("DPMFast(nfe=0)",)}, "dpm_fast.nfe: 0"),
        ({"solvers": ("DDIM", "Dopri5(rtol=1e-3)")}, r"solvers: 'Dopri5\(rtol=0.001\)' is refused; allowed: .*DDIM.*an adaptive solver"),
        ({"grids": ("Karas",)}, "did you mean 'Karras'"),
        ({"paths": ("VPP",)}, "paths"),
        ({"nfe": (0,)}, "nfe.*from 1"),
        ({"nfe": (5, 5)}, "each once"),
        ({"seeds": (-1,)}, "seeds"),
        ({"n": 3}, "n: 3.*at least 20"),
        ({"alpha": 1.5}, "alpha"),
        ({"reference_steps": 3}, "reference_steps: 3.*at least 16"),
        ({"vary": {"eta": (0.0,)}}, "solver.FIELD"),
        ({"modles": {}}, "did you mean 'models'"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_a_study_refuses_in_one_line(change, says):
    with pytest.raises(ConfigError, match=says) as error:
        build({"target": "score_lab.ablation.study:Study", **GOOD, **change}, field="config")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("variant", "systems"), [("digits", 13), ("mixture", 13), ("noise", 21), ("guidance", 12)])
def test_every_configuration_is_a_study(variant, systems):
    """noise: (DDIM with 4 eta, Euler-Maruyama with 2 multipliers, Heun) on a grid and on churn with 2 strengths."""
    fields = study_fields(get_config(variant), {})
    assert len(build({"target": "score_lab.ablation.study:Study", **fields}, field="config").systems()) == systems


def test_the_default_study_has_twelve_solvers_of_five_families():
    """One-step, exponential, multistep, stochastic and adaptive, as ``make ablate`` compares them."""
    solvers = [build(spec_of(words, "solvers"), "score_lab.samplers") for words in get_config().solvers]
    assert len(solvers) >= 12 and len({plan.family_of(solver) for solver in solvers} - {"-"}) == 5


def test_a_study_spans_every_combination_once():
    study = Study({"a": {}, "b": {}}, ("DDIM", "DDIM", "Heun"), ("own", "Karras"), ("own", "VP"), (1.0, 2.0), {"solver.eta": (0.0, 1.0)})
    systems = study.systems()
    assert len(systems) == 2 * 2 * 2 * 2 * 3 and len({tuple(s.names().items()) for s in systems}) == len(systems)
    assert {s.names()["guidance"] for s in systems} == {"1", "2"}


def test_parts_of_one_name_from_two_modules_are_named_with_them():
    """Also numbers and guidance scales that read the same in short."""
    study = Study({"a": {}}, ("old.a:Mine", "new.b:Mine", "DDIM"), vary={}, guidance=(2.0, 2.00000001))
    systems = study.systems()
    assert {s.names()["solver"] for s in systems} == {"old.a:Mine", "new.b:Mine", "DDIM"}
    assert {s.names()["guidance"] for s in systems} == {"2.0", "2.00000001"}
    assert [s.names()["solver"] for s in Study({"a": {}}, ("old.a:Mine", "DDIM")).systems()] == ["Mine", "DDIM"]


FILES = {
    "__init__.py": "from .solver import Mine\nfrom .other import unrelated\n",
    "solver.py": "import dataclasses\nfrom . import tables\nfrom .maths import weights\n\n"
    "@dataclasses.dataclass\nclass Mine:\n    k: int = 2\n",
    "tables.py": "ROWS = 3\n",
    "maths.py": "def weights():\n    from package_of_keys.deep import inner\n    return inner()\n",
    "deep.py": "import package_of_keys.deep as itself\ndef inner():\n    return 1\n",
    "other.py": "def unrelated():\n    return 2\n",
}


def test_the_code_of_a_part_is_all_that_it_imports_from_its_own_package(tmp_path, monkeypatch):
    """A module three imports away, imported where it is used, changes the key; one that it does not need does not."""
    folder = tmp_path / "package_of_keys"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    part = importlib.import_module("package_of_keys").Mine()

    def code_with(name, more):
        (folder / name).write_text(FILES[name] + more)
        keys._source.cache_clear()
        keys._imported.cache_clear()
        found = code_of(part)
        (folder / name).write_text(FILES[name])
        return found

    before = code_with("deep.py", "")
    assert {name for name in FILES if code_with(name, "# a fix\n") != before} == {"solver.py", "tables.py", "maths.py", "deep.py"}
    assert code_of(type(part)) == before != code_of(DDIM())
    for name in [n for n in sys.modules if n.partition(".")[0] == "package_of_keys"]:
        monkeypatch.delitem(sys.modules, name)
    keys._source.cache_clear()
    keys._imported.cache_clear()


def test_what_a_solver_shares_with_others_is_its_code():
    """deis is a function; its weights come from lagrange.py."""
    assert "score_lab.samplers.lagrange" in keys._imported("score_lab.samplers.adams")
    assert "score_lab.samplers" not in keys._imported("score_lab.samplers.deis")
    assert code_of(AdamsBashforth(T(), 2)) == code_of(AdamsBashforth(T(), 3)) != code_of(DDIM())


def test_what_is_run_decides_whether_it_is_stochastic_and_where_the_search_for_steps_begins(tmp_path, monkeypatch):
    """DPM-Solver++ at eta = 0.0 is the ODE, so it has a solver error; ``calls`` is read from the solver that is built."""
    guesses = []
    monkeypatch.setattr(plan, "fit", lambda count, nfe, guess, fixed: guesses.append(guess) or Budget(nfe, 5, 5.0))

    def assemble(section, denoiser):
        return denoiser, *(build(section[part], "score_lab.samplers") for part in ("sampler", "grid"))

    model = Model("m", MIXTURE, (2,), "d", None, assemble)
    study = Study({"m": {}}, ("DPMSolverSinglestep(k=3)",))
    planner = plan._Planner(study, {"m": model}, Store(tmp_path))
    runs = {}
    for text in ("DPMSolverMultistep(eta=0.0)", "DPMSolverMultistep(eta=1.0)", "DPMSolverSinglestep(k=2)", "DPMSolverSinglestep(k=3)"):
        runs[text] = planner.run(System("m", None, None, {"target": "UniformLogSNR"}, spec_of(text, "solvers")), 6)
    assert [r.deterministic for r in runs.values()] == [True, False, True, True] and not any(r.reason for r in runs.values())
    assert guesses == [1.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("solver", "family"),
    [
        ("DDIM", "one-step"), ("DDIM(eta=1)", "stochastic"), ("UniPC", "multistep"), ("DPMSolverSinglestep", "exponential, singlestep"),
        ("DPMSolverMultistep(eta=1.0)", "stochastic"), ("deis", "multistep"), ("Dopri5", "adaptive"), ("DPMAdaptive", "adaptive"),
        ("Rows", "-"),
    ],
)  # fmt: skip
def test_a_family_is_that_of_the_catalogue_for_what_is_run(solver, family):
    part = SimpleNamespace(stochastic=False) if solver == "Rows" else build(spec_of(solver, "solvers"), "score_lab.samplers")
    assert plan.family_of(part) == family


def halves(x):
    """A feature space as somebody would write it: the means of the upper and the lower half."""
    return x.reshape(len(x), 2, -1).mean(axis=2)


def nothing(x):
    """No feature space."""
    return x


def test_the_feature_space_is_that_of_the_study():
    """PCA is what the table's reference uses; one's own is called by its import path, and FD in it is the formula by hand."""
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((60, 4, 4, 1)), rng.standard_normal((40, 4, 4, 1))
    plain, own = (Images.of(train, None, test, None, words) for words in ("PCA", f"{__name__}:halves"))
    assert plain.reference.frechet.extractor.digest == Images.of(train, None, test, None).reference.frechet.extractor.digest
    assert Images.of(train, None, test, None, "PCA(components=3)").measure(test, None, 20).estimates["frechet"].note.startswith("PCA 3")
    assert own.digest != plain.digest
    found = own.measure(test, None, 20).estimates
    a, b = halves(train), halves(test)
    c, d = np.cov(a.T), np.cov(b.T)
    root = np.trace(scipy.linalg.sqrtm(c @ d).real)
    np.testing.assert_allclose(found["frechet"].value, np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(c + d) - 2 * root, rtol=1e-6)
    assert found["frechet"].note == "halves" and found["frechet"].n == 40 and np.isfinite(found["kid"].value)
    for words, says in (("PCAA", "did you mean 'PCA'"), ("nowhere.at_all:f", "'nowhere' cannot"), ("PCA(components=0)", "from 1")):
        with pytest.raises(ConfigError, match=says):
            Study(**GOOD, features=words).check()
    with pytest.raises(ConfigError, match=r"features: .*\(2, 4, 4, 1\).*allowed: finite values \(2, k\)"):
        feature_space(f"{__name__}:nothing", train)
