"""The exact variance that ``sample`` gives Gaussian bands, one coordinate each: a start and every draw as rows of one batch."""

import jax.numpy as jnp
import numpy as np
from samplers.impulses import Impulses

from score_lab.analytic import GaussianBands
from score_lab.mismatch.spectrum import Spectrum
from score_lab.samplers import sample

S = np.array([0.1, 0.5, 1.0, 3.0])


def bands() -> Spectrum:
    """Four bands of one coefficient each, standard deviations S."""
    return Spectrum(S**2, np.arange(4), np.zeros(4))


def exact(path):
    return GaussianBands(path, np.zeros(4), S)


def numbers(path, steps):
    """numpy alpha, sigma (N + 1,), V and phi (N + 1, 4) at the levels of a grid."""
    t = jnp.append(steps.t, steps.s[-1])
    a, s = (np.broadcast_to(np.asarray(f(t)), t.shape) for f in (path.alpha, path.sigma))
    return a, s, (a**2)[:, None] * S**2 + (s**2)[:, None], np.arctan2(s[:, None], a[:, None] * S)


def band_ratio(denoiser, sampler, steps, R_0=1.0, draws=0):
    """``Var(x_N) / V_N`` (4,); ``draws`` a step, renoising included."""
    path, n = denoiser.path, len(steps.t)
    places = [(-1, 0), *((k, j) for k in range(n) for j in range(draws)), *([(n, 0)] if steps.renoises else [])]
    step, call = (jnp.asarray(v) for v in zip(*places, strict=True))
    start = np.asarray(path.alpha(steps.start)) ** 2 * S**2 + np.asarray(path.sigma(steps.start)) ** 2
    x_T = np.zeros((len(places), 4))
    x_T[0] = np.sqrt(R_0 * start)
    x = sample(denoiser, sampler, steps, x_T=jnp.asarray(x_T), noise=Impulses(step, call)).x
    return np.square(np.asarray(x)).sum(axis=0) / numbers(path, steps)[2][-1]


def same(measured, expected, tolerance=1e-12, near=0.0):
    np.testing.assert_allclose(measured, expected, rtol=tolerance, atol=near)
