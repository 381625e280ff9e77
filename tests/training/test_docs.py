"""Every line of configuration in docs/training.md builds, on the configuration of `make digits`."""

import re
from pathlib import Path

import pytest

from configs.digits import get_config
from score_lab.data import DataSpec
from score_lab.training.options import plain
from score_lab.training.parts import build_parts

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for block in (BLOCKS[1], *BLOCKS[4:8]) for line in block.strip().splitlines() if "my_package" not in line]


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
    assert built(BLOCKS[2]).config["optimizer"]["freeze"]


def test_names_are_printed(capsys):
    exec(BLOCKS[0], {})
    assert "network.blocks.0.qkv.kernel" in capsys.readouterr().out.splitlines()


def test_fine_tuning_is_a_section_that_is_known():
    parts = built(BLOCKS[3])
    assert parts.config["init_from"]["new"] == ["network.conditioning.table"] and parts.origin is None
