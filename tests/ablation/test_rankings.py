"""tools/rankings.py: a study's files become ranks in words, and nothing else; what was told apart stays told apart."""

import csv
import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from score_lab.build import ConfigError

FILE = Path(__file__).resolve().parents[2] / "tools" / "rankings.py"
SPEC = importlib.util.spec_from_file_location("rankings_tool", FILE)
rankings = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rankings)
RANKED = {"model": "m", "guidance": "1", "budget": 10, "column": "energy"}


def written(folder, rows, name):
    """A CSV file of all names that a row has."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def ablation(tmp_path):
    """One contest of three: B is not told from A, C is worse; D could not be run; and a budget that is not shown."""
    study = tmp_path / "studies" / "abc"
    study.mkdir(parents=True)
    value = {"A": 0.1, "B": 0.1004, "C": 3.0}
    ranking = [
        RANKED | {"rank": i + 1, "sampler": name, "nfe": 9.5 if name == "B" else 10, "value": v, "low": v / 2, "high": 2 * v,
                  "minus_best": v - 0.1, "minus_best_low": -0.01, "minus_best_high": 3.5,
                  "not_distinguishable_from": {"A": "B", "B": "A"}.get(name, "")} for i, (name, v) in enumerate(value.items())
    ]  # fmt: skip
    ranking += [RANKED | {"rank": "", "sampler": "D", "not_distinguishable_from": "no | tolerance"}, ranking[0] | {"budget": 11}]
    pairs = [("A", "B", False), ("A", "C", True), ("B", "C", True)]
    written(study, ranking, "ranking")
    written(study, [RANKED | {"better": a, "worse": b, "distinguishable": apart} for a, b, apart in pairs], "pairs")
    table = [
        {"solver": n, "family": f"of {n}", "budget": 10, "NFE": "9.5" if n == "B" else "10", "most NFE": "16" if n == "B" else "10",
         "n": 60, "flag": "diverged (energy)" if n == "C" else "-", "ms": 0.5, "ms_low": 0.4, "ms_high": 0.75} for n in "ABCD"
    ]  # fmt: skip
    written(study, [*table, {"solver": "exact samples", "budget": "-"}], "table")
    (study / "table.json").write_text(json.dumps({"notes": ["a note"]}))
    (study / "about.json").write_text(json.dumps({"about": "x", "commands": ["python -m it --config c.py:m --output /some/where"]}))
    return tmp_path


def test_a_study_becomes_its_ranks(ablation):
    text = rankings.page([str(ablation)])
    assert "python -m it --config c.py:m --solvers 'A, B, C, D' --nfe 10\n" in text and "/some/where" not in text
    assert "### m, 10 NFE: 2 of 3 pairs are distinguishable" in text and "11 NFE" not in text and "- a note" in text
    assert "| 1 | `A` | 10 | 0.1 [0.05, 0.2] | 0 | 2 | 0.5 [0.4, 0.75] |" in text
    assert "| 2 | `B` | 9.5 (at most 16) | 0.1 [0.0502, 0.201] | 0.0004 [-0.01, 3.5] | 1 | 0.5 [0.4, 0.75] |" in text
    assert "| 3 | `C`, diverged (energy) | 10 | 3 [1.5, 6] | 2.9 [-0.01, 3.5] | - | 0.5 [0.4, 0.75] |" in text
    assert "| - | `D` | - | - | - | no / tolerance | - |" in text
    assert "energy distance, lower is better, on 60 samples a row; 4 solvers of 4 families" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["| `A` | of A | **1. 0.1** |", "| `B` | of B | **2. 0.1** |", "| `C` | of C | 3. 3 |", "| `D` | of D | - |"]


def test_the_command_is_words_that_a_shell_gives_back():
    """A command whose solvers and folder have spaces and brackets: the folder goes, the rest stays, word for word."""
    given = ["python", "-m", "it", "--output=/some where/else", "--solvers=DDIM, Heun(variable=T)", "--nfe", "5,10", "--output", "a b"]
    rows = [{"solver": "DDIM", "budget": "5"}]
    assert shlex.split(rankings.command_of({"commands": [shlex.join(given)]}, rows)) == [*given[:3], *given[4:7]]


def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(ConfigError, match="the folder of an ablation"):
        rankings.page([str(tmp_path)])
    assert rankings.main([str(tmp_path)]) == rankings.main([]) == 2
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["error:"] * 2


def test_the_committed_page_has_both_models_at_every_budget():
    text = (FILE.parents[1] / "docs" / "rankings.md").read_text()
    for model in ("digits", "mixture"):
        assert all(f"### {model}, {budget} NFE: " in text for budget in rankings.BUDGETS)
    assert text.startswith("# Which sampler") and "Made by `python tools/rankings.py " in text
    assert "/tmp" not in text and "/work" not in text
