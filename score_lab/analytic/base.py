"""What exact denoisers have in common: the contract of ``score_lab.denoiser.Denoiser``, known at every level.

    E[x0 | x_t] and E[eps | x_t] with alpha E[x0 | x_t] + sigma E[eps | x_t] = x_t

A subclass gives ``posterior(x_t, alpha, sigma, cond) -> (x0, eps)``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.linear import batch_of
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Cond, Time

__all__ = ["AnalyticDenoiser", "label_mask"]


class AnalyticDenoiser:
    """A denoiser without a network: ``posterior`` evaluated on ``path``.  Subclass it with ``@pytree_dataclass`` and a field ``path``."""

    log_snr_range = (-np.inf, np.inf)
    """Exact at every level: no grid leaves the range."""
    clip = False

    path: GaussianPath

    def posterior(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        """``(E[x0 | x_t], E[eps | x_t])`` for coefficients of shape (batch,)."""
        raise NotImplementedError

    def __call__(self, x_t: Array, t: Time, cond: Cond = None, *, s: Time | None = None, step: Any = None, key: Any = None) -> Prediction:
        """The exact prediction; ``t`` scalar or (batch,).  Every denoiser is offered ``s``, ``step`` and ``key``: not needed here."""
        t = jnp.asarray(t)
        level = jnp.broadcast_to(t, (batch_of(x_t),))
        alpha, sigma = (c.astype(x_t.dtype) for c in (self.path.alpha(level), self.path.sigma(level)))
        x0, eps = self.posterior(x_t, alpha, sigma, cond)
        return Prediction.of(x_t, t, self.path, x0=x0, eps=eps)

    def on(self, path: GaussianPath, clip: bool | None = None) -> AnalyticDenoiser:
        """The same data on another path.  ``clip`` has nothing to do where every level is exact; networks take it in the same place."""
        return dataclasses.replace(self, path=path)


def label_mask(labels: Array | None, cond: Cond, batch: int) -> Array:
    """Which components belong to each example's class, bool (batch, K) or (batch, 1) if all do; -1 selects all.

    ``labels`` (K,) are the components' classes.  Raises ConfigError if ``cond`` has labels and the components have none.
    """
    if cond is None or "label" not in cond:
        return jnp.ones((batch, 1), bool)
    if labels is None:
        refuse("cond['label']", "given", "no label: this analytic denoiser was made without labels")
    label = jnp.asarray(cond["label"])[:, None]
    return (label < 0) | (label == jnp.asarray(labels)[None, :])
