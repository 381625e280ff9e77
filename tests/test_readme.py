"""What README.md shows in Python runs as it is written, on a workdir of the shapes that it speaks of."""

import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.data import DataSpec
from score_lab.paths import LinearFlow
from score_lab.samplers import DDIM, UniformLogSNR, sample
from score_lab.training import build_parts
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.record import library_versions, write_workdir
from score_lab.training.state import init_state
from score_lab.training.workdir import record_of

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).resolve().parent.parent / "README.md").read_text(), re.DOTALL)
CONFIG = {
    "data": {"target": "Digits", "size": 8, "batch_size": 16},
    "path": {"target": "LinearFlow"},
    "target": {"target": "F"},
    "network": {"target": "DiT", "patch": 4, "width": 16, "depth": 1, "heads": 2, "num_classes": 10},
    "objective": {"target": "Regression", "time_law": {"target": "UniformTime"}, "label_dropout": 0.1},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "training": {"steps": 20, "ema": [0.9]},
}


def block(marker):
    """The one block that has ``marker`` in it."""
    (found,) = [b for b in BLOCKS if marker in b]
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with runs/digits in it, an untrained network of that kind."""
    home = tmp_path_factory.mktemp("readme")
    parts = build_parts(CONFIG, DataSpec((8, 8, 1), 10, "none"), 0.85)
    record = record_of(parts, library_versions())
    write_workdir(home / "runs" / "digits", record)
    with Checkpoints(home / "runs" / "digits", 2) as checkpoints:
        checkpoints.save(20, init_state(parts, 0), {"step": 20, "position": None, "pending": [], "record": record}, {})
    return home


def test_five_lines_and_guidance(digits, monkeypatch):
    monkeypatch.chdir(digits)
    names = {}
    exec(block("score_lab.load("), names)
    assert names["samples"].x.shape == (16, 8, 8, 1) and names["samples"].nfe == 20
    exec(block("CFG("), names)
    levels = UniformLogSNR(20).steps(names["VP"]())
    inside = int((np.abs(np.asarray(names["VP"]().log_snr(levels.t))) <= 5).sum())
    assert names["threes"].nfe == 20 + inside and 0 < inside < 20


def test_a_sampler_of_ones_own(monkeypatch):
    """As short as it is said to be; named by its import path; with weight 0 it is DDIM, with another it is not."""
    text = block("class TwoStep")
    assert len(text.splitlines()) <= 25
    module = types.ModuleType("my_sampler_of_readme")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(text, module.__dict__)
    from score_lab.analytic import GaussianBands

    exact, grid = GaussianBands(LinearFlow(), np.ones(4), np.full(4, 0.5)), UniformLogSNR(8)
    mine = [build({"target": "my_sampler_of_readme:TwoStep", "weight": w}) for w in (0, 1)]
    x = [sample(exact, sampler, grid, (5, 4), jax.random.key(0)).x for sampler in mine]
    ddim = sample(exact, DDIM(), grid, (5, 4), jax.random.key(0)).x
    np.testing.assert_allclose(x[0], ddim, rtol=1e-5, atol=1e-5)
    assert np.abs(x[1] - ddim).max() > 1e-2


def test_a_network_of_ones_own(monkeypatch):
    """Named by its import path it trains; one without the arguments that it is called with is refused in one line."""
    text = block("class Perceptron")
    module = types.ModuleType("my_network_of_readme")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(text, module.__dict__)
    exec(text.replace("Perceptron", "Deaf").replace(", *, level_s=None, key=None", ""), module.__dict__)
    data = {"target": "Toy", "name": "two_moons", "batch_size": 16}
    config, spec = CONFIG | {"data": data, "objective": {"target": "Regression"}}, DataSpec((2,), None, "none")
    config["network"] = {"target": "my_network_of_readme:Perceptron", "width": 8}
    parts = build_parts(config, spec, 1.0)
    params, _ = parts.init(jax.random.key(0))
    x, t = jnp.ones((3, 2)), jnp.full(3, 0.5)
    assert parts.denoiser(params)(x, t).raw.shape == (3, 2)
    params["network"]["last"] = params["network"]["last"] + 1.0
    assert np.ptp(parts.denoiser(params)(x, jnp.array([0.1, 0.5, 0.9])).raw[:, 0]) > 0
    config["network"]["target"] = "my_network_of_readme:Deaf"
    with pytest.raises(ConfigError, match=r"config.network: .*Deaf.* is refused; allowed: .*level_s=None.*unexpected keyword argument"):
        build_parts(config, spec, 1.0)


def test_a_path_of_ones_own():
    names = {"__name__": __name__}
    exec(block("class Quadratic"), names)
    names["Quadratic"]().check()
