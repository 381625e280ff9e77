"""Schedules against their closed forms in numpy, every optimizer of Optax by name, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.training.optimizer import learning_rate_schedule, make_optimizer, optimizer_names

K = np.arange(101)


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
