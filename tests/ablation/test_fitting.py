"""Solvers that are fitted before they run: a tolerance and a number of evaluations for the budget, Gamma for the model."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ablation_models import open_models
from score_lab.ablation import Run, Store, Study, planned, run_cells, runs_of
from score_lab.ablation.counting import Budget, BudgetError, count_nfe
from score_lab.ablation.fitting import HALVINGS, NOISES, SEED, Spent, fit_evaluations, fit_tolerance, ready, seed_apart
from score_lab.ablation.results import Results
from score_lab.ablation.rows import Row, median_of
from score_lab.ablation.store import Cell
from score_lab.ablation.tables import budgets, full_table
from score_lab.ablation.truth import Measured
from score_lab.build import ConfigError
from score_lab.samplers import Dopri5, DPMFast, UniformLogSNR, measure_gamma, sample
from score_lab.samplers.dpm_fast import fast_orders

LAW = {"target": "GaussianMixture", "weights": (1.0, 2.0), "means": ((1.0, 0.0), (-1.0, 0.5)), "variances": (0.05, 0.1)}
SMALL = {"seeds": (0, 1), "n": 40, "chunk": 20, "repeats": 20, "reference_steps": 0, "grids": ("UniformLogSNR(end=6)",), "output": "unused"}


def study_of(*solvers, **fields):
    return Study({"two": {"denoiser": LAW, "path": {"target": "VP"}}}, solvers, **SMALL | fields)


def test_the_tolerance_is_the_tightest_within_the_budget():
    """Of a cost that is known: m = 8 rtol^(-1/5), e = 0.5; to the width that the bisections leave, from above, each tried once."""
    tried = []

    def spend(rtol):
        tried.append(rtol)
        return Spent(8 * rtol**-0.2, 0.5)

    for budget in (10, 20, 40):
        found = fit_tolerance(spend, budget, 2, lambda rtol: {"rtol": rtol})
        exact, width = (8 / (budget - 1)) ** 5, 10 ** (1 / 2**HALVINGS)
        assert exact <= found.changes["rtol"] <= exact * width * 1.001 and found.nfe + 1 <= budget
        assert f"of {budget} in the mean over {NOISES} other noises; a tighter one costs more" in found.note
    assert len(tried) <= 3 * (HALVINGS + 5)
    with pytest.raises(BudgetError, match=r"nfe: 5 is refused; allowed: at least 7, what tolerance 10, the loosest, costs"):
        fit_tolerance(lambda rtol: Spent(6.5, 0.2), 5, 2, dict)
    assert "no tighter one than" in fit_tolerance(lambda rtol: Spent(6.5, 0.2), 9, 2, lambda rtol: {}).note


def test_the_noises_of_a_tolerance_are_no_cells():
    assert seed_apart((0, 1, 2)) == SEED and seed_apart((0, SEED)) == SEED + 1


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory):
    """Dopri5 for budgets below and above what its loosest tolerance costs, with DDIM, planned, counted and sampled."""
    study, store = study_of("Dopri5", "DDIM", nfe=(10, 30)), Store(tmp_path_factory.mktemp("adaptive"))
    models = open_models(study)
    plan = planned(study, models, store)
    run_cells(plan.runs, models, study.seeds, store, study.chunk)
    return study, models, store, plan


def test_an_adaptive_solver_has_a_budget_of_the_mean(adaptive):
    """Its cells are what ``sample`` draws at the tolerance of the plan; their NFE is that run's own, mean and maximum over all samples."""
    study, models, store, plan = adaptive
    low, _, high, ddim = plan.runs
    assert low.reason == "nfe: 10 is refused; allowed: " + low.reason.partition("allowed: ")[2] and "loosest" in low.reason
    assert high.deterministic and high.family == "adaptive" and high.budget.changes["atol"] == high.budget.changes["rtol"]
    assert low.system.names()["solver"] == high.system.names()["solver"] == "Dopri5" and ddim.budget.nfe == 30
    cells = [store.cell(key) for key in high.keys]
    for seed, cell in zip(study.seeds, cells, strict=True):
        denoiser, sampler, grid = models["two"].assemble(high.section, models["two"].denoiser)
        assert type(sampler) is Dopri5 and sampler.rtol == high.budget.changes["rtol"]
        halves = [sample(denoiser, sampler, grid, (20, 2), jax.random.key(seed), index=np.arange(first, first + 20)) for first in (0, 20)]
        nfe, attempts = (np.concatenate([np.asarray(getattr(half, name)) for half in halves]) for name in ("nfe", "num_steps"))
        np.testing.assert_array_equal(store.arrays(cell.key)["spent"], [nfe, attempts])
        assert cell.nfe == pytest.approx(nfe.mean()) and cell.nfe <= 30 * 1.1 and cell.most == nfe.max() > cell.nfe
        assert cell.steps == round(attempts.mean()) and len(cell.chunks) == 2
    rows = tuple(Row(run, tuple(store.cell(k) for k in run.keys if store.cell(k).status == "done"), Measured()) for run in plan.runs)
    assert rows[2].nfe == np.mean([c.nfe for c in cells]) and rows[2].most == max(c.most for c in cells)
    results = Results(study, models, rows, (), {}, (), {"two": "energy"})
    (line,) = [line for line in budgets(results) if line.startswith("Dopri5")]
    assert f"of 30 in the mean over {NOISES} other noises" in line
    assert f"The samples took {rows[2].nfe:.4g} in the mean, at most {rows[2].most:g}" in line
    table = full_table(results)
    assert [row.name["most NFE"] for row in table.rows] == ["-", "10", f"{rows[2].most:.3g}", "30"]
    assert any("its tolerance was chosen for the budget on other noises" in note for note in table.notes)


