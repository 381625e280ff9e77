"""Every line of configuration in docs/training.md builds, on the configuration of `make digits`."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.digits import get_config
from score_lab.data import DataSpec
from score_lab.training.options import plain
from score_lab.training.parts import build_parts
from score_lab.training.profiles import residual_of, snapshots_needed
from score_lab.training.restore import _between, _position

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()


def blocks(section):
    """Those of Python in the section of that title."""
    return re.findall(r"```python\n(.*?)```", TEXT.partition(f"## {section}\n")[2].partition("\n## ")[0], re.DOTALL)


BY_LINE = ("Optimizers", "Augmentation", "Learned weighting", "Magnitude preservation: EDM2", "Memory: rematerialisation", "Averages")
LINES = [line for name in BY_LINE for line in blocks(name)[0].strip().splitlines() if "my_package" not in line]


def built(text):
    """The parts of `make digits` changed by ``text``."""
    config = get_config("flow")
    exec(text, {"config": config})
    return build_parts(plain(config), DataSpec((8, 8, 1), 10, "none"), 0.85)


@pytest.mark.parametrize("line", LINES)
def test_a_line_builds(line):
    parts = built(line)
    assert parts.network.augment_dim == (0 if "augment" not in line else 11 if "quarter_turns" in line else 9)


def test_groups_and_freezing_build():
    assert built(blocks("Groups and freezing")[0]).config["optimizer"]["freeze"]


def test_names_are_printed(capsys):
    exec(blocks("Names")[0], {})
    assert "network.blocks.0.qkv.kernel" in capsys.readouterr().out.splitlines()


def test_what_is_loaded_is_an_average_that_is_kept_or_between(monkeypatch):
    """Each line of the averages is told of a run of (0.05, 0.1) beside the one decay of `make digits`."""
    options, asked = built(blocks("Averages")[0].splitlines()[1]).options, []
    monkeypatch.setattr("score_lab.load", lambda workdir, ema=0: asked.append(ema) or SimpleNamespace(denoiser=None))
    exec(blocks("Averages")[1], {})
    found = ["between" if _between(options, ema) else _position(options, ema) for ema in asked]
    assert asked == [0, 1, 0.05, 0.07, None] and found == [0, 1, 1, "between", None]


def test_the_table_of_residuals_is_what_is_computed():
    """And so is the number of snapshots that the default takes."""
    section = TEXT.partition("## Averages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (\S+) \|$", section, re.MULTILINE)
    widths = ((0.05, 0.1), (0.05, 0.07, 0.1))
    assert len(rows) == 6
    for count, *shown in rows:
        assert shown == [f"{residual_of(w, [1024 * k for k in range(1, int(count) + 1)]):.0e}" for w in widths]
    assert " and ".join(f"{snapshots_needed(w)} for {w}" for w in widths) in section


def test_fine_tuning_is_a_section_that_is_known():
    parts = built(blocks("Fine-tuning")[0])
    assert parts.config["init_from"]["new"] == ["network.conditioning.table"] and parts.origin is None
