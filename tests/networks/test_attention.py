"""Which attention is called: cuDNN's where the device, the dtype, the heads and the derivatives have it, chosen at every call."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.analytic import GaussianBands
from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.denoiser import NetworkDenoiser, forward_mode
from score_lab.guidance import CFG
from score_lab.likelihood import log_likelihood
from score_lab.networks import DiT, UNet
from score_lab.networks.layers import has_cudnn
from score_lab.objectives import Regression
from score_lab.paths import LinearFlow
from score_lab.targets import Velocity
from score_lab.training import load, train
from score_lab.training.parts import build_parts

DIT = DiT(patch=2, width=16, depth=1, heads=2, num_classes=2, dtype="bfloat16")
IMAGE = (4, 4, 1)


@pytest.fixture
def asked(monkeypatch):
    """What ``jax.nn.dot_product_attention`` was asked for, call by call; XLA's is what runs."""
    calls, real = [], jax.nn.dot_product_attention

    def record(q, k, v, *, implementation):
        calls.append(implementation)
        return real(q, k, v, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    return calls


@pytest.fixture
def gpu(monkeypatch):
    """A process that takes its device for a GPU of capability 8.0."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr("score_lab.networks.layers._capability", lambda: 8.0)


def evaluate(network, shape=IMAGE):
    """The shape of one call, traced."""
    params = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))
    x, level = jax.ShapeDtypeStruct((2, *shape), "float32"), jax.ShapeDtypeStruct((2,), "float32")
    return jax.eval_shape(network.apply, params, x, level).shape


NETWORKS = {
    "half": (DIT, "cudnn"),
    "float16": (dataclasses.replace(DIT, dtype="float16"), "cudnn"),
    "float32": (dataclasses.replace(DIT, dtype=None), "xla"),
    "heads of 4": (dataclasses.replace(DIT, heads=4), "xla"),
    "xla asked for": (dataclasses.replace(DIT, attention="xla"), "xla"),
    "U-Net": (UNet(width=8, multipliers=(1,), blocks=1, attention_at=(), head_width=8, dtype="bfloat16"), "cudnn"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_choice_on_a_gpu_and_on_a_cpu(name, asked, gpu, monkeypatch):
    """"auto" is the default; half precision and heads whose width 8 divides are cuDNN's."""
    network, expected = NETWORKS[name]
    assert evaluate(network) == (2, *IMAGE) and set(asked) == {expected}
    asked.clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert evaluate(network) == (2, *IMAGE) and set(asked) == {"xla"}


@pytest.mark.parametrize(
    "capability, width, there",
    [(7.5, 64, False), (8.0, 128, True), (8.0, 136, False), (9.0, 136, True), (9.0, 264, False), (0.0, 64, False)],
)
def test_which_heads_which_card_has(monkeypatch, gpu, capability, width, there):
    """128 before capability 9, 256 from there; cards of others have none."""
    monkeypatch.setattr("score_lab.networks.layers._capability", lambda: capability)
    assert has_cudnn("bfloat16", width) is there and not has_cudnn("float32", width)


def test_forward_derivatives_take_xlas(asked, gpu, monkeypatch):
    """An objective that differentiates along time, a likelihood, and whoever asks for ``forward_mode``: also of a guided denoiser."""
    config = {
        "data": {"target": "Toy", "batch_size": 4}, "path": {"target": "LinearFlow"}, "target": {"target": "Velocity"},
        "network": {"target": "DiT", "width": 16, "depth": 1, "heads": 2, "dtype": "bfloat16"},
        "objective": {"target": "Regression"}, "optimizer": {"name": "adam", "learning_rate": 1e-3}, "training": {"steps": 1},
    }  # fmt: skip
    spec = DataSpec(IMAGE, 0, "none")
    assert build_parts(config, spec, 0.5).network.attention == "auto"
    monkeypatch.setattr(Regression, "forward_mode", True, raising=False)
    assert build_parts(config, spec, 0.5).network.attention == "xla"

    denoiser = NetworkDenoiser(DIT.init(jax.random.key(0), IMAGE), DIT, LinearFlow(), Velocity(), 0.5)
    log_likelihood(denoiser, jnp.zeros((1, *IMAGE)), jax.random.key(0), divergence="hutchinson", start=1.0, end=0.9, rtol=0.1, atol=0.1)
    assert set(asked) == {"xla"}
    asked.clear()
    guided = CFG(denoiser, scale=2.0)
    x, label = jnp.zeros((2, *IMAGE)), {"label": jnp.zeros(2, jnp.int32)}
    jax.eval_shape(lambda x: jax.jvp(lambda x: forward_mode(guided)(x, 0.5, label).x0, (x,), (x,)), x)
    assert asked and set(asked) == {"xla"}
    asked.clear()
    jax.eval_shape(lambda x: guided(x, 0.5, label).x0, x)
    assert asked and set(asked) == {"cudnn"}
    plain = GaussianBands(LinearFlow(), jnp.zeros(IMAGE), jnp.ones(IMAGE))
    assert type(forward_mode(plain)) is type(plain)


@pytest.mark.slow
def test_what_cudnn_alone_trained_is_loaded_on_a_cpu(tmp_path):
    """Training with "cudnn" is refused before anything is written where there is none; a workdir of it is sampled there all the same."""
    network = {"target": "DiT", "width": 16, "depth": 1, "heads": 2, "dtype": "bfloat16", "attention": "xla"}
    config = {
        "data": {"target": "Digits", "batch_size": 4}, "path": {"target": "LinearFlow"}, "target": {"target": "Velocity"},
        "network": network, "objective": {"target": "Regression"}, "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {"steps": 1, "eval_every": 0, "log_every": 1},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="config.network.attention: 'cudnn' is refused; allowed: 'auto' or 'xla'"):
        train(config | {"network": network | {"attention": "cudnn"}}, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    train(config, tmp_path / "run")
    before = load(tmp_path / "run").denoiser
    record = tmp_path / "run" / "config.json"
    said = json.loads(record.read_text())
    said["config"]["network"]["attention"] = "cudnn"
    record.write_text(json.dumps(said))
    loaded = load(tmp_path / "run")
    assert loaded.parts.network.attention == "auto" and loaded.config["network"]["attention"] == "cudnn"
    x = jnp.ones((2, 8, 8, 1))
    np.testing.assert_array_equal(loaded.denoiser(x, 0.5).x0, before(x, 0.5).x0)
