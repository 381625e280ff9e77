"""MixFlow: the network is told a time and shown a state that is at a noisier one, as the states of few-step samplers are (MixFlow, 2026).

    label t,   1 - m = (1 - t) (1 - slowing u),  u uniform in [0, 1]     so m lies between t and 1 - (1 - slowing)(1 - t), noisier than t
    input x_m = alpha_m x0 + sigma_m eps,    target velocity(m) = alpha'(m) x0 + sigma'(m) eps

In the paper's time, 1 at data, that is m ~ U[(1 - slowing) t, t]; slowing = 0.8, t ~ Beta(2, 1) (``BetaTime(2)``).  It is a blindness for
the noise level on one side: the network learns the law of m given x and t.  Meant to be a fine-tuning of a trained flow.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.objectives.base import Context, drop_labels, mean_square, noise_of
from score_lab.objectives.regression import Noised, Regression
from score_lab.objectives.weightings import row_of
from score_lab.targets import Velocity
from score_lab.types import Array, Batch, PyTree, Time, pytree_dataclass

__all__ = ["MixFlow"]


@pytree_dataclass
class MixFlow(Regression):
    """``Regression`` of a velocity at slowed states; ``slowing`` in [0, 1), 0 is flow matching.  Only of the target ``Velocity``."""

    slowing: float = 0.8

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """``||y_hat(x_m, t) - velocity(m)||^2 / d`` (batch,), weighted at t; the metric ``slowed`` is m - t."""
        noised, m = self.slowed(ctx, batch)
        prediction = self.predict(ctx, noised)
        if not isinstance(ctx.denoiser.target, Velocity):
            refuse("MixFlow: config.target", type(ctx.denoiser.target).__name__, "Velocity: another is read with the level of the label")
        row = row_of(ctx.denoiser.row, ctx.path, m)
        y = combine((row[0], noised.x0), (row[1], noised.eps))
        square = mean_square(jax.tree.map(jnp.subtract, prediction.raw, y))
        if self.weighting is not None or self.per_log_snr:
            weight = self.log_weight(ctx, row_of(ctx.denoiser.row, ctx.path, noised.t), noised.t)
            square = jnp.exp(weight).astype(square.dtype) * square
        return square, {"slowed": jax.lax.stop_gradient(m - noised.t)}, state

    def slowed(self, ctx: Context, batch: Batch) -> tuple[Noised, Time]:
        """The labels t with the states x_m, and m."""
        x0, index = batch["x0"], batch["index"]
        t = self.time_law.sample(ctx.key, index, ctx.batch_size, ctx.path, ctx.denoiser.log_snr_range)
        u = jax.vmap(lambda k: jax.random.uniform(k, dtype=t.dtype))(ctx.keys(index, "slowing"))
        m = 1.0 - (1.0 - t) * (1.0 - self.slowing * u)
        eps = noise_of(ctx, batch)
        return Noised(x0, eps, ctx.path.add_noise(x0, eps, m), t, drop_labels(ctx, batch, self.label_dropout), index), m

    def corrupt(self, ctx: Context, batch: Batch) -> Noised:
        """The labels with the slowed states."""
        return self.slowed(ctx, batch)[0]

    def check(self) -> None:
        """``0 <= slowing < 1``, and what a regression refuses."""
        Regression.check(self)
        if not 0 <= self.slowing < 1:
            refuse("MixFlow.slowing", self.slowing, "0 <= slowing < 1")
