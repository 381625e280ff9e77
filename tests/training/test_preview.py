"""Pictures on the way: drawn at their steps through a callback, in one compiled program, and refused by name where they cannot be."""

import jax
import pytest

from experiments.preview import preview
from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.training.options import plain
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state

SAMPLING = {"sampler": {"target": "Euler"}, "grid": {"target": "UniformTime", "num_steps": 3}}


def test_pictures_are_drawn(config, tmp_path):
    """Two previews of two denoisers: two files, one for each step."""
    pytest.importorskip("matplotlib")
    sample = plain(config(preview={"every": 10, "n": 6}, sampling=SAMPLING))
    ((every, draw),) = preview(sample, tmp_path)
    parts = build_parts(sample, DataSpec((2,), 2, "none"), 0.7)
    assert every == 10
    for step in (10, 20):
        assert draw(parts.denoiser(jax.tree.map(lambda p, step=step: p + step, init_state(parts, 0).params)), step) is None
    assert [file.name for file in sorted((tmp_path / "previews").iterdir())] == ["step_00000010.png", "step_00000020.png"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in (tmp_path / "previews").iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"preview": {"evry": 10}}, r"config.preview.evry: 10.*did you mean 'every'"),
        ({"preview": {"n": 3}}, r"config.preview.every: None"),
        ({"preview": {"every": 10, "n": 0}}, r"config.preview: n: 0"),
        ({"preview": {"every": 10}, "sampling": {"samplr": "Euler"}}, r"config.sampling.samplr: 'Euler'.*did you mean 'sampler'"),
    ],
)
def test_refused(config, tmp_path, changes, message):
    """Before training begins."""
    with pytest.raises(ConfigError, match=message):
        preview(plain(config(**changes)), tmp_path)


def test_none_is_asked_for(config, tmp_path):
    """No callback."""
    assert preview(plain(config()), tmp_path) == []
