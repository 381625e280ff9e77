"""Analytic-DPM: DDPM and DDIM with the reverse variance that is optimal for the marginals (Bao et al. 2022, theorem 1).

    x_s  = alpha_s x0 + sqrt(sigma_s^2 - lambda^2) eps + sqrt(nv) z,       lambda^2 = eta^2 beta_tilde: eta = 1 DDPM, 0 DDIM
    nv   = lambda^2 + (sigma_t alpha_s / alpha_t - sqrt(sigma_s^2 - lambda^2))^2 (1 - Gamma_t)
    Gamma_t = E |eps(x_t, t)|^2 / d,   in [0, 1]                                                   (their beta_bar_n Gamma_n)

Written with MMSE_t = kappa_t^2 (1 - Gamma_t), the mean posterior variance of x0, which is what the noise stands for:

    nv   = lambda^2 + (alpha_s - sqrt(sigma_s^2 - lambda^2) alpha_t / sigma_t)^2 MMSE_t

Gamma is measured at a few levels and interpolated in the variance of the Gaussian that has it, v = kappa^2 (1 - Gamma) / Gamma: ln v is
linear in log-SNR between levels and constant outside, so that MMSE = v sigma^2 / (v alpha^2 + sigma^2) is right at both ends of a path and
Gaussian data are exact at any level.  Clipped as in the paper: Gamma to [0, 1] (theorem 2, lambda^2 <= nv), MMSE to ((b - a) / 2)^2 for
data in [a, b] (theorem 2), and the last noise before pure data to a standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, check_levels
from score_lab.linear import batch_of, combine, square_norm
from score_lab.paths.base import normals
from score_lab.paths.transition import kept_std, transition_variances
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.grids.base import times_of
from score_lab.types import Array, Cond, PyTree, leaf, pytree_dataclass

__all__ = ["AnalyticDPM", "lacks_table", "measure_gamma"]


@pytree_dataclass
class AnalyticDPM:
    """``log_snrs`` (m,), ascending, and ``gamma`` (m,) at them, from ``measure_gamma``; ``eta`` in [0, 1]: 1 is Analytic-DDPM, 0
    Analytic-DDIM.

    ``half_range`` is (b - a) / 2 of data in [a, b], 1 for pictures in [-1, 1]; ``last_std`` the largest standard deviation of the noise
    added by the step before the one to pure data (the paper's E|z sigma| <= 2/255 in [-1, 1] is 2/255 sqrt(pi / 2)); both infinite:
    unclipped.
    """

    log_snrs: Array = leaf()
    gamma: Array = leaf()
    eta: float = 1.0
    half_range: float = float("inf")
    last_std: float = float("inf")
    order = 1
    calls = 1
    memory = 0
    stochastic = True

    def check(self) -> None:
        """A table of ascending levels with Gamma >= 0; eta in [0, 1]; positive bounds."""
        levels, gamma = np.asarray(self.log_snrs), np.asarray(self.gamma)
        if levels.ndim != 1 or not len(levels) or not (np.isfinite(levels).all() and (np.diff(levels) > 0).all()):
            refuse("AnalyticDPM.log_snrs", levels.tolist(), "a list of finite, ascending log-SNRs")
        if gamma.shape != levels.shape or not (gamma >= 0).all():
            refuse("AnalyticDPM.gamma", gamma.tolist(), f"one number >= 0 per level, {len(levels)} of them")
        if not 0 <= self.eta <= 1:
            refuse("AnalyticDPM.eta", self.eta, "0 <= eta <= 1, so that sigma_s^2 - eta^2 beta_tilde is not negative")
        check_numbers(self, "half_range", "last_std", positive=True)

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step; the last one to sigma_s = 0 returns alpha_s x0."""
        p, path = denoise(x, t), denoise.path
        alpha_s, sigma_s = path.alpha(s), path.sigma(s)
        _, beta_tilde = transition_variances(path, t, s)
        lambda2 = self.eta**2 * beta_tilde
        kept = kept_std(path, t, s, self.eta)
        nv = lambda2 + (alpha_s - kept * path.alpha(t) / path.sigma(t)) ** 2 * self.mmse(path, t)
        steps, k = denoise.steps, denoise.step
        n = steps.s.shape[0]
        before_data = (k + 1 < n) & (path.sigma(steps.s[jnp.minimum(k + 1, n - 1)]) == 0)
        fresh = jnp.where(before_data, jnp.minimum(jnp.sqrt(nv), self.last_std), jnp.sqrt(nv))
        return combine((alpha_s, p.x0), (kept, p.eps), (jnp.where(sigma_s > 0, fresh, 0.0), draw())), carry, p

    def mmse(self, path, t) -> Array:
        """``E Var[x0 | x_t] / d = v sigma^2 / (v alpha^2 + sigma^2)`` at t, clipped to ``half_range^2``."""
        levels, tiny = jnp.asarray(self.log_snrs), 1e-6 if jnp.result_type(float) == jnp.float32 else 1e-14
        gamma = jnp.clip(jnp.asarray(self.gamma), tiny, 1.0 - tiny)
        log_v = jnp.interp(path.log_snr(t), levels, jnp.log1p(-gamma) - jnp.log(gamma) - levels)
        v, alpha2, sigma2 = jnp.exp(log_v), path.alpha(t) ** 2, path.sigma(t) ** 2
        return jnp.minimum(v * sigma2 / (v * alpha2 + sigma2), self.half_range**2)


def lacks_table(spec: Any) -> bool:
    """Whether the specification ``{"target": ..., **fields}`` names AnalyticDPM and gives neither ``log_snrs`` nor ``gamma``."""
    named = isinstance(spec, Mapping) and str(spec.get("target")) in ("AnalyticDPM", "score_lab.samplers:AnalyticDPM")
    return named and not {"log_snrs", "gamma"} & set(spec)


def measure_gamma(
    denoiser: Denoiser, x0: PyTree, log_snrs: Any, key: Array, *, index: Any = None, cond: Cond = None
) -> tuple[np.ndarray, np.ndarray]:
    """``(log_snrs ascending, Gamma)``: the mean of ``|eps(x_t)|^2 / d`` over forward states of ``x0`` at every level.

    Args:
      x0: (n, *shape), data, or samples of the model itself where there are no data.
      log_snrs: finite levels of the denoiser's path, in any order; ten over the sampled range are plenty.
      key, index: sample i's noise depends on (key, index[i]) and on the level's place in the list alone.

    One program for all levels, one network call each.  Raises ConfigError for levels off the path or outside the trained range.
    """
    path, levels = denoiser.path, np.sort(np.asarray(log_snrs, np.float64))
    if levels.ndim != 1 or not len(levels) or not np.isfinite(levels).all() or (np.diff(levels) == 0).any():
        refuse("measure_gamma.log_snrs", np.asarray(log_snrs).tolist(), "a list of different finite log-SNRs")
    check_levels(denoiser, levels, "measure_gamma")
    times = jnp.asarray(times_of(path, levels, "measure_gamma.log_snrs"))
    index = jnp.arange(batch_of(x0), dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    return levels, np.asarray(_gamma(denoiser, jax.tree.map(jnp.asarray, x0), times, keys, cond))


@jax.jit
def _gamma(denoiser: Denoiser, x0: PyTree, times: Array, keys: Array, cond: Cond) -> Array:
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x0)
    d = sum(a[0].size for a in jax.tree.leaves(x0))

    def one(row):
        k, t = row
        eps = normals(jax.vmap(lambda key: jax.random.fold_in(key, k))(keys), like)
        return jnp.mean(square_norm(denoiser(denoiser.path.add_noise(x0, eps, t), t, cond).eps)) / d

    return jax.lax.map(one, (jnp.arange(len(times)), times))
