"""Four Gaussian bands, the oracle's R at the levels of a grid, and the recursions that closed forms are (tests of the oracle)."""

import jax.numpy as jnp
import numpy as np

from score_lab.mismatch.oracle import exact_moments
from score_lab.mismatch.spectrum import Spectrum

S = np.array([0.1, 0.5, 1.0, 3.0])
BANDS = Spectrum(S**2, np.arange(4), np.array([0.3, 0.0, -1.0, 2.0]))


def same(measured, expected, tolerance=1e-12):
    np.testing.assert_allclose(measured, expected, rtol=tolerance, atol=tolerance)


def of(sampler, grid, path, R_0=1.0, **options):
    """R (N + 1, 4) and, at the levels, alpha, sigma (N + 1, 1), V and phi (N + 1, 4)."""
    found = exact_moments(sampler, grid, path, BANDS, R_0, **options)
    t = jnp.asarray(found.t[found.levels])
    a, s = (np.asarray(f(t))[:, None] for f in (path.alpha, path.sigma))
    return np.exp(found.log_ratio[found.levels]), a, s, a**2 * S**2 + s**2, np.arctan2(s + 0 * S, a * S)


def recursion(a, b=0.0, R_0=1.0):
    """``R' = a R + b`` down the rows of a (N, 4): (N + 1, 4)."""
    R = [np.broadcast_to(np.asarray(R_0, float), a.shape[1:])]
    for a_k, b_k in zip(a, np.broadcast_to(b, a.shape), strict=True):
        R.append(a_k * R[-1] + b_k)
    return np.array(R)
