"""The constants of one step: those with which Gaussian bands have the variances wanted after it.

    per band          v_b(c_b) = wanted_b                                 the root nearest to 0; without one the nearest approach
    one for all       c = argmin sum_b n_b (q_b - 1 - ln q_b),   q_b = v_b(c) / wanted_b           Newton's method

v_b(c) is that of the sampler's own step (``affine.BandRun``), and its derivatives in c are autodiff's.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.mismatch.corrections.affine import BandRun
from score_lab.mismatch.replicates import OK

__all__ = ["Solver"]

NO_EFFECT, NEAREST, LIMITED = "no effect", "no solution", "limited"


class Solver:
    """c (B,) with ``v(c) = wanted`` in every band, or the one c for all bands of least divergence."""

    def __init__(self, run: BandRun, count: Any, per_band: bool, limit: float):
        self.run, self.per_band, self.limit = run, per_band, limit

        def total(k, x, carry, c):
            return sum(run.two_variances(k, x, carry, c))

        def slopes(k, x, carry, c):
            """v, v', v'' of every band along the direction in which all constants grow."""
            one = jnp.ones_like(c)
            first = lambda c: jax.jvp(lambda c: total(k, x, carry, c), (c,), (one,))[1]  # noqa: E731
            return total(k, x, carry, c), *jax.jvp(first, (c,), (one,))

        def divergence(k, x, carry, c, wanted, alive):
            """The derivative and its slope, in one c for all bands, of ``sum_b n_b (q - 1 - ln q)``."""
            v, d1, d2 = slopes(k, x, carry, c)
            n, q, q1, q2 = jnp.where(alive, count, 0.0), jnp.where(alive, v / wanted, 1.0), d1 / wanted, d2 / wanted
            return jnp.sum(n * (1 - 1 / q) * q1), jnp.sum(n * ((1 - 1 / q) * q2 + (q1 / q) ** 2)), jnp.sum(n * (q1 / q) ** 2)

        self._slopes, self._divergence = jax.jit(slopes), jax.jit(divergence)

    def __call__(self, wanted: Any) -> tuple[Any, np.ndarray]:
        alive = wanted > 0
        wanted = jnp.where(alive, wanted, 1.0)
        c, flag = self._bands(wanted, alive) if self.per_band else self._shared(wanted, alive)
        clipped = jnp.clip(c, -self.limit, self.limit)
        return clipped, np.where((np.asarray(clipped) != np.asarray(c)) & (flag == OK), LIMITED, flag)

    def _bands(self, wanted: Any, alive: Any) -> tuple[Any, np.ndarray]:
        """The root of the quadratic through (v, v', v'') that is nearest to c, again and again: at once where v is quadratic, as of a step
        of one call.  Without a root its vertex."""
        run, c = self.run, jnp.zeros_like(wanted)
        least = 1e-9 * wanted
        flat = None
        for _ in range(60):
            v, d1, d2 = self._slopes(run.k, run.x, run.carry, c)
            flat = ~alive | (jnp.abs(d1) < least) & (jnp.abs(d2) < least) if flat is None else flat
            gap = v - wanted
            inside = d1**2 - 2 * d2 * gap
            root = jnp.sqrt(jnp.maximum(inside, 0.0))
            towards = d1 + jnp.where(d1 >= 0, 1.0, -1.0) * root
            move = jnp.where(inside >= 0, -2 * gap / jnp.where(towards == 0, 1.0, towards), -d1 / jnp.where(d2 == 0, 1.0, d2))
            move = jnp.where(flat | (towards == 0) & (inside >= 0), 0.0, move)
            c = c + move
            if bool(jnp.all(jnp.abs(move) <= 1e-15 * (1 + jnp.abs(c)))):
                break
        v = self._slopes(run.k, run.x, run.carry, c)[0]
        solved = (np.abs(np.asarray(v / wanted) - 1) < 1e-9) & np.asarray(alive)
        return c, np.where(solved, OK, np.where(np.asarray(flat), NO_EFFECT, NEAREST))

    def _shared(self, wanted: Any, alive: Any) -> tuple[Any, np.ndarray]:
        """Newton on the divergence, by its Gauss-Newton slope where it is not convex."""
        run, c = self.run, 0.0
        _, _, size = self._divergence(run.k, run.x, run.carry, jnp.zeros_like(wanted), wanted, alive)
        flag = NO_EFFECT if float(size) < 1e-18 * len(wanted) else OK
        for _ in range(100 if flag == OK else 0):
            at = jnp.full_like(wanted, c)
            slope, curve, gauss = (float(v) for v in self._divergence(run.k, run.x, run.carry, at, wanted, alive))
            move = -slope / (curve if curve > 0.1 * gauss else gauss)
            c += move
            if abs(move) <= 1e-15 * (1 + abs(c)):
                break
        return jnp.full_like(wanted, c), np.full(len(wanted), flag)
