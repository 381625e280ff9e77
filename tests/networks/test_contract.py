"""What every network owes its callers (score_lab.types.Network), for each network at a tiny size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.networks import EDM2, MLP, DiT, UNet, count_parameters

EVERYTHING = {"num_classes": 3, "dropout": 0.4, "two_time": True, "learned_variance": True}
NETWORKS = {
    "MLP": (MLP(width=16, depth=2, **EVERYTHING), (3,)),
    "UNet": (UNet(width=8, multipliers=(1,), blocks=1, attention_at=(), heads=2, **EVERYTHING), (4, 6, 1)),
    "EDM2": (EDM2(width=8, multipliers=(1,), blocks=1, attention_at=(), head_width=4, **EVERYTHING), (4, 6, 1)),
    "DiT": (DiT(patch=2, width=16, depth=2, heads=2, **EVERYTHING), (4, 6, 2)),
}
BATCH = 5
QUICK = {"xla_backend_optimization_level": 0}  # compiling is what these tests spend their time on
all_networks = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def setup(name):
    """The network, its parameters as initialised, the same moved off their zeros, and a batch of inputs; float64 NumPy throughout."""
    network, shape = NETWORKS[name]
    initial = network.init(jax.random.key(0), shape)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.2 * rng.normal(size=p.shape), initial)
    x = rng.normal(size=(BATCH, *shape))
    return network, initial, moved, x, rng.uniform(-10, 10, BATCH), rng.uniform(-10, 10, BATCH), np.array([0, 1, 2, -1, 1])


@functools.cache
def compiled(name, **changes):
    """``apply`` of the network with ``changes``, compiled: (params, x, level, level_s, label, key)."""
    network = dataclasses.replace(NETWORKS[name][0], **changes)

    def apply(p, x, level, level_s, label, key):
        return network.apply(p, x, level, {"label": label}, level_s=level_s, key=key)

    return jax.jit(apply, compiler_options=QUICK)


def arrays(name, dtype=jnp.float32, params="moved"):
    """(params, x, level, level_s, label, None) in ``dtype``."""
    _, initial, moved, x, level, level_s, label = setup(name)
    tree = jax.tree.map(lambda p: jnp.asarray(p, dtype), moved if params == "moved" else initial)
    return [tree, *(jnp.asarray(a, dtype) for a in (x, level, level_s)), jnp.asarray(label), None]


def keys(indices, seed=0):
    """One typed key per index, as a trainer makes them."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(indices))


@all_networks
def test_parameters_are_a_plain_dict_of_float32_with_string_keys(name):
    params = setup(name)[1]

    def walk(tree):
        assert type(tree) is dict and tree
        for k, v in tree.items():
            assert type(k) is str
            if isinstance(v, dict):
                walk(v)
            else:
                assert isinstance(v, jax.Array) and v.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(v)))

    walk(params)
    assert count_parameters(params) == sum(np.asarray(p).size for p in jax.tree.leaves(params))


@all_networks
def test_another_key_gives_other_parameters_and_the_same_key_the_same(name):
    network, initial = setup(name)[:2]
    shape = NETWORKS[name][1]
    again, other = network.init(jax.random.key(0), shape), network.init(jax.random.key(1), shape)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), initial, again))
    kernels = [(a, b) for a, b in zip(jax.tree.leaves(initial), jax.tree.leaves(other), strict=True) if np.ptp(a) > 0]
    assert len(kernels) >= 6 and all(not np.array_equal(a, b) for a, b in kernels)


@all_networks
def test_it_is_hashable_frozen_and_built_from_plain_values(name):
    network = NETWORKS[name][0]
    assert hash(network) == hash(dataclasses.replace(network)) and network == dataclasses.replace(network)
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.width = 3
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(network).items()}
    assert build({"target": name, **fields}, "score_lab.networks") == network


@all_networks
def test_the_output_and_the_variance_start_at_zero_with_the_shape_of_x(name):
    x = arrays(name)[1]
    y, aux = compiled(name)(*arrays(name, params="initial"))
    assert y.shape == aux["variance"].shape == x.shape and y.dtype == aux["variance"].dtype == x.dtype
    assert not np.any(y) and not np.any(aux["variance"])


@all_networks
def test_without_a_learned_variance_the_output_is_an_array(name):
    network = dataclasses.replace(NETWORKS[name][0], learned_variance=False)
    shape = NETWORKS[name][1]
    y = jax.eval_shape(lambda k, x, level: network.apply(network.init(k, shape), x, level), jax.random.key(0), *arrays(name)[1:3])
    assert y.shape == (BATCH, *shape)


