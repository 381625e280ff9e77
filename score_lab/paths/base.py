"""Gaussian paths: everything that follows from ``alpha(t)`` and ``sigma(t)``.

    x_t = alpha(t) x0 + sigma(t) eps,    eps ~ N(0, I),    t in [0, 1], 0 data, 1 noise
    log_snr(t) = 2 ln(alpha / sigma),    kappa = sigma / alpha = exp(-log_snr / 2)
    dx = f x dt + g dw:    f = alpha' / alpha,    g^2 = 2 sigma sigma' - 2 f sigma^2 = -sigma^2 dlog_snr/dt

A family writes ``alpha`` and ``sigma`` and nothing else; derivatives come from ``jax.jvp`` and ``time_of`` from bisection.  A family may
give closed forms where these lose digits; the contract test holds them against autodiff inside and checks the limits at the ends.

Contract: alpha and sigma are finite, >= 0 and never both 0; log_snr is strictly monotone and may be infinite at the ends; a derivative
that diverges there is +-inf, never NaN.  ``check.py`` verifies all of it on the host when a path is built.

Sources: Kingma et al. 2021 (VDM, log-SNR as the only path-free coordinate); Song et al. 2021 (score SDE, eq. 5, 13).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.linear import combine, expand
from score_lab.paths.check import check_path
from score_lab.types import Array, PyTree, Time

__all__ = ["GaussianPath", "move", "normals"]

_NEAR = 1e-6
"""Where a one-sided limit is read if a generic derivative is 0 * inf at an end."""


class GaussianPath:
    """A curve ``(alpha, sigma)``; subclass it with ``@pytree_dataclass`` and write ``alpha`` and ``sigma``."""

    def alpha(self, t: Time) -> Time:
        """The signal coefficient, same shape as ``t``."""
        raise NotImplementedError

    def sigma(self, t: Time) -> Time:
        """The noise coefficient, same shape as ``t``."""
        raise NotImplementedError

    def log_snr(self, t: Time) -> Time:
        """``2 ln(alpha / sigma)``, strictly decreasing in t; +-inf where sigma or alpha is 0."""
        return 2.0 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def time_of(self, log_snr: Time) -> Time:
        """The time with this log-SNR (the nearest end outside the path's range).  Differentiable, also in the path's parameters.

        Bisection on ``u`` with ``t = u^8``, which keeps times near 0 to full relative precision, then one Newton step for the gradient.
        """
        return _bisect(self, jnp.asarray(log_snr, jnp.result_type(float)))

    def alpha_dot(self, t: Time) -> Time:
        """``d alpha / dt``; +-inf where it diverges."""
        return _limit(self.alpha, t)

    def sigma_dot(self, t: Time) -> Time:
        """``d sigma / dt``; +-inf where it diverges."""
        return _limit(self.sigma, t)

    def log_snr_dot(self, t: Time) -> Time:
        """``d log_snr / dt = -g^2 / sigma^2``, negative; -inf at an end where log_snr is infinite."""
        slope = _derivative(self.log_snr, t)
        return jnp.where(jnp.isinf(self.log_snr(t)), -jnp.inf, slope)

    def drift(self, t: Time) -> Time:
        """``f = alpha' / alpha``; -inf where alpha is 0."""
        alpha, alpha_dot = self.alpha(t), self.alpha_dot(t)
        return jnp.where(alpha > 0, alpha_dot / jnp.where(alpha > 0, alpha, 1.0), -jnp.inf)

    def diffusion_squared(self, t: Time) -> Time:
        """``g^2 = 2 sigma sigma' - 2 (alpha' / alpha) sigma^2``; +inf where alpha is 0."""
        sigma = self.sigma(t)
        value = 2.0 * sigma * self.sigma_dot(t) - 2.0 * self.drift(t) * sigma**2
        inside = jnp.clip(jnp.asarray(t), _NEAR, 1.0 - _NEAR)
        limit = -(self.sigma(inside) ** 2) * _derivative(self.log_snr, inside)
        return jnp.where(jnp.isnan(value), limit, value)

    def diffusion(self, t: Time) -> Time:
        """``g``, the diffusion coefficient of ``dx = f x dt + g dw``."""
        return jnp.sqrt(jnp.maximum(self.diffusion_squared(t), 0.0))

    def kappa(self, t: Time) -> Time:
        """``sigma / alpha``, the noise level of ``x / alpha``; inf where alpha is 0."""
        alpha = self.alpha(t)
        return jnp.where(alpha > 0, self.sigma(t) / jnp.where(alpha > 0, alpha, 1.0), jnp.inf)

    def time_of_kappa(self, kappa: Time) -> Time:
        """The time with ``sigma / alpha = kappa``."""
        return self.time_of(-2.0 * jnp.log(kappa))

    def norm(self, t: Time) -> Time:
        """``sqrt(alpha^2 + sigma^2)``: 1 on variance-preserving paths."""
        return jnp.hypot(self.alpha(t), self.sigma(t))

    def marginal(self, x0: PyTree, t: Time) -> tuple[PyTree, Time]:
        """Mean ``alpha x0`` and standard deviation ``sigma`` of ``x_t`` given ``x0``."""
        return combine((self.alpha(t), x0)), self.sigma(t)

    def add_noise(self, x0: PyTree, eps: PyTree, t: Time) -> PyTree:
        """``x_t = alpha x0 + sigma eps``."""
        return combine((self.alpha(t), x0), (self.sigma(t), eps))

    def prior_std(self, t: Time = 1.0) -> Time:
        """Standard deviation of the prior from which a sampler starts at ``t``: sigma(t); variance-preserving families say 1."""
        return self.sigma(jnp.asarray(t, jnp.result_type(float)))

    def prior_sample(self, key: Array, index: Array, shape: PyTree, t: Time = 1.0) -> PyTree:
        """``prior_std(t) z`` for every global sample ``index``, (len(index), *shape): sample i depends on (key, index[i]) alone.

        ``shape`` is a tuple, or a pytree of tuples for a state of several arrays.
        """
        std = self.prior_std(t)
        one = lambda m: isinstance(m, tuple) and all(isinstance(d, int) for d in m)  # noqa: E731
        like = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m, jnp.result_type(float)), shape, is_leaf=one)
        z = indexed_normals(key, index, like)
        return combine((std, z))

    def prior_logp(self, x: Array, t: Time = 1.0) -> Array:
        """``ln N(x; 0, prior_std(t)^2 I)`` in nats, shape (batch,)."""
        std = self.prior_std(t)
        d = int(np.prod(x.shape[1:]))
        norm = jnp.sum(jnp.square(x / expand(std, x)), axis=tuple(range(1, x.ndim)))
        return -0.5 * norm - d * jnp.log(std) - 0.5 * d * jnp.log(2.0 * jnp.pi)

    def check(self) -> None:
        """Verifies the contract on the host (check.py); raises ConfigError with the first time that breaks it."""
        check_path(self, own_inverse=type(self).time_of is not GaussianPath.time_of)


