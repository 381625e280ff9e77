"""Forced weight normalisation: magnitude 1 after every update whatever makes it, and nothing else is touched."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import ScheduleFreeState

from score_lab.networks import EDM2
from score_lab.training import train
from score_lab.training.magnitude import held_at_magnitude_1
from score_lab.training.names import matches, named
from score_lab.training.optimizer import make_optimizer
from score_lab.training.schedule_free import evaluated

RNG = np.random.default_rng(0)
PARAMS = {
    "network": {
        "a": {"kernel": jnp.asarray(RNG.normal(size=(3, 3, 4, 5)), jnp.float32), "bias": jnp.ones(5)},
        "b": {"kernel": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32), "gain": jnp.zeros(())},
    }
}
PATTERNS = ["network.*.kernel"]


def magnitudes(leaf):
    leaf = np.asarray(leaf, np.float64)
    return np.sqrt(np.mean(leaf**2, axis=tuple(range(leaf.ndim - 1))))


def grads_at(k):
    rng = np.random.default_rng(k)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)


def run(optimizer, steps=20, params=PARAMS):
    """``(params, state)`` after every one of ``steps`` updates by gradients that know nothing of the parameters."""
    state, seen = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for k in range(steps):
        updates, state = update(grads_at(k), state, params)
        params = optax.apply_updates(params, updates)
        seen.append((params, state))
    return seen


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "adam"}, {"name": "adamw", "weight_decay": 0.3, "clip": 0.5}, {"name": "muon"}, {"name": "schedule_free_adamw"},
        {"name": "adam", "groups": [{"pattern": "network.a.*", "learning_rate": 1e-3}]},
    ],
    ids=lambda s: "-".join(map(str, s)) + s["name"],
)  # fmt: skip
def test_magnitude_is_1_after_each_of_20_steps_whatever_makes_them(settings):
    optimizer, _ = make_optimizer({"learning_rate": 0.1} | settings, 20, PATTERNS)
    for params, _ in run(optimizer):
        for name in "ab":
            np.testing.assert_allclose(magnitudes(params["network"][name]["kernel"]), 1.0, rtol=1e-6)


def test_one_step_is_the_update_and_then_the_division():
    """Plain descent by hand; other leaves have the bits of the optimizer alone, and so has its state."""
    alone, _ = make_optimizer({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, 20)
    held, _ = make_optimizer({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, 20, PATTERNS)
    (after, state), (free, free_state) = (run(optimizer, 1)[0] for optimizer in (held, alone))
    kernel, gradient = (np.asarray(tree["network"]["a"]["kernel"], np.float64) for tree in (PARAMS, grads_at(0)))
    expected = kernel - 0.1 * gradient
    np.testing.assert_allclose(after["network"]["a"]["kernel"], expected / magnitudes(expected), rtol=2e-6, atol=1e-7)
    for one, two in ((after["network"]["a"]["bias"], free["network"]["a"]["bias"]), (state, free_state)):
        jax.tree.map(np.testing.assert_array_equal, one, two)
    assert np.max(np.abs(magnitudes(free["network"]["a"]["kernel"]) - 1)) > 0.01


def test_frozen_leaves_keep_their_bits_and_their_magnitude():
    optimizer, _ = make_optimizer({"name": "adamw", "learning_rate": 0.1, "freeze": ["network.b.*"]}, 20, PATTERNS)
    params, _ = run(optimizer)[-1]
    np.testing.assert_array_equal(params["network"]["b"]["kernel"], PARAMS["network"]["b"]["kernel"])
    np.testing.assert_allclose(magnitudes(params["network"]["a"]["kernel"]), 1.0, rtol=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_what_a_schedule_free_optimizer_evaluates_turns_with_what_it_trains(grouped):
    """x of every output is what x would have been times the same factor as y: neither its direction nor its share of y changes."""
    groups = {"groups": [{"pattern": "network.a.*", "learning_rate": 0.03}]} if grouped else {}
    config = {"name": "schedule_free_adamw", "learning_rate": 0.1} | groups
    alone, held = make_optimizer(config, 20)[0], make_optimizer(config, 20, PATTERNS)[0]
    params, state = run(held, 5)[-1]
    assert any(isinstance(s, ScheduleFreeState) for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, ScheduleFreeState)))
    free, free_state = alone.update(grads_at(9), state, params)
    kept, kept_state = held.update(grads_at(9), state, params)
    y, turned = optax.apply_updates(params, free), optax.apply_updates(params, kept)
    x, turned_x = evaluated(free_state, y), evaluated(kept_state, turned)
    for name in "ab":
        factor = 1 / magnitudes(y["network"][name]["kernel"])
        expected = np.asarray(x["network"][name]["kernel"]) * factor
        np.testing.assert_allclose(turned_x["network"][name]["kernel"], expected, rtol=1e-4, atol=1e-5)
        assert np.max(np.abs(factor - 1)) > 3e-4


def test_without_patterns_it_is_the_optimizer_itself():
    optimizer = optax.adam(0.1)
    assert held_at_magnitude_1(optimizer, (), ()) is optimizer


# ---- runs ---------------------------------------------------------------------------------------------------------------------------

TURNING = {"target": "training.turning:Turning", "width": 8, "depth": 1, "dropout": 0.2, "num_classes": 2}


def turning(config, **changes):
    """A run whose first average is the parameters themselves."""
    quick = {"training__eval_every": 0, "training__ema": (0.0, 0.9), "training__ema_warmup": False}
    parts = {"network": TURNING, "optimizer": {"name": "adam", "learning_rate": 3e-2, "schedule": "constant"}}
    return config(**(parts | quick | changes))


def numbers(state):
    """Every leaf as NumPy, keys as their words."""
    words = jax.tree.map(lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)
    return jax.tree.map(np.asarray, words)


def watching(seen):
    """A callback that keeps the greatest distance of a magnitude from 1."""

    def look(denoiser, step):
        kernels = [leaf for name, leaf in named(denoiser.params).items() if matches(denoiser.network.unit_magnitude, name)]
        seen.append((step, len(kernels), max(float(np.max(np.abs(magnitudes(k) - 1))) for k in kernels)))
        return {}

    return [(1, look)]


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """``(what the callback saw, the state)`` of 20 steps on four devices, two microbatches each."""
    seen = []
    made = train(turning(config), tmp_path_factory.mktemp("straight"), watching(seen))
    return seen, made


def test_magnitude_is_1_after_each_of_20_steps_of_a_run(straight):
    """Dropout, two microbatches, four devices; the average of decay 0.9 is not held, and is shorter."""
    seen, made = straight
    assert [step for step, *_ in seen] == list(range(1, 21)) and seen[0][1] == 7
    assert max(worst for *_, worst in seen) < 1e-6
    assert np.max(magnitudes(made.state.ema[1]["network"]["blocks"]["0"]["first"]["kernel"])) < 0.999


@pytest.mark.parametrize("parallel", [{"fsdp": 4, "min_size": 8}, pytest.param({"fsdp": 2, "min_size": 8}, marks=pytest.mark.slow)])
def test_shared_out_it_is_pmap(config, straight, tmp_path, parallel):
    """To the order of sums, of which the magnitude of an output whose fan-in is shared out is another."""
    made = train(turning(config, parallel=parallel), tmp_path / "run")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-4, atol=5e-6), numbers(made.state), numbers(straight[1].state))


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_same_bits(config, straight, tmp_path):
    train(turning(config, training__steps=10), tmp_path / "run")
    made = train(turning(config), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, numbers(made.state), numbers(straight[1].state))


@pytest.mark.slow
def test_an_update_that_is_left_out_moves_nothing(config, tmp_path):
    """With a NaN among the data: magnitude 1 after every step, those that were skipped too, and some were."""
    data = {"target": "training.poisoned:Poisoned", "num_train": 100, "num_test": 40, "batch_size": 16, "record": 37}
    seen = []
    made = train(
        turning(config, data=data, denoiser={"sigma_data": 0.7}, training__nonfinite="skip", training__log_every=20),
        tmp_path / "run", watching(seen),
    )  # fmt: skip
    assert made.metrics["skipped"] > 0 and len(seen) == 20 and max(worst for *_, worst in seen) < 1e-6


# ---- EDM2 itself --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixty labelled noisy ramps of 4 x 4."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    ramp = np.linspace(40, 200, 4)[None, :, None] * np.where(label, 1.0, -1.0)[:, None, None] + np.where(label, 0, 240)[:, None, None]
    file = tmp_path_factory.mktemp("pictures") / "ramps.npz"
    np.savez(file, x=np.clip(ramp + rng.normal(0, 20, (60, 4, 4)), 0, 255).astype(np.uint8), label=label)
    return {"target": "NPZ", "path": str(file), "batch_size": 16}


def edm2(config, pictures, **changes):
    network = EDM2(width=8, multipliers=(1,), blocks=1, attention_at=(), head_width=8, num_classes=2, dropout=0.1)
    plain = {k: v for k, v in dataclasses.asdict(network).items() if k not in ("two_time", "augment_dim")}
    objective = {"target": "Regression", "time_law": {"target": "UniformTime"}, "label_dropout": 0.1}
    return turning(
        config, network={"target": "EDM2", **plain}, data=pictures, objective={"target": "LearnedWeighting", "objective": objective},
        **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_edm2_is_held_shared_out_and_resumed(config, pictures, tmp_path):
    """20 steps on four devices; on a mesh of four; stopped at 10."""
    seen = []
    plain = train(edm2(config, pictures), tmp_path / "plain", watching(seen))
    assert len(seen) == 20 and seen[0][1] > 20 and max(worst for *_, worst in seen) < 1e-6
    shared = train(edm2(config, pictures, parallel={"fsdp": 4, "min_size": 8}), tmp_path / "shared")
    pairs = numbers(shared.state.params), numbers(plain.state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), *pairs)
    train(edm2(config, pictures, training__steps=10), tmp_path / "again")
    again = train(edm2(config, pictures), tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, numbers(again.state), numbers(plain.state))
