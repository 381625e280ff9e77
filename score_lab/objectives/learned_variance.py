"""DDPM with learned variance: the hybrid loss of Nichol & Dhariwal 2021, on any path.

    L_hybrid = L_simple + vlb_weight L_vlb                                                                          (eq. 16)
    L_vlb    = sum_k L_k,   L_k = KL( q(x_s | x_t, x0) || N(x_s; mean, exp(log_variance)) ),   t = (k+1)/T, s = k/T   (eq. 4-7)
    log_variance = m log beta + (1 - m) log beta_tilde,   m = (1 + aux["variance"]) / 2                                (eq. 15)
    L_0      = -ln of the probability that N(x0_hat, exp(log_variance)) gives to the bin of x0 among the pixel's values in [-1, 1]

With ``delta = 1 - exp(log_snr(t) - log_snr(s))`` and ``V = alpha^2 + sigma^2`` the posterior and its bounds are, on any Gaussian path,

    q(x_s | x_t, x0):  mean = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + alpha_s delta x0,   variance beta_tilde = sigma_s^2 delta
    beta = sigma_t^2 delta V_s / V_t:  the variance of x_s given x_t for data of unit variance, DDPM's beta_k where V = 1

The mean of the model is held fixed in L_vlb (their stop-gradient).  Its terms are in bits per dimension, as in their released code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import ConfigError, refuse
from score_lab.denoiser import Prediction
from score_lab.linear import combine, expand, select
from score_lab.objectives.base import Context
from score_lab.objectives.regression import Noised, Regression, check_label_dropout, metrics_of
from score_lab.objectives.time_laws import DiscreteTable
from score_lab.objectives.weightings import Simple, Weighting
from score_lab.paths.base import GaussianPath
from score_lab.paths.transition import interpolate_log_variance, log_variance_bounds
from score_lab.types import Array, Batch, PyTree, Time, leaf, pytree_dataclass, static

__all__ = ["LearnedVariance", "posterior_mean"]


@pytree_dataclass
class LearnedVariance:
    """``Regression`` on a table of ``num_levels`` levels, plus ``vlb_weight`` times the evidence bound of the learned variance.

    The network must return ``aux["variance"]`` of x's shape (``learned_variance=True``).  ``bins`` is the number of values of a pixel
    in [-1, 1] (256 for bytes, 17 for scikit-learn's digits); 0 for data that are not discrete, whose L_0 is then a density's.
    """

    num_levels: int = 1000
    vlb_weight: float = 1e-3
    bins: int = 256
    weighting: Weighting | None = leaf(default=Simple())
    label_dropout: float = static(default=0.0)
    low_discrepancy: bool = True
    learned_variance = True

    @property
    def time_law(self) -> DiscreteTable:
        """The law of t: the table's levels."""
        return DiscreteTable(self.num_levels, self.low_discrepancy)

    @property
    def regression(self) -> Regression:
        """The regression of the mean."""
        return Regression(self.time_law, self.weighting, self.label_dropout)

    def init(self, key: Array, spec: PyTree) -> tuple[PyTree, PyTree]:
        """Nothing beyond the network."""
        return {}, {}

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """``L_simple + vlb_weight L_vlb`` (batch,); the metric ``vlb`` is an unbiased estimate of L_vlb in bits per dimension."""
        noised = self.regression.corrupt(ctx, batch)
        prediction = self.regression.predict(ctx, noised)
        vlb = self.count(ctx) * self.bound_term(ctx.path, noised, prediction)
        loss = self.regression.weighted(ctx, noised, prediction) + self.vlb_weight * vlb
        return loss, metrics_of(noised, prediction) | {"vlb": vlb}, state

    def count(self, ctx: Context) -> Array:
        """The number of levels that are drawn from: all of the table's, or those in the denoiser's range."""
        low, high = (ctx.path.time_of(jnp.asarray(v, float)) for v in reversed(ctx.denoiser.log_snr_range))
        below, upto = self.time_law.probabilities(low, high, ctx.path)
        return jnp.round((upto - below) * self.num_levels)

    def bound_term(self, path: GaussianPath, noised: Noised, prediction: Prediction) -> Array:
        """``L_k`` of every example in bits per dimension, (batch,)."""
        if not isinstance(prediction.aux, dict) or "variance" not in prediction.aux:
            raise ConfigError("network.learned_variance: False is refused; allowed: True, which LearnedVariance reads")
        t, x0_hat = noised.t, jax.lax.stop_gradient(prediction.x0)
        s = jnp.maximum(jnp.round(t * self.num_levels) - 1.0, 0.0) / self.num_levels
        bounds = log_variance_bounds(path, t, s, jnp.asarray(1.0 / self.num_levels, t.dtype))
        log_variance = interpolate_log_variance(prediction.aux["variance"], *bounds)
        true, mean = (posterior_mean(path, t, s, noised.x_t, x0) for x0 in (noised.x0, x0_hat))
        kl = jax.tree.map(lambda a, b, c: _kl(a, expand(bounds[0], a), b, c), true, mean, log_variance)
        last = jax.tree.map(lambda x, m, c: -_log_likelihood(x, m, c, self.bins), noised.x0, mean, log_variance)
        terms = jax.tree.leaves(select(s == 0, last, kl))
        total = sum(jnp.sum(x, axis=tuple(range(1, x.ndim))) for x in terms)
        return total / (sum(x[0].size for x in terms) * jnp.log(2.0).astype(total.dtype))

    def check(self) -> None:
        """At least two levels, a weight >= 0, no or at least two bins, a rate in [0, 1)."""
        if self.num_levels < 2:
            refuse("LearnedVariance.num_levels", self.num_levels, "at least 2")
        if not self.vlb_weight >= 0:
            refuse("LearnedVariance.vlb_weight", self.vlb_weight, ">= 0")
        if self.bins < 0 or self.bins == 1:
            refuse("LearnedVariance.bins", self.bins, "0, or at least 2")
        check_label_dropout(self.label_dropout)


def posterior_mean(path: GaussianPath, t: Time, s: Time, x_t: PyTree, x0: PyTree) -> PyTree:
    """The mean of ``q(x_s | x_t, x0)``, s < t."""
    delta = -jnp.expm1(path.log_snr(t) - path.log_snr(s))
    ratio = path.alpha(t) * path.sigma(s) ** 2 / (path.alpha(s) * path.sigma(t) ** 2)
    return combine((ratio, x_t), (path.alpha(s) * delta, x0))


def _kl(mean: Array, log_variance: Array, mean_hat: Array, log_variance_hat: Array) -> Array:
    """``KL(N(mean, .) || N(mean_hat, .))`` in nats, entry by entry."""
    difference = log_variance - log_variance_hat
    return 0.5 * (-1.0 - difference + jnp.exp(difference) + jnp.square(mean - mean_hat) * jnp.exp(-log_variance_hat))


def _log_likelihood(x: Array, mean: Array, log_variance: Array, bins: int) -> Array:
    """``ln`` of what ``N(mean, exp(log_variance))`` gives to x's bin, the outermost reaching to infinity; of its density if bins = 0."""
    scale = jnp.exp(-0.5 * log_variance)
    if not bins:
        return -0.5 * (jnp.square((x - mean) * scale) + log_variance + jnp.log(2.0 * jnp.pi).astype(x.dtype))
    half = 1.0 / (bins - 1)
    upper, lower = (x - mean + half) * scale, (x - mean - half) * scale
    mirrored = mean > x  # where both are in the upper tail, count from the other side, which keeps the digits
    near, far = jnp.where(mirrored, upper, -lower), jnp.where(mirrored, lower, -upper)
    log_near, log_far = jax.scipy.special.log_ndtr(near), jax.scipy.special.log_ndtr(far)
    inside = log_near + jnp.log(-jnp.expm1(jnp.minimum(log_far - log_near, -1e-7)))
    first, last = x < -1.0 + half, x > 1.0 - half
    return jnp.where(first, jax.scipy.special.log_ndtr(upper), jnp.where(last, jax.scipy.special.log_ndtr(-lower), inside))
