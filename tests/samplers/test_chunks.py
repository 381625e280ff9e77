"""A sample depends on its key and its index: not on its batch-mates, the batch size, the chunk or the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian
from samplers.fake import small

from score_lab.build import ConfigError
from score_lab.guidance import CFG
from score_lab.paths import VP
from score_lab.samplers import (
    DDIM,
    DPMSolverPP2M,
    EulerMaruyama,
    NormalDraws,
    StateRecorder,
    UniformLogSNR,
    UniformTime,
    chunks,
    noised,
    sample,
    sample_chunked,
)
from score_lab.samplers.loop import memory_of
from score_lab.samplers.program import programs
from score_lab.targets import F
from score_lab.types import leaf, pytree_dataclass

KEY = jax.random.key(5)
GRID = UniformTime(5)
LABELS = {"label": np.arange(10) % 3}


def test_the_draws_are_the_same_bits():
    """Prior, step noise and SDEdit's noise of sample i, whoever else is in the batch; every step and call has its own."""
    few, many = jnp.array([7, 2]), jnp.arange(10)
    pick = np.asarray(few)
    np.testing.assert_array_equal(VP().prior_sample(KEY, few, (3,)), np.asarray(VP().prior_sample(KEY, many, (3,)))[pick])
    a, b = (NormalDraws.of(KEY, i) for i in (few, many))
    rows = [np.asarray(b(step, call, jnp.zeros((10, 3)))) for step in range(3) for call in range(2)]
    np.testing.assert_array_equal(a(2, 1, jnp.zeros((2, 3))), rows[5][pick])
    flat = np.concatenate([*rows, np.asarray(VP().prior_sample(KEY, many, (3,)))]).ravel()
    assert len(np.unique(flat)) == flat.size
    x0 = jnp.ones((10, 3))
    np.testing.assert_array_equal(noised(x0[:2], VP(), 0.0, KEY, few), np.asarray(noised(x0, VP(), 0.0, KEY))[pick])


def states(n, index=None, cond=None, **rest):
    run = sample(CFG(small(VP(), F(0.7)), 2.0), EulerMaruyama(), GRID, (n, 2), KEY, index=index, cond=cond, **rest)
    return np.asarray(run.x), None if run.record is None else np.asarray(run.record.x_t[0, 0])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_batch_does_not_matter(precision):
    with jax.enable_x64(precision == "float64"):
        whole, start = states(10, cond={"label": jnp.arange(10) % 3}, recorder=StateRecorder(10))
        pick = np.array([9, 0, 4])
        part, first = states(3, index=pick, cond={"label": jnp.asarray(pick) % 3}, recorder=StateRecorder(10))
        np.testing.assert_array_equal(start[pick], first)
        error = np.abs(part - whole[pick]) / np.abs(whole[pick])
        assert (error <= (1e-10 if precision == "float64" else 1e-5)).mean() >= (1 if precision == "float64" else 0.99)


def chunked(n, chunk, **rest):
    guided = CFG(small(VP(), F(0.7)), 2.0)
    labels = {"label": LABELS["label"][:n]}
    return sample_chunked(guided, EulerMaruyama(), GRID, (n, 2), KEY, chunk=chunk, cond=labels, **rest)


def test_chunks_are_one_program_and_change_nothing():
    seen = []
    whole = chunked(10, 10)
    size = programs()
    run = chunked(10, 4, progress=lambda done, n: seen.append((done, n)))
    again = chunked(7, 4)
    assert programs() == size + 1  # 4 + 4 + 2 and 4 + 3: the last is filled up
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert isinstance(run.x, np.ndarray) and run.x.shape == (10, 2) and run.nfe == whole.nfe == 10
    np.testing.assert_allclose(run.x, whole.x, rtol=1e-5)
    np.testing.assert_array_equal(again.x, run.x[:7])  # bit by bit at equal chunk size


def test_devices_change_nothing(monkeypatch):
    devices = jax.local_devices()
    assert len(devices) == 4
    placed = []

    def spy(denoiser, *args, index, **rest):
        placed.extend([(leaf.sharding.is_fully_replicated, len(leaf.devices())) for leaf in jax.tree.leaves(denoiser)])
        assert not index.sharding.is_fully_replicated and not rest["cond"]["label"].sharding.is_fully_replicated
        out = sample(denoiser, *args, index=index, **rest)
        assert not out.x.sharding.is_fully_replicated and out.x.addressable_shards[0].data.shape == (2, 2)
        return out

    one = chunked(10, 8)
    monkeypatch.setattr(chunks, "sample", spy)
    four = chunked(10, 8, devices=devices)
    assert placed and set(placed) == {(True, 4)}  # the parameters are on every device, whole
    np.testing.assert_allclose(four.x, one.x, rtol=1e-5)
    again = chunked(10, 8, devices=devices)
    np.testing.assert_array_equal(four.x, again.x)


