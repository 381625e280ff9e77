"""The one regression: a row of (x0, eps), a law of t and a weighting.

    t ~ time_law,   x_t = alpha x0 + sigma eps,   y = a x0 + b eps,   y_hat = the network's output at (x_t, t)
    l = exp( ln w(log_snr) + 2 ln|alpha / det| - [per_log_snr] ln p(log_snr) ) ||y_hat - y||^2 / d

DDPM (Eps, Simple), score matching with likelihood weighting (Likelihood, per_log_snr), flow matching (Velocity on the linear flow, no
weighting), EDM (F, LogNormalSigma, no weighting), v with min-SNR (V, MinSNR) and the sigmoid weighting (Sigmoid, per_log_snr) are choices
of its three parts.  The same (x0, eps, log_snr) and weighting give the same loss on every path: score matching is flow matching.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import ConfigError, refuse
from score_lab.denoiser import Prediction
from score_lab.linear import combine
from score_lab.objectives.base import Context, drop_labels, mean_square, noise_of
from score_lab.objectives.time_laws import TimeLaw, UniformTime
from score_lab.objectives.weightings import Likelihood, Weighting, clipped_log_snr, log_row_factor, row_of
from score_lab.types import Array, Batch, Cond, PyTree, Time, leaf, pytree_dataclass, static

__all__ = ["Noised", "Regression"]


@pytree_dataclass
class Noised:
    """A batch on its way: ``x_t = alpha(t) x0 + sigma(t) eps`` with the times, the labels left, and the global indices."""

    x0: PyTree
    eps: PyTree
    x_t: PyTree
    t: Time = leaf()
    cond: Cond = leaf()
    index: Array


@pytree_dataclass
class Regression:
    """Weighted least squares on the row that the denoiser's network is trained in.

    ``weighting``: on the loss in eps; None leaves the loss of the network's own row as it is (flow matching, EDM, v-prediction).
    ``per_log_snr``: the weighting is meant in the integral over log_snr, so the law's density is divided out and the law changes only the
    variance (Kingma & Gao 2023, eq. 3); False: it multiplies the loss at the levels as the law draws them.
    ``label_dropout``: the probability, per example, with which the label is replaced by -1 (needed for classifier-free guidance).
    """

    time_law: TimeLaw = leaf(default=UniformTime())
    weighting: Weighting | None = leaf(default=None)
    label_dropout: float = static(default=0.0)
    per_log_snr: bool = False

    def init(self, key: Array, spec: PyTree) -> tuple[PyTree, PyTree]:
        """Nothing beyond the network."""
        return {}, {}

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """``l`` (batch,), with the unweighted losses of eps and x0 as metrics."""
        noised = self.corrupt(ctx, batch)
        prediction = self.predict(ctx, noised)
        return self.weighted(ctx, noised, prediction), metrics_of(noised, prediction), state

    def corrupt(self, ctx: Context, batch: Batch) -> Noised:
        """Draws t, eps and the dropped labels of every example from its own keys."""
        x0, index = batch["x0"], batch["index"]
        t = self.time_law.sample(ctx.key, index, ctx.batch_size, ctx.path, ctx.denoiser.log_snr_range)
        eps = noise_of(ctx, batch)
        return Noised(x0, eps, ctx.path.add_noise(x0, eps, t), t, drop_labels(ctx, batch, self.label_dropout), index)

    def predict(self, ctx: Context, noised: Noised) -> Prediction:
        """One network call, with dropout keyed per example."""
        return ctx.denoiser(noised.x_t, noised.t, noised.cond, key=ctx.keys(noised.index, "dropout"))

    def weighted(self, ctx: Context, noised: Noised, prediction: Prediction) -> Array:
        """``l`` (batch,) of a prediction, finite at both ends of every path."""
        row = row_of(ctx.denoiser.row, ctx.path, noised.t)
        y = combine((row[0], noised.x0), (row[1], noised.eps))
        square = mean_square(jax.tree.map(jnp.subtract, prediction.raw, y))
        if self.weighting is None and not self.per_log_snr:
            return square
        return jnp.exp(self.log_weight(ctx, row, noised.t)).astype(square.dtype) * square

    def log_weight(self, ctx: Context, row: tuple[Time, Time], t: Time) -> Time:
        """The logarithm of what multiplies the loss of ``row`` at ``t``."""
        log_snr = clipped_log_snr(ctx.path, t)
        total = jnp.zeros_like(log_snr)
        if self.weighting is not None:
            total = self.weighting.log_weight(log_snr) + log_row_factor(row, ctx.path, t)
        if self.per_log_snr:
            total = total - self.time_law.log_density(log_snr, ctx.path, ctx.denoiser.log_snr_range)
        return total

    def check(self) -> None:
        """Refuses rates outside [0, 1), parts that are none, and a likelihood that is not integrated over log_snr."""
        check_label_dropout(self.label_dropout)
        for name, method in (("time_law", "sample"), ("weighting", "log_weight")):
            part = getattr(self, name)
            if not (hasattr(part, method) or part is None and name == "weighting"):
                refuse(f"objective.{name}", part, f"a specification {{'target': ...}} of something with {method}()")
        if isinstance(self.weighting, Likelihood) and not self.per_log_snr:
            raise ConfigError("objective.per_log_snr: False is refused; allowed: True, Likelihood weights the integral over log_snr")


def check_label_dropout(rate: Any) -> None:
    """Refuses a ``label_dropout`` outside [0, 1)."""
    if not 0.0 <= rate < 1.0:
        refuse("objective.label_dropout", rate, "a rate in [0, 1)")


def metrics_of(noised: Noised, prediction: Prediction) -> dict[str, Array]:
    """``eps_loss`` and ``x0_loss`` (batch,): the mean squares of ``eps_hat - eps`` and ``x0_hat - x0``, unweighted."""
    pairs = {"eps_loss": (prediction.eps, noised.eps), "x0_loss": (prediction.x0, noised.x0)}
    return {name: jax.lax.stop_gradient(mean_square(jax.tree.map(jnp.subtract, *pair))) for name, pair in pairs.items()}
