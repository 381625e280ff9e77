"""Schedules against their closed forms in numpy, every optimizer of Optax by name, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.training import load, train
from score_lab.training.optimizer import MORE, learning_rate_schedule, make_optimizer, optimizer_names
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state
from score_lab.training.step import make_step

K = np.arange(101)
SPEC = DataSpec((2,), 2, "none")


@pytest.fixture
def batch():
    """One microbatch of 16 labelled points."""
    rng = np.random.default_rng(0)
    x0, label = rng.normal(size=(1, 16, 2)).astype(np.float32), rng.integers(2, size=(1, 16)).astype(np.int32)
    return {"x0": x0, "cond": {"label": label}, "index": np.arange(16, dtype=np.int32)[None]}


@pytest.mark.parametrize(
    "schedule, shape",
    [
        ("constant", np.ones(101)),
        ("linear", 1 - 0.9 * np.clip((K - 10) / 90, 0, 1)),
        ("cosine", 0.1 + 0.9 * np.cos(np.pi / 2 * np.clip((K - 10) / 90, 0, 1)) ** 2),
        ("inverse_sqrt", np.sqrt(10) / np.sqrt(np.maximum(K + 1, 10))),
    ],
)
def test_schedules(schedule, shape):
    """Ten steps of warm-up from a tenth of the rate, then the decay; the last step of linear and cosine leaves ``final``."""
    rate = learning_rate_schedule(2e-3, 100, schedule=schedule, warmup=10, final=0.1)
    expected = 2e-3 * np.minimum((K + 1) / 10, 1) * shape
    np.testing.assert_allclose(rate(jnp.asarray(K)), expected, rtol=2e-5)
    assert float(rate(0)) > 0


def test_inverse_sqrt_may_fall_later_than_the_warm_up_ends():
    """EDM2's (Karras et al. 2024, eq. 67): warm-up, a plateau, then rate / sqrt(k / decay_after)."""
    rate = learning_rate_schedule(2e-3, 100, schedule="inverse_sqrt", warmup=10, decay_after=40)
    expected = 2e-3 * np.minimum((K + 1) / 10, 1) / np.sqrt(np.maximum((K + 1) / 40, 1))
    np.testing.assert_allclose(rate(jnp.asarray(K)), expected, rtol=2e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "rmsprop", "lamb"])
def test_optimizers_by_name(name):
    """Each makes a finite step that lowers a quadratic, at the scheduled rate."""
    assert name in optimizer_names()
    optimizer, rate = make_optimizer({"name": name, "learning_rate": 1e-2, "schedule": "cosine", "warmup": 2}, 10)
    params = {"p": jnp.array([1.0, -2.0])}
    updates, _ = optimizer.update({"p": 2 * params["p"]}, optimizer.init(params), params)
    after = params["p"] + updates["p"]
    assert 0 < float(jnp.sum(params["p"] ** 2) - jnp.sum(after**2)) < 0.2
    assert float(rate(0)) == pytest.approx(5e-3)


def test_clipping_is_by_the_global_norm():
    """The update at rate 1 has the norm that was asked for, and the direction of the gradient; smaller gradients are left alone."""
    optimizer, _ = make_optimizer({"name": "sgd", "learning_rate": 1.0, "clip": 0.5}, 10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}
    for gradient, length in (((3.0, 4.0), 0.5), ((0.03, 0.04), 0.05)):
        tree = {"a": jnp.array([gradient[0]]), "b": jnp.array([[gradient[1]]])}
        updates, _ = optimizer.update(tree, optimizer.init(params), params)
        np.testing.assert_allclose([-float(updates["a"][0]), -float(updates["b"][0, 0])], [0.6 * length, 0.8 * length], rtol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "adm"}, r"config.optimizer.name: 'adm'.*did you mean 'adam'"),
        ({"name": None}, r"config.optimizer.name: None"),
        ({"name": "nowhere:Mine"}, r"config.optimizer.name: 'nowhere:Mine'.*cannot"),
        ({"learning_rate": 0}, r"config.optimizer.learning_rate: 0"),
        ({"learning_rate": "big"}, r"config.optimizer.learning_rate: 'big'"),
        ({"schedule": "cosin"}, r"config.optimizer.schedule: 'cosin'.*did you mean 'cosine'"),
        ({"warmup": 10}, r"config.optimizer.warmup: 10.*from 0 to config.training.steps - 1 = 9"),
        ({"decay_after": 5}, r"config.optimizer.decay_after: 5.*None: it is for the schedule inverse_sqrt"),
        ({"schedule": "inverse_sqrt", "warmup": 4, "decay_after": 3}, r"config.optimizer.decay_after: 3.*an int from 4 on"),
        ({"final": 2.0}, r"config.optimizer.final: 2.0"),
        ({"clip": -1.0}, r"config.optimizer.clip: -1.0"),
        ({"weight_decays": 0.1}, r"config.optimizer.weight_decays: 0.1.*did you mean 'weight_decay'"),
    ],
)
def test_refused(changes, message):
    """One line that names the field, the value and the nearest name."""
    with pytest.raises(ConfigError, match=message) as caught:
        make_optimizer({"name": "adamw", "learning_rate": 1e-3} | changes, 10)
    assert "\n" not in str(caught.value)


