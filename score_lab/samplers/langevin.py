"""Predictor-corrector: Langevin steps at every new level, around any one-step sampler (Song et al. 2021, algorithms 3-5).

    predictor    x_s = inner step t -> s
    corrector    M times:  x <- x + e score + sqrt(2 e) z,     e = 2 a_s (snr |z| / |score|)^2,     score = -eps / sigma_s

a_s = (alpha_s / alpha_{s'})^2, s' the level after s: 1 where alpha is constant (algorithm 4), 1 - beta_i on a table of betas (algorithm 5).
|z| and |score| are norms of one sample, over all its coordinates, so no sample depends on its batch-mates (the released code averages them
over the batch).  Pure data (sigma_s = 0) has no score and is not corrected.

A correction keeps the marginal but for its own step size, whose bias of relative variance 4 snr^4 (Gaussian, many dimensions) does not
vanish with the number of steps: order 0 for snr > 0.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine, square_norm
from score_lab.types import leaf, pytree_dataclass

__all__ = ["Langevin"]


@pytree_dataclass
class Langevin:
    """``corrections`` M >= 1 Langevin steps of signal-to-noise ratio ``snr`` > 0 (0.16 in the paper) after every step of ``inner``."""

    inner: Any = leaf()
    snr: float = 0.16
    corrections: int = 1
    order = 0
    memory = 0
    stochastic = True

    @property
    def calls(self) -> int:
        """Those of the predictor and one for every correction."""
        return self.inner.calls + self.corrections

    def specialise(self) -> Langevin:
        """The cheaper form of the predictor, where it has one."""
        return Langevin(self.inner.specialise(), self.snr, self.corrections) if hasattr(self.inner, "specialise") else self

    def check(self) -> None:
        """``snr > 0``, ``corrections >= 1``, a predictor without history: a correction moves the state that it remembers."""
        if self.inner.memory:
            allowed = f"a one-step sampler: {type(self.inner).__name__} remembers {self.inner.memory} earlier step(s)"
            refuse("Langevin.inner", type(self.inner).__name__, allowed)
        if not self.snr > 0:
            refuse("Langevin.snr", self.snr, "> 0")
        if isinstance(self.corrections, bool) or not isinstance(self.corrections, int) or not 1 <= self.corrections <= 32:
            refuse("Langevin.corrections", self.corrections, "a whole number from 1 to 32")
        if hasattr(self.inner, "check"):
            self.inner.check()

    def check_steps(self, steps, path) -> None:
        """The same check on every use, and the predictor's."""
        self.check()
        if hasattr(self.inner, "check_steps"):
            self.inner.check_steps(steps, path)

    def init(self, x, steps, path):
        """The predictor's."""
        return self.inner.init(x, steps, path)

    def step(self, denoise, x, t, s, draw, carry):
        """The predictor's step, then the corrections at s."""
        path = denoise.path
        x, carry, p = self.inner.step(denoise, x, t, s, draw, carry)
        noisy = path.sigma(s) > 0
        level = jnp.where(noisy, s, t)
        last = denoise.steps.s.shape[0] - 1
        after = denoise.steps.s[jnp.minimum(denoise.step + 1, last)]
        a = (path.alpha(level) / path.alpha(jnp.minimum(after, level))) ** 2
        for _ in range(self.corrections):
            q, z = denoise(x, level, where=noisy, otherwise=p), draw()
            sigma = path.sigma(level)
            size = 2.0 * a * self.snr**2 * square_norm(z) * sigma**2 / jnp.maximum(square_norm(q.eps), jnp.finfo(jnp.float32).tiny)
            size = jnp.where(noisy, size, 0.0)
            x, p = combine((1.0, x), (-size / sigma, q.eps), (jnp.sqrt(2.0 * size), z)), q
        return x, carry, p
