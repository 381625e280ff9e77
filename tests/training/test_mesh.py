"""A mesh in place of ``jax.pmap``: the same updates, arrays shared out, restored onto any other layout, refused where it does not fit."""

import dataclasses
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.networks import EDM2, MLP
from score_lab.training import train
from score_lab.training.mesh import Meshed, shared_axis
from score_lab.training.names import named
from score_lab.training.options import ParallelOptions, plain
from score_lab.training.parallel import layout_of
from score_lab.training.parts import build_parts
from score_lab.training.prepare import here
from score_lab.training.replay import replay
from score_lab.training.state import abstract_state

SPEC = DataSpec((2,), 2, "none")
FSDP = {"fsdp": 4, "min_size": 8}
BOTH = {"fsdp": 2, "data": 2, "min_size": 8}


def numbers(state):
    """Every leaf of a state as NumPy, keys as their words."""
    words = jax.tree.map(lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)
    return jax.tree.map(np.asarray, words)


def same(a, b, rtol, atol):
    """Two states, leaf by leaf."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), numbers(a), numbers(b))


@pytest.mark.parametrize("parallel", [pytest.param({}, marks=pytest.mark.slow), FSDP, pytest.param(BOTH, marks=pytest.mark.slow)])
def test_the_updates_are_those_of_pmap(config, trained, tmp_path, parallel):
    """20 steps of two microbatches with dropout, clipping and two averages: the order of sums apart, the state of jax.pmap; and what is
    reported is, held-out loss too."""
    made = train(config(parallel=parallel), tmp_path / "run")
    same(made.state, trained[1].state, 2e-4, 2e-6)
    assert made.metrics.keys() == trained[1].metrics.keys()
    for name in ("loss", "grad_norm", "eval/loss"):
        assert made.metrics[name] == pytest.approx(trained[1].metrics[name], rel=1e-4), name
    x = jnp.ones((3, 2))
    a, b = (run.denoiser(x, jnp.asarray(0.5), {"label": jnp.zeros(3, jnp.int32)}).x0 for run in (made, trained[1]))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_module_of_ones_own_gets_its_parameters_whole(config, tmp_path):
    """It has inherited what says that its ``blocks`` take shares, and they do not: the updates are those of pmap all the same."""
    quick = {"network": {"target": "training.direct:Direct", "width": 8, "depth": 2}, "training__steps": 4, "training__eval_every": 0}
    quick |= {"objective__label_dropout": 0.0, "optimizer__warmup": 0}
    mesh, pmap = (train(config(**quick, parallel=parallel), tmp_path / name) for name, parallel in (("mesh", FSDP), ("pmap", None)))
    assert MLP().takes_shares and EDM2().takes_shares and not mesh.parts.network.takes_shares
    same(mesh.state, pmap.state, 2e-4, 2e-6)


@pytest.mark.slow
def test_one_device_of_a_mesh_is_one_device_of_pmap_to_the_bit(config, tmp_path):
    """Nothing is summed between devices there."""
    runs = [
        train(config(training__devices=1, training__steps=6, **more), tmp_path / name).state
        for name, more in (("pmap", {}), ("mesh", {"parallel": {"fsdp": 1}}))
    ]
    jax.tree.map(np.testing.assert_array_equal, *map(numbers, runs))


WAYS = {
    "FSDP to pmap": (FSDP, None, None), "pmap of four to FSDP of two": (None, {"fsdp": 2, "min_size": 8}, 2),
    "data to FSDP": ({}, FSDP, None), "both to FSDP": (BOTH, FSDP, None),
}  # fmt: skip


@pytest.mark.parametrize("way", [w if w == "FSDP to pmap" else pytest.param(w, marks=pytest.mark.slow) for w in WAYS])
def test_a_run_goes_on_in_any_other_layout(config, tmp_path, way):
    """10 steps in one, then to 20 in another: the state of the run that never changed, to the order of sums."""
    first, second, devices = WAYS[way]
    constant = {"optimizer__schedule": "constant"}
    by_pmap = train(config(**constant), tmp_path / "pmap").state
    train(config(training__steps=10, **constant, parallel=first), tmp_path / "run")
    made = train(config(**constant, parallel=second, training__devices=devices), tmp_path / "run")
    assert made.step == 20
    same(made.state, by_pmap, 2e-4, 2e-6)


def wide(config, **parallel):
    """The parts of a network whose large arrays four devices can share, and its layout on them."""
    parts = build_parts(config(network__width=64, network__depth=2), SPEC, 0.7)
    return parts, Meshed.of(layout_of(16, 2), ParallelOptions(**parallel))


def test_a_device_holds_its_share_of_parameters_optimizer_and_averages(config):
    """Bytes a device, of what is shared out: a quarter; the memory that the compiled step says its arguments take, too."""
    held, arguments = {}, {}
    for fsdp in (1, 4):
        parts, layout = wide(config, fsdp=fsdp, min_size=64)
        state = layout.fresh(parts, 0)
        large = [x for x in jax.tree.leaves(state) if x.size >= 64]
        assert len(large) > 10 and sum(x.nbytes for x in large) > 0.95 * sum(x.nbytes for x in jax.tree.leaves(numbers(state)))
        held[fsdp] = sum(x.addressable_shards[0].data.nbytes for x in large)
        row = {"x0": np.zeros((16, 2), np.float32), "index": np.arange(16, dtype=np.int32), "cond": {"label": np.zeros(16, np.int32)}}
        lowered = layout.dispatch(parts).lower(state, layout.place([row]))
        arguments[fsdp] = lowered.compile().memory_analysis().argument_size_in_bytes
    assert held[1] == 4 * held[4]
    assert arguments[4] < 0.3 * arguments[1]


def test_a_batch_lies_where_its_index_says(config):
    """Every row once, with its own index, all leaves alike; a microbatch is spread over all devices."""
    layout = Meshed.of(layout_of(16, 2), ParallelOptions(fsdp=2))
    batches = [{"x0": np.random.default_rng(k).normal(size=(16, 3)).astype(np.float32), "index": np.arange(16)} for k in range(2)]
    placed = layout.place(batches)
    assert placed["x0"].shape == (2, 2, 8, 3) and placed["x0"].addressable_shards[0].data.shape == (2, 2, 2, 3)
    for k in range(2):
        index = np.asarray(placed["index"])[k].ravel()
        assert sorted(index) == list(range(16))
        np.testing.assert_array_equal(np.asarray(placed["x0"])[k].reshape(16, 3), batches[k]["x0"][index])
    for made in (layout, layout_of(16, 2)):
        np.testing.assert_array_equal(made.rows(made.place(batches))["x0"], batches[0]["x0"])


def test_a_mesh_may_have_its_devices_in_another_order(config):
    """As ``jax.make_mesh`` gives them on a TPU: rows lie where their index says, and a batch is read back as it was."""
    plain = Meshed.of(layout_of(16, 2), ParallelOptions(fsdp=2))
    order = np.array(jax.devices())[[2, 0, 3, 1]].reshape(2, 2)
    layout = dataclasses.replace(plain, mesh=jax.sharding.Mesh(order, plain.mesh.axis_names, axis_types=plain.mesh.axis_types))
    batch = {"x0": np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32), "index": np.arange(16)}
    placed, expected = layout.place([batch]), plain.place([batch])
    jax.tree.map(np.testing.assert_array_equal, numbers(placed), numbers(expected))
    jax.tree.map(np.testing.assert_array_equal, layout.rows(placed), batch)
    assert [s.device.id for s in sorted(placed["index"].addressable_shards, key=lambda s: s.index[2].start)] == [2, 0, 3, 1]


@pytest.mark.parametrize(
    "name, shape, axis",
    [("a.kernel", (8, 16), 1), ("a.kernel", (16, 16), 0), ("a.kernel", (6, 9), None), ("a.bias", (4,), None), ("a.embedding", (8, 16), 0),
     ("b.embedding", (8, 16), None), ("opt_state.0.mu.b.embedding", (8, 16), None)],
)  # fmt: skip
def test_which_axis_is_shared_out(name, shape, axis):
    """The largest that four divides, unless a rule says otherwise; averages and optimizer go with the parameter."""
    options = ParallelOptions(fsdp=4, min_size=8, rules=(("b.embedding", None), ("*embedding", 0)))
    assert shared_axis(name, shape, options) == axis


@pytest.mark.parametrize(
    "parallel, message",
    [
        ({"fsdp": 3}, r"config.parallel.fsdp: 3.*a divisor of 4"),
        ({"fsdp": 2, "data": 4}, r"config.parallel.data: 4.*allowed: 2, or None: fsdp = 2 on 4 devices"),
        ({"fsdp": 0}, r"config.parallel.fsdp: 0.*at least 1"),
        ({"fdsp": 2}, r"config.parallel.fdsp.*fsdp"),
        ({"rules": [["a", "b"]]}, r"config.parallel.rules: \('a', 'b'\).*pairs"),
        ({"rules": [["nothing.here", 0]]}, r"config.parallel.rules: \('nothing.here', 0\).*some parameter matches"),
        ({"fsdp": 4, "rules": [["*bias", 1]]}, r"config.parallel.rules: \('\*bias', 1\).*of shape"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config, tmp_path, parallel, message):
    """By name, with nothing written."""
    with pytest.raises(ConfigError, match=message):
        train(config(parallel=parallel), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rule_that_the_optimizer_cannot_follow_is_refused_before_anything_is_made(config):
    """Adafactor keeps rows and columns of a matrix, which have one axis."""
    factored = {"name": "adafactor", "learning_rate": 1e-3, "min_dim_size_to_factor": 8}
    parts = build_parts(config(network__width=64, network__depth=2, optimizer=factored), SPEC, 0.7)
    layout = Meshed.of(layout_of(16, 2), ParallelOptions(fsdp=4, rules=(("*first.kernel", 1),)))
    with pytest.raises(ConfigError, match=r"config.parallel.rules: \('\*first.kernel', 1\).*opt_state.*of shape"):
        layout.check(parts)


def test_a_run_is_looked_at_on_other_devices(config, trained, tmp_path):
    """Of a mesh of more devices, or another number of them, than are here: replay makes the same update, and a line says what is left
    out; what fits stays."""
    fitting = plain(config(parallel=BOTH, training__devices=4))
    assert here(fitting) == (fitting, [])
    wrong = ({"parallel": {"fsdp": 3}}, "the mesh is left out, .*fsdp: 3 is refused"), ({"training__devices": 8}, "8, and 4 are here")
    for more, said in wrong:
        changed, (line,) = here(plain(config(**more)))
        assert re.search(said, line) and not changed["training"].get("devices") and not changed.get("parallel")
    shutil.copytree(trained[0], tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["config"]["parallel"] = {"fsdp": 3}
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    found = replay(tmp_path / "run", 12)
    assert found.start == 10 and found.loss == replay(trained[0], 12).loss


def test_names_are_those_of_checkpoints(config):
    """What a rule is matched with."""
    parts, layout = wide(config, fsdp=4)
    assert isinstance(layout, Meshed) and dataclasses.is_dataclass(layout)
    names = list(named(abstract_state(parts).params))
    assert all(name.startswith(("network.", "objective.")) for name in names) and len(set(names)) == len(names)
    assert math.prod(layout.mesh.devices.shape) == 4
