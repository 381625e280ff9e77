"""ER-SDE-Solver: extended reverse-time SDEs by a noise-scale function phi (Cui et al. 2023, propositions 1-3, algorithms 1-3).

On y = x / alpha with kappa = sigma / alpha, x0' and x0'' the derivatives in kappa by backward differences:

    order 1   y_s = q y + (1 - q) x0 + sqrt(kappa_s^2 - q^2 kappa_t^2) z,      q = phi(kappa_s) / phi(kappa_t)
    order 2   + [kappa_s - kappa_t + phi(kappa_s) int dkappa / phi] x0'                           the integrals from kappa_s to kappa_t
    order 3   + [(kappa_s - kappa_t)^2 / 2 + phi(kappa_s) int (kappa - kappa_t) dkappa / phi] x0''

phi = kappa: the probability-flow ODE; kappa^2: the reverse SDE (kappa^(1 + m^2) for a multiplier m); kappa (exp(kappa^0.3) + 10): the
paper's ER-SDE 5, the default.  As released, order 3 takes x0' = (x0_t - x0_t') / (kappa_t - kappa_t'), which is the slope half a step back:
its x0'' then repairs the wrong term.  By default the slope is that of Newton's interpolation, x0' + (kappa_t - kappa_t') x0'' / 2.

The step to data and the one from alpha_t = 0 are first order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.multipliers import nought
from score_lab.types import Array, leaf, pytree_dataclass, static

__all__ = ["ERSDE", "ERSDENoise", "PowerNoise"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
"""For steps of up to 12 in ln kappa, down from any kappa up to 10^4, both integrals are right to 3e-12 of kappa_t - kappa_s (squared)."""


@pytree_dataclass
class PowerNoise:
    """``phi = kappa^(1 + p)``, p = m^2 of the reverse SDE's multiplier: 0 the ODE, 1 the reverse SDE."""

    p: float = 1.0

    def check(self) -> None:
        """``p >= 0``: less would make a variance negative."""
        if not self.p >= 0:
            refuse("PowerNoise.p", self.p, ">= 0, so that kappa_s^2 - q^2 kappa_t^2 is not negative")

    def excess(self, kappa: Array) -> Array:
        """``ln(phi / kappa)``."""
        return self.p * jnp.log(kappa)


@pytree_dataclass
class ERSDENoise:
    """``phi = kappa (exp(kappa^0.3) + 10)``: ER-SDE 5 of Cui et al. 2023, table 1."""

    power: float = 0.3
    offset: float = 10.0

    def check(self) -> None:
        """Both positive: phi / kappa may not fall."""
        if not (self.power > 0 and self.offset >= 0):
            refuse("ERSDENoise.power, offset", (self.power, self.offset), "power > 0 and offset >= 0")

    def excess(self, kappa: Array) -> Array:
        """``ln(phi / kappa)``, without overflow."""
        return jnp.logaddexp(kappa**self.power, jnp.log(self.offset))