def normals(keys: Array, like: PyTree) -> PyTree:
    """Standard normals, one row per key: leaf shapes ``(len(keys), *leaf.shape)`` for a pytree of shapes without batch axis."""
    leaves, tree = jax.tree.flatten(like)

    def flat(k, m):  # the same numbers as of the shape itself, in loops that compile twice as fast
        return jax.random.normal(k, (int(np.prod(m.shape)),), m.dtype)

    if len(leaves) == 1:
        rows = [jax.vmap(lambda k: flat(k, leaves[0]))(keys)]
    else:
        rows = [jax.vmap(lambda k, i=i, m=m: flat(jax.random.fold_in(k, i), m))(keys) for i, m in enumerate(leaves)]
    return tree.unflatten([row.reshape(row.shape[:1] + m.shape) for row, m in zip(rows, leaves, strict=True)])


def indexed_normals(key: Array, index: Array, like: PyTree) -> PyTree:
    """``normals`` of the samples ``index`` (n,): row i from (key, index[i]) alone."""
    return normals(jax.vmap(lambda i: jax.random.fold_in(key, i))(index), like)


def move(x: PyTree, t_a: Time, a: GaussianPath, t_b: Time, b: GaussianPath) -> PyTree:
    """The state of path ``a`` at ``t_a`` as a state of path ``b`` at the time ``t_b`` of equal log-SNR.

    ``x^B = x^A sqrt((alpha_B^2 + sigma_B^2) / (alpha_A^2 + sigma_A^2))``, which is alpha_B / alpha_A wherever that is defined and stays
    finite at pure noise.
    """
    return combine((b.norm(t_b) / a.norm(t_a), x))


def _derivative(f, t: Time) -> Time:
    t = jnp.asarray(t, jnp.result_type(float) if not hasattr(t, "dtype") else t.dtype)
    return jax.jvp(f, (t,), (jnp.ones_like(t),))[1]


def _limit(f, t: Time) -> Time:
    """``f'(t)``; where autodiff makes 0 * inf = NaN of an end, the slope just inside it."""
    slope = _derivative(f, t)
    return jnp.where(jnp.isnan(slope), _derivative(f, jnp.clip(jnp.asarray(t), _NEAR, 1.0 - _NEAR)), slope)


def _bisect(path: GaussianPath, log_snr: Array, iterations: int = 64) -> Array:
    fixed, level = jax.lax.stop_gradient((path, log_snr))

    def halve(_, bounds):
        low, high = bounds
        u = 0.5 * (low + high)
        noisier = fixed.log_snr(u**8) < level
        return jnp.where(noisier, low, u), jnp.where(noisier, u, high)

    zero = jnp.zeros_like(log_snr)
    low, high = jax.lax.fori_loop(0, iterations, halve, (zero, zero + 1.0))
    t = (0.5 * (low + high)) ** 8
    t = jnp.where(level >= fixed.log_snr(zero), zero, jnp.where(level <= fixed.log_snr(zero + 1.0), zero + 1.0, t))
    slope = _derivative(fixed.log_snr, t)
    inside = (t > 0) & (t < 1) & jnp.isfinite(slope) & (slope != 0)
    safe = jnp.where(inside, t, 0.5)
    newton = (path.log_snr(safe) - jnp.where(inside, log_snr, path.log_snr(safe))) / jnp.where(inside, slope, 1.0)
    return jnp.where(inside, jnp.clip(safe - newton, 0.0, 1.0), t)