def test_every_name_makes_an_update_and_the_others_are_refused(monkeypatch):
    """All that optax and its contrib have with a learning rate: each moves both leaves in its second update, or it is refused by name."""
    params = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.3, -0.2])}
    assert {"muon", "prodigy", "ademamix", "dog", "schedule_free", "schedule_free_adamw", "schedule_free_sgd"} <= set(optimizer_names())
    assert not [name for name in optimizer_names() if name.startswith("scale_by_")]
    for name in optimizer_names():
        optimizer, _ = make_optimizer({"name": name, "learning_rate": 1e-2}, 10)
        state, after = optimizer.init(params), params
        for _ in range(2):
            updates, state = optimizer.update(params, state, after)
            after = optax.apply_updates(after, updates)
        for update in jax.tree.leaves(updates):
            assert np.isfinite(update).all() and np.any(update), name
    for name in MORE:
        with pytest.raises(ConfigError, match=f"config.optimizer.name: '{name}' is refused"):
            make_optimizer({"name": name, "learning_rate": 1e-2}, 10)
    monkeypatch.setattr("score_lab.training.optimizer.MORE", ())
    for name in MORE:
        with pytest.raises(ConfigError, match="refused its arguments"):  # it is in that list because it cannot be used
            make_optimizer({"name": name, "learning_rate": 1e-2}, 10)


def test_muon_is_for_matrices_and_adam_for_the_rest():
    """Optax's own split: a matrix moves along its orthogonal factor, whose singular values are about 1, the rest as Nesterov's Adam moves
    it, whose rate may be another, and warms up too."""
    params = {"kernel": jnp.diag(jnp.array([1.0, 5.0])), "bias": jnp.array([0.5, -2.0]), "convolution": jnp.ones((2, 2, 1, 1))}
    optimizer, _ = make_optimizer({"name": "muon", "learning_rate": 0.1, "adam_learning_rate": 0.02, "warmup": 2}, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    singular = np.linalg.svd(np.asarray(updates["kernel"]), compute_uv=False)
    assert (0.6 * 0.05 < singular).all() and (singular < 1.3 * 0.05).all()
    rest = {name: params[name] for name in ("bias", "convolution")}
    adam = optax.adam(0.01, nesterov=True)
    expected, _ = adam.update(rest, adam.init(rest), rest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), {name: updates[name] for name in rest}, expected)


def test_soap_is_refused_by_name_where_optax_has_none():
    """It says that this optax has no such optimizer, rather than a list of others."""
    if hasattr(optax.contrib, "soap"):
        pytest.skip("this optax has it")
    with pytest.raises(ConfigError, match=f"config.optimizer.name: 'soap'.*the installed optax {optax.__version__}, which has no soap"):
        make_optimizer({"name": "soap", "learning_rate": 1e-3}, 10)


