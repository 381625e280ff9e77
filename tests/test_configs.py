"""Every configuration of the repository is built as it is written, trains one step at small shapes, and has no key that nobody reads."""

import contextlib
import copy
import dataclasses
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments.sampling import SamplingOptions, check_sampling
from score_lab.build import ConfigError
from score_lab.networks.base import count_parameters
from score_lab.paths import GaussianPath
from score_lab.training.feed import Feed, train_stream
from score_lab.training.options import DenoiserOptions, TrainingOptions, plain
from score_lab.training.parallel import layout_of
from score_lab.training.prepare import prepare
from score_lab.training.state import abstract_state
from score_lab.training.step import make_step

ROOT = Path(__file__).resolve().parent.parent
FILES = ("toy", "digits", "patches", "cifar10", "imagenet64", "own")
MOCKED = ("cifar10", "imagenet64")
MODULES = {name: importlib.import_module(f"configs.{name}") for name in FILES}
CONFIGS = [(name, variant) for name in FILES for variant in MODULES[name].VARIANTS]

PUBLISHED = {
    ("cifar10", "ddpm"): 35.7e6,  # Ho et al. 2020, appendix B
    ("cifar10", "edm"): 55.7e6,  # Karras et al. 2022, table 7 (DDPM++)
    ("imagenet64", "adm"): 296e6,  # Dhariwal & Nichol 2021, table 4
    ("imagenet64", "edm2"): 280e6,  # Karras et al. 2024: EDM2-S
    ("imagenet64", "dit"): 130e6,  # Peebles & Xie 2023, table 1: DiT-B
}
"""Parameters of the networks that these configurations are named after."""
OWN: dict[str, str] = {}
"""Where the fixture below put somebody's pictures and arrays, by the variants of configs/own.py."""


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path_factory):
    """The data of every configuration: digits built below a temporary directory, somebody's own there too, TFDS's mock for the rest."""
    home = tmp_path_factory.getbasetemp() / "config_data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    if not OWN:
        OWN.update(own_data(tmp_path_factory.mktemp("own")))
    with contextlib.ExitStack() as stack:

        def mock():
            stack.enter_context(tfds.testing.mock_data(num_examples=8))

        yield mock


def own_data(home):
    """Twenty pictures in two folders, and as many arrays of 8 x 8 with labels."""
    rng = np.random.default_rng(0)
    for k in range(20):
        (home / "pictures" / f"kind{k % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(home / "pictures" / f"kind{k % 2}" / f"{k}.png")
    np.savez(home / "arrays.npz", x=rng.integers(0, 256, (20, 8, 8), np.uint8), label=np.arange(20) % 2)
    return {"folder": str(home / "pictures"), "npz": str(home / "arrays.npz")}


def written(name, variant):
    """The plain configuration as its file has it, and with the path of the data where that must be given."""
    config = plain(MODULES[name].get_config(variant))
    if name == "own":
        assert config["data"]["path"] == ""
        config["data"]["path"] = OWN.get(variant, "")
    return config


def plan_of(config, workdir):
    """What ``experiments.train`` makes of it before anything is compiled."""
    plan = prepare(config, workdir)
    check_sampling(plan.parts)
    return plan


@pytest.mark.parametrize(("name", "variant"), CONFIGS)
def test_is_built_as_it_is_written(name, variant, data, tmp_path):
    if name in MOCKED:
        data()
    config = written(name, variant)
    parts = plan_of(config, tmp_path / "new").parts
    params, _ = jax.eval_shape(parts.init, jax.random.key(0))
    count = count_parameters(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert count == pytest.approx(PUBLISHED.get((name, variant), count), rel=0.12)
    assert parts.batch_size == config["data"]["batch_size"] and not (tmp_path / "new").exists()
    assert config["training"]["deterministic"] is True  # on a GPU too a run that is resumed has the bits of one that never stopped


SMALL = {
    "MLP": {"width": 8, "depth": 1},
    "DiT": {"width": 16, "depth": 1, "heads": 2},
    "UNet": {"width": 8, "multipliers": [1], "blocks": 1, "attention_at": [], "heads": 2},
    "EDM2": {"width": 8, "multipliers": [1], "blocks": 1, "attention_at": [], "head_width": 4},
}
"""What is compiled costs, not what is computed: one block of each kind (the middle of a U-Net always has attention)."""


def small(config):
    """The same configuration with a small network, a small batch and, for a U-Net, small images."""
    config = copy.deepcopy(config)
    network = config["network"]
    network.update(SMALL[network["target"]])
    if network.get("head_width"):
        network["head_width"] = 4
    if network["target"] in ("UNet", "EDM2") and config["data"]["target"] == "TFDS":
        config["data"]["size"] = 16
    config["data"]["batch_size"] = 4
    config["training"]["eval_examples"] = 4
    return config


def first_of_their_kind():
    """CONFIGS; slow tests where an earlier one has the same kinds of network and objective."""
    seen = set()
    for name, variant in CONFIGS:
        config = written(name, variant)
        kind = config["network"]["target"], config["objective"]["target"]
        yield pytest.param(name, variant, marks=pytest.mark.slow if kind in seen else ())
        seen.add(kind)


@pytest.mark.parametrize(("name", "variant"), list(first_of_their_kind()))
def test_takes_a_step_at_small_shapes(name, variant, data, tmp_path):
    """One update of random parameters on a batch that the feed placed: every parameter of the network has a finite gradient."""
    if name in MOCKED:
        data()
    plan = plan_of(small(written(name, variant)), tmp_path / "new")
    parts, layout = plan.parts, layout_of(4, 1, devices=1)
    key = jax.random.key(0, impl="unsafe_rbg")  # compiles sooner than threefry
    with Feed(train_stream(parts, plan.source, layout, 0), layout, [1], 0, parts.coupling, key, 1) as feed:
        batch = jax.tree.map(lambda x: x[0, 0], next(iter(feed))[0])
    assert ("noise" in batch) == (parts.coupling is not None) and ("cond" in batch) == bool(parts.spec.num_classes)

    state = random_state(parts, key)
    after, metrics = quickly(jax.jit(make_step(parts)).lower(state, batch))(state, batch)
    assert int(after.step) == 1 and len(after.ema) == len(parts.options.ema) + len(parts.options.profiles) > 0
    assert all(np.isfinite(value).all() for value in metrics.values()), metrics
    assert ("vlb" in metrics) == (variant == "iddpm") and metrics["grad_norm"] > 0
    still = [jax.tree_util.keystr(k) for k, moment in first_moments(after.opt_state) if not np.asarray(moment).any()]
    assert not still


def quickly(lowered):
    """The compiled program, made in the least time: it runs once.  Not every jaxlib has the second option, which halves that time."""
    options = {"xla_backend_optimization_level": 0}
    try:
        return lowered.compile(compiler_options=options | {"xla_cpu_use_fusion_emitters": False})
    except jax.errors.JaxRuntimeError:
        return lowered.compile(compiler_options=options)


def random_state(parts, key):
    """A state whose parameters are all random (a fresh network's last layer is 0, which leaves the gradients of the others 0)."""
    rng = np.random.default_rng(0)
    state = abstract_state(parts)
    params = jax.tree.map(lambda p: (0.1 * rng.standard_normal(p.shape)).astype(p.dtype), state.params)
    zeros = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), (state.step, state.opt_state, state.objective))
    ema = tuple(params for _ in state.ema)
    return dataclasses.replace(state, step=zeros[0], key=key, params=params, ema=ema, opt_state=zeros[1], objective=zeros[2])


