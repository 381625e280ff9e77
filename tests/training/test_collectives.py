"""What devices tell each other in a step, of the compiled program, each by what it is for; and what a device holds meanwhile."""

import math
import re
from collections import Counter

import jax
import numpy as np
import pytest

from score_lab.cost.collectives import collectives, purposes
from score_lab.data import DataSpec
from score_lab.training.mesh import Meshed
from score_lab.training.options import ParallelOptions
from score_lab.training.parallel import layout_of
from score_lab.training.parts import build_parts
from score_lab.training.state import abstract_state

MLP = {"target": "MLP", "width": 32, "depth": 2, "num_classes": 2}, (2,)
DIT = {"target": "DiT", "patch": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 2}, (4, 4, 1)
FORWARD, BACKWARD = ("all-gather", ()), ("all-gather", ("rematted_computation",))
SCATTER, SUM = ("reduce-scatter", ()), "all-reduce"
SCOPES = ("gradient", "metrics", "optimizer", "update_norm", "rematted_computation")


def compiled(config, network, parallel, batch=16, **changes):
    """``(parts, layout, compiled dispatch of one step)``; nothing is allocated.

    A CPU's XLA drops the barriers that keep a second gather from being found equal to the first: that pass is left out, as elsewhere.
    """
    fields, shape = network
    parts = build_parts(config(network=fields, training__accumulate=1, **changes), DataSpec(shape, 2, "none"), 0.7)
    layout = layout_of(batch)
    layout = layout if parallel is None else Meshed.of(layout, ParallelOptions(min_size=16, **parallel))
    index = np.arange(batch, dtype=np.int32)
    row = {"x0": np.zeros((batch, *shape), np.float32), "index": index, "cond": {"label": index % 2}}
    lowered = layout.dispatch(parts).lower(layout.like(abstract_state(parts)), layout.place([row]))
    return parts, layout, lowered.compile(compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"})


def shapes(tree):
    return Counter(tuple(x.shape) for x in jax.tree.leaves(tree))


FORMS = {
    "MLP pmap": (MLP, None), "MLP data": (MLP, {"fsdp": 1}), "MLP fsdp": (MLP, {"fsdp": 4}), "MLP both": (MLP, {"fsdp": 2}),
    "DiT pmap": (DIT, None), "DiT data": (DIT, {"fsdp": 1}), "DiT fsdp": (DIT, {"fsdp": 4}), "DiT both": (DIT, {"fsdp": 2}),
}  # fmt: skip
QUICK = ("MLP pmap", "MLP data", "MLP fsdp", "DiT both")


@pytest.mark.parametrize("form", [form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS])
def test_every_collective_of_a_step_has_its_purpose(config, form):
    """The gradient and the metrics: one sum.  Shared out: an array is gathered once for the forward pass, one of a block that its backward
    pass needs once more for that, its gradient is scattered in sums; over data one sum of all shares; one of the squares that clipping and
    the gradient's norm take, one of the update's norm.  No other."""
    network, parallel = FORMS[form]
    parts, layout, program = compiled(config, network, parallel)
    found = collectives(program.as_text())
    grads = abstract_state(parts).params
    if parallel in (None, {"fsdp": 1}):
        assert purposes(found, SCOPES) == {(SUM, ("gradient", "metrics")): 1}
        assert not shapes(grads) - Counter(shape for _, shape in found[0].results)  # every leaf of it, in one
        assert sum(math.prod(shape) for _, shape in found[0].results) < sum(x.size for x in jax.tree.leaves(grads)) + 40
        return
    places = layout.shardings(grads)
    shared = [(x, place) for x, place in zip(jax.tree.leaves(grads), jax.tree.leaves(places), strict=True) if any(place.spec)]
    kernels = sum(x.ndim == 2 for x in jax.tree.leaves(grads["network"]["blocks"]))
    by = purposes(found, SCOPES)
    sums = {one: n for one, n in by.items() if one[0] == SUM}
    assert {one: n for one, n in by.items() if one[0] != SUM} == {FORWARD: len(shared), BACKWARD: kernels, SCATTER: len(shared)}
    in_one = ("gradient", "metrics")
    if parallel == {"fsdp": 4}:  # nothing lies between the sums of the rest and those of the squares: XLA joins them
        assert set(sums.values()) == {1} and len(sums) == 2 and all({"optimizer", "update_norm"} & set(scopes) for _, scopes in sums)
        assert set.union(*(set(scopes) for _, scopes in sums)) == {*in_one, "optimizer", "update_norm"}
    else:
        assert sums == {(SUM, ("gradient",)): 1, (SUM, in_one): 1, (SUM, ("optimizer",)): 1, (SUM, ("update_norm",)): 1}
        over_data = next(one for one in found if one.kind == SUM and "metrics" not in one.scope and "gradient" in one.scope)
        assert Counter(shape for _, shape in over_data.results) == Counter(place.shard_shape(x.shape) for x, place in shared)
    assert Counter(one.results[0][1] for one in found if one.kind == "reduce-scatter") == Counter(p.shard_shape(x.shape) for x, p in shared)


def test_norms_that_nobody_asks_for_are_no_collective(config):
    """Without clipping and ``update_norm`` the gradient's norm alone is left of them."""
    changes = {"optimizer": {"name": "sgd", "learning_rate": 1e-2}, "training__update_norm": False}
    found = collectives(compiled(config, MLP, {"fsdp": 4}, **changes)[2].as_text())
    sums = purposes([one for one in found if one.kind == SUM], ("gradient", "metrics", "grad_norm", "optimizer", "update_norm"))
    assert sums == {(SUM, ("gradient", "metrics", "grad_norm")): 1}


DEEP = {"target": "DiT", "patch": 2, "width": 64, "depth": 4, "heads": 1, "mlp_ratio": 16.0, "num_classes": 2}, (2, 2, 1)


@pytest.mark.slow
def test_temporaries_fall_with_fsdp(config):
    """Where each device holds all, a step keeps the gradient besides; where four share them, a quarter of it and the arrays at work."""
    held = {}
    changes = {"optimizer": {"name": "sgd", "learning_rate": 1e-2}, "training__ema": (), "training__update_norm": False}
    for fsdp in (1, 4):
        parts, _, program = compiled(config, DEEP, {"fsdp": fsdp}, batch=4, **changes)
        held[fsdp] = program.memory_analysis()
    size = sum(4 * x.size for x in jax.tree.leaves(abstract_state(parts).params))
    assert held[4].argument_size_in_bytes < 0.27 * held[1].argument_size_in_bytes
    assert held[1].temp_size_in_bytes > size
    assert held[4].temp_size_in_bytes < 0.75 * size, [m.temp_size_in_bytes / size for m in held.values()]


def test_what_is_gathered_has_the_networks_dtype_and_gradients_are_summed_in_float32(config):
    """Half the bytes on the way out; the sums of the way back are those of a run without shares."""
    fields, shape = MLP
    parts = build_parts(config(network={**fields, "dtype": "bfloat16"}), DataSpec(shape, 2, "none"), 0.7)
    layout = Meshed.of(layout_of(16), ParallelOptions(fsdp=4, min_size=16))
    row = {"x0": np.zeros((16, 2), np.float32), "index": np.arange(16, dtype=np.int32), "cond": {"label": np.zeros(16, np.int32)}}
    text = layout.dispatch(parts).lower(layout.like(abstract_state(parts)), layout.place([row])).as_text()
    gathers = [line for line in text.splitlines() if "stablehlo.all_gather" in line]
    assert len(gathers) > 10 and all(line.rstrip().endswith("xbf16>") for line in gathers)
    scattered = re.findall(r'"stablehlo.reduce_scatter".*?-> tensor<\S*x(\w+)>\n', text, re.DOTALL)
    assert len(scattered) > 10 and set(scattered) == {"f32"}
