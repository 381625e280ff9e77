"""One run on one device, by ``jax.pmap``, on a mesh, with parameters shared out: 20 updates in float64 that differ by the order of sums."""

import dataclasses
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import network_guard
import numpy as np
import pytest
from training import processes

from score_lab.data import DataSpec
from score_lab.training.mesh import Meshed
from score_lab.training.options import ParallelOptions
from score_lab.training.parallel import layout_of
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state

STEPS, BATCH, SHAPE = 20, 16, (4, 4, 1)
NETWORKS = {
    "DiT": {"target": "DiT", "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 2, "dropout": 0.2},
    "UNet": {"target": "UNet", "width": 8, "multipliers": (1, 2), "blocks": 1, "attention_at": (2,), "num_classes": 2, "dropout": 0.2},
}
LAYOUTS = {"one": None, "pmap": None, "data": {"fsdp": 1}, "fsdp": {"fsdp": 4}, "both": {"fsdp": 2}}
SAME_ORDER = {("pmap", "data")}
"""Pairs that add up in the same order, so that every number of them is the same to the bit."""


def wide(tree):
    """``tree`` in float64 (keys and whole numbers as they are)."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def batch(step):
    draw = np.random.default_rng(step)
    index = np.arange(BATCH, dtype=np.int32)
    return {"x0": draw.normal(size=(BATCH, *SHAPE)), "index": index, "cond": {"label": draw.integers(0, 2, BATCH).astype(np.int32)}}


def beginning(parts, layout):
    """The state that all begin with, where ``layout`` has it.  Drawn already shared out, some numbers of it would differ by the rounding of
    one operation."""
    state = wide(init_state(parts, 0))
    if not isinstance(layout, Meshed):
        return layout.put(state)
    numbers = jax.tree.map(np.asarray, dataclasses.replace(state, key=jax.random.key_data(state.key)))
    keyed = jax.jit(lambda s: dataclasses.replace(s, key=jax.random.wrap_key_data(s.key)), out_shardings=layout.shardings(state))
    return keyed(numbers)


def run(parts, name, several):
    """Every number of the state and of the metrics of all steps, after 20 updates in the layout ``name``, ``several`` a dispatch."""
    layout = layout_of(BATCH, 2, 1 if name == "one" else None)
    if LAYOUTS[name] is not None:
        layout = Meshed.of(layout, ParallelOptions(min_size=16, **LAYOUTS[name]))
    state, dispatch, figures = beginning(parts, layout), layout.dispatch(parts), []
    rows = slice(layout.process * layout.local_size, (layout.process + 1) * layout.local_size)
    for first in range(0, STEPS, several):
        batches = [jax.tree.map(lambda x: x[rows], batch(k)) for k in range(first, first + several)]
        state, metrics = dispatch(state, layout.place(batches))
        figures.append(metrics)
    if isinstance(layout, Meshed):
        place = jax.tree.map(lambda _: layout.replicated, state)
        state = jax.jit(lambda s: s, out_shardings=place)(state)
    assert state.params["network"]["inward"]["kernel"].dtype == jnp.float64
    everything = jax.tree.leaves((state.params, state.opt_state, state.ema, figures))
    return [np.asarray(x.addressable_data(0)) for x in everything]


def worst(a, b):
    """The largest difference of two runs, relative to numbers of 1e-3 or more."""
    return max(float(np.max(np.abs(x - y) / (1e-3 + np.abs(y)))) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "network, names",
    [("DiT", ["one", "pmap", "data", "fsdp"]), pytest.param("UNet", list(LAYOUTS), marks=pytest.mark.slow)],
    ids=["DiT", "UNet"],
)
def test_all_layouts_make_the_same_run(x64, config, network, names):
    """Adam, clipping, two averages, dropout of units and labels, two microbatches; a UNet one step a dispatch, as on a CPU."""
    parts = build_parts(config(network=NETWORKS[network]), DataSpec(SHAPE, 2, "none"), 0.7)
    runs = {name: run(parts, name, 10 if network == "DiT" else 1) for name in names}
    same = set()
    for a, b in itertools.combinations(names, 2):
        assert worst(runs[a], runs[b]) < 1e-9, (a, b)
        if all(np.array_equal(x, y) for x, y in zip(runs[a], runs[b], strict=True)):
            same.add((a, b))
    assert same == SAME_ORDER


@pytest.mark.slow
def test_two_processes_of_two_devices_make_the_same_run(x64, config, tmp_path):
    """Gloo between them, by pmap, on a mesh and with parameters shared out across both: the run of four devices of one process."""
    program = [sys.executable, str(Path(__file__).with_name("same_program.py"))]
    with network_guard.held_port() as port, processes.started([[*program, str(port), str(k), str(tmp_path)] for k in range(2)]) as both:
        assert [process.wait(900) for process in both] == [0, 0]
    parts = build_parts(config(network=NETWORKS["DiT"]), DataSpec(SHAPE, 2, "none"), 0.7)
    one = run(parts, "pmap", 10)
    for name in ("pmap", "data", "fsdp", "both"):
        made = [[saved[key] for key in saved] for saved in (np.load(tmp_path / f"{name}-{k}.npz") for k in range(2))]
        assert worst(made[0], one) < 1e-9, name
        assert all(np.array_equal(x, y) for x, y in zip(*made, strict=True)), name