def test_devices_change_no_bit_of_the_draws_and_no_digit_in_float64(x64):
    """Indices spread over four devices: prior and step noise bit by bit; samples to 1e-10."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))
    spread = jax.device_put(jnp.arange(8), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))

    @jax.jit
    def drawn(index):
        return VP().prior_sample(KEY, index, (3,)), NormalDraws.of(KEY, index)(2, 1, jnp.zeros((8, 3)))

    assert not drawn(spread)[0].sharding.is_fully_replicated
    for four, one in zip(drawn(spread), drawn(jnp.arange(8)), strict=True):
        np.testing.assert_array_equal(four, one)
    one, four = chunked(10, 8).x, chunked(10, 8, devices=jax.local_devices()).x
    assert one.dtype == np.float64
    np.testing.assert_allclose(four, one, rtol=1e-10)


def test_given_states_and_states_of_several_arrays():
    path = VP()
    x_T = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    whole = sample(Gaussian(path), DPMSolverPP2M(), GRID, x_T=jnp.asarray(x_T)).x
    np.testing.assert_allclose(sample_chunked(Gaussian(path), DPMSolverPP2M(), GRID, x_T=x_T, chunk=2).x, whole, rtol=1e-5)
    run = sample_chunked(Gaussian(path), DPMSolverPP2M(), GRID, {"a": (5, 2), "b": (5, 1, 3)}, KEY, chunk=2)
    whole = sample(Gaussian(path), DPMSolverPP2M(), GRID, {"a": (5, 2), "b": (5, 1, 3)}, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), run.x, whole.x)


def test_a_chunk_of_a_given_memory():
    """The largest whose compiled program fits: its memory is within the budget, and one sample more (a twentieth more) is not."""
    net, budget = Gaussian(VP()), 100_000
    run = chunks.Chunks.of(net, DDIM(), GRID, (4000, 2), KEY, chunk="100kB")
    assert 100 < run.chunk < 4000
    assert memory_of(net, DDIM(), GRID, (run.chunk, 2), KEY, index=np.arange(run.chunk)) <= budget
    more = int(1.12 * run.chunk)
    assert memory_of(net, DDIM(), GRID, (more, 2), KEY, index=np.arange(more)) > budget
    assert chunks.Chunks.of(net, DDIM(), GRID, (7, 2), KEY, chunk="2GiB").chunk == 7
    assert [chunks.bytes_of(v) for v in ("2GiB", "500MB", " 1.5 kib ", "64B")] == [2**31, 500 * 10**6, 1536, 64]


@pytest.mark.slow
def test_a_chunk_of_the_memory_of_every_device():
    run = (Gaussian(VP()), DDIM(), GRID, (4000, 2), KEY)
    one, four = (chunks.Chunks.of(*run, chunk="50kB", devices=d) for d in (None, jax.local_devices()))
    assert four.chunk % 4 == 0 and four.chunk > 2 * one.chunk


def test_records_are_joined():
    """The first ``rows`` samples of the whole run, the last chunk not filled up; a recorder that cannot merge is refused by name."""
    whole = sample(Gaussian(VP()), DDIM(), GRID, (10, 2), KEY, recorder=StateRecorder(9))
    run = sample_chunked(Gaussian(VP()), DDIM(), GRID, (10, 2), KEY, chunk=4, recorder=StateRecorder(9))
    np.testing.assert_allclose(run.record.x_t, whole.record.x_t, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run.record.made, whole.record.made)
    assert run.record.x_t.shape == (5, 1, 9, 2)

    @pytree_dataclass
    class Last:
        def init(self, num_steps, calls, x, index):
            return x

        def update(self, record, step, call, prediction, made):
            return prediction.x_t

        def result(self, record):
            return record

    with pytest.raises(ConfigError, match="sample.recorder: 'Last' is refused; allowed: one with merge"):
        sample_chunked(Gaussian(VP()), DDIM(), GRID, (10, 2), KEY, chunk=4, recorder=Last())
    one = sample_chunked(Gaussian(VP()), DDIM(), GRID, (10, 2), KEY, chunk=10, recorder=Last())
    assert one.record.shape == (10, 2)


def test_the_state_keeps_its_precision():
    """Float32 states under a bfloat16 network: sums of many small steps are not rounded to eight bits."""

    @pytree_dataclass
    class Half:
        path: object = leaf()

        def on(self, path):
            return Half(path)

        def __call__(self, x_t, t, cond=None, **rest):
            p = Gaussian(self.path)(x_t, t)
            return type(p).of(x_t, t, self.path, x0=p.x0.astype(jnp.bfloat16), eps=p.eps.astype(jnp.bfloat16))

    grid = UniformLogSNR(20, -5.0, 5.0, to_data=False)
    half, full = (sample_chunked(d, EulerMaruyama(), grid, (64, 2), KEY, chunk=32).x for d in (Half(VP()), Gaussian(VP())))
    assert half.dtype == np.float32
    assert np.abs(half - full).max() < 0.02
    assert (half != np.asarray(half, jnp.bfloat16).astype(np.float32)).mean() > 0.9


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"sample.chunk: 0 is refused; allowed: at least 1", {"chunk": 0}),
        (r"sample.chunk: 6 is refused; allowed: a multiple of 4, the number of devices", {"chunk": 6, "devices": 4}),
        (r"sample.index: \(3,\)", {"chunk": 4, "index": np.arange(3)}),
        (r"grid: log-SNR from .* leaves the range", {"chunk": 4, "grid": UniformLogSNR(4, -10.0)}),
    ],
)
def test_refused(message, arguments):
    arguments = {"grid": UniformLogSNR(4, -5.0, 5.0, to_data=False), **arguments}
    if "devices" in arguments:
        arguments["devices"] = jax.local_devices()
    with pytest.raises(ConfigError, match=message):
        sample_chunked(small(VP(), F(0.7), log_snr_range=(-6.0, 6.0)), EulerMaruyama(), shape=(10, 2), **arguments)
