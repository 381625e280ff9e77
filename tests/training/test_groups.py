"""Groups and frozen leaves: each leaf by its own settings, frozen ones untouched to the bit, one norm for clipping, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.training import load, train
from score_lab.training.names import named
from score_lab.training.optimizer import make_optimizer
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state

SPEC = DataSpec((2,), 2, "none")
PARAMS = {"body": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 3.0)}, "head": {"kernel": jnp.full((2, 2), 4.0)}}
GRADS = {"body": {"kernel": jnp.full((2, 2), 0.3), "bias": jnp.full(2, -0.4)}, "head": {"kernel": jnp.full((2, 2), 0.5)}}


def updated(steps=1, grads=GRADS, **optimizer):
    """The parameters after ``steps`` equal gradients, by name, and the state."""
    update, _ = make_optimizer({"name": "sgd", "learning_rate": 0.1} | optimizer, 10)
    params, state = PARAMS, update.init(PARAMS)
    for _ in range(steps):
        updates, state = update.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return {name: np.asarray(leaf).ravel()[0] for name, leaf in named(params).items()}, state


def test_every_leaf_has_the_settings_of_its_first_group():
    """Plain descent by hand, with warm-up shared: rates 0.1, 0.01 and 0.001; the second pattern of a leaf says nothing."""
    groups = [{"pattern": "body.*", "learning_rate": 0.01}, {"pattern": "*.kernel", "learning_rate": 0.001}]
    after, _ = updated(groups=groups[:1])
    np.testing.assert_allclose([after["body.kernel"], after["body.bias"], after["head.kernel"]], [1.997, 3.004, 3.95], rtol=1e-6)
    after, _ = updated(groups=groups, warmup=5)
    np.testing.assert_allclose([after["body.kernel"], after["head.kernel"]], [2 - 0.003 / 5, 4 - 0.0005 / 5], rtol=1e-6)


def test_weight_decay_of_a_group_alone():
    """AdamW without a gradient is decay alone: p (1 - rate decay) where there is one, nothing where the group has none."""
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    after, _ = updated(grads=zero, name="adamw", weight_decay=0.5, groups=[{"pattern": "*.bias", "weight_decay": 0.0}])
    np.testing.assert_allclose([after["body.kernel"], after["body.bias"], after["head.kernel"]], [2 * 0.95, 3.0, 4 * 0.95], rtol=1e-6)


def test_frozen_leaves_have_no_update_and_no_memory():
    """Adam with decay: frozen leaves are as they were to the bit, and no array of the state has their shape."""
    after, state = updated(3, name="adamw", weight_decay=0.5, freeze=["*.kernel"])
    assert (after["body.kernel"], after["head.kernel"]) == (2.0, 4.0) and after["body.bias"] != 3.0
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state)) == [(), (), (2,), (2,)]


def test_clipping_is_by_the_norm_over_all_trained_leaves():
    """Groups share one norm, that of the whole gradient; frozen leaves do not count."""
    everything = np.sqrt(4 * 0.3**2 + 2 * 0.4**2 + 4 * 0.5**2)
    after, _ = updated(clip=0.1, groups=[{"pattern": "body.*", "learning_rate": 0.01}])
    np.testing.assert_allclose(4 - after["head.kernel"], 0.1 * 0.5 * 0.1 / everything, rtol=1e-4)
    np.testing.assert_allclose(2 - after["body.kernel"], 0.01 * 0.3 * 0.1 / everything, rtol=1e-3)
    after, _ = updated(clip=0.1, freeze=["[ab]ody.*"])
    np.testing.assert_allclose(4 - after["head.kernel"], 0.1 * 0.1 / 2, rtol=1e-4)


def test_without_groups_the_state_is_that_of_before():
    """Leaf names of Adam's state, clipped and not, as old workdirs have them; empty lists say nothing."""
    for clip, first in ((None, "0"), (1.0, "1.0")):
        for more in ({}, {"groups": [], "freeze": []}):
            _, state = updated(name="adam", clip=clip, **more)
            names = [name for name in named(state) if name.startswith(f"{first}.")]
            leaves = ("body.bias", "body.kernel", "head.kernel")
            assert names == [f"{first}.count", *(f"{first}.{moment}.{leaf}" for moment in ("mu", "nu") for leaf in leaves)]


@pytest.mark.slow
def test_a_frozen_run_goes_on_and_its_frozen_leaves_are_those_of_the_start(config, tmp_path):
    """10 steps and then 20 are 20, on four devices; the gradient's norm is of what is trained; averages of frozen leaves stay too."""
    settings = {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1, "clip": 1.0, "freeze": ["network.inward.*"]}
    settings["groups"] = [{"pattern": "network.outward.*", "learning_rate": 1e-3, "weight_decay": 0.0}]
    own = config(optimizer=settings, training__eval_every=0)
    unbroken = train(own, tmp_path / "straight")
    train(config(optimizer=settings, training__eval_every=0, training__steps=10), tmp_path / "broken")
    resumed = train(own, tmp_path / "broken")
    jax.tree.map(np.testing.assert_array_equal, unbroken.state.params, resumed.state.params)
    jax.tree.map(np.testing.assert_array_equal, unbroken.state.opt_state, resumed.state.opt_state)
    start = init_state(unbroken.parts, 3).params["network"]
    for params in (unbroken.state.params["network"], load(tmp_path / "broken").denoiser.params):
        jax.tree.map(np.testing.assert_array_equal, params["inward"], start["inward"])
        assert not np.array_equal(params["outward"]["kernel"], start["outward"]["kernel"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"freeze": ["network.inwards.*"]}, r"config.optimizer.freeze: 'network.inwards.\*'.*did you mean 'network.inward.\*'"),
        ({"freeze": "network.*"}, r"config.optimizer.freeze: 'network.\*'.*a list of patterns"),
        ({"freeze": ["*"]}, r"config.optimizer.freeze: \['\*'\].*leave a leaf to train"),
        ({"groups": {"pattern": "*"}}, r"config.optimizer.groups: .*a list of dicts"),
        ({"groups": [{"learning_rate": 1.0}]}, r"config.optimizer.groups\[0\].pattern: None"),
        ({"groups": [{"pattern": "network.inward.kernl"}]}, r"groups\[0\].pattern: 'network.inward.kernl'.*'network.inward.kernel'"),
        ({"groups": [{"pattern": "*"}, {"pattern": "*.bias"}]}, r"groups\[1\].pattern: '\*.bias'.*an earlier group"),
        ({"groups": [{"pattern": "*", "learning_rate": 0}]}, r"groups\[0\].learning_rate: 0 .*freeze"),
        ({"groups": [{"pattern": "*", "clip": 1.0}]}, r"groups\[0\].clip: 1.0.*no clip of its own"),
        ({"groups": [{"pattern": "*", "weight_decays": 1.0}]}, r"groups\[0\].weight_decays: 1.0.*did you mean 'weight_decay'"),
    ],
)
def test_refused(config, changes, message):
    """One line that names the field, the pattern and the nearest leaves."""
    settings = {"name": "adamw", "learning_rate": 1e-3} | changes
    with pytest.raises(ConfigError, match=message) as caught:
        build_parts(config(optimizer=settings), SPEC, 1.0)
    assert "\n" not in str(caught.value)
