"""Where training looks: the law of the time t of an example, and its density over log_snr.

    t = Q(P(low) + u (P(high) - P(low))),     P(t) = probability of times <= t,  Q = P^-1,  u uniform in [0, 1)
    p(log_snr) = |dP/dlog_snr| / (P(high) - P(low))                     on  low <= t <= high

[low, high] are the times of the path that a law is conditioned to: the path's ends, and for a bounded law the levels that the denoiser is
trained on.  With ``low_discrepancy`` the u of example i is ``u + i / n mod 1`` with one u for the global batch of n, so that every batch
covers the whole law (Kingma et al. 2021, appendix I.1); without, every example draws its own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit, ndtr, ndtri

from score_lab.build import refuse
from score_lab.objectives.base import example_keys, shared_key
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Time, pytree_dataclass

__all__ = ["BetaTime", "DiscreteTable", "LogNormalSigma", "LogitNormal", "TimeLaw", "UniformLogSNR", "UniformTime", "uniforms"]

EVERYTHING = (-np.inf, np.inf)
ROUND = 1e-3
"""In units of a level's spacing: times this near to a level are that level (float32 times are exact to 6e-5 of a spacing at T = 1000)."""

TAIL = 1e-3
"""An unbounded law counts as trained between its quantiles 0.1 % and 99.9 %."""


def uniforms(key: Array, index: Array, n: int, low_discrepancy: bool) -> Array:
    """One uniform number in (0, 1) per example, (batch,), a function of (key, index[i], n) alone."""
    dtype = jnp.result_type(float)
    if low_discrepancy:
        u = (jax.random.uniform(shared_key(key, "time"), dtype=dtype) + index.astype(dtype) / n) % 1.0
    else:
        u = jax.vmap(lambda k: jax.random.uniform(k, dtype=dtype))(example_keys(key, index, "time"))
    eps = jnp.finfo(dtype).eps
    return jnp.clip(u, 0.5 * eps, 1.0 - eps)


class TimeLaw:
    """A law of t.  A family writes ``probability``, ``quantile`` and ``log_slope``; it is ``bounded`` or keeps its tails."""

    bounded = True

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """``P(t)``, the probability of times <= t before any conditioning."""
        raise NotImplementedError

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """``Q(p)``, the time below which the law has probability p."""
        raise NotImplementedError

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``ln |dP/dlog_snr|``."""
        raise NotImplementedError

    def probabilities(self, low: Time, high: Time, path: GaussianPath) -> tuple[Time, Time]:
        """``P`` below ``low`` and up to ``high``, both times included in what lies between."""
        return self.probability(low, path), self.probability(high, path)

    def ends(self, path: GaussianPath, log_snr_range: tuple[float, float]) -> tuple[Time, Time]:
        """The times [low, high] that the law is conditioned to; an unbounded law keeps its tails."""
        low, high = log_snr_range if self.bounded else EVERYTHING
        dtype = jnp.result_type(float)
        return path.time_of(jnp.asarray(high, dtype)), path.time_of(jnp.asarray(low, dtype))

    def sample(self, key: Array, index: Array, n: int, path: GaussianPath, log_snr_range: tuple[float, float] = EVERYTHING) -> Time:
        """Times (batch,) for the examples ``index`` of a global batch of ``n``."""
        t_low, t_high = self.ends(path, log_snr_range)
        p_low, p_high = self.probabilities(t_low, t_high, path)
        p = p_low + (p_high - p_low) * uniforms(key, index, n, self.low_discrepancy)
        return jnp.clip(self.quantile(p, path), t_low, t_high)

    def log_density(self, log_snr: Time, path: GaussianPath, log_snr_range: tuple[float, float] = EVERYTHING) -> Time:
        """``ln p(log_snr)`` on the levels that ``sample`` draws; beyond them the formula goes on: rounding at an end makes no -inf."""
        p_low, p_high = self.probabilities(*self.ends(path, log_snr_range), path)
        return self.log_slope(log_snr, path) - jnp.log(p_high - p_low)

    def log_snr_range(self, path: GaussianPath) -> tuple[float, float]:
        """The levels (low, high) that it trains on, on the host: all of a bounded law's, the 0.1 % to 99.9 % quantiles of another."""
        ends = jnp.array([1.0, 0.0])
        p = self.probability(ends, path)
        tail = 0.0 if self.bounded else TAIL
        times = self.quantile(p[1] + (p[0] - p[1]) * jnp.array([1.0 - tail, tail]), path)
        if not float(p[0] - p[1]) > 1e-3:
            refuse(type(self).__name__, self, f"a law with at least 0.1 % of its levels on {type(path).__name__}")
        low, high = (float(v) for v in path.log_snr(jnp.clip(times, 0.0, 1.0)))
        return low, high


