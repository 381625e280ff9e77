"""EDM's churn around any grid: the noise level is raised before a step, with fresh noise and without a network call.

    gamma = min(s_churn / N, sqrt(2) - 1) where s_tmin <= kappa <= s_tmax, else 0
    kappa_hat = kappa (1 + gamma)                                                     (Karras et al. 2022, algorithm 2)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.steps import Grid, Steps
from score_lab.types import Array, leaf, pytree_dataclass

__all__ = ["Churn"]


@pytree_dataclass
class Churn:
    """Every step of ``grid`` with s_tmin <= kappa <= s_tmax starts from ``kappa (1 + gamma)``, but no higher than the path's end.

    Fresh noise is multiplied by ``s_noise``.  The sampler inside does not know of it; one that remembers earlier steps is refused.
    """

    grid: Grid = leaf()
    s_churn: float = 40.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``: every t raised, r the next raised t."""
        if not (self.s_churn >= 0 and self.s_noise >= 0):
            refuse("Churn.s_churn, s_noise", (self.s_churn, self.s_noise), ">= 0")
        inner = self.grid.steps(path)
        if inner.renoises:
            refuse("Churn.grid", type(self.grid).__name__, "a grid that does not renoise already")
        n = inner.t.shape[0]
        t = _raised(path, inner.t, min(self.s_churn / n, 2**0.5 - 1.0), self.s_tmin, self.s_tmax)
        r = jnp.append(t[1:], inner.s[-1])
        return Steps(t=t, s=inner.s, r=r, start=inner.start, noise_scale=jnp.asarray(self.s_noise), renoises=True)


@jax.jit
def _raised(path: GaussianPath, t: Array, gamma: Array, s_tmin: Array, s_tmax: Array) -> Array:
    """The times of ``kappa (1 + gamma)`` where churn is active; the others to the last bit as they were."""
    kappa = path.kappa(t)
    active = (gamma > 0) & (kappa >= s_tmin) & (kappa <= s_tmax) & jnp.isfinite(kappa)
    raised = path.time_of_kappa(jnp.where(jnp.isfinite(kappa), kappa, 1.0) * (1 + gamma))
    return jnp.where(active, jnp.maximum(raised, t), t)
