"""Signal-leak start: the states from which a sampler starts have the signal that is left at its first level (Everaert et al. 2024).

    x_T ~ N(alpha_T mu, alpha_T^2 C + sigma_T^2 I),    C = Q diag(s_b^2) Q^T of a ``Spectrum``

For Gaussian data the prior's part of the mismatch is gone, R_0 = 1 and no mean leak, where the path's own prior has R_0 = sigma_prior^2 /
V_T and the leak -alpha_T mu (4.8).  Their low frequencies with a full covariance are a spectrum in the basis "pca"; pixel mean and
variance are the basis "identity" with every pixel a band.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath, indexed_normals
from score_lab.samplers.steps import steps_of
from score_lab.types import Array

__all__ = ["SignalLeakStart"]


@dataclasses.dataclass(frozen=True)
class SignalLeakStart:
    """The start of data with this ``spectrum``; what it gives is ``sample``'s ``x_T``."""

    spectrum: Spectrum

    def of_noise(self, path: GaussianPath, t: Any, z: Array) -> Array:
        """``alpha mu + Q sqrt(alpha^2 s^2 + sigma^2) Q^T z`` of standard normals z (n, *shape)."""
        spectrum = self.spectrum
        if z.shape[1:] != spectrum.band.shape:
            refuse("SignalLeakStart.spectrum", spectrum.band.shape, f"of the states' shape, {z.shape[1:]}")
        alpha, sigma = (f(jnp.asarray(t)).astype(z.dtype) for f in (path.alpha, path.sigma))
        std = jnp.sqrt(alpha**2 * jnp.asarray(spectrum.variance, z.dtype) + sigma**2)[jnp.asarray(spectrum.band)]
        return alpha * jnp.asarray(spectrum.mean, z.dtype)[None] + spectrum.basis.synthesise(std[None] * spectrum.basis.analyse(z))

    def x_T(self, path: GaussianPath, grid: Any, key: Array, n: int | None = None, index: Any = None) -> Array:
        """States at the grid's first level for the samples ``index`` (0 to n - 1 by default), from the normals that ``sample`` with this
        key would have scaled into the prior: the two runs share their noise."""
        if (n is None) == (index is None):
            refuse("SignalLeakStart.x_T", (n, index), "either n or index")
        steps = steps_of(grid, path)
        index = jnp.arange(n, dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
        prior_key, _ = jax.random.split(key)
        like = jax.ShapeDtypeStruct(self.spectrum.band.shape, jnp.result_type(float))
        return self.of_noise(path, steps.start, indexed_normals(prior_key, index, like))
