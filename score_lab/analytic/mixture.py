"""A mixture of Gaussians: the exact denoiser of multimodal data, with classes.

    x0 ~ sum_k w_k N(m_k, v_k),    V_k = alpha^2 v_k + sigma^2,    d_k = x_t - alpha m_k
    r_k = softmax_k( ln w_k - sum (d_k^2 / V_k + ln V_k) / 2 )
    E[x0  | x_t] = sum_k r_k (m_k + (alpha v_k / V_k) d_k)
    E[eps | x_t] = sum_k r_k (sigma / V_k) d_k
    ln p_t(x_t)  = logsumexp_k( ln w_k + ln N(x_t; alpha m_k, V_k) )

Nothing is divided by alpha or sigma, so both ends are ordinary points.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic.base import AnalyticDenoiser, label_mask
from score_lab.build import refuse
from score_lab.paths.base import GaussianPath, normals
from score_lab.types import Array, Cond, Time, leaf, pytree_dataclass

__all__ = ["GaussianMixture"]


@pytree_dataclass
class GaussianMixture(AnalyticDenoiser):
    """``weights`` (K,) > 0 of any sum, ``means`` (K, *shape), ``variances`` > 0: (K,) isotropic or (K, *shape) diagonal.

    ``labels`` int (K,) or None: ``cond["label"]`` restricts each example to the components of its class, -1 to none in particular.  A label
    that no component has gives NaN.
    """

    path: GaussianPath = leaf()
    weights: Array
    means: Array
    variances: Array
    labels: Array | None = None

    def posterior(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        """Responsibilities, then the two means; (batch, K, d) is the largest array."""
        means, variances = self._flat(x_t.dtype)
        a, s = alpha[:, None, None], sigma[:, None, None]
        V = a**2 * variances[None] + s**2
        d = x_t.reshape(len(x_t), 1, -1) - a * means[None]
        r = jax.nn.softmax(self._log_joint(d, V, cond), axis=1)[:, :, None]
        x0 = jnp.sum(r * (means[None] + (a * variances[None] / V) * d), axis=1)
        return x0.reshape(x_t.shape), jnp.sum(r * (s / V) * d, axis=1).reshape(x_t.shape)

    def log_density(self, x_t: Array, t: Time, cond: Cond = None) -> Array:
        """``ln p_t(x_t)``, or ``ln p_t(x_t | label)``, in nats, (batch,)."""
        means, variances = self._flat(x_t.dtype)
        level = jnp.broadcast_to(jnp.asarray(t), (len(x_t),))
        a, s = (c.astype(x_t.dtype)[:, None, None] for c in (self.path.alpha(level), self.path.sigma(level)))
        V = a**2 * variances[None] + s**2
        joint = self._log_joint(x_t.reshape(len(x_t), 1, -1) - a * means[None], V, cond)
        return jax.scipy.special.logsumexp(joint, axis=1) - 0.5 * means.shape[1] * jnp.log(2.0 * jnp.pi)

    def sample(self, key: Array, index: Array, cond: Cond = None) -> Array:
        """Data, (len(index), *shape), of the classes in ``cond``: example i depends on (key, index[i]) and its label alone."""
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
        dtype = jnp.result_type(float)
        component = jax.vmap(jax.random.categorical)(keys[:, 0], self._log_prior(len(index), cond).astype(dtype))
        means, variances = self._flat(dtype)
        z = normals(keys[:, 1], jax.ShapeDtypeStruct(means.shape[1:], dtype))
        x0 = means[component] + jnp.sqrt(variances)[component] * z
        return x0.reshape(len(index), *np.shape(self.means)[1:])

    def check(self) -> None:
        """Raises ConfigError unless shapes agree, weights and variances are > 0 and all is finite; checks the path."""
        w, m, v = (np.asarray(a, np.float64) for a in (self.weights, self.means, self.variances))
        if w.ndim != 1 or m.shape[:1] != w.shape:
            refuse("GaussianMixture.means.shape", m.shape, f"one mean for each of the {w.shape} weights")
        if v.shape not in (w.shape, m.shape):
            refuse("GaussianMixture.variances.shape", v.shape, f"{w.shape} (isotropic) or {m.shape} (diagonal)")
        if self.labels is not None and np.shape(self.labels) != w.shape:
            refuse("GaussianMixture.labels.shape", np.shape(self.labels), f"{w.shape}")
        for name, value, good, allowed in (("weights", w, w > 0, " and > 0"), ("means", m, True, ""), ("variances", v, v > 0, " and > 0")):
            bad = ~(np.isfinite(value) & good)
            if bad.any():
                refuse(f"GaussianMixture.{name}", value[bad][0].item(), f"finite{allowed}")
        self.path.check()

    def _flat(self, dtype) -> tuple[Array, Array]:
        """Means (K, d) and variances (K, d) or (K, 1)."""
        k = np.shape(self.means)[0]
        return jnp.asarray(self.means, dtype).reshape(k, -1), jnp.asarray(self.variances, dtype).reshape(k, -1)

    def _log_prior(self, batch: int, cond: Cond) -> Array:
        """``ln w_k`` normalised over each example's class, -inf outside it, (batch, K)."""
        log_w = jnp.where(label_mask(self.labels, cond, batch), jnp.log(jnp.asarray(self.weights))[None, :], -jnp.inf)
        return jax.nn.log_softmax(log_w, axis=1)

    def _log_joint(self, d: Array, V: Array, cond: Cond) -> Array:
        """``ln w_k + ln N(x_t; alpha m_k, V_k)`` without the constant of 2 pi, (batch, K)."""
        log_n = -0.5 * jnp.sum(jnp.square(d) / V, axis=2) - 0.5 * jnp.sum(jnp.log(jnp.broadcast_to(V, d.shape)), axis=2)
        return self._log_prior(len(d), cond).astype(d.dtype) + log_n
