"""The update: it is the gradient of the mean over the global batch, whatever the microbatches and devices; averages in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.objectives import Context
from score_lab.training.mesh import Meshed
from score_lab.training.options import ParallelOptions
from score_lab.training.parallel import layout_of
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state
from score_lab.training.step import averages, gradient_of, make_step
from score_lab.types import pytree_dataclass

SPEC = DataSpec((2,), 2, "none")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=16).astype(np.int32)
    return {"x0": rng.normal(size=(16, 2)).astype(np.float32), "cond": {"label": labels}, "index": np.arange(16, dtype=np.int32)}


def micro(batch, count):
    """Leaves (count, 16 / count, ...)."""
    return jax.tree.map(lambda x: jnp.asarray(x).reshape((count, 16 // count) + x.shape[1:]), batch)


def nonzero(state):
    """The state with parameters that are nowhere 0, so that no gradient is 0 by chance (the last layer of a network starts at 0)."""
    params = jax.tree.map(lambda p: p + 0.1 * np.sin(np.arange(p.size, dtype=p.dtype)).reshape(p.shape), state.params)
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in state.ema)
    return dataclasses.replace(state, step=state.step + 4, params=params, ema=ema)


def double(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), **tolerance), a, b)


def sgd(config, **changes):
    """Plain descent at rate 1: an update is minus the gradient."""
    return config(optimizer={"name": "sgd", "learning_rate": 1.0}, **changes)


def test_an_update_is_the_gradient_of_the_mean_over_the_batch(config, batch, x64):
    """Against the objective called by hand on the whole batch, for 4 microbatches, in float64: dropout and dropped labels are the same."""
    parts = build_parts(sgd(config), SPEC, 0.7)
    state = double(nonzero(init_state(parts, 0)))
    data = double(jax.tree.map(jnp.asarray, batch))

    def mean_loss(params):
        ctx = Context(parts.denoiser(params), path=parts.path, step=state.step, key=jax.random.fold_in(state.key, 4), batch_size=16)
        return jnp.mean(parts.objective.loss(ctx, {}, {}, data)[0])

    value, grads = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    after, metrics = jax.jit(make_step(parts))(state, micro(data, 4))
    close(jax.tree.map(jnp.subtract, state.params, after.params), grads, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))), rtol=1e-9)
    assert int(after.step) == 5


@pytest.mark.slow
def test_one_device_is_four(config, batch):
    """Two steps in a dispatch, the whole batch on one device or two microbatches on each of four, Adam and clipping, to float32
    rounding.
    """
    parts = build_parts(config(), SPEC, 0.7)
    ends = []
    for devices, accumulate in ((1, 1), (4, 2)):
        layout = layout_of(16, accumulate, devices)
        state = jax.device_put(nonzero(init_state(parts, 0)), layout.replicated)
        state, metrics = layout.dispatch(parts)(state, layout.place([batch, batch]))
        assert len(state.params["network"]["inward"]["bias"].devices()) == devices
        ends.append(jax.device_get((state.params, state.ema, metrics)))
    close(*ends, rtol=2e-4, atol=2e-6)


def test_averages_in_closed_form():
    """``ema_n = (prod d_k) p_0 + sum_k (prod_{j > k} d_j)(1 - d_k) p_k`` in numpy, with and without warm-up."""
    trajectory = np.random.default_rng(1).normal(size=(40, 3))
    for warmup in (True, False):
        ema = tuple({"p": jnp.zeros(3)} for _ in range(2))
        for k, p in enumerate(trajectory):
            ema = averages(ema, {"p": jnp.asarray(p, jnp.float32)}, jnp.asarray(k), (0.5, 0.95), warmup)
        for average, decay in zip(ema, (0.5, 0.95), strict=True):
            d = np.array([min(decay, (1 + k) / (10 + k)) if warmup else decay for k in range(40)])
            weights = (1 - d) * np.append(np.cumprod(d[::-1])[::-1][1:], 1.0)
            np.testing.assert_allclose(average["p"], weights @ trajectory, rtol=2e-5)


@pytree_dataclass
class Counting:
    """An objective with everything of its own: a trained parameter, a state of a mean and a counter, metrics per example and scalar."""

    def init(self, key, spec):
        return {"scale": jnp.ones(())}, {"mean": jnp.zeros(()), "calls": jnp.zeros((), jnp.int32)}

    def loss(self, ctx, params, state, batch):
        t = jnp.full(batch["index"].shape, 0.5)
        loss = params["scale"] * batch["x0"][:, 0] + 0.0 * jnp.sum(ctx.denoiser(batch["x0"], t, None).x0)
        state = {"mean": 0.5 * state["mean"] + 0.5 * jnp.mean(loss), "calls": state["calls"] + 1}
        return loss, {"first": batch["x0"][:, 0], "half": jnp.asarray(0.5)}, state


@pytree_dataclass
class Summed(Counting):
    """Wrong: one number for the batch."""

    def loss(self, ctx, params, state, batch):
        loss, metrics, state = super().loss(ctx, params, state, batch)
        return jnp.sum(loss), metrics, state


@pytest.mark.parametrize("parallel", [None, {"fsdp": 2, "min_size": 8}], ids=["pmap", "mesh"])
def test_what_an_objective_brings_is_trained_carried_and_reported(config, batch, parallel):
    """On four devices and two microbatches: its gradient, its state and its metrics are those of the whole batch."""
    parts = dataclasses.replace(build_parts(sgd(config), SPEC, 0.7), objective=Counting())
    layout = layout_of(16, 2) if parallel is None else Meshed.of(layout_of(16, 2), ParallelOptions(**parallel))
    state, metrics = layout.dispatch(parts)(layout.fresh(parts, 0), layout.place([batch]))
    mean = float(np.mean(batch["x0"][:, 0]))
    np.testing.assert_allclose(state.params["objective"]["scale"], 1.0 - mean, rtol=1e-5)
    np.testing.assert_allclose(state.objective["mean"], 0.5 * mean, rtol=1e-5)
    assert int(state.objective["calls"]) == 1
    np.testing.assert_allclose([metrics["first"][0], metrics["half"][0], metrics["loss"][0]], [mean, 0.5, mean], rtol=1e-5)


def test_a_loss_that_is_not_per_example_is_refused(config, batch):
    """At tracing, by its shape."""
    parts = dataclasses.replace(build_parts(config(), SPEC, 0.7), objective=Summed())
    with pytest.raises(ConfigError, match=r"loss.*shape.*\(16,\): one number per example"):
        jax.eval_shape(make_step(parts), init_state(parts, 0), micro(batch, 1))


def test_bfloat16_computes_and_float32_remembers(config, batch):
    """Of an update with ``dtype="bfloat16"``, forward and backward: every product of matrices takes bfloat16; parameters, moments, averages
    and gradients are float32, with more digits than bfloat16 has."""
    parts = build_parts(config(network__dtype="bfloat16"), SPEC, 0.7)
    state = init_state(parts, 0)
    data, step = micro(batch, 2), make_step(parts)
    after, metrics = jax.jit(step)(state, data)
    for tree in (state.params, after.params, after.opt_state, after.ema):
        kinds = {x.dtype.name for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)}
        assert kinds == {"float32"}
    grads, _, _ = gradient_of(parts, False)(state, data, 1)
    assert {x.dtype.name for x in jax.tree.leaves(grads)} == {"float32"}
    products = [e for e in equations(jax.make_jaxpr(step)(state, data).jaxpr) if e.primitive.name == "dot_general"]
    kinds = [{v.aval.dtype.name for v in e.invars} for e in products]
    assert len(products) > 10 and all(kind == {"bfloat16"} for kind in kinds)
    assert any(bool(jnp.any(x.astype(jnp.bfloat16).astype(x.dtype) != x)) for x in jax.tree.leaves(after.params))
    assert jnp.isfinite(metrics["loss"])


def equations(jaxpr):
    """All of them, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
