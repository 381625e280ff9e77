"""A learned noise-level probe: the level of a state by small networks that see nothing but the state, and never its label.

    g_m(x / rms(x)) -> (mean_m, log variance_m) of lambda,    lambda ~ U[low, high],   Gaussian negative log-likelihood,   m = 1..3
    calibration on held-out forward states:   c_m(lambda) = E mean_m(x_lambda) = lambda + bias
    reading:   lambda_eff = mean_m c_m^-1(E mean_m(x_hat)),   error: trajectories and calibration resampled, and the spread over m

The reference divides by sqrt(V_tot) of the level; at the sampler's state that would be the label's, and would tell it.  Divided by its own
root mean square the state tells neither label nor scale, so the probe reads the same on every path, and what it reads is the level of the
nearest scaled forward state (M4).  Where states of all levels look alike after that (white data) nothing is read.

Before it is used it must recover a known contamination of held-out data, x0 + tau xi: kappa_eff^2 = kappa^2 + tau^2 / alpha^2.  Around
levels where it does not it is flagged "failed its calibration".  (Noise Awareness Guidance, Zhong et al. 2026, figure 4: posteriors.)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import expand
from score_lab.mismatch.estimators.base import FLAGS, Effective, Resolution
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.estimators.roots import branch, each, solve
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.replicates import OK
from score_lab.mismatch.spectrum import Spectrum
from score_lab.networks.regressor import Regressor
from score_lab.paths import EDM
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, PyTree, leaf, pytree_dataclass, static

__all__ = ["FAILED", "Probe", "train_probe"]

FAILED = FLAGS[-1]
_CONTAMINATION = 0.3
"""The nats of log-SNR by which the test contaminates."""


@pytree_dataclass
class Outputs:
    """The statistic: every member's mean, (n, M), then the ensemble's posterior density on ``grid``, (n, L), which integrates to 1."""

    params: PyTree = leaf()
    grid: Array = leaf()
    network: Regressor = static()
    low: float = static()
    high: float = static()
    members: int = static()

    @property
    def size(self) -> int:
        """M + L."""
        return self.members + int(np.shape(self.grid)[0])

    def __call__(self, x: Array, t: Array, path: Any) -> Array:
        """(n, M + L); t and path are not looked at."""
        out = jax.vmap(lambda p: self.network.apply(p, _scaled(x)))(self.params)  # (M, n, 2)
        mean, log_var = _levels_of(out, self.low, self.high)
        sd = jnp.exp(0.5 * log_var)[..., None]
        density = jnp.exp(-0.5 * jnp.square((self.grid[None, None] - mean[..., None]) / sd)) / (sd * jnp.sqrt(2 * jnp.pi))
        return jnp.concatenate([mean.T, density.mean(axis=0)], axis=1)


@dataclasses.dataclass(frozen=True)
class Probe(Resolution):
    """Made by ``train_probe``.  ``outputs`` the trained statistic; ``levels`` (C,) and ``curves`` (C, R + 1, M) the calibration of every
    member; ``tested`` levels, ``passed`` which of them, ``error`` of each in nats; ``tol`` in ln kappa."""

    outputs: Outputs
    levels: np.ndarray
    curves: np.ndarray
    tested: np.ndarray
    passed: np.ndarray
    error: np.ndarray

    def recorder(self, key: Array, replicates: int = 200) -> SumRecorder:
        """For ``sample(..., recorder=)``, alone or in ``Recorders``."""
        return SumRecorder(self.outputs, key, replicates)

    @property
    def bias(self) -> np.ndarray:
        """``c(lambda) - lambda`` of the ensemble on held-out forward states, (C,)."""
        return self.curves[:, 0].mean(axis=1) - self.levels

    def read(self, record: SumRecord, spectrum: Spectrum | None, path: GaussianPath) -> Effective:
        """Of a record of this probe's ``recorder``; the spectrum is not needed."""
        levels, M = Levels.of(path, record.t), self.outputs.members
        means = record.means()[..., :M]
        R = min(means.shape[1], self.curves.shape[1])
        found, flag = np.full((len(means), R), np.nan), np.full(len(means), OK, dtype=object)
        needed = np.full(len(means), np.inf)
        noise = np.random.default_rng(0).standard_normal(R) * (np.arange(R) > 0)
        for k in np.flatnonzero(levels.finite & np.isfinite(means).all(axis=(1, 2))):
            if not self.levels[0] < levels.log_snr[k] < self.levels[-1]:
                flag[k], needed[k] = "off the branch", 0.0
                continue
            read = [_inverse(self.levels, self.curves[:, :R, m], levels.log_snr[k], means[k, :R, m]) for m in range(M)]
            flag[k] = next((f for _, f in read if f != OK), OK)
            needed[k] = np.inf if flag[k] == "unidentifiable" else 0.0
            own = np.stack([v for v, _ in read])
            spread = own[:, 0].std(ddof=1) / np.sqrt(M) if M > 1 and np.isfinite(own[:, 0]).all() else 0.0
            found[k] = own.mean(axis=0) + noise * spread
            if flag[k] == OK and not self.passed[np.argmin(np.abs(self.tested - levels.log_snr[k]))]:
                flag[k] = FAILED
        flag[~levels.finite] = "unidentifiable"
        flag[~np.isfinite(means).all(axis=(1, 2))] = "not finite"
        return self.effective("noise-level probe", record, levels, found, flag, needed)

    def posterior(self, record: SumRecord) -> tuple[np.ndarray, np.ndarray]:
        """``(grid (L,), density (K, L))``: the mean over trajectories of p(lambda | x), call by call, as Noise Awareness Guidance plots."""
        return np.asarray(self.outputs.grid, np.float64), record.means()[:, 0, self.outputs.members :]