@all_networks
def test_the_two_heads_differ(name):
    y, aux = compiled(name)(*arrays(name))
    assert float(jnp.min(jnp.max(jnp.abs(y - aux["variance"]), axis=tuple(range(1, y.ndim))))) > 1e-2


@all_networks
@pytest.mark.parametrize("which", [1, 2, 3, 4], ids=["x", "level", "level_s", "label"])
def test_every_input_matters_to_its_own_example_and_to_no_other(name, which):
    inputs = arrays(name)
    before = np.asarray(compiled(name)(*inputs)[0])
    inputs[which] = inputs[which].at[1].set((inputs[which][1] + 1) % 3 if which == 4 else inputs[which][1] + 0.7)
    after = np.asarray(compiled(name)(*inputs)[0])
    assert np.max(np.abs(after[1] - before[1])) > 1e-3
    np.testing.assert_array_equal(np.delete(after, 1, 0), np.delete(before, 1, 0))


@all_networks
def test_minus_one_is_no_label_and_every_label_has_its_own_row(name):
    network = NETWORKS[name][0]
    p, x, level, level_s, _, _ = arrays(name)
    f = compiled(name)
    nothing = f(p, x, level, level_s, jnp.full(BATCH, -1), None)[0]
    without = jax.jit(lambda p, x, level, s: network.apply(p, x, level, level_s=s), compiler_options=QUICK)
    np.testing.assert_array_equal(nothing, without(p, x, level, level_s)[0])
    outs = [nothing] + [f(p, x, level, level_s, jnp.full(BATCH, k), None)[0] for k in range(network.num_classes)]
    gaps = [np.max(np.abs(a - b)) for i, a in enumerate(outs) for b in outs[:i]]
    assert min(gaps) > 1e-3


@all_networks
def test_a_label_out_of_range_is_nan_and_no_other_class(name):
    inputs = arrays(name)
    inputs[4] = jnp.array([0, 3, -2, 2, 1000])
    finite = np.isfinite(np.asarray(compiled(name)(*inputs)[0])).reshape(BATCH, -1).all(axis=1)
    np.testing.assert_array_equal(finite, [True, False, False, True, False])


@all_networks
def test_an_unconditional_network_reads_no_label(name):
    network = dataclasses.replace(NETWORKS[name][0], num_classes=0)
    shape = NETWORKS[name][1]
    shapes = jax.eval_shape(lambda k: network.init(k, shape), jax.random.key(0))
    assert "table" not in shapes["conditioning"]
    x, level = arrays(name)[1:3]
    program = jax.make_jaxpr(lambda label, p: network.apply(p, x, level, {"label": label})[0])(jnp.zeros(BATCH, int), shapes).jaxpr
    label, *params = program.invars
    used = {v for equation in program.eqns for v in equation.invars if not hasattr(v, "val")}
    assert label not in used and used.issuperset(params[:5])


@all_networks
def test_dropout_is_a_function_of_the_examples_own_key(name):
    inputs, f = arrays(name), compiled(name)
    plain = np.asarray(f(*inputs)[0])
    first = np.asarray(f(*inputs[:5], keys(range(BATCH)))[0])
    assert np.all(np.max(np.abs(first - plain).reshape(BATCH, -1), axis=1) > 1e-3)
    same_x = [inputs[0], *(jnp.broadcast_to(a[:1], a.shape) for a in inputs[1:5])]
    drawn = np.asarray(f(*same_x, keys([0, 1, 2, 0, 3]))[0])
    np.testing.assert_array_equal(drawn[0], drawn[3])
    assert np.max(np.abs(drawn[0] - drawn[1])) > 1e-3
    mates = np.asarray(f(*same_x[:5], keys([0, 7, 8, 9, 10]))[0])
    np.testing.assert_array_equal(mates[0], drawn[0])


@all_networks
def test_an_example_is_the_same_in_a_batch_of_another_size_and_place(name, x64):
    p, x, level, level_s, label, _ = arrays(name, jnp.float64)
    f, key = compiled(name), keys(range(BATCH))
    whole = np.asarray(f(p, x, level, level_s, label, key)[0])
    pick = jnp.array([3, 1])
    part = np.asarray(f(p, x[pick], level[pick], level_s[pick], label[pick], key[pick])[0])
    np.testing.assert_allclose(part, whole[np.asarray(pick)], rtol=1e-10, atol=1e-12)


@all_networks
def test_float64_follows_and_float32_agrees_with_it(name, x64):
    key = keys(range(BATCH))
    single, double = (compiled(name)(*arrays(name, dtype)[:5], key) for dtype in (jnp.float32, jnp.float64))
    assert single[0].dtype == jnp.float32 and double[0].dtype == jnp.float64
    assert 0 < np.max(np.abs(double[0] - np.asarray(double[0], np.float32)))
    np.testing.assert_allclose(single[0], double[0], atol=2e-4 * float(jnp.std(double[0])))


