"""What the recorder keeps of real runs, against a recomputation in numpy from the states themselves; float64, 1e-10."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.fake import small

from score_lab.analytic import Matrix
from score_lab.build import ConfigError
from score_lab.denoiser import Prediction
from score_lab.guidance import CFG
from score_lab.mismatch import Recorders
from score_lab.mismatch.bands import BANDED, PLOTTED, BandRecorder
from score_lab.mismatch.measures import log_ratio
from score_lab.mismatch.replicates import poisson_weights
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    Churn,
    DPMSolverPP2M,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    LevelsOf,
    StateRecorder,
    UniformLogSNR,
    UniformTime,
    sample,
    sample_chunked,
)  # fmt: skip
from score_lab.samplers.loop import memory_of
from score_lab.targets import F
from score_lab.types import leaf, pytree_dataclass

Q = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
TURNED = Spectrum(np.array([0.7, 0.2]), np.array([0, 1]), np.array([0.4, -0.3]), Matrix(Q))
KEY, N = jax.random.key(7), 9
COND = {"label": np.arange(N) % 3}
INDEX = np.array([4, 0, 9, 1, 30, 31, 2, 700, 5], np.int32)


def recomputed(states, fed, path, n=N, index=INDEX, replicates=25):
    """name -> (K, R + 1, ...) in numpy, of the x_t and x0 of every call; eps from x_t = alpha x0 + sigma eps."""
    w = np.asarray(poisson_weights(KEY, jnp.asarray(index), replicates), np.float64)
    x, x0 = (np.asarray(v, np.float64) for v in (states.x_t, states.x0))
    t = jnp.asarray(states.t)
    a, s = (np.asarray(f(t), np.float64)[:, None, None] for f in (path.alpha, path.sigma))
    eps = (x - a * x0) / s
    c, d, e, m = (x - a * TURNED.mean) @ Q, (x0 - TURNED.mean) @ Q, eps @ Q, TURNED.mean @ Q
    norm = np.sqrt(np.square(eps).sum(-1))
    flat = {
        "state": c**2, "x0": d**2, "eps": e**2, "cross": c * e, "lean": c * m, "eps_norm": norm, "eps_square": norm**2,
        "x0_square": (x0**2).sum(-1), "x_square": (x**2).sum(-1), "pixel_variance": x.var(axis=-1, ddof=1),
        "cosine": (x * eps).sum(-1) / norm / np.sqrt((x**2).sum(-1)), "fed": np.broadcast_to(fed[:, None], norm.shape),
    }  # fmt: skip
    return {name: np.einsum("rn,kn...->kr...", w, v) for name, v in flat.items()} | {"weight": w.sum(axis=1), "mean": c.mean(axis=1)}


@pytree_dataclass
class Exact:
    """A denoiser that says nothing of what it was told."""

    path: object = leaf()

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        t = jnp.broadcast_to(t, x_t.shape[:1]) if cond else jnp.asarray(t)
        return dataclasses.replace(Prediction.of(x_t, t, self.path, x0=0.5 * x_t), fed=None)

    def on(self, path):
        return Exact(path)


RUNS = {
    "DDIM": (DDIM(), UniformLogSNR(5, -5.0, 4.0), VP(), False),
    "Heun, its second call": (Heun(Kappa()), Karras(4, sigma_max=20.0), EDM(), False),
    "DPM++2M": (DPMSolverPP2M(), UniformLogSNR(6, -5.0, 4.0), LinearFlow(), False),
    "churn": (EulerMaruyama(), Churn(Karras(5, sigma_min=0.05, sigma_max=20.0, to_data=False), s_churn=2.0), EDM(), False),
    "guidance": (DDIM(), UniformLogSNR(5, -5.0, 4.0), LinearFlow(), True),
    "two paths": (DDIM(), LevelsOf(UniformTime(5, start=-5.0, end=4.0), VP()), LinearFlow(), False),
}


QUICK = ("Heun, its second call", "churn", "guidance")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RUNS])
def test_sums_are_those_of_the_states(name, x64):
    sampler, grid, path, guided = RUNS[name]
    denoiser = small(VP(), F(0.7)).on(path)
    denoiser = CFG(denoiser, 1.8) if guided else denoiser
    recorder = BandRecorder.of(TURNED, KEY, 25)
    both = Recorders((recorder, StateRecorder(rows=N)))
    run = sample(denoiser, sampler, grid, (N, 2), jax.random.key(1), index=INDEX, cond=COND, recorder=both)
    record, states = recorder.collect(run.record[0]), run.record[1].in_order()
    expected = recomputed(states, states.fed, path)
    assert record.n == N and len(record.t) == len(states.t) == int(run.nfe) // (2 if guided else 1)
    np.testing.assert_array_equal(record.t, states.t)
    np.testing.assert_allclose(record.log_snr, states.log_snr, rtol=1e-13)
    np.testing.assert_allclose(record.weight, expected["weight"], rtol=1e-14)
    np.testing.assert_allclose(record.mean, expected["mean"], atol=1e-11)
    for kind, names in ((record.banded, BANDED), (record.plotted, PLOTTED)):
        assert tuple(kind) == names
        for one in names:
            np.testing.assert_allclose(kind[one], expected[one], rtol=1e-8, atol=1e-9, err_msg=one)  # eps is recovered at small sigma
    np.testing.assert_allclose(record.means("state")[:, 0], expected["state"][:, 0] / N, rtol=1e-8)
    assert not record.invalid.any() and (record.first == -1).all()
    assert len(record.t) == {"Heun, its second call": 7, "DPM++2M": 6}.get(name, 5)


def runs(chunk, n=10, dtype=None, **options):
    recorder = BandRecorder.of(TURNED, KEY, 25)
    denoiser, grid = small(VP(), F(0.7)), UniformLogSNR(4, -5.0, 4.0)
    run = sample_chunked(denoiser, DDIM(), grid, (n, 2), jax.random.key(1), chunk=chunk, recorder=recorder, **options)
    return recorder.collect(run.record), run.record


def test_chunks_add_up_to_the_whole(x64):
    """Of which the last is smaller."""
    whole, part = runs(10)[0], runs(6)[0]
    for name in BANDED + PLOTTED:
        np.testing.assert_allclose(part.means(name), whole.means(name), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(part.mean, whole.mean, atol=1e-13)
    np.testing.assert_allclose(part.blocks, whole.blocks, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(part.sizes, whole.sizes)
    np.testing.assert_array_equal(part.weight, whole.weight)
    np.testing.assert_array_equal(part.t, whole.t)
    assert part.n == 10


@pytest.mark.slow
def test_devices_add_up_to_the_whole(x64):
    spread, alone = runs(4, n=8, devices=jax.local_devices())[0], runs(8, n=8)[0]
    for name in BANDED + PLOTTED:
        np.testing.assert_allclose(spread.means(name), alone.means(name), rtol=1e-11, atol=1e-13)


def test_a_record_is_as_large_for_300_trajectories_as_for_3():
    record = lambda n: jax.tree.map(jnp.shape, jax.eval_shape(lambda x: run_of(x), jnp.zeros((n, 2))))  # noqa: E731
    assert record(3) == record(300) and record(3)["banded"] == (4, 1, 26, 10)


def run_of(x):
    """The record of four calls on the states x."""
    recorder = BandRecorder.of(TURNED, KEY, 25)
    kept = recorder.init(4, 1, x, jnp.arange(len(x)))
    for k in range(4):
        kept = recorder.update(kept, jnp.asarray(k), 0, Exact(VP())(x, 0.5), jnp.asarray(True))
    return recorder.result(kept)


@pytest.mark.slow
def test_memory_does_not_grow_with_trajectories_and_calls():
    """In the compiled program, what a trajectory costs (weights, one call's coefficients) does not grow with the number of calls."""
    recorder = BandRecorder.of(TURNED, KEY, 25)
    denoiser = small(VP(), F(0.7))

    def cost(n, steps):
        grid = UniformLogSNR(steps, -5.0, 4.0)
        return memory_of(denoiser, DDIM(), grid, (n, 2), recorder=recorder) - memory_of(denoiser, DDIM(), grid, (n, 2))

    few, many, few_long, many_long = cost(10, 5), cost(1000, 5), cost(10, 25), cost(1000, 25)
    per_call = 4 * (26 * (5 * 2 + len(PLOTTED)) + 2 + 6)  # bytes of one call's sums
    assert abs((many_long - few_long) - (many - few)) < 20 * per_call  # 990 trajectories of 20 calls more: 990 x 20 numbers and more
    assert many_long - many < 3 * 20 * per_call


def test_float32_runs_are_kept_in_float32_and_read_right():
    recorder, grid = BandRecorder.of(TURNED, KEY, 25), UniformLogSNR(4, -5.0, 4.0)
    both = Recorders((recorder, StateRecorder(rows=10)))
    run = sample(small(VP(), F(0.7)), DDIM(), grid, (10, 2), jax.random.key(1), recorder=both)
    assert run.record[0]["banded"].dtype == run.record[0]["weight"].dtype == jnp.float32
    record, seen = recorder.collect(run.record[0]), run.record[1].in_order()
    assert record.banded["state"].dtype == np.float64
    expected = recomputed(seen, seen.fed, VP(), 10, np.arange(10))
    for name in ("state", "x0", "lean", "x_square", "cosine"):
        np.testing.assert_allclose({**record.banded, **record.plotted}[name], expected[name], rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_float32_states_are_summed_in_double_where_it_is_to_be_had(x64):
    recorder = BandRecorder.of(TURNED, KEY, 25)
    run = sample(small(VP(), F(0.7)), DDIM(), UniformLogSNR(4, -5.0, 4.0), x_T=jnp.ones((4, 2), jnp.float32), recorder=recorder)
    assert run.x.dtype == jnp.float32 and run.record["banded"].dtype == jnp.float64


def test_broken_trajectories_are_counted_and_named_not_averaged():
    x_T = np.ones((4, 2), np.float32)
    x_T[2, 1], x_T[3, 0] = np.nan, np.inf
    recorder = BandRecorder.of(TURNED, KEY, 25)
    options = {"x_T": x_T, "index": np.array([9, 3, 50, 40])}
    joined = sample_chunked(small(VP(), F(0.7)), DDIM(), UniformLogSNR(3, -5.0, 4.0), chunk=2, recorder=recorder, **options)
    record = recorder.collect(joined.record)
    assert (record.invalid == 2).all() and (record.first == 40).all()
    curve = log_ratio(record, TURNED, VP())
    assert (curve.flag == "not finite").all() and np.isnan(curve.value).all() and np.isnan(curve.low).all()


def test_an_infinite_level_is_kept_as_such():
    """From pure noise, log-SNR -inf, with replicates in which a trajectory has the weight 0."""
    recorder = BandRecorder.of(TURNED, KEY, 25)
    record = recorder.collect(sample(Exact(LinearFlow()), DDIM(), UniformTime(3), (12, 2), recorder=recorder).record)
    assert (record.means("fed")[0] == -np.inf).all() and record.log_snr[0] == -np.inf
    np.testing.assert_allclose(record.means("fed")[1:, 0], record.log_snr[1:], rtol=1e-6)


def test_refusals():
    with pytest.raises(ConfigError, match="at least 20"):
        BandRecorder.of(TURNED, KEY, 19)
    recorder = BandRecorder.of(TURNED, KEY)
    with pytest.raises(ConfigError, match=r"states' shape, \(3,\)"):
        sample(Exact(EDM()), DDIM(), Karras(3), (4, 3), recorder=recorder)
    with pytest.raises(ConfigError, match="one time for all"):
        sample(Exact(EDM()), DDIM(), Karras(3), (4, 2), recorder=recorder, cond={"label": np.zeros(4, np.int32)})