def test_what_a_tolerance_costs_is_counted_once_and_on_other_noises(adaptive, monkeypatch):
    """A second plan calls no network; the count that is kept is that of NOISES samples of SEED."""
    study, models, store, plan = adaptive
    high, rtol = plan.runs[2], plan.runs[2].budget.changes["rtol"]
    denoiser, sampler, grid = models["two"].assemble(high.section, models["two"].denoiser)
    spent = np.asarray(sample(denoiser, dataclasses.replace(sampler, rtol=rtol), grid, (NOISES, 2), jax.random.key(SEED)).nfe)
    assert high.budget.nfe == pytest.approx(spent.mean(), rel=1e-3)
    assert spent.mean() + 2 * spent.std(ddof=1) / math.sqrt(NOISES) <= 30
    monkeypatch.setattr("score_lab.ablation.plan.Counter.__call__", lambda *_: pytest.fail("counted again"))
    assert [run.keys for run in planned(study, models, store).runs] == [run.keys for run in plan.runs]


def test_an_adaptive_solver_stands_where_its_levels_are_its_own_and_nowhere_else(adaptive):
    study, models, store, _ = adaptive
    churned = dataclasses.replace(study, solvers=("Dopri5", "DDIM"), grids=("Churn(grid=UniformLogSNR(end=6), s_churn=3)",), nfe=(30,))
    assert "a grid that does not: Dopri5 chooses its own steps" in planned(churned, models, store).runs[0].reason
    with pytest.raises(ConfigError, match="solvers: 'Dopri5' is refused; allowed: solvers of the grid's steps"):
        runs_of(study, models, store)
    with pytest.raises(ConfigError, match="none: Dopri5 is adaptive, and a correction is set at the grid's steps"):
        runs = planned(dataclasses.replace(study, solvers=("Dopri5",), corrections=("epsilon scaling",)), models, store)
        assert runs


@pytest.mark.slow
@pytest.mark.parametrize("nfe", [4, 6, 8])
def test_dpm_fast_spends_what_it_is_asked_for(nfe):
    """Counted by the loop on a grid that ends at a finite level; on one to data, whose last step costs 1, the most that fits."""
    model = open_models(study_of("DDIM"))["two"].denoiser
    grid = UniformLogSNR(DPMFast.steps_for(nfe), -8.0, 6.0, to_data=False)
    assert count_nfe(model, DPMFast(nfe), grid, shape=(2,)) == nfe

    def count(steps, asked):
        return count_nfe(model, DPMFast(asked), UniformLogSNR(steps, -8.0, 6.0), shape=(2,))

    best = fit_evaluations(count, DPMFast(), nfe)
    every = {asked: count(DPMFast.steps_for(asked), asked) for asked in range(3, nfe + 4)}
    assert best.nfe == max(cost for cost in every.values() if cost <= nfe) and every[best.changes["nfe"]] == best.nfe
    assert (best.note == "") == (best.nfe == nfe)
    with pytest.raises(BudgetError, match=f"at least {every[nfe + 3]:g}, what the solver made for {nfe + 3} evaluations costs"):
        fit_evaluations(count, DPMFast(nfe + 3), nfe)


