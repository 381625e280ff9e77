"""Self-forcing by one short step: the network is trained on states that it has made itself, one DDIM step from a forward sample.

    kappa_from = kappa exp(length),   x_from = alpha_from x0 + sigma_from eps
    x_hat = alpha D(x_from) + sigma eps_hat(x_from), without a gradient
    regression of x0 at (x_hat, t), eps' = (x_hat - alpha x0) / sigma

The warning.  The x0 that x_from was made of is not an independent datum of x_hat: with a perfect network and perfect steps the best answer
is rho times too small,

    E[x0 | x_hat] = rho E[x0 | x_t],   rho = cos phi_from / cos phi = sqrt((s^2 + kappa^2) / (s^2 + kappa_from^2)) >= exp(-length)

(rho^2 for stochastic steps; 0.449 from kappa 1.2 to 0.3 at s = 0.5).  So one step, and a short one: a ``length`` over 0.1 is refused unless
``biased`` says that this is what is wanted.  A target that is free of it pairs x_hat anew or matches distributions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine, select
from score_lab.objectives.base import Context
from score_lab.objectives.regression import Noised, Regression, metrics_of
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Batch, PyTree, Time, pytree_dataclass

__all__ = ["SelfForcing", "target_gain"]

LONGEST = 0.1
"""In ln kappa: the target is at most 10 % too small."""


def target_gain(path: GaussianPath, t_from: Time, t: Time, s: Any) -> Time:
    """``rho = sqrt((s^2 + kappa^2) / (s^2 + kappa_from^2))`` of data of standard deviation ``s``; its limit kappa / kappa_from, or 1."""
    far, near = (jnp.hypot(s * path.alpha(u), path.sigma(u)) for u in (t_from, t))
    low, high = path.alpha(t_from) * near, path.alpha(t) * far
    return jnp.where(high > 0, low / jnp.where(high > 0, high, 1.0), 1.0)


@pytree_dataclass
class SelfForcing(Regression):
    """``Regression``, of which each example is self-made with probability ``rate``; ``length`` of the step in ln kappa."""

    rate: float = 0.5
    length: float = 0.05
    biased: bool = False

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """``l`` (batch,); the metric ``target_gain`` is rho of every example, 1 of those that are forward samples."""
        noised, rho = self.self_made(ctx, batch)
        prediction = self.predict(ctx, noised)
        return self.weighted(ctx, noised, prediction), metrics_of(noised, prediction) | {"target_gain": rho}, state

    def corrupt(self, ctx: Context, batch: Batch) -> Noised:
        """The states, self-made or not."""
        return self.self_made(ctx, batch)[0]

    def self_made(self, ctx: Context, batch: Batch) -> tuple[Noised, Array]:
        """``(states, rho)``.  At an infinite log-SNR, and where the path ends before kappa_from, the step is as long as it can be."""
        path, noised = ctx.path, Regression.corrupt(self, ctx, batch)
        level = path.log_snr(noised.t)
        inside = jnp.isfinite(level)
        start = jnp.where(inside, path.time_of(jnp.where(inside, level, 0.0) - 2.0 * self.length), noised.t)
        x_from = path.add_noise(noised.x0, noised.eps, start)
        made = jax.lax.stop_gradient(ctx.denoiser(x_from, start, noised.cond)).at(noised.t)
        alpha, sigma = path.alpha(noised.t), path.sigma(noised.t)
        own = jax.vmap(lambda k: jax.random.bernoulli(k, self.rate))(ctx.keys(noised.index, "self-forcing")) & inside & (sigma > 0)
        down = 1.0 / jnp.where(sigma > 0, sigma, 1.0)
        eps = combine((down, made), (-alpha * down, noised.x0))
        rho = jnp.where(own, target_gain(path, start, noised.t, ctx.denoiser.sigma_data), 1.0)
        return dataclasses.replace(noised, x_t=select(own, made, noised.x_t), eps=select(own, eps, noised.eps)), jax.lax.stop_gradient(rho)

    def check(self) -> None:
        """A rate in [0, 1], 0 < length <= 0.1 unless ``biased``, and what a regression refuses."""
        Regression.check(self)
        if not 0 <= self.rate <= 1:
            refuse("SelfForcing.rate", self.rate, "0 <= rate <= 1")
        if not 0 < self.length < float("inf"):
            refuse("SelfForcing.length", self.length, "> 0, in ln kappa")
        if self.length > LONGEST and not self.biased:
            allowed = f"at most {LONGEST}, or biased=True: with x0 paired the network learns exp(-length) times too little signal at worst"
            refuse("SelfForcing.length", self.length, allowed)
