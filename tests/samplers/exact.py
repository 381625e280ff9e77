"""Exact denoisers, small and independent of ``score_lab.analytic``, and the eight paths that the sampler tests run on.

    Gaussian, x0 ~ N(mu, s^2) in every coordinate:   E[x0|x] = mu + (alpha s^2 / V)(x - alpha mu),   E[eps|x] = (sigma / V)(x - alpha mu)
    Mixture (that of the peers' records):             the same per component, weighted by the responsibilities
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.denoiser import Prediction
from score_lab.linear import expand
from score_lab.paths import EDM, VE, VP, Cosine, DDPMTable, LinearFlow, SubVP, Trigonometric, ddpm_table
from score_lab.types import leaf, pytree_dataclass

W = np.array([0.5, 0.3, 0.2])
M = np.array([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]])
V = np.array([0.09, 0.16, 0.0625])


@pytree_dataclass
class Gaussian:
    """Data N(mu, s^2), the same in every coordinate; ``cond["label"]`` of -1 selects the standard deviation ``s_u`` in place of ``s``."""

    path: object = leaf()
    s: object = leaf(default=0.5)
    mu: object = leaf(default=0.0)
    s_u: object = leaf(default=1.0)

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        t = jnp.asarray(t)
        std = jnp.asarray(self.s)
        if cond:
            std = jnp.where(cond["label"] < 0, self.s_u, self.s)
        a, b = self.path.alpha(t), self.path.sigma(t)
        var = a**2 * std**2 + b**2

        def both(x):
            d = x - expand(a * self.mu, x)
            return self.mu + expand(a * std**2 / var, x) * d, expand(b / var, x) * d

        pairs = jax.tree.map(both, x_t)
        x0, eps = jax.tree.transpose(jax.tree.structure(x_t), jax.tree.structure((0, 0)), pairs)
        return Prediction.of(x_t, t, self.path, x0=x0, eps=eps)

    def on(self, path):
        return Gaussian(path, self.s, self.mu, self.s_u)


@pytree_dataclass
class Mixture:
    """The 2-D mixture of three isotropic Gaussians (``W``, ``M``, ``V``) on which the peers' records were made."""

    path: object = leaf()

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        t = jnp.asarray(t)
        n, dtype = len(x_t), x_t.dtype
        a, b = (jnp.broadcast_to(c.astype(dtype), (n,))[:, None] for c in (self.path.alpha(t), self.path.sigma(t)))
        w, m, v = (jnp.asarray(c, dtype) for c in (W, M, V))
        var = a**2 * v[None] + b**2  # (n, 3)
        d = x_t[:, None, :] - a[:, :, None] * m[None]
        r = jax.nn.softmax(jnp.log(w)[None] - jnp.sum(d**2, -1) / (2 * var) - jnp.log(var), axis=1)[:, :, None]
        x0 = jnp.sum(r * (m[None] + (a * v[None] / var)[:, :, None] * d), 1)
        return Prediction.of(x_t, t, self.path, x0=x0, eps=jnp.sum(r * (b / var)[:, :, None] * d, 1))

    def on(self, path):
        return Mixture(path)


def mixture_numpy(x, a, s):
    """The same posterior means in numpy: ``(E[x0|x], E[eps|x])`` for scalars a and s."""
    d = x[:, None, :] - a * M[None]
    var = a**2 * V + s**2
    logit = np.log(W) - (d**2).sum(-1) / (2 * var) - np.log(var)
    r = np.exp(logit - logit.max(1, keepdims=True))
    r = (r / r.sum(1, keepdims=True))[..., None]
    return (r * (M + (a * V / var)[:, None] * d)).sum(1), (r * ((s / var)[:, None] * d)).sum(1)


def paths() -> dict:
    """One of each family; made inside a test, so that the table is float64 where the test is."""
    table: DDPMTable = ddpm_table("linear", 1000)
    return {
        "VP": VP(), "SubVP": SubVP(), "VE": VE(), "EDM": EDM(), "Cosine": Cosine(), "LinearFlow": LinearFlow(),
        "Trigonometric": Trigonometric(), "DDPMTable": table, "ZeroSNRTable": ddpm_table("scaled_linear", 1000, zero_terminal=True),
    }  # fmt: skip