@pytree_dataclass
class UniformTime(TimeLaw):
    """``t`` uniform on the path: DDPM in continuous time, flow matching."""

    low_discrepancy: bool = True

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """t."""
        return t

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """p."""
        return p

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``-ln |dlog_snr/dt|``."""
        return -log_speed(path, _time_inside(path, log_snr))


@pytree_dataclass
class BetaTime(TimeLaw):
    """``1 - t ~ Beta(a, 1)``: for a > 1 more of the time near data; a = 2 is MixFlow's (their t is 1 at data)."""

    a: float = 2.0
    low_discrepancy: bool = True

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """``1 - (1 - t)^a``."""
        return -jnp.expm1(self.a * jnp.log1p(-t))

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """``1 - (1 - p)^(1 / a)``."""
        return -jnp.expm1(jnp.log1p(-p) / self.a)

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``ln a + (a - 1) ln(1 - t) - ln |dlog_snr/dt|``."""
        t = _time_inside(path, log_snr)
        return jnp.log(self.a) + (self.a - 1.0) * jnp.log1p(-t) - log_speed(path, t)

    def check(self) -> None:
        """``a > 0``."""
        if not 0 < self.a < np.inf:
            refuse("BetaTime.a", self.a, "finite, > 0")


@pytree_dataclass
class LogitNormal(TimeLaw):
    """``logit t ~ N(mean, std^2)`` (Esser et al. 2024, section 3.1; their t too is 1 at noise)."""

    mean: float = 0.0
    std: float = 1.0
    low_discrepancy: bool = True
    bounded = False

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """``Phi((logit t - mean) / std)``."""
        return ndtr((logit(t) - self.mean) / self.std)

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """``sigmoid(mean + std Phi^-1(p))``."""
        return jax.nn.sigmoid(self.mean + self.std * ndtri(p))

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``ln N(logit t; mean, std^2) - ln t(1 - t) - ln |dlog_snr/dt|``."""
        t = _time_inside(path, log_snr)
        return _log_normal(logit(t), self.mean, self.std) - jnp.log(t) - jnp.log1p(-t) - log_speed(path, t)

    def check(self) -> None:
        """``std > 0``."""
        if not self.std > 0:
            refuse("LogitNormal.std", self.std, "> 0")


@pytree_dataclass
class LogNormalSigma(TimeLaw):
    """``ln kappa ~ N(P_mean, P_std^2)``, kappa = sigma / alpha: EDM's law (Karras et al. 2022, table 1) on any path, cut at its ends."""

    P_mean: float = -1.2
    P_std: float = 1.2
    low_discrepancy: bool = True
    bounded = False

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """``Phi((ln kappa - P_mean) / P_std)``."""
        return ndtr((-0.5 * path.log_snr(t) - self.P_mean) / self.P_std)

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """The time of ``ln kappa = P_mean + P_std Phi^-1(p)``."""
        return path.time_of(-2.0 * (self.P_mean + self.P_std * ndtri(p)))

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``ln N(log_snr; -2 P_mean, 4 P_std^2)``."""
        return _log_normal(log_snr, -2.0 * self.P_mean, 2.0 * self.P_std)

    def check(self) -> None:
        """``P_std > 0``."""
        if not self.P_std > 0:
            refuse("LogNormalSigma.P_std", self.P_std, "> 0")


@pytree_dataclass
class UniformLogSNR(TimeLaw):
    """``log_snr`` uniform in [log_snr_min, log_snr_max], as far as the path reaches."""

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0
    low_discrepancy: bool = True

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """``(log_snr_max - log_snr) / (log_snr_max - log_snr_min)``, clipped to [0, 1]."""
        return jnp.clip((self.log_snr_max - path.log_snr(t)) / (self.log_snr_max - self.log_snr_min), 0.0, 1.0)

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """The time of ``log_snr = log_snr_max - p (log_snr_max - log_snr_min)``."""
        return path.time_of(self.log_snr_max - p * (self.log_snr_max - self.log_snr_min))

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``-ln(log_snr_max - log_snr_min)``."""
        return jnp.full_like(log_snr, -jnp.log(self.log_snr_max - self.log_snr_min))

    def check(self) -> None:
        """``log_snr_min < log_snr_max``, both finite."""
        if not -np.inf < self.log_snr_min < self.log_snr_max < np.inf:
            refuse("UniformLogSNR.log_snr_min, log_snr_max", (self.log_snr_min, self.log_snr_max), "finite, log_snr_min < log_snr_max")


@pytree_dataclass
class DiscreteTable(TimeLaw):
    """``t = (k + 1) / T``, k uniform on the T levels 0 .. T - 1 of DDPM's table (Ho et al. 2020, section 3).

    Its density is that of the levels' spacing: each level's probability 1 / T spread over ``dt = 1 / T``.
    """

    num_levels: int = 1000
    low_discrepancy: bool = True

    def probability(self, t: Time, path: GaussianPath) -> Time:
        """The share of levels <= t."""
        return jnp.floor(t * self.num_levels + ROUND) / self.num_levels

    def probabilities(self, low: Time, high: Time, path: GaussianPath) -> tuple[Time, Time]:
        """The shares of levels < ``low`` and of levels <= ``high``."""
        below = jnp.maximum(jnp.ceil(low * self.num_levels - ROUND) - 1.0, 0.0)
        return below / self.num_levels, self.probability(high, path)

    def quantile(self, p: Time, path: GaussianPath) -> Time:
        """The first level with ``P > p`` (the last for p = 1)."""
        return (jnp.minimum(jnp.floor(p * self.num_levels + ROUND), self.num_levels - 1.0) + 1.0) / self.num_levels

    def log_slope(self, log_snr: Time, path: GaussianPath) -> Time:
        """``-ln |dlog_snr/dt|``."""
        return -log_speed(path, _time_inside(path, log_snr))

    def check(self) -> None:
        """``num_levels >= 1``."""
        if self.num_levels < 1:
            refuse("DiscreteTable.num_levels", self.num_levels, "at least 1")


def log_speed(path: GaussianPath, t: Time) -> Time:
    """``ln |dlog_snr/dt|``."""
    return jnp.log(-path.log_snr_dot(t))


def _time_inside(path: GaussianPath, log_snr: Time) -> Time:
    """``time_of(log_snr)``, a few floats inside the ends, where the speed of log_snr may be infinite."""
    t = path.time_of(log_snr)
    return jnp.clip(t, jnp.finfo(t.dtype).tiny, 1.0 - 4.0 * jnp.finfo(t.dtype).eps)


def _log_normal(x: Time, mean: Any, std: Any) -> Time:
    return -0.5 * jnp.square((x - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2.0 * jnp.pi)
