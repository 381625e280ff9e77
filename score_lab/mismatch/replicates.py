"""Resampling trajectories in one pass: a streaming Poisson bootstrap, and the intervals that it gives.

    w_rj ~ Poisson(1), keyed by (key, j, r), j the global index of a trajectory;  w_0j = 1
    S_r = sum_j w_rj q_j,    n_r = sum_j w_rj,    the r-th replicate of a mean is S_r / n_r

The sums of chunks add, so memory grows with the number of replicates and not with the number of trajectories, and a trajectory has the same
weights in whatever chunk, on whatever device it is drawn (Chamandy et al. 2012; Hanley & MacGibbon 2006 for the Poisson weights).

    pointwise:     v -+ z se,    se = sd_r(v_r),    z Student's with R - 1 degrees of freedom: se is of R replicates
    simultaneous:  v -+ c se,    c the quantile of max_k |v_rk - v_k| / se_k: all levels at once
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t as student

from score_lab.build import refuse
from score_lab.types import Array

__all__ = ["OK", "Curve", "curve", "poisson_weights"]

OK = "ok"
"""The flag of a number that is one."""

_THRESHOLDS = tuple(float(v) for v in np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(12)]))


def poisson_weights(key: Array, index: Array, replicates: int) -> Array:
    """``w`` (replicates + 1, n): ones, then Poisson(1) weights of the trajectories ``index`` (n,), by inversion of uniforms."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    u = jax.vmap(lambda k: jax.random.uniform(k, (replicates,)))(keys)
    w = sum((u > threshold).astype(u.dtype) for threshold in _THRESHOLDS)
    return jnp.concatenate([jnp.ones((1, len(index)), u.dtype), w.T])


@dataclasses.dataclass(frozen=True)
class Curve:
    """One number per network call with its interval: ``value``, ``se``, ``low``, ``high`` (K,), and ``flag``: "ok", or why there is no
    number (then all four are NaN).  ``draws`` (K, R): its replicates; ``simultaneous``: the intervals hold for all calls at once."""

    value: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray
    flag: np.ndarray
    draws: np.ndarray
    simultaneous: bool = True

    def __sub__(self, other: Curve) -> Curve:
        """The difference of two curves on common resampling (the same trajectories weighted alike), with its interval."""
        flag = np.where(self.flag != OK, self.flag, other.flag)
        draws = np.concatenate([(self.value - other.value)[:, None], self.draws - other.draws], axis=1)
        return curve(draws, flag=flag, simultaneous=self.simultaneous)


def curve(draws: np.ndarray, *, flag: np.ndarray | None = None, level: float = 0.95, simultaneous: bool = True) -> Curve:
    """From ``draws`` (K, R + 1), the value first: see the module.  A value that is not finite is flagged "not finite"; a replicate that is
    not finite where the value is widens the interval to all numbers (its quantile is taken as infinite)."""
    draws = np.asarray(draws, np.float64)
    if draws.ndim != 2 or draws.shape[1] < 21:
        refuse("curve.draws", draws.shape, "(calls, 1 + replicates), at least 20 replicates")
    value, rest = draws[:, 0], draws[:, 1:]
    flag = np.full(len(value), OK, dtype=object) if flag is None else np.array(flag, dtype=object)
    flag[(flag == OK) & ~np.isfinite(value)] = "not finite"
    good = flag == OK
    whole = good & np.isfinite(rest).all(axis=1)
    se = np.full(len(value), np.nan)
    se[whole] = rest[whole].std(axis=1, ddof=1)
    se[good & ~whole] = np.inf
    z = float(student.ppf(0.5 + level / 2, rest.shape[1] - 1))
    use = whole & (se > 0)
    if simultaneous and use.any():
        largest = (np.abs(rest[use] - value[use, None]) / se[use, None]).max(axis=0)
        z = max(z, float(np.quantile(largest, level, method="weibull")))  # the (R + 1) level-th of R: exceeded as often as it should be
    value = np.where(good, value, np.nan)
    half = np.where(np.isfinite(se), z * se, se)
    return Curve(value, se, value - half, value + half, flag, np.where(good[:, None], rest, np.nan), simultaneous)
