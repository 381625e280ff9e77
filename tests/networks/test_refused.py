"""Impossible configurations are refused on one line that names the field, the value and what is allowed, before anything is traced."""

import jax
import pytest

from score_lab.build import ConfigError, build
from score_lab.networks import EDM2, MLP, DiT, UNet

FIELDS = [
    ("DiT", {"width": 130}, "config.width: 130 is refused; allowed: multiples of 4"),
    ("DiT", {"width": 128, "heads": 3}, "config.heads: 3 is refused; allowed: a divisor of width 128: [1, 2, 4,"),
    ("DiT", {"patch": 0}, "config.patch: 0 is refused; allowed: an integer of at least 1"),
    ("DiT", {"depth": -1}, "config.depth: -1 is refused"),
    ("DiT", {"mlp_ratio": 0.0}, "config.mlp_ratio: 0.0 is refused"),
    ("DiT", {"attention": "cuddn"}, "config.attention: 'cuddn' is refused; allowed: one of auto, xla, cudnn (did you mean 'cudnn'?)"),
    ("DiT", {"attention": "cudnn"}, "config.attention: 'cudnn' is refused; allowed: 'auto' or 'xla', or 'cudnn' with dtype"),
    ("DiT", {"dropout": 1.0}, "config.dropout: 1.0 is refused; allowed: a rate in [0, 1)"),
    ("DiT", {"dtype": "bf16"}, "config.dtype: 'bf16' is refused; allowed: None (follow x and the parameters) or one of float32, bfloat16"),
    ("DiT", {"num_classes": -1}, "config.num_classes: -1 is refused; allowed: an integer of at least 0"),
    ("DiT", {"widht": 128}, "config.widht: 128 is refused; allowed: the fields of DiT:"),
    ("DiT", {"width": "128"}, "config.width: '128' is refused; allowed: int"),
    ("MLP", {"max_frequency": 0.0}, "config.max_frequency: 0.0 is refused"),
    ("MLP", {"depth": 0}, "config.depth: 0 is refused"),
    ("UNet", {"multipliers": ()}, "config.multipliers: () is refused; allowed: at least one level"),
    ("UNet", {"multipliers": (1, 0)}, "config.multipliers: (1, 0) is refused; allowed: a tuple of positive integers"),
    ("UNet", {"attention_at": ("16",)}, "config.attention_at: ('16',) is refused; allowed: a tuple of positive integers"),
    ("UNet", {"width": 6, "heads": 4, "multipliers": (1,)}, "config.heads: 4 is refused; allowed: a divisor of the 6 channels"),
    ("UNet", {"width": 32, "head_width": 48}, "config.head_width: 48 is refused; allowed: a divisor of the 64 channels"),
    ("UNet", {"groups": 0}, "config.groups: 0 is refused"),
    ("EDM2", {"multipliers": ()}, "config.multipliers: () is refused; allowed: at least one level"),
    ("EDM2", {"head_width": 48}, "config.head_width: 48 is refused; allowed: a divisor of the 512 channels"),
    ("EDM2", {"skip_balance": 1.0}, "config.skip_balance: 1.0 is refused; allowed: a share between 0 and 1"),
    ("EDM2", {"clip": 0.0}, "config.clip: 0.0 is refused; allowed: a finite number above 0"),
    ("EDM2", {"remat": "ful"}, "config.remat: 'ful' is refused; allowed: None"),
    ("EDM2", {"attention": "cudnn"}, "config.attention: 'cudnn' is refused; allowed: 'auto' or 'xla', or 'cudnn' with dtype"),
]

SHAPES = [
    (DiT(patch=4), (8, 6, 1), "patch: 4 is refused; allowed: a divisor of the image's height 8 and width 6: [1, 2]"),
    (DiT(), (8,), "shape: (8,) is refused; allowed: (height, width, channels): DiT is a network for images; for vectors there is MLP"),
    (MLP(), (8, 8, 1), "shape: (8, 8, 1) is refused; allowed: (d,): MLP is a network for vectors"),
    (UNet(multipliers=(1, 1, 1)), (12, 6, 1), "multipliers: (1, 1, 1) is refused; allowed: at most 2 levels for an image of 12 x 6"),
    (
        UNet(multipliers=(1, 1), attention_at=(16,)),
        (8, 8, 1),
        "attention_at: (16,) is refused; allowed: resolutions that occur on an image of 8 x 8: [8, 4]",
    ),
    (EDM2(), (64, 63, 3), "multipliers: (1, 2, 3, 4) is refused; allowed: at most 1 levels for an image of 64 x 63"),
    (EDM2(attention_at=(7,)), (64, 64, 3), "attention_at: (7,) is refused; allowed: resolutions that occur on an image of 64 x 64: [64"),
    (EDM2(width=6, multipliers=(1, 2), attention_at=(8,), head_width=4), (8, 8, 1), "head_width: 4 is refused; allowed: a divisor of the"),
    (EDM2(), (8,), "shape: (8,) is refused; allowed: (height, width, channels): EDM2 is a network for images"),
    (UNet(width=6, multipliers=(1, 2), attention_at=(8,)), (8, 8, 1), "heads: 4 is refused; allowed: a divisor of the 6 channels"),
]


@pytest.mark.parametrize(("target", "fields", "message"), FIELDS)
def test_impossible_fields_are_refused_when_built(target, fields, message):
    with pytest.raises(ConfigError) as error:
        build({"target": target, **fields}, "score_lab.networks")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(("network", "shape", "message"), SHAPES)
def test_impossible_shapes_are_refused_by_check_shape_and_init(network, shape, message):
    for refuse in (network.check_shape, lambda shape: network.init(jax.random.key(0), shape)):
        with pytest.raises(ConfigError) as error:
            refuse(shape)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["xs", "S/2"])
def test_unknown_sizes_of_edm2_are_refused(name):
    with pytest.raises(ConfigError, match=f"^name: {name!r} is refused; allowed: one of XXS, XS, S, M, L, XL, XXL"):
        EDM2.named(name)


@pytest.mark.parametrize("name", ["S", "s/2", "XXL/2", "S/two", "S/"])
def test_unknown_named_sizes_are_refused(name):
    with pytest.raises(ConfigError, match=f"^name: '{name}' is refused; allowed: one of S, B, L, XL"):
        DiT.named(name)


def test_cudnn_is_refused_where_there_is_no_gpu():
    network = DiT(attention="cudnn", dtype="bfloat16", width=8, depth=1, heads=1)
    network.check()
    shapes = jax.eval_shape(lambda k: network.init(k, (4, 4, 1)), jax.random.key(0))
    x, level = jax.ShapeDtypeStruct((2, 4, 4, 1), "float32"), jax.ShapeDtypeStruct((2,), "float32")
    with pytest.raises(ConfigError, match="^attention: 'cudnn' is refused; allowed: 'auto' or 'xla' on the cpu backend"):
        jax.eval_shape(network.apply, shapes, x, level)
