"""Power-function averages of the parameters, and how one of any length is put together from stored ones (EDM2, Karras et al. 2024).

    p_gamma(tau; t) = (gamma + 1) tau^gamma / t^(gamma + 1),      0 <= tau <= t                                (eq. 2)
    theta_gamma(t)  = beta theta_gamma(t - 1) + (1 - beta) theta(t),      beta = (1 - 1/t)^(gamma + 1)         (eq. 3)
    width           = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)),      the standard deviation of p over t  (section 3.1: sigma_rel)

The recursion gives theta(k) the weight ``(k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1)``, which is the integral of p_gamma over the k-th
step: the average over steps is the profile, exactly.  A profile q that was not tracked is the combination of stored ones with the least

    || q - sum_i c_i p_i ||^2  =  <q, q> - 2 c.<p, q> + c.<p, p> c,
    <p_i, p_j> = (gamma_i + 1)(gamma_j + 1) / (gamma_i + gamma_j + 1) (r / t_i)^gamma_i (r / t_j)^gamma_j r / (t_i t_j),  r = min(t_i, t_j)

How much of q is left, its residual, depends on the widths and on where in the run the snapshots lie, not on how long the run is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.types import Array

__all__ = ["MOST", "RESIDUAL", "WIDEST", "coefficients", "exponent", "rate", "residual_of", "snapshots_needed", "width"]

RESIDUAL = 1e-3
"""What may be left of a profile that was not tracked."""
MOST = 512
"""Snapshots, beyond which ``snapshots_needed`` does not go: two widths a factor of ten apart want a third between them."""

WIDEST = 12**-0.5
"""The width of gamma = 0, the plain mean over all steps."""


def width(gamma: float) -> float:
    """sigma_rel of the profile ``gamma`` >= 0."""
    return float(np.sqrt(gamma + 1) / ((gamma + 2) * np.sqrt(gamma + 3)))


def exponent(sigma_rel: float) -> float:
    """gamma >= 0 of the profile of width ``sigma_rel``, the largest root of ``(gamma + 2)^2 (gamma + 3) sigma_rel^2 = gamma + 1``.

    Raises ConfigError outside (0, 12^-0.5].
    """
    if not 0.0 < sigma_rel <= WIDEST:
        refuse("sigma_rel", sigma_rel, f"a width above 0 and at most {WIDEST:.4f}, for example 0.05 or 0.1")
    square = float(sigma_rel) ** -2
    return max(0.0, float(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max()))


def rate(gamma: float, step: Array) -> Array:
    """``1 - beta`` of the update number ``step`` (from 1), to full precision also where it is small: 1 at the first update, so that the
    initial parameters are not averaged in."""
    return -jnp.expm1((gamma + 1.0) * jnp.log1p(-1.0 / step))


def coefficients(stored: Sequence[tuple[float, int]], gamma: float, t: int) -> tuple[np.ndarray, float]:
    """What to multiply the ``stored`` averages (gamma_i, t_i) with, and ``|| q - sum c p || / || q ||`` of what comes out.

    Least squares in float64 on the profiles, each over its own norm.
    """
    c, left = _fitted(stored, [gamma], t)
    return c[:, 0], float(left[0])


def _fitted(stored: Sequence[tuple[float, int]], gammas: Sequence[float], t: float) -> tuple[np.ndarray, np.ndarray]:
    """``coefficients`` of several profiles, (stored, profiles) and (profiles,)."""
    g, steps = np.array(stored, np.float64).T
    q = np.array(gammas, np.float64)
    gram, with_q = _inner(g[:, None], steps[:, None], g[None], steps[None]), _inner(g[:, None], steps[:, None], q[None], float(t))
    norms, norm = np.sqrt(np.diag(gram)), np.sqrt(_inner(q, float(t), q, float(t)))
    cosines, aims = gram / np.outer(norms, norms), with_q / np.outer(norms, norm)
    c = np.linalg.lstsq(cosines, aims, rcond=1e-14)[0]
    rest = 1.0 - 2.0 * np.sum(c * aims, axis=0) + np.sum(c * (cosines @ c), axis=0)
    return c * norm / norms[:, None], np.sqrt(np.maximum(rest, 0.0))


def residual_of(widths: Sequence[float], steps: Sequence[int]) -> float:
    """The largest residual of a profile whose width lies between two of the ``widths`` tracked, at the last of the snapshots ``steps``."""
    tracked = sorted(set(widths))
    between = [low + k / 8 * (high - low) for low, high in zip(tracked, tracked[1:], strict=False) for k in range(1, 8)]
    if not between:
        return 0.0
    stored = [(exponent(w), s) for s in steps for w in tracked]
    return float(_fitted(stored, [exponent(w) for w in between], steps[-1])[1].max())


@functools.cache
def snapshots_needed(widths: tuple[float, ...], residual: float = RESIDUAL) -> int | None:
    """The least number of snapshots, evenly spaced over a run, that leave at most ``residual`` of every profile between the tracked
    ``widths``; None where even MOST leave more.  (0.05, 0.1) need 32, (0.05, 0.07, 0.1) need 6."""

    def enough(count: int) -> bool:
        return residual_of(widths, [1024 * k for k in range(1, count + 1)]) <= residual

    high = 1
    while high < MOST and not enough(high):
        high *= 2
    if high == MOST and not enough(MOST):
        return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _inner(a, s, b, t):
    """``<p_a(.; s), p_b(.; t)>``, by ratios that neither overflow nor vanish before their time."""
    r = np.minimum(s, t)
    return (a + 1) * (b + 1) / (a + b + 1) * (r / s) ** a * (r / t) ** b * r / (s * t)
