"""The oracle: what a real sampler does to Gaussian bands, exactly, at every network call; float64, no Monte Carlo.

For data N(mu, Q diag(s_b^2) Q^T) and a denoiser that is affine in the state and diagonal in the basis Q, a run is affine in everything that
is random in it, coefficient by coefficient:

    c_k - E c_k = h_k0 z_0 + sum_(i,j) h_k,ij z_ij,     z_0 = (x_T - E x_T) / sqrt(R_0 V_T),   z_ij the j-th draw of step i (renoising too)
    Var_b(x_k) = R_0 V_T h_k0^2 + sum_ij h_k,ij^2,      R_b,k = Var_b(x_k) / V_b(lambda_k)

h are impulse responses: the real ``sample`` with one of the z set to 1 and the others to 0, all of them rows of one batch.  The first row
has all z = 0 and gives E x_k; the last has every z of every coefficient random, and must be what the others add up to: a sampler or
denoiser that is not affine, or mixes coefficients, is refused and not approximated.  Langevin correctors (their step depends on norms of
the state) and adaptive solvers (so do their levels) are refused by name.

Source: impulse responses as in the tests of every sampler; closed forms (4.1) to (4.9) of docs/mismatch.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser
from score_lab.mismatch.impulses import Impulses, Responses, check_affine, draws_per_step, last_moments
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.samplers import sample
from score_lab.samplers.steps import steps_of
from score_lab.types import PyTree

__all__ = ["Oracle", "exact_moments", "variance_ratios"]

_AFFINE = 1e-8
"""By how much of its size the last row may differ from the sum of the others."""


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Rows are the network calls that were made, in order (K); ``variance``, ``log_ratio`` and ``leak`` have one row more, the last states.

    ``t``, ``log_snr`` (K + 1,); ``step``, ``call`` (K + 1,) of the grid (of the last states: N, 0); ``variance`` (K + 1, B) of the states;
    ``log_ratio`` ln R_b (K + 1, B), NaN where V_b = 0; ``leak`` (K + 1, *shape): coefficients of E x - alpha mu; ``x0``, ``eps`` (K, B):
    variances of the predictions; ``cross`` (K, B): covariance of state and predicted eps; ``fed`` (K,) the log-SNR told.
    """

    t: np.ndarray
    log_snr: np.ndarray
    step: np.ndarray
    call: np.ndarray
    variance: np.ndarray
    log_ratio: np.ndarray
    leak: np.ndarray
    x0: np.ndarray
    eps: np.ndarray
    cross: np.ndarray
    fed: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """(N + 1,) the rows of the states that the steps start from, and of the last ones."""
        return np.flatnonzero(self.call == 0)


def variance_ratios(
    sampler: Any, grid: Any, path: GaussianPath, spectrum: Spectrum, R_0: Any = 1.0, *, at: str = "levels", **options: Any
) -> np.ndarray:
    """``ln R_b`` (N + 1, B) at the grid's levels, or, ``at="calls"``, (K + 1, B) at every network call and at the end; the rest as of
    ``exact_moments``."""
    if at not in ("levels", "calls"):
        refuse("variance_ratios.at", at, "levels or calls", ("levels", "calls"))
    found = exact_moments(sampler, grid, path, spectrum, R_0, **options)
    return found.log_ratio[found.levels] if at == "levels" else found.log_ratio