@all_networks
def test_bfloat16_computes_close_by_and_returns_the_dtype_of_x(name):
    inputs = arrays(name)
    exact, half = compiled(name)(*inputs)[0], compiled(name, dtype="bfloat16")(*inputs)[0]
    assert half.dtype == jnp.float32
    error = float(jnp.sqrt(jnp.mean(jnp.square(half - exact))) / jnp.std(exact))
    assert 1e-4 < error < 0.05  # a few roundings of 2^-9 each: neither none at all, nor many


@all_networks
def test_jvp_through_x_and_both_levels_is_the_central_difference(name, x64):
    p, x, level, level_s, label, _ = arrays(name, jnp.float64)
    key, rng = keys(range(BATCH)), np.random.default_rng(3)
    point = (x, level, level_s)
    tangents = tuple(jnp.asarray(rng.normal(size=a.shape)) for a in point)

    def f(*point):
        return compiled(name)(p, *point, label, key)[0]

    def push(p, point, tangents):
        network = NETWORKS[name][0]
        return jax.jvp(lambda x, level, s: network.apply(p, x, level, {"label": label}, level_s=s, key=key)[0], point, tangents)[1]

    derivative = jax.jit(push, compiler_options=QUICK)(p, point, tangents)
    h = 1e-5
    ahead, behind = (f(*(a + sign * h * d for a, d in zip(point, tangents, strict=True))) for sign in (1, -1))
    scale = float(jnp.std(derivative))
    assert scale > 1e-2
    np.testing.assert_allclose(derivative, (ahead - behind) / (2 * h), atol=1e-5 * scale)


@all_networks
def test_a_second_level_left_out_is_the_first(name):
    network = NETWORKS[name][0]
    p, x, level, _, label, _ = arrays(name)
    alone = jax.jit(lambda p, x, level, label: network.apply(p, x, level, {"label": label}), compiler_options=QUICK)(p, x, level, label)[0]
    np.testing.assert_array_equal(alone, compiled(name)(p, x, level, level, label, None)[0])


@all_networks
def test_other_parameters_do_not_recompile_and_the_graph_is_made_once(name, monkeypatch):
    p, x, level, _, label, _ = arrays(name)
    network = dataclasses.replace(NETWORKS[name][0], max_frequency=15.0)  # a network that no other test has compiled
    made = []
    module = type(network).module
    monkeypatch.setattr(type(network), "module", lambda self, shape, rngs: made.append(shape) or module(self, shape, rngs))
    f = jax.jit(lambda network, *inputs: network.apply(*inputs[:4]), static_argnums=0, compiler_options=QUICK)
    f(network, p, x, level, {"label": label})
    f(dataclasses.replace(network), jax.tree.map(lambda a: a + 1, p), x + 1, level, {"label": label})
    assert f._cache_size() == 1 and made == [x.shape[1:]]
    jax.eval_shape(network.apply, p, x[:2], level[:2], {"label": label[:2]})
    assert made == [x.shape[1:]]


@all_networks
def test_it_runs_in_a_scan_under_pmap_over_the_devices(name):
    p, x, level, level_s, label, _ = arrays(name)
    count = jax.local_device_count()
    expected = compiled(name)(p, x, level, level_s, label, None)[0][:1]

    def body(carry, _):
        return carry, NETWORKS[name][0].apply(p, x[:1], carry, {"label": label[:1]}, level_s=level_s[:1])[0]

    out = jax.pmap(lambda level: jax.lax.scan(body, level, None, length=2)[1])(jnp.broadcast_to(level[:1], (count, 1)))
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), rtol=1e-4, atol=1e-5)


def test_only_the_unets_use_convolution():
    assert {name for name, (network, _) in NETWORKS.items() if network.uses_convolution} == {"UNet", "EDM2"}


@all_networks
def test_a_call_that_would_be_ignored_is_refused_by_name(name):
    network = dataclasses.replace(NETWORKS[name][0], two_time=False)
    p, x, level, level_s, label, _ = arrays(name)
    with pytest.raises(ConfigError, match=r"^two_time: False is refused; allowed: True where level_s is passed"):
        network.apply(p, x, level, level_s=level_s)
    with pytest.raises(ConfigError, match=r"^cond: 'lable' .*did you mean 'label'"):
        network.apply(p, x, level, {"lable": label})
    for key in (jax.random.key(0), keys(range(2)), jnp.zeros((BATCH, 2), jnp.uint32)):
        with pytest.raises(ConfigError, match=rf"^key: .* one typed key per example: key\[{BATCH}\]"):
            network.apply(p, x, level, key=key)
