"""How a batch lies on devices, how many steps a dispatch has, and convolutions kept out of loops on CPU."""

import dataclasses

import jax
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.training.parallel import Layout, in_flight, layout_of, steps_per_dispatch
from score_lab.training.parts import build_parts
from score_lab.training.state import abstract_state

SPEC = DataSpec((2,), 2, "none")


def test_every_example_lies_somewhere_once():
    """Two batches of 16 on four devices with two microbatches: leaves (4, 2, 2, 2, ...), each device its own rows, in both batches."""
    layout = layout_of(16, 2)
    batches = [{"x0": np.random.default_rng(k).normal(size=(16, 3)), "index": np.arange(16) + 100 * k} for k in range(2)]
    placed = layout.place(batches)
    assert placed["index"].shape == (4, 2, 2, 2) and len(placed["x0"].devices()) == 4
    assert placed["x0"].addressable_shards[0].data.shape == (1, 2, 2, 2, 3)
    for k in range(2):
        index = np.asarray(placed["index"])[:, k].ravel()
        assert sorted(index) == list(np.arange(16) + 100 * k)
        np.testing.assert_array_equal(np.asarray(placed["x0"])[:, k].reshape(16, 3), batches[k]["x0"].astype(np.float32)[index - 100 * k])


@pytest.mark.parametrize(
    "batch_size, accumulate, devices, message",
    [
        (18, 1, None, r"config.data.batch_size: 18.*a multiple of 4, the number of devices: 16 or 20"),
        (2, 1, None, r"config.data.batch_size: 2.*a multiple of 4, the number of devices: 4"),
        (16, 3, None, r"config.training.accumulate: 3.*a divisor of 4.*batch_size = 16 on 4 devices"),
        (16, 1, 5, r"config.training.devices: 5.*at most 4"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(batch_size, accumulate, devices, message):
    """With the numbers that would do."""
    with pytest.raises(ConfigError, match=message):
        layout_of(batch_size, accumulate, devices)


def test_steps_per_dispatch(config):
    """The greatest number up to ten that divides every cadence; one that is asked for must divide them too."""
    parts = build_parts(config(), SPEC, 0.7)
    assert [steps_per_dispatch(parts, c) for c in ([50, 500, 500], [12, 18], [7], [1000], [13, 50])] == [10, 6, 7, 10, 1]
    five = build_parts(config(training__steps_per_dispatch=5), SPEC, 0.7)
    assert steps_per_dispatch(five, [50, 500]) == 5
    with pytest.raises(ConfigError, match=r"config.training.steps_per_dispatch: 5.*divisor of 12"):
        steps_per_dispatch(five, [12])


def _inner(jaxpr):
    """(equation, the jaxprs in it)."""
    for equation in jaxpr.eqns:
        values = [v for value in equation.params.values() for v in (value if isinstance(value, (tuple, list)) else [value])]
        subs = [getattr(value, "jaxpr", value) for value in values]
        yield equation, [s for s in subs if hasattr(s, "eqns")]


def convolutions(jaxpr, looped=False):
    """(all convolutions, those inside a loop that is not unrolled)."""
    total = inside = 0
    for equation, subs in _inner(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            total, inside = total + 1, inside + looped
        scan = equation.primitive.name == "scan"
        rolled = equation.primitive.name == "while" or (scan and equation.params["unroll"] < equation.params["length"])
        for sub in subs:
            more, more_inside = convolutions(sub, looped or rolled)
            total, inside = total + more, inside + more_inside
    return total, inside


@pytest.mark.parametrize("several", ["auto", 3])
def test_convolutions_are_in_no_loop_on_cpu(config, several):
    """XLA's CPU backend runs their weight gradients about 100 times slower there: neither steps nor microbatches may roll them up."""
    unet = {"target": "UNet", "width": 8, "multipliers": (1,), "blocks": 1, "attention_at": ()}
    image = DataSpec((4, 4, 1), 0, "none")
    parts = build_parts(config(network=unet, objective__label_dropout=0.0, training__steps_per_dispatch=several), image, 0.7)
    count = steps_per_dispatch(parts, [30])
    assert count == (1 if several == "auto" else 3)
    row = {"x0": np.zeros((16, 4, 4, 1), np.float32), "index": np.arange(16, dtype=np.int32)}
    batches = layout_of(16, 2).place([row] * count)
    total, inside = convolutions(jax.make_jaxpr(layout_of(16, 2).dispatch(parts))(abstract_state(parts), batches).jaxpr)
    assert total > 0 and inside == 0
    without = dataclasses.replace(parts, network=_Plain(parts.network))
    program = jax.make_jaxpr(layout_of(16, 2).dispatch(without))(abstract_state(parts), batches)
    assert convolutions(program.jaxpr)[1] > 0  # the walk would see them


@dataclasses.dataclass(frozen=True)
class _Plain:
    """A network that does not say that it has convolutions."""

    network: object

    def init(self, key, shape):
        return self.network.init(key, shape)

    def apply(self, *args, **kwargs):
        return self.network.apply(*args, **kwargs)


def test_devices_that_share_a_cpu_are_not_run_ahead_of():
    """Queued collectives of several devices on one CPU wait for each other's threads forever."""
    devices = tuple(jax.local_devices())
    assert in_flight(Layout(16, 1, devices, 1, 0)) == 1
    assert in_flight(Layout(16, 1, devices[:1], 1, 0)) > 1
