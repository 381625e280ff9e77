"""A learned noise-level probe: the level of a state by small networks that see nothing but the state, and never its label.

    g_m(x / rms(x)) -> (mean_m, log variance_m) of lambda,    m = 1..3
    calibration on held-out forward states:   c_m(lambda) = E mean_m(x_lambda) = lambda + bias
    reading:   lambda_eff = mean_m c_m^-1(E mean_m(x_hat)),   error: trajectories and calibration resampled, and the spread over m

The reference divides by sqrt(V_tot) of the level; at the sampler's state that would be the label's, and would tell it.  Divided by its own
root mean square the state tells neither label nor scale, so the probe reads the same on every path, and what it reads is the level of the
nearest scaled forward state (M4).  Where states of all levels look alike after that (white data) nothing is read.

It is trained, calibrated and tested by ``probe_training``; around levels where it does not recover a known contamination it is flagged
"failed its calibration".  (Noise Awareness Guidance, Zhong et al. 2026, figure 4: posteriors.)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.linear import expand
from score_lab.mismatch.estimators.base import FLAGS, Effective, Resolution
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.estimators.roots import branch, each, solve
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.replicates import OK
from score_lab.mismatch.spectrum import Spectrum
from score_lab.networks.regressor import Regressor
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, PyTree, leaf, pytree_dataclass, static

__all__ = ["FAILED", "Probe"]

FAILED = FLAGS[-1]


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
        out = jax.vmap(lambda p: self.network.apply(p, scaled(x)))(self.params)  # (M, n, 2)
        mean, log_var = levels_of(out, self.low, self.high)
        sd = jnp.exp(0.5 * log_var)[..., None]
        density = jnp.exp(-0.5 * jnp.square((self.grid[None, None] - mean[..., None]) / sd)) / (sd * jnp.sqrt(2 * jnp.pi))
        return jnp.concatenate([mean.T, density.mean(axis=0)], axis=1)


@dataclasses.dataclass(frozen=True)
class Probe(Resolution):
    """Made by ``probe_training.train_probe``.  ``outputs`` the trained statistic; ``levels`` (C,) and ``curves`` (C, R + 1, M) the
    calibration of every member; ``tested`` levels, ``passed`` which of them, ``error`` of each in nats; ``covariance`` (C, M, M)
    of what the members read of single forward states at ``levels``, in lambda^2 (None: not known); ``tol`` in ln kappa."""

    outputs: Outputs
    levels: np.ndarray
    curves: np.ndarray
    tested: np.ndarray
    passed: np.ndarray
    error: np.ndarray
    covariance: np.ndarray | None = None

    def recorder(self, key: Array, replicates: int = 200) -> SumRecorder:
        """For ``sample(..., recorder=)``, alone or in ``Recorders``."""
        return SumRecorder(self.outputs, key, replicates)

    @property
    def digest(self) -> str:
        """Of the trained parameters and their calibration, 16 hexadecimal digits."""
        found = hashlib.sha256()
        for name, value in sorted(self.arrays().items()):
            found.update(f"{name} {value.dtype} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes())
        return found.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that training and calibration made, by name; ``of_arrays`` gives the probe back."""
        params = {f"param_{i:03d}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(self.outputs.params))}
        made = {name: np.asarray(getattr(self, name)) for name in ("levels", "curves", "tested", "passed", "error")}
        made |= {} if self.covariance is None else {"covariance": np.asarray(self.covariance)}
        return params | made | {"grid": np.asarray(self.outputs.grid)}

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], members: int, low: float, high: float,
        network: Regressor | None = None, **options,
    ) -> Probe:  # fmt: skip
        """The probe whose ``arrays`` these are, for states of ``shape``, trained on log-SNRs ``low`` to ``high``; ``options`` as of
        ``train_probe``.  ConfigError for arrays of another network."""
        network = Regressor() if network is None else network
        like = jax.eval_shape(jax.vmap(lambda k: network.init(k, shape)), jax.random.split(jax.random.key(0), members))
        wanted, tree = jax.tree.flatten(like)
        leaves = [arrays[name] for name in sorted(arrays) if name.startswith("param_")]
        if [v.shape for v in leaves] != [v.shape for v in wanted]:
            refuse("Probe.of_arrays.arrays", [v.shape for v in leaves], f"parameters of shapes {[v.shape for v in wanted]}")
        params = jax.tree.unflatten(tree, [jnp.asarray(v) for v in leaves])
        outputs = Outputs(params, jnp.asarray(arrays["grid"]), network, float(low), float(high), members)
        made = (arrays[name] for name in ("levels", "curves", "tested", "passed", "error"))
        return cls(outputs, *made, arrays.get("covariance"), **options)

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


def scaled(x: Array) -> Array:
    """``x / rms(x)``, example by example; 0 stays 0."""
    x = x.astype(jnp.float32)
    rms = jnp.sqrt(jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim))))
    return x / expand(jnp.where(rms > 0, rms, 1.0), x)


def levels_of(out: Array, low: float, high: float) -> tuple[Array, Array]:
    """Mean and log variance in nats of log-SNR: the network's own unit is half the range about its middle; the sd from 0.002 of it."""
    half = 0.5 * (high - low)
    return 0.5 * (low + high) + half * out[..., 0], jnp.clip(out[..., 1], -12.0, 4.0) + 2 * jnp.log(half)