def exact_moments(
    sampler: Any, grid: Any, path: GaussianPath, spectrum: Spectrum, R_0: Any = 1.0, *, denoiser: Denoiser | None = None,
    label: int | None = None,
) -> Oracle:  # fmt: skip
    """Second moments and mean of ``sampler`` on ``grid`` for data of ``spectrum`` on ``path``: exact, to rounding in float64.

    Args:
      R_0: variance ratio of the start, > 0: a number, (B,), or "prior": N(0, prior_std^2), the path's own, with its mean 0.
      denoiser: any that is affine and diagonal in the spectrum's basis (a surrogate of another spectrum, guidance of ``TwoSpectra``, a
        linear correction); the spectrum's own exact one by default.
      label: of every trajectory, where the denoiser takes one.

    Raises ConfigError for a sampler or denoiser that is not affine or not diagonal, and whatever ``sample`` refuses.
    """
    check_affine("oracle.sampler", sampler)
    with jax.enable_x64(True):
        path, sampler, grid, denoiser = (_double(part) for part in (path, sampler, grid, denoiser))
        steps = steps_of(grid, path)
        denoiser = spectrum.surrogate(path) if denoiser is None else denoiser.on(path)
        cond = lambda n: None if label is None else {"label": jnp.full(n, label, jnp.int32)}  # noqa: E731
        n, draws = len(np.asarray(steps.t)), draws_per_step(sampler, denoiser, steps, spectrum.band.shape, cond(1))
        rows = [(k, j) for k in range(n) for j in range(draws)] + [(n, 0)] * int(steps.renoises)
        start = np.asarray(steps.start, np.float64)[None]
        alpha, _, _ = (v[0] for v in on_host(path, start))
        V, mean = spectrum.V(path, start)[0], np.asarray(spectrum.mean)
        if isinstance(R_0, str):
            if R_0 != "prior":
                refuse("oracle.R_0", R_0, "numbers > 0, or prior", ("prior",))
            first, std = 0.0 * mean, np.full(len(V), float(path.prior_std(jnp.asarray(start[0]))))
        else:
            if not (np.all(np.isfinite(R_0)) and np.all(np.asarray(R_0) > 0) and np.shape(R_0) in ((), V.shape)):
                refuse("oracle.R_0", R_0, f"a number > 0, {len(V)} of them, or prior")
            first, std = alpha * mean, np.sqrt(np.asarray(R_0) * V)
        shape, rng = spectrum.band.shape, np.random.default_rng(0)
        weight = rng.choice([-1.0, 1.0], (1 + len(rows), *shape)) * rng.uniform(0.5, 1.5, (1 + len(rows), *shape))
        back = lambda c: np.asarray(spectrum.basis.synthesise(jnp.asarray(c)), np.float64)  # noqa: E731
        z_0 = back(np.stack([std[spectrum.band], weight[0] * std[spectrum.band]]))
        x_T = np.broadcast_to(first, (3 + len(rows), *shape)).copy()
        x_T[1] += z_0[0]
        x_T[-1] += z_0[1]
        noise = Impulses.of(rows, n, back(np.ones((1, *shape)))[0], back(weight)[1:])
        seen = Responses(spectrum.basis, jnp.asarray(spectrum.membership(jnp.float64)), jnp.asarray(mean), jnp.asarray(weight))
        run = sample(denoiser, sampler, steps, x_T=jnp.asarray(x_T), cond=cond(len(x_T)), recorder=seen, noise=noise)
        last = last_moments(seen, run.x, jnp.asarray(path.alpha(steps.r[-1])))
        record, last = (jax.tree.map(lambda v: np.asarray(v), part) for part in (run.record, last))
    return _collected(record, last, sampler, denoiser, spectrum, path, np.asarray(steps.r, np.float64)[-1])


def _collected(record: dict, last: dict, sampler, denoiser, spectrum, path, end: float) -> Oracle:
    """The ``Oracle`` of what was seen; ConfigError where the last row is not the sum of the others."""
    made = record["made"]
    step, call = np.nonzero(made)
    rows = {name: value[made] for name, value in record.items()}
    error = np.concatenate([rows["error"], [last["error"]]])
    if not error.max() <= _AFFINE:
        k = int(np.argmax(~(error <= _AFFINE)))
        allowed = "those that are affine in the state and diagonal in the spectrum's basis, and finite: the oracle is exact or nothing"
        what = f"{type(sampler).__name__} with {type(denoiser).__name__}: the responses at row {k} do not add up, by {error[k]:.2g}"
        refuse("oracle.sampler, denoiser", what, allowed)
    t = np.append(rows["t"], end)
    variance, V = np.concatenate([rows["state"], last["state"][None]]), spectrum.V(path, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where(V > 0, np.log(variance / np.where(V > 0, V, 1.0)), np.nan)
    leak = np.concatenate([rows["leak"], last["leak"][None]])
    step, call = np.append(step, made.shape[0]), np.append(call, 0)
    found = {name: rows[name] for name in ("x0", "eps", "cross", "fed")}
    return Oracle(t, on_host(path, t)[2], step, call, variance, log_ratio, leak, **found)


def _double(part: PyTree) -> PyTree:
    """The part with its arrays of floats in float64; Python's numbers are that already."""
    known = jax.Array | np.ndarray
    return jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float64)) if isinstance(v, known) and v.dtype.kind == "f" else v, part)
