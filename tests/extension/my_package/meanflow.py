"""MeanFlow (Geng et al. 2025): a network of two times learns the average velocity, which takes one step from noise to data.

    u(z_t, r, t) = 1/(t - r) int_r^t velocity(z_tau, tau) dtau,    r <= t,  0 data, 1 noise                      (eq. 3)
    u = v - (t - r) du/dt,    du/dt = v dz u + dt u:  one jax.jvp with the tangent (v, 1, 0) of (z, t, r)       (eq. 6-8)
    l = w ||u(z_t, r, t) - stop_gradient(v - (t - r) du/dt)||^2,    w = stop_gradient(1 / (||.||^2 + c)^p)     (eq. 9-11, 22)

v = alpha' x0 + sigma' eps is the example's own velocity.  A step is z_r = z_t - (t - r) u: Euler in t, which tells the network r.
"""

import jax
import jax.numpy as jnp

from score_lab.linear import combine
from score_lab.objectives import drop_labels, mean_square, noise_of
from score_lab.types import pytree_dataclass


@pytree_dataclass
class MeanFlow:
    """``share`` of the examples have r < t, the others r = t (flow matching); logits of both are N(mean, std^2); c, p of the weight."""

    share: float = 0.5
    mean: float = -0.4
    std: float = 1.0
    c: float = 1e-3
    p: float = 1.0
    level = "angle"
    two_time = True
    forward_mode = True

    def init(self, key, spec):
        return {}, {}

    def times(self, ctx, index):
        """``(t, r)``, each (batch,), from the keys of the examples."""
        logits = jax.vmap(lambda k: jax.random.normal(k, (2,)))(ctx.keys(index, "times"))
        both = jax.nn.sigmoid(self.mean + self.std * logits)
        t, r = both.max(axis=1), both.min(axis=1)
        apart = jax.vmap(jax.random.uniform)(ctx.keys(index, "apart")) < self.share
        return t, jnp.where(apart, r, t)

    def loss(self, ctx, params, state, batch):
        x0, eps, path = batch["x0"], noise_of(ctx, batch), ctx.path
        t, r = self.times(ctx, batch["index"])
        cond, keys = drop_labels(ctx, batch, 0.0), ctx.keys(batch["index"], "dropout")
        v = combine((path.alpha_dot(t), x0), (path.sigma_dot(t), eps))

        def u(z, t, r):
            return ctx.denoiser(z, t, cond, s=r, key=keys).velocity

        out, slope = jax.jvp(u, (path.add_noise(x0, eps, t), t, r), (v, jnp.ones_like(t), jnp.zeros_like(r)))
        target = jax.lax.stop_gradient(combine((1.0, v), (r - t, slope)))
        error = mean_square(jax.tree.map(jnp.subtract, out, target))
        return error / jax.lax.stop_gradient(error + self.c) ** self.p, {"error": error}, state
