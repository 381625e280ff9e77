"""Gaussian data, diagonal in a given basis: the exact denoiser is one Wiener gain per band.

    x0 ~ N(mean, Q diag(std^2) Q^T),    V_b = alpha^2 std_b^2 + sigma^2,    d = Q^T (x_t - alpha mean)
    E[x0  | x_t] = mean + Q (alpha std^2 / V) d
    E[eps | x_t] =        Q (sigma / V) d

Finite at both ends, for std_b = 0 and at alpha = 0 or sigma = 0; where V_b = 0 (a constant band at sigma = 0) both gains are 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic.base import AnalyticDenoiser
from score_lab.analytic.bases import Basis, Identity
from score_lab.build import refuse
from score_lab.linear import expand
from score_lab.paths.base import GaussianPath, normals
from score_lab.types import Array, Cond, Time, leaf, pytree_dataclass

__all__ = ["GaussianBands"]


@pytree_dataclass
class GaussianBands(AnalyticDenoiser):
    """``x0 ~ N(mean, Q diag(std^2) Q^T)`` on ``path``.

    ``mean`` of the state's shape; ``std`` >= 0 of the coefficients' shape (the state's); ``basis`` an orthonormal ``Q`` (bases.py).
    """

    path: GaussianPath = leaf()
    mean: Any = leaf()
    std: Any = leaf()
    basis: Basis = leaf(default=Identity())

    @classmethod
    def fit(cls, path: GaussianPath, x0: np.ndarray, basis: Basis | None = None) -> GaussianBands:
        """The Gaussian with the mean and the per-band standard deviations (divided by n) of ``x0`` (n, *shape)."""
        basis = Identity() if basis is None else basis
        x0 = jnp.asarray(x0)
        mean = x0.mean(0)
        return cls(path, mean, jnp.sqrt(jnp.mean(jnp.square(basis.analyse(x0 - mean[None])), axis=0)), basis)

    def posterior(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        """The two Wiener filters; ``cond`` plays no part: the data have no classes."""
        mean, std = self._rows(x_t)
        alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
        root, signal, noise = _shares(alpha * std, sigma * jnp.ones_like(std))
        d = self.basis.analyse(x_t - alpha * mean)
        x0 = mean + self.basis.synthesise(signal * (std / root) * d)
        return x0, self.basis.synthesise(noise / root * d)

    def log_density(self, x_t: Array, t: Time) -> Array:
        """``ln p_t(x_t)`` in nats, (batch,); infinite where a band has no variance."""
        mean, std = self._rows(x_t)
        level = jnp.broadcast_to(jnp.asarray(t), (len(x_t),))
        alpha, sigma = expand(self.path.alpha(level), x_t), expand(self.path.sigma(level), x_t)
        root = jnp.hypot(alpha * std, sigma * jnp.ones_like(std))
        d = self.basis.analyse(x_t - alpha * mean)
        terms = -0.5 * jnp.square(d / root) - jnp.log(root) - 0.5 * jnp.log(2.0 * jnp.pi)
        return jnp.sum(terms, axis=tuple(range(1, x_t.ndim)))

    def sample(self, key: Array, index: Array) -> Array:
        """Data, (len(index), *shape): example i depends on (key, index[i]) alone."""
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        z = normals(keys, jax.ShapeDtypeStruct(jnp.shape(self.mean), jnp.result_type(float)))
        mean, std = self._rows(z)
        return mean + self.basis.synthesise(std * z)

    def check(self) -> None:
        """Raises ConfigError unless mean and std have one shape, are finite and std >= 0; checks path and basis."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        if mean.shape != std.shape:
            refuse("GaussianBands.std.shape", std.shape, f"the shape of mean, {mean.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
            refuse("GaussianBands.mean, std", "not finite, or a negative std", "finite, std >= 0")
        for part in (self.path, self.basis):
            getattr(part, "check", lambda: None)()

    def _rows(self, x: Array) -> tuple[Array, Array]:
        """``mean`` and ``std`` with a batch axis, in x's precision."""
        return jnp.asarray(self.mean, x.dtype)[None], jnp.asarray(self.std, x.dtype)[None]


def _shares(signal: Array, noise: Array) -> tuple[Array, Array, Array]:
    """``(r, signal / r, noise / r)`` with ``r = sqrt(signal^2 + noise^2)``: (1, 0, 0) where both are 0.  Scaled: nothing underflows."""
    largest = jax.lax.stop_gradient(jnp.maximum(signal, noise))
    unit = jnp.where(largest > 0, largest, 1.0)
    root = jnp.where(largest > 0, unit * jnp.sqrt(jnp.where(largest > 0, jnp.square(signal / unit) + jnp.square(noise / unit), 1.0)), 1.0)
    return root, signal / root, noise / root
