"""A weighting that is learned with the network: every level weighs as much as its loss is certain (Kendall & Gal 2018; Karras et al. 2024).

    l_i = loss of the inner objective on example i,      u = a . f(log_snr)
    trained:  l_i exp(-u_i) + u_i                                                              (Karras et al. 2024, EDM2, eq. 21)
    f_0 = 1,   f_j = sqrt(2) cos(pi j (log_snr + 20) / 40),   j = 1 .. count - 1,   log_snr clipped to +-20

The best u is ln E[l | log_snr], so that the network's gradient is divided by the mean loss of its level and every level then counts alike.
a = 0 at the start, where the gradient is the inner one.  u is trained beside the network and thrown away: no denoiser reads it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import LEVEL_LIMIT
from score_lab.objectives.base import Context
from score_lab.objectives.weightings import clipped_log_snr
from score_lab.types import Array, Batch, PyTree, Time, leaf, pytree_dataclass, static

__all__ = ["LearnedWeighting", "cosines"]


def cosines(log_snr: Time, count: int) -> Array:
    """``f``, (batch, count): orthogonal, each of mean square 1, over log-SNRs that are uniform in [-20, 20]."""
    level = jnp.clip(log_snr, -LEVEL_LIMIT, LEVEL_LIMIT)
    j = jnp.arange(count, dtype=level.dtype)
    scale = jnp.where(j > 0, jnp.sqrt(jnp.asarray(2.0, level.dtype)), 1.0)
    return scale[None, :] * jnp.cos(0.5 * jnp.pi * j[None, :] * (level[:, None] / LEVEL_LIMIT + 1.0))


@pytree_dataclass
class LearnedWeighting:
    """Any ``objective`` with a ``time_law``, on a path that is not learned, with the weighting learned on top of its own.

    ``count``: of the features; the finest is a wave of length 80 / (count - 1) in log-SNR.  What is trained beside the network is the leaf
    ``objective.u``, (count,), the a above.
    Everything that a trainer asks of an objective is the inner one's.
    """

    objective: Any = leaf()
    count: int = static(default=32)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "objective":
            raise AttributeError(name)
        return getattr(self.objective, name)

    def init(self, key: Array, spec: PyTree) -> tuple[PyTree, PyTree]:
        """``a`` = 0 beside the inner objective's own; the inner objective's state."""
        own, state = self.objective.init(key, spec)
        return {"inner": own, "u": jnp.zeros((self.count,), jnp.float32)}, state

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """``l exp(-u) + u`` (batch,); the metric ``unweighted_loss`` is l, which the same objective without this logs as its loss."""
        inner, metrics, state = self.objective.loss(ctx, params["inner"], state, batch)
        t = self.objective.time_law.sample(ctx.key, batch["index"], ctx.batch_size, ctx.path, ctx.denoiser.log_snr_range)
        u = self.log_loss(params, clipped_log_snr(ctx.path, t)).astype(inner.dtype)
        return jnp.exp(-u) * inner + u, metrics | {"unweighted_loss": jax.lax.stop_gradient(inner)}, state

    def log_loss(self, params: PyTree, log_snr: Time) -> Time:
        """``u`` (batch,) at ``log_snr`` (batch,) of this objective's ``params``."""
        return jnp.sum(cosines(log_snr, self.count) * params["u"][None, :], axis=1)

    def check(self) -> None:
        """An objective with a time law and without a path of its own, ``count >= 1``, and what the inner objective refuses."""
        if not hasattr(self.objective, "loss"):
            refuse("LearnedWeighting.objective", self.objective, "a specification {'target': ...} of an objective")
        name = type(self.objective).__name__
        if not hasattr(getattr(self.objective, "time_law", None), "sample"):
            refuse("LearnedWeighting.objective", name, "an objective with a time_law: the weighting is one of the level that it draws")
        if hasattr(self.objective, "path"):
            refuse("LearnedWeighting.objective", name, "an objective on a path that is not learned")
        if self.count < 1:
            refuse("LearnedWeighting.count", self.count, "at least 1")
        if hasattr(self.objective, "check"):
            self.objective.check()
