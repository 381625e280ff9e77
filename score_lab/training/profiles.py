"""Power-function averages of the parameters, and how one of any length is put together from stored ones (EDM2, Karras et al. 2024).

    p_gamma(tau; t) = (gamma + 1) tau^gamma / t^(gamma + 1),      0 <= tau <= t                                (eq. 2)
    theta_gamma(t)  = beta theta_gamma(t - 1) + (1 - beta) theta(t),      beta = (1 - 1/t)^(gamma + 1)         (eq. 3)
    width           = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)),      the standard deviation of p over t  (section 3.1: sigma_rel)

The recursion gives theta(k) the weight ``(k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1)``, which is the integral of p_gamma over the k-th
step: the average over steps is the profile, exactly.  A profile q that was not tracked is the combination of stored ones with the least

    || q - sum_i c_i p_i ||^2  =  <q, q> - 2 c.<p, q> + c.<p, p> c,
    <p_i, p_j> = (gamma_i + 1)(gamma_j + 1) / (gamma_i + gamma_j + 1) (r / t_i)^gamma_i (r / t_j)^gamma_j r / (t_i t_j),  r = min(t_i, t_j)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.types import Array

__all__ = ["WIDEST", "coefficients", "exponent", "rate", "width"]

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
    g, steps = np.array(stored, np.float64).T
    gram = _inner(g[:, None], steps[:, None], g[None], steps[None])
    with_q = _inner(g, steps, gamma, float(t))
    norms, norm = np.sqrt(np.diag(gram)), float(np.sqrt(_inner(gamma, float(t), gamma, float(t))))
    cosines, aims = gram / np.outer(norms, norms), with_q / (norms * norm)
    c = np.linalg.lstsq(cosines, aims, rcond=1e-14)[0]
    rest = 1.0 - 2.0 * c @ aims + c @ cosines @ c
    return c * norm / norms, float(np.sqrt(max(rest, 0.0)))


def _inner(a, s, b, t):
    """``<p_a(.; s), p_b(.; t)>``, by ratios that neither overflow nor vanish before their time."""
    r = np.minimum(s, t)
    return (a + 1) * (b + 1) / (a + b + 1) * (r / s) ** a * (r / t) ** b * r / (s * t)
