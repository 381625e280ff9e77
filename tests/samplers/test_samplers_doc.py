"""docs/samplers.md says what the code says: every solver has its row and every row its solver, no measured order is off what is declared.

Nothing is measured here; what fails says ``run make samplers-doc``.
"""

import importlib.util

import pytest
from packaging_facts import ROOT

from score_lab.samplers import CATALOGUE, GRIDS

AGAIN = "docs/samplers.md is not what the code says: run make samplers-doc"


@pytest.fixture(scope="module")
def docs():
    spec = importlib.util.spec_from_file_location("sampler_docs", ROOT / "tools" / "sampler_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(docs):
    return docs.rows(docs.PAGE.read_text())


def test_every_solver_has_its_row_and_every_row_its_solver(docs, page):
    assert set(page) == set(CATALOGUE), AGAIN
    for name, row in page.items():
        said = {column: row.get(column) for column in docs.facts(name)}
        assert said == docs.facts(name), f"{AGAIN} ({name})"
        assert set(row) == set(docs.COLUMNS), AGAIN


def test_every_grid_has_its_row(docs):
    rows = [docs.cells(line)[:2] for line in docs.PAGE.read_text().partition("\n## Grids")[2].splitlines() if line.startswith("| ")]
    assert dict(rows[2:]) == {name: f"`{docs.written(entry.grid)}`" for name, entry in GRIDS.items()}, AGAIN


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_was_measured_is_what_is_declared(docs, page, name):
    """At least the declared order less 0.2, and at most 0.5 more, or 1.5 for the classes whose reason the page's head gives."""
    assert not docs.amiss(name, page[name]), AGAIN


def test_reasons_are_given_for_what_is_measured_higher(docs):
    from sampler_orders import HIGHER  # beside the page's program, which makes it importable

    for name in HIGHER:
        assert name.lower() in docs.HEAD.lower()


def test_a_figure_that_is_off_is_found(docs, page):
    row = page["Heun in kappa"]
    assert docs.amiss("Heun in kappa", row | {"stiff": "7.13"}) == ["stiff"]
    assert docs.amiss("Heun in kappa", row | {"interior": "1.7"}) == ["interior"]
    assert docs.amiss("Heun in kappa", row | {"shipped": "?"}) == ["shipped"]


def test_peers_are_those_of_the_records(docs, page):
    found = docs.held()
    assert {name: row["peers"] for name, row in page.items()} == {n: docs.also(e.sampler, found) for n, e in CATALOGUE.items()}, AGAIN