@pytest.mark.parametrize(
    "name, more",
    [
        ("schedule_free_sgd", {}),
        ("schedule_free", {"base_optimizer": {"name": "adamw", "weight_decay": 0.1}, "freeze": ["network.inward.*"]}),
        ("schedule_free_adamw", {"groups": [{"pattern": "network.outward.*", "learning_rate": 1e-3}]}),
    ],
)
def test_schedule_free_is_evaluated_at_its_average(config, batch, name, more):
    """After four steps, x by its recursion in numpy: z is the state's, x_(k+1) = (1 - c) x_k + c z_(k+1), c = rate^2 / sum of rates^2; the
    first average, which is what is loaded and evaluated, is x, and is not what is trained."""
    settings = {"name": name, "learning_rate": 1e-2, "warmup": 3} | more
    parts = build_parts(config(optimizer=settings, training__ema=(0.0, 0.9)), SPEC, 0.7)
    step, state = jax.jit(make_step(parts)), init_state(parts, 0)
    rates = np.array([min(1.0, (k + 1) / 3) for k in range(1, 5)])  # Optax counts the weights' steps from 1
    leaf = ("outward", "kernel") if "freeze" in more else ("inward", "bias")
    x = np.asarray(state.params["network"][leaf[0]][leaf[1]], np.float64)
    for k in range(4):
        state, _ = step(state, batch)
        (inner,) = [s for s in _schedule_free_states(state.opt_state) if not isinstance(s.z["network"][leaf[0]][leaf[1]], optax.MaskedNode)]
        c = rates[k] ** 2 / np.sum(rates[: k + 1] ** 2)
        x = (1 - c) * x + c * np.asarray(inner.z["network"][leaf[0]][leaf[1]], np.float64)
    first, trained = state.ema[0]["network"], state.params["network"]
    np.testing.assert_allclose(first[leaf[0]][leaf[1]], x, rtol=1e-4, atol=1e-7)
    assert not np.allclose(first[leaf[0]][leaf[1]], trained[leaf[0]][leaf[1]], rtol=1e-5, atol=0)
    if "freeze" in more:
        jax.tree.map(np.testing.assert_array_equal, first["inward"], init_state(parts, 0).params["network"]["inward"])


@pytest.mark.slow
def test_a_schedule_free_run_loads_its_average(config, tmp_path):
    """Through train and load, stopped and resumed: ``load`` gives Optax's eval params of the state, and the held-out loss is of these."""
    settings = {"name": "schedule_free_adamw", "learning_rate": 1e-2, "clip": 1.0}
    run = train(config(optimizer=settings, training__ema=(0.0,)), tmp_path)
    x = optax.contrib.schedule_free_eval_params(run.state.opt_state[1], run.state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), load(tmp_path).denoiser.params, x["network"])
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path, ema=None).denoiser.params, run.state.params["network"])
    (tmp_path / "again").mkdir()
    train(config(optimizer=settings, training__ema=(0.0,), training__steps=10), tmp_path / "again")
    again = train(config(optimizer=settings, training__ema=(0.0,)), tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.state.ema, run.state.ema)


@pytest.mark.parametrize(
    "changes, ema, message",
    [
        ({}, (0.99,), r"config.training.ema: \(0.99,\) is refused; allowed: \(0.0,\).*evaluated at its own average"),
        ({}, (), r"config.training.ema: \(\) is refused"),
        ({"schedule": "cosine"}, (0.0,), r"config.optimizer.schedule: 'cosine'.*averages in place of a decay"),
        ({"warmup_steps": 3}, (0.0,), r"config.optimizer.warmup_steps: 3.*did you mean 'warmup'"),
        ({"name": "schedule_free", "base_optimizer": {"name": "adm"}}, (0.0,), r"base_optimizer.name: 'adm'.*did you mean 'adam'"),
        ({"name": "schedule_free", "base_optimizer": {"name": "sgd", "b5": 1}}, (0.0,), r"config.optimizer.base_optimizer.b5: 1"),
    ],
)
def test_schedule_free_refused(config, changes, ema, message):
    """Where it would be evaluated at another point, and what it has no use for."""
    settings = {"name": "schedule_free_sgd", "learning_rate": 1e-2} | changes
    with pytest.raises(ConfigError, match=message) as caught:
        build_parts(config(optimizer=settings, training__ema=ema), SPEC, 0.7)
    assert "\n" not in str(caught.value)


def _schedule_free_states(tree):
    kind = optax.contrib.ScheduleFreeState
    return [s for s in jax.tree.leaves(tree, is_leaf=lambda s: isinstance(s, kind)) if isinstance(s, kind)]