def first_moments(opt_state):
    """Adam's averages of the gradients of the network, by name: 0 only where a gradient was exactly 0."""
    leaves = jax.tree_util.tree_flatten_with_path(opt_state)[0]
    return [(path, leaf) for path, leaf in leaves if any(getattr(k, "name", None) == "mu" for k in path)]


@pytest.mark.parametrize(("variant", "what"), [("folder", "the folder of your pictures"), ("npz", "the .npz with your arrays")])
def test_ones_own_data_must_be_said_where(variant, what, tmp_path):
    """Without a path one line says how to give it; with labels the network takes them when it is told how many, and batches have them."""
    config = plain(MODULES["own"].get_config(variant))
    with pytest.raises(ConfigError, match=f"^config.data.path: '' is refused; allowed: {what}: --config.data.path=") as caught:
        prepare(config, tmp_path / "new")
    assert "\n" not in str(caught.value)
    config = small(written("own", variant))
    config["network"]["num_classes"], config["objective"]["label_dropout"] = 2, 0.1
    plan = plan_of(config, tmp_path / "new")
    layout = layout_of(4, 1, devices=1)
    with Feed(train_stream(plan.parts, plan.source, layout, 0), layout, [1], 0, None, jax.random.key(0), 1) as feed:
        batch = jax.tree.map(lambda x: np.asarray(x[0, 0, 0]), next(iter(feed))[0])
    assert batch["x0"].shape == (4, *plan.parts.spec.shape) and -1 <= batch["x0"].min() < -0.8 and 0.8 < batch["x0"].max() <= 1
    assert set(batch["cond"]["label"]) <= {0, 1} and plan.parts.spec.num_classes == 2


def keys_of(tree, prefix=()):
    """The path of every key below a section: ("path",), ("path", "target"), ..."""
    for name, value in tree.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from keys_of(value, (*prefix, name))


def distinct_keys():
    """One configuration for each (path of a key, what the section around it builds)."""
    found = {}
    for name, variant in CONFIGS:
        config = written(name, variant)
        for path in keys_of(config):
            around = config
            for part in path[:-1]:
                around = around[part]
            found.setdefault((path, str(around.get("target"))), (name, variant))
    return found


def test_a_misspelt_key_is_refused_in_every_section(data, tmp_path, monkeypatch):
    """Whoever builds a section refuses what it does not read, so that no key of a configuration is one that nobody reads."""
    monkeypatch.setattr(GaussianPath, "check", lambda path: None)  # a third of a second a path, and not what is asked here
    mocked = False
    for (path, _), (name, variant) in distinct_keys().items():
        if name in MOCKED and not mocked:
            data()
            mocked = True
        config = small(written(name, variant))
        around = config
        for part in path[:-1]:
            around = around[part]
        around[f"{path[-1]}_"] = copy.deepcopy(around[path[-1]])
        with pytest.raises(ConfigError) as caught:
            (plan_of if path[0] == "sampling" else prepare)(config, tmp_path / "new")
        said = str(caught.value)
        assert f"{'.'.join(path)}_: " in said and "; allowed: " in said and "\n" not in said, (name, variant, said)


@pytest.mark.parametrize("options", [TrainingOptions, DenoiserOptions, SamplingOptions])
def test_every_option_is_read_by_somebody(options):
    files = [p for folder in ("score_lab", "experiments") for p in sorted((ROOT / folder).rglob("*.py")) if p.name != "options.py"]
    source = "\n".join(p.read_text() for p in files)
    read = r"(options|denoiser)\w*(\(\w+\))?\.{0}\b|\"{0}\""
    assert not [field.name for field in dataclasses.fields(options) if not re.search(read.replace("{0}", field.name), source)]
