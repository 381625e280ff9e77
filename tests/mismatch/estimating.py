"""What the tests of estimators share: exact records, forward records of the real recorder, and repetitions with their coverage."""

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.mismatch.bands import BANDED, PLOTTED, BandRecord, BandRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.spectrum import Spectrum

S2 = np.array([2.0, 0.8, 0.25, 0.05])
"""Variances of four bands of 2, 3, 4 and 7 coefficients."""
SPECTRUM = Spectrum(S2, np.repeat(np.arange(4), [2, 3, 4, 7]), np.linspace(-0.5, 0.5, 16))


def times(path, kappa):
    """float64 times of these noise levels."""
    with jax.enable_x64(True):
        return np.asarray(path.time_of(jnp.asarray(-2 * np.log(np.asarray(kappa, np.float64)))), np.float64)


def exact_record(spectrum, path, t, v, n=10**9, replicates=20):
    """The record of infinitely many trajectories of band variances ``v`` (K, B): every replicate is the truth."""
    _, _, level = on_host(path, t)
    weight = np.full(replicates + 1, float(n))
    state = np.repeat((n * np.asarray(v) * spectrum.count)[:, None], replicates + 1, axis=1)
    banded = {name: state if name == "state" else np.full_like(state, np.nan) for name in BANDED}
    plotted = {name: np.full(state.shape[:2], np.nan) for name in PLOTTED}
    none = np.zeros(len(t), int)
    return BandRecord(np.asarray(t), level, weight, banded, plotted, np.zeros((len(t), *spectrum.mean.shape)), none, none - 1)


def forward_record(spectrum, path, t, n, seed, contamination=0.0, scale=None, replicates=100, denoiser=None):
    """The real recorder on forward samples of Gaussian data, contaminated in x0 by ``contamination`` xi: tau = alpha contamination."""
    key = jax.random.key(seed)
    denoiser = spectrum.surrogate(path) if denoiser is None else denoiser
    data = spectrum.surrogate(path).sample(jax.random.fold_in(key, 1), jnp.arange(n))
    data = data + contamination * jax.random.normal(jax.random.fold_in(key, 2), data.shape, data.dtype)
    recorder = BandRecorder.of(spectrum, jax.random.fold_in(key, 3), replicates)
    return recorder.collect(forward_run(denoiser, np.asarray(data), t, recorder, jax.random.fold_in(key, 4)))


def coverage(intervals, truth):
    """The share of ``(low, high)`` pairs, arrays (reps, K), that hold ``truth``; and of repetitions in which all do."""
    low, high = (np.stack([i[k] for i in intervals]) for k in (0, 1))
    held = (low <= truth) & (truth <= high)
    return held.mean(), held.all(axis=1).mean()


def recorded(recorder, denoiser, states, t):
    """The recorder's record of given ``states`` (K, n, *shape) at times ``t`` (K,): no randomness but the weights'."""
    index = jnp.arange(states.shape[1])
    record = recorder.init(len(t), 1, jnp.asarray(states[0]), index)
    update = jax.jit(lambda record, k, x, time: recorder.update(record, k, 0, denoiser(x, time), jnp.asarray(True)))
    for k, time in enumerate(t):
        record = update(record, jnp.asarray(k), jnp.asarray(states[k]), jnp.asarray(time))
    return recorder.collect(recorder.result(record))
