"""Samplers as somebody would write them in a folder of their own: one that works, one that raises, one that breaks some samples."""

import jax.numpy as jnp

from score_lab.linear import combine
from score_lab.types import pytree_dataclass


@pytree_dataclass
class Midway:
    """Euler in kappa (DDIM) with the slope of the middle of the step."""

    order = 2
    calls = 2
    memory = 0
    stochastic = False

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """DDIM to the middle in log-SNR, then the whole step with what is seen there; to data, DDIM."""
        path, p = denoise.path, denoise(x, t)
        inner = (path.sigma(s) > 0) & (path.alpha(t) > 0)
        a, b = jnp.where(inner, t, 0.5), jnp.where(inner, s, 0.25)
        m = path.time_of(0.5 * (path.log_snr(a) + path.log_snr(b)))
        q = denoise(p.at(m), m, where=inner, otherwise=p)
        eps = combine((jnp.where(inner, 0.0, 1.0), p.eps), (jnp.where(inner, 1.0, 0.0), q.eps))
        ratio = path.alpha(b) / path.alpha(a)
        far = combine((ratio, x), (path.sigma(b) - ratio * path.sigma(a), eps))
        return combine((jnp.where(inner, 1.0, 0.0), far), (jnp.where(inner, 0.0, 1.0), p.at(s))), carry, p


@pytree_dataclass
class Raises(Midway):
    """Fails when it is traced around the real denoiser."""

    def step(self, denoise, x, t, s, draw, carry):
        """An error of the author's, in more than one line."""
        if x.shape[-1] == 2:
            raise RuntimeError("the third order is\nnot written yet")
        return super().step(denoise, x, t, s, draw, carry)


@pytree_dataclass
class Breaks(Midway):
    """NaN in every sample that starts far to the right."""

    def step(self, denoise, x, t, s, draw, carry):
        """Midway, broken."""
        x_s, carry, p = super().step(denoise, x, t, s, draw, carry)
        return jnp.where((x[:, :1] > 1.0) & (t == 1.0), jnp.nan, x_s), carry, p