def test_dpm_fast_is_asked_for_by_the_name_of_the_function(tmp_path):
    """In an ablation it is DPMFast, with the evaluations of the budget in its cell's section and not in its name."""
    study = study_of("dpm_fast", nfe=(6, 7))
    study.check()
    runs = planned(study, open_models(study), Store(tmp_path)).runs
    assert [run.system.names()["solver"] for run in runs] == ["DPMFast"] * 2 and {run.family for run in runs} == {"exponential, singlestep"}
    assert [(run.section["sampler"]["nfe"], run.section["grid"]["num_steps"], run.budget.nfe) for run in runs] == [(6, 3, 6), (7, 3, 7)]
    assert fast_orders(6) == (3, 2, 1)


@pytest.mark.slow
def test_gamma_is_measured_on_the_law_and_is_part_of_the_cell(tmp_path):
    """The table that AnalyticDPM lacks is in its section, so in its key; it is E |eps|^2 / d at levels of the path, of draws of the law."""
    study = study_of("AnalyticDPM", "AnalyticDPM(eta=0.0)", "AnalyticDPM(log_snrs=(0.0,), gamma=(0.5,))", nfe=(4,))
    study.check()
    models = open_models(study)
    runs = planned(study, models, Store(tmp_path)).runs
    assert not any(run.reason for run in runs) and len({key for run in runs for key in run.keys}) == 6
    tables = [run.section["sampler"] for run in runs]
    assert len(tables[0]["gamma"]) == 16 and tables[0]["gamma"] == tables[1]["gamma"] and tables[2]["gamma"] in ([0.5], (0.5,))
    denoiser = models["two"].denoiser
    x0 = denoiser.sample(jax.random.key(11), jnp.arange(4000), None)
    again = measure_gamma(denoiser, x0, tables[0]["log_snrs"], jax.random.key(12))[1]
    np.testing.assert_allclose(tables[0]["gamma"], again, rtol=0.1, atol=0.01)
    other = dict(LAW, variances=(0.2, 0.1))
    wider = Study({"two": {"denoiser": other, "path": {"target": "VP"}}}, ("AnalyticDPM",), nfe=(4,), **SMALL)
    (run,) = planned(wider, open_models(wider), Store(tmp_path)).runs
    assert run.section["sampler"]["gamma"] != tables[0]["gamma"]


def test_only_a_solver_that_lacks_its_table_is_given_one():
    assert ready({"target": "AnalyticDPM"})["gamma"] == (0.5,) and ready({"target": "DDIM"}) == {"target": "DDIM"}
    assert ready({"target": "AnalyticDPM", "gamma": (0.1,)}) == {"target": "AnalyticDPM", "gamma": (0.1,)}


@pytest.mark.parametrize(("n", "ends"), [(2, (1, 2)), (5, (1, 5)), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (24, (7, 18))])
def test_the_interval_of_a_median_is_that_of_the_tables(n, ends):
    """Conover's table A3 by ranks (Hollander & Wolfe give the same); as often as 0.95 at least it holds the median of an odd law."""
    found = median_of(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)).tolist())
    assert (found.low, found.high) == ends and found.value == (n + 1) / 2 and found.n == n
    assert ("too few" in found.note) == (n < 6)
    if n >= 6:
        draws = np.random.default_rng(1).exponential(size=(1000, n))
        held = np.mean([e.low <= math.log(2) <= e.high for e in map(median_of, draws.tolist())])
        assert held >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_times_of_all_chunks_are_kept_and_a_store_of_before_is_read(tmp_path):
    """A file without the new columns gets them; its cells' only time is that of the fastest chunk."""
    store = Store(tmp_path)
    store._db.executescript("ALTER TABLE cells DROP COLUMN most; ALTER TABLE cells DROP COLUMN chunks;")
    store._db.execute("INSERT INTO cells VALUES ('old', '{\"n\": 5}', 'done', '', 9.0, 5, '[]', 1e-3, 2.0, 1e6)")
    store._db.commit()
    (tmp_path / "samples" / "old.npz").write_bytes(b"")
    store.close()
    store = Store(tmp_path)
    cell = store.cell("old")
    assert cell.chunks == () and cell.most is None and (cell.seconds, cell.memory) == (1e-3, 1e6)
    run = Run(None, Budget(9, 5, 9.0), {}, ("old",))
    one = Row(run, (cell,), Measured()).milliseconds
    assert (one.value, one.n) == (1.0, 1) and math.isnan(one.low) and math.isnan(one.high) and "no interval" in one.note
    store.put(Cell("new", {"n": 5}, "done", "", 9.0, 5, (), 1e-3, 2.0, 1e6, 9.0, (1e-3, 3e-3, 2e-3)), {"x": np.zeros(1)})
    both = Row(run, (cell, store.cell("new")), Measured()).milliseconds
    assert (both.value, both.low, both.high, both.n) == (1.5, 1.0, 3.0, 4)
