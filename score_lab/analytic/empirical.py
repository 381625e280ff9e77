"""The data set itself as the data's law: the denoiser that a network of unlimited capacity would learn, memorisation and all.

    x0 ~ uniform over points y_i,    r_i = softmax_i( -||x_t - alpha y_i||^2 / (2 sigma^2) )
    E[x0 | x_t] = sum_i r_i y_i,     E[eps | x_t] = (x_t - alpha E[x0 | x_t]) / sigma

One ``lax.scan`` over chunks of points with a running minimum of the distances (online softmax; Milakov & Gimelshein 2018), so that
memory is (batch, chunk) whatever the number of points.  At alpha = 0 the mean of the points; at sigma = 0 the nearest point (several at
one distance: their mean) and eps = 0, as of any lost quantity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic.base import AnalyticDenoiser, label_mask
from score_lab.build import refuse
from score_lab.linear import expand
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Cond, leaf, pytree_dataclass, static

__all__ = ["Empirical"]


@pytree_dataclass
class Empirical(AnalyticDenoiser):
    """``points`` (n, *shape), ``labels`` int (n,) or None, ``chunk`` points at a time.

    ``cond["label"]`` restricts each example to the points of its class, -1 to none in particular.  A label that no point has gives NaN.
    """

    path: GaussianPath = leaf()
    points: Array
    labels: Array | None = None
    chunk: int = static(default=1024)

    def posterior(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> tuple[Array, Array]:
        """One pass over all points."""
        x0 = self._mean(x_t, alpha, sigma, cond).reshape(x_t.shape)
        inverse = jnp.where(sigma > 0, 1.0 / jnp.where(sigma > 0, sigma, 1.0), 0.0)
        return x0, expand(inverse, x_t) * (x_t - expand(alpha, x_t) * x0)

    def check(self) -> None:
        """Raises ConfigError for no points, points that are not finite, labels of another length or an empty chunk; checks the path."""
        points = np.asarray(self.points)
        if points.ndim < 2 or not len(points) or not np.isfinite(points).all():
            refuse("Empirical.points", points.shape, "finite, (n, *shape) with n >= 1")
        if self.labels is not None and np.shape(self.labels) != points.shape[:1]:
            refuse("Empirical.labels.shape", np.shape(self.labels), f"{points.shape[:1]}")
        if self.chunk < 1:
            refuse("Empirical.chunk", self.chunk, ">= 1")
        self.path.check()

    def _mean(self, x_t: Array, alpha: Array, sigma: Array, cond: Cond) -> Array:
        """``E[x0 | x_t]`` flattened, (batch, d)."""
        x = x_t.reshape(len(x_t), -1)
        points = jnp.asarray(self.points, x.dtype).reshape(len(self.points), -1)
        mask = jnp.broadcast_to(label_mask(self.labels, cond, len(x)), (len(x), len(points)))
        chunks = -(-len(points) // self.chunk)
        size = -(-len(points) // chunks)  # equal chunks, at most chunks - 1 points of padding
        pad = chunks * size - len(points)
        blocks = jnp.pad(points, ((0, pad), (0, 0))).reshape(chunks, size, -1)
        masks = jnp.pad(mask, ((0, 0), (0, pad))).reshape(len(x), chunks, size).swapaxes(0, 1)
        empty = (jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros(len(x), x.dtype), jnp.zeros_like(x))

        def one(carry: tuple, block: tuple) -> tuple:
            least, total, summed = carry
            y, chosen = block
            distance = jnp.sum(jnp.square(x[:, None, :] - alpha[:, None, None] * y[None]), axis=2)
            distance = jnp.where(chosen, distance, jnp.inf)
            now = jnp.minimum(least, distance.min(1))
            keep, weights = _decay(least, now, sigma), _decay(distance, now[:, None], sigma[:, None])
            return (now, total * keep + weights.sum(1), summed * keep[:, None] + weights @ y), None

        (_, total, summed), _ = jax.lax.scan(one, empty, (blocks, masks))
        return summed / total[:, None]


def _decay(distance: Array, least: Array, sigma: Array) -> Array:
    """``exp(-(distance - least) / (2 sigma^2))``: 0 for an infinite distance; at sigma = 0 it is 1 for the least one, else 0."""
    gap = jnp.where(jnp.isinf(distance), jnp.inf, distance - least)
    safe = jnp.where(sigma > 0, sigma, 1.0)
    return jnp.where(sigma > 0, jnp.exp(-0.5 * (gap / safe) / safe), gap <= 0)