@pytree_dataclass
class ERSDE:
    """``levels`` 1 to 3 is the order of the expansion (the paper's k); ``noise`` has ``excess(kappa) = ln(phi / kappa)``, which may not
    fall with kappa.  Declared: the weak order, as measured."""

    levels: int = 3
    noise: Any = leaf(default=ERSDENoise())
    as_released: bool = False
    draws: bool = static(default=True, repr=False)
    calls = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with ``PowerNoise(0)``, for which ``sample`` uses the form that draws none."""
        return self.draws and not (isinstance(self.noise, PowerNoise) and nought(self.noise.p))

    def specialise(self) -> ERSDE:
        """The form without draws where phi = kappa."""
        still = isinstance(self.noise, PowerNoise) and float(self.noise.p) == 0.0
        return dataclasses.replace(self, draws=False) if self.draws and still else self

    @property
    def order(self) -> int:
        """The weak order, measured on Gaussian data: 2 for three levels too (3 where phi = kappa, the ODE)."""
        return min(self.levels, 2)

    @property
    def memory(self) -> int:
        """Earlier predictions that are kept."""
        return self.levels - 1

    def check(self) -> None:
        """``levels`` 1, 2 or 3, and what the noise scale checks."""
        if self.levels not in (1, 2, 3):
            refuse("ERSDE.levels", self.levels, "1, 2 or 3")
        if hasattr(self.noise, "check"):
            self.noise.check()

    def check_steps(self, steps, path) -> None:
        """The same check on every use, and at least ``levels`` steps."""
        self.check()
        if (n := steps.t.shape[0]) < self.levels:
            refuse("grid.num_steps", n, f"at least {self.levels} for ERSDE with levels={self.levels}")

    def init(self, x, steps, path):
        """No predictions yet, newest first."""
        return (jax.tree.map(jnp.zeros_like, x),) * self.memory

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p, path = denoise(x, t), denoise.path
        kappa_t, kappa_s, alpha_s = path.kappa(t), path.kappa(s), path.alpha(s)
        inside = jnp.isfinite(kappa_t) & (kappa_s > 0)
        high, low = jnp.where(inside, kappa_t, 2.0), jnp.where(inside, kappa_s, 1.0)
        fall = self._fall(kappa_s, kappa_t)
        shrink, fresh = jnp.exp(fall), jnp.sqrt(-jnp.expm1(2.0 * fall))  # q kappa_t = shrink kappa_s
        c = self._corrections(denoise, inside, low, high)
        new, *old = (alpha_s * v for v in c)
        terms = [(alpha_s + new, p.x0), (alpha_s * kappa_s * shrink, p.eps)]
        if self.draws:
            terms.append((alpha_s * kappa_s * fresh, draw()))
        x_s = combine(*terms, *zip(old, carry, strict=True))
        return x_s, (p.x0, *carry)[: self.memory], p

    def _fall(self, kappa_s, kappa_t):
        """``ln(q kappa_t / kappa_s) <= 0``; from infinity its limit."""
        safe, big = jnp.where(kappa_s > 0, kappa_s, 1.0), jnp.asarray(1e12, jnp.result_type(kappa_t))
        return jnp.minimum(self.noise.excess(safe) - self.noise.excess(jnp.where(kappa_s > 0, jnp.minimum(kappa_t, big), 1.0)), 0.0)

    def _corrections(self, denoise, inside, low, high):
        """What the orders above 1 add to the coefficients of the predictions, newest first."""
        path, c = denoise.path, [jnp.zeros_like(low) for _ in range(self.levels)]
        if self.levels == 1:
            return c
        known = [denoise.before(j) for j in range(1, self.levels)]
        kappas = [path.kappa(u) for u, _ in known]
        there = [ok & jnp.isfinite(k) & inside for (_, ok), k in zip(known, kappas, strict=True)]
        one, two = self._integrals(low, high)
        k_1 = jnp.where(there[0], kappas[0], high + 1.0)
        slope = 1.0 / (high - k_1)  # x0' = slope (x0_t - x0_1)
        first = jnp.where(there[0], one, 0.0) * slope
        c[0], c[1] = c[0] + first, c[1] - first
        if self.levels == 3:
            k_2 = jnp.where(there[1], kappas[1], k_1 + 1.0)
            second = two if self.as_released else two + 0.5 * one * (high - k_1)
            second = jnp.where(there[1], second, 0.0) * 2.0 / (high - k_2)  # x0'' = 2 (x0'_t - x0'_1) / (kappa_t - kappa_2)
            before = 1.0 / (k_1 - k_2)
            c[0], c[1], c[2] = c[0] + second * slope, c[1] - second * (slope + before), c[2] + second * before
        return c

    def _integrals(self, low, high):
        """The two brackets of the module, by Gauss-Legendre in ln kappa."""
        a, b = jnp.log(low), jnp.log(high)
        kappa = jnp.exp(0.5 * (a + b) + 0.5 * (b - a) * jnp.asarray(_NODES, low.dtype))
        weight = 0.5 * (b - a) * jnp.asarray(_WEIGHTS, low.dtype) * low * jnp.exp(self.noise.excess(low) - self.noise.excess(kappa))
        return low - high + jnp.sum(weight), 0.5 * (low - high) ** 2 + jnp.sum(weight * (kappa - high))