def _inverse(levels: np.ndarray, curves: np.ndarray, nominal: float, mean: np.ndarray) -> tuple[np.ndarray, str]:
    """``c^-1(mean)`` (R,) on the monotone branch around ``nominal``, and the flag."""
    from scipy.interpolate import CubicSpline

    splines, rows, R = CubicSpline(levels, curves), np.arange(len(mean)), len(mean)
    slopes = each(splines, np.full(R, nominal), rows, 1)
    if not slopes[0] > max(4 * np.std(slopes[1:]), 0.05):
        return np.full(R, np.nan), "unidentifiable"
    fine = np.linspace(levels[0], levels[-1], 801)
    rising = CubicSpline(levels, curves[:, 0])(fine, 1) > 0
    low, high = branch(fine, rising, nominal)
    ends = each(splines, np.full(R, low), rows), each(splines, np.full(R, high), rows)
    off = (mean < ends[0]) | (mean > ends[1])
    found = solve(lambda at: (mean - each(splines, at, rows), -each(splines, at, rows, 1)), np.full(R, low), np.full(R, high))
    return np.where(off, np.inf, found), "off the branch" if off[0] else OK


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
    probe = Probe(outputs, levels, curves, tested, np.ones(5, bool), np.zeros(5), **options)
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


def _scaled(x: Array) -> Array:
    """``x / rms(x)``, example by example; 0 stays 0."""
    x = x.astype(jnp.float32)
    rms = jnp.sqrt(jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim))))
    return x / expand(jnp.where(rms > 0, rms, 1.0), x)


def _levels_of(out: Array, low: float, high: float) -> tuple[Array, Array]:
    """Mean and log variance in nats of log-SNR: the network's own unit is half the range about its middle; the sd from 0.002 of it."""
    half = 0.5 * (high - low)
    return 0.5 * (low + high) + half * out[..., 0], jnp.clip(out[..., 1], -12.0, 4.0) + 2 * jnp.log(half)


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
        mean, log_var = _levels_of(network.apply(params, _scaled(x)), low, high)
        return 0.5 * jnp.mean(jnp.square(lam - mean) * jnp.exp(-log_var) + log_var)

    def member(params, key):
        def step(carry, k):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, k), state, params)
            return (optax.apply_updates(params, updates), state), ()

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]

    return jax.vmap(member)(starts, keys)
