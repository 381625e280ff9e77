"""The whole reference on small labelled data, the criteria, and what a table writes."""

import csv
import io
import json

import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.evaluation import Criterion, Estimate, Reference, Table

CENTRES = 4.0 * np.eye(3, 6)


def examples(seed, n=240, spread=1.0):
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    return (CENTRES[labels] + spread * rng.standard_normal((n, 6))).reshape(n, 2, 3, 1), labels


@pytest.fixture(scope="module")
def reference():
    return Reference.fit(*examples(0, 900), *examples(1), components=4)


@pytest.fixture(scope="module")
def table(reference):
    table = Table(reference.criteria(), reference.describe())
    broken, labels = examples(2)
    broken[5] = np.nan
    train, train_labels = examples(0, 900)
    for name, (x, y) in {
        "fresh": examples(3),
        "prototypes": examples(4, spread=0.3),
        "copies": (train[:240], train_labels[:240]),
        "swapped": (examples(5)[0], (examples(5)[1] + 1) % 3),
        "broken": (broken, labels),
    }.items():
        table.add({"what": name, "nfe": 50}, reference.measure(x, y))
    return table


def test_each_failure_is_marked_where_it_is(table):
    met = {row.name["what"]: table.passes(row) for row in table.rows}
    assert all(met["fresh"].values())
    assert not met["prototypes"]["variance"] and met["prototypes"]["agreement"]
    assert not met["copies"]["nearest"] and met["copies"]["variance"]
    assert not met["swapped"]["agreement"]
    assert not any(met["broken"].values())
    assert not table.passed()


def test_text_has_intervals_marks_and_a_foot(table):
    lines = table.text().splitlines()
    assert lines[0].split()[:3] == ["what", "nfe", "agreement"]
    assert lines[2].endswith("4/4") and " x" not in lines[2]
    assert "not finite, first: 5" in lines[6] and lines[6].endswith("0/4")
    assert "held-out accuracy" in table.text() and "95 % interval" in lines[-1]


def test_csv_and_json_hold_the_same_numbers(table):
    records = list(csv.DictReader(io.StringIO(table.csv())))
    rows = json.loads(table.json())["rows"]
    assert [r["what"] for r in records] == [r["name"]["what"] for r in rows] == [r.name["what"] for r in table.rows]
    assert float(records[0]["fd_ratio_low"]) == rows[0]["measures"]["fd_ratio"]["low"] == table.rows[0].measures["fd_ratio"].low
    assert rows[4]["measures"]["frechet"]["value"] is None and rows[4]["measures"]["frechet"]["invalid"] == [5]
    assert records[0]["variance_met"] == "True" and records[1]["variance_met"] == "False"


def test_data_without_labels_have_no_agreement(reference):
    plain = Reference.fit(examples(0, 900)[0], None, examples(1)[0], None, components=4)
    assert list(plain.measure(examples(3)[0])) == ["frechet", "fd_ratio", "variance", "nearest"]
    assert [c.column for c in plain.criteria()] == ["fd_ratio", "variance", "nearest"]


def test_a_missing_column_is_not_met_and_rows_have_one_kind_of_name():
    table = Table([Criterion("a", "> 0", lambda v: v > 0)])
    row = table.add({"what": 1}, {"b": Estimate(1.0, 0.0, 2.0, 3)})
    assert table.passes(row) == {"a": False}
    with pytest.raises(ConfigError, match="first row"):
        table.add({"other": 1}, {})


def test_splits_of_different_shapes_are_refused():
    with pytest.raises(ConfigError, match="shape of the training examples"):
        Reference.fit(np.zeros((4, 2)), None, np.zeros((4, 3)), None)
