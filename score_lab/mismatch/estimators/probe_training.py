"""A noise-level probe trained on forward states, calibrated on held-out ones, and tested on a contamination that is known.

    loss         E [ (lambda - mean)^2 / var + ln var ] / 2,   lambda ~ U[low, high],   x = x0 + exp(-lambda / 2) eps
    calibration  c_m(lambda) = E mean_m(x_lambda),   bootstrapped
    test         x0 + tau xi for x0: kappa_eff^2 = kappa^2 + tau^2 / alpha^2, to 5 % of the shift and three standard errors
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import expand
from score_lab.mismatch.estimators.probe import Outputs, Probe, levels_of, scaled
from score_lab.mismatch.estimators.streaming import SumRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.replicates import OK
from score_lab.networks.regressor import Regressor
from score_lab.paths import EDM
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, leaf, pytree_dataclass

__all__ = ["train_probe"]

_CONTAMINATION = 0.3
"""The nats of log-SNR by which the test contaminates."""
SINGLE, CHUNK = 4000, 1000
"""The most examples of which single readings are measured, a standard deviation to 1 %, and how many at once."""


def train_probe(
    x0: np.ndarray, key: Array, *, low: float = -6.0, high: float = 6.0, members: int = 3, steps: int = 1500, batch: int = 256,
    learning_rate: float = 3e-3, network: Regressor | None = None, held_out: float = 0.4, points: int = 33, replicates: int = 100,
    **options,
) -> Probe:  # fmt: skip
    """Trains, calibrates and tests a probe on data ``x0`` (n, *shape), n >= 200.

    Args:
      low, high: log-SNRs that it is trained on; it reads those inside.
      members: of the ensemble, each from its own start and batches.
      held_out: the share of the data that calibrates and tests.
      points, replicates: levels and bootstrap replicates of the calibration.
      options: ``tol``, ``level``, ``simultaneous`` of the estimator.
    """
    x0, network = np.asarray(x0), Regressor() if network is None else network
    if len(x0) < 200 or not np.isfinite(x0).all() or not 0.1 <= held_out <= 0.9:
        refuse("train_probe.x0, held_out", (x0.shape, held_out), "at least 200 examples, all finite, and a share from 0.1 to 0.9")
    if not (low < high and members >= 1 and steps >= 1 and points >= 7):
        given = (low, high, members, steps, points)
        refuse("train_probe.low, high, members, steps, points", given, "low < high, members, steps >= 1, points >= 7")
    keys = jax.random.split(key, 6)
    cut = len(x0) - int(held_out * len(x0))
    order = np.asarray(jax.random.permutation(keys[0], len(x0)))
    learn, keep = x0[order[:cut]], x0[order[cut:]]
    starts = jax.vmap(lambda k: network.init(k, x0.shape[1:]))(jax.random.split(keys[1], members))
    data = jnp.asarray(learn, jnp.float32)
    params = _train(starts, data, jax.random.split(keys[2], members), (float(low), float(high)), network, steps, batch, learning_rate)
    grid = jnp.linspace(low, high, 121)
    outputs = Outputs(params, grid, network, float(low), float(high), members)
    levels = np.linspace(low, high, points)
    tested = np.linspace(low + 0.15 * (high - low), high - 0.15 * (high - low), 5)
    path = EDM(float(np.exp(-0.5 * (low - 1.0))))
    recorder = SumRecorder(outputs, keys[3], replicates)
    curves = _means(recorder, keep, levels, path, keys[4])[..., :members]
    covariance = _covariance(outputs, keep[:SINGLE], levels, jax.random.fold_in(keys[4], 1))
    probe = Probe(outputs, levels, curves, tested, np.ones(5, bool), np.zeros(5), covariance, **options)
    return _tested(probe, keep, path, keys[5], recorder)


def _tested(probe: Probe, keep: np.ndarray, path: GaussianPath, key: Array, recorder: SumRecorder) -> Probe:
    """The known-contamination test at every ``tested`` level: within 5 % of the shift and three standard errors."""
    passed, errors = [], []
    wide = dataclasses.replace(probe, tol=1e9, simultaneous=False)
    for i, level in enumerate(probe.tested):
        k = jax.random.fold_in(key, i)
        tau = np.exp(-0.5 * level) * np.sqrt(np.expm1(_CONTAMINATION))
        dirty = keep + np.float32(tau) * np.asarray(jax.random.normal(k, keep.shape, jnp.float32))
        t = _time(path, np.array([level]))
        record = recorder.collect(forward_run(_Silent(path), dirty, t, recorder, jax.random.fold_in(k, 1)))
        delta = wide.read(record, None, path).delta
        error = delta.value[0] + _CONTAMINATION
        errors.append(error)
        near = delta.flag[0] == OK and abs(error) <= 0.05 * _CONTAMINATION + 3 * delta.se[0]
        passed.append(near or delta.flag[0] == "unidentifiable")  # that is not wrong: it is flagged so when it is read
    return dataclasses.replace(probe, passed=np.array(passed), error=np.array(errors))


def _means(recorder: SumRecorder, x0: np.ndarray, levels: np.ndarray, path: GaussianPath, key: Array) -> np.ndarray:
    return recorder.collect(forward_run(_Silent(path), x0, _time(path, levels), recorder, key)).means()


def _covariance(outputs: Outputs, x0: np.ndarray, levels: np.ndarray, key: Array) -> np.ndarray:
    """(C, M, M): of the members' readings of one forward state, over ``x0``, at every level."""
    chunk = min(CHUNK, len(x0))
    pieces = jnp.asarray(x0[: len(x0) // chunk * chunk], jnp.float32).reshape(-1, chunk, *x0.shape[1:])

    @jax.jit
    def read(outputs, piece, kappa, key):
        states = piece + kappa * jax.random.normal(key, piece.shape, piece.dtype)
        return outputs(states, kappa, None)[:, : outputs.members]

    found = []
    for c, level in enumerate(levels):
        kappa, of_level = jnp.float32(np.exp(-0.5 * level)), jax.random.fold_in(key, c)
        seen = [np.asarray(read(outputs, piece, kappa, jax.random.fold_in(of_level, k))) for k, piece in enumerate(pieces)]
        found.append(np.cov(np.concatenate(seen).astype(np.float64), rowvar=False).reshape(outputs.members, -1))
    return np.stack(found)


def _time(path: GaussianPath, levels: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(path.time_of(jnp.asarray(levels)), np.float64)


@pytree_dataclass
class _Silent:
    """A denoiser that predicts nothing: for records of states alone."""

    path: GaussianPath = leaf()

    def on(self, path: GaussianPath) -> _Silent:
        return _Silent(path)

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        return Prediction.of(x_t, t, self.path, x0=x_t, eps=x_t)


@partial(jax.jit, static_argnames=("ends", "network", "steps", "batch", "learning_rate"))
def _train(starts, data, keys, ends, network, steps, batch, learning_rate):
    """Every member's parameters after ``steps`` of Adam with a cosine decay."""
    low, high = ends
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(params, key):
        rows, level, noise = jax.random.split(key, 3)
        x0 = data[jax.random.randint(rows, (batch,), 0, len(data))]
        lam = jax.random.uniform(level, (batch,), minval=low, maxval=high)
        kappa = jnp.exp(-0.5 * lam)
        x = x0 + expand(kappa, x0) * jax.random.normal(noise, x0.shape)
        mean, log_var = levels_of(network.apply(params, scaled(x)), low, high)
        return 0.5 * jnp.mean(jnp.square(lam - mean) * jnp.exp(-log_var) + log_var)

    def member(params, key):
        def step(carry, k):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, k), state, params)
            return (optax.apply_updates(params, updates), state), ()

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]

    return jax.vmap(member)(starts, keys)
