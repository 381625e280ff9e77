"""Euler-Maruyama and stochastic Heun on the reverse SDE with any rate of noise w = m^2 g^2 (see ``multipliers``).

    dx = k dt + sqrt(w) dW, backwards in t,      k = alpha' x0 + (sigma' + w / (2 sigma)) eps        (Song et al. 2021, eq. 6, 13; Ma et al.
                                                                                                      2024, eq. 9: velocity - (w / 2) score)
    Euler-Maruyama, h = t - s:
        increment "g2h":    x_s = x - h k + sqrt(w h) z
        increment "exact":  on y = x / alpha, whose diffusion integrates exactly, D = kappa_t^2 - kappa_s^2, m^2 = w / g^2 at t:
                            y_s = y + (1 + m^2) / 2 D score_y + m sqrt(D) z,      score_y = -eps / kappa_t
    stochastic Heun (Kloeden & Platen 1992, section 15.1, additive noise):
        N = sqrt(h (w_t + w_s) / 2) z,    x^ = x - h k_1 + N,    x_s = x - h (k_1 + k_2) / 2 + N,    k_2 at (x^, s)

The noise is additive, so both are of strong order 1; Euler-Maruyama is of weak order 1, Heun of weak order 2.  At w = 0 they are Euler and
Heun in t.  The last step to sigma_s = 0 returns the denoised state alpha_s x0.  From a level where w or a derivative is infinite
(alpha_t = 0 for a constant multiplier) the step is its limit: alpha_s x0 plus sigma_s times fresh noise (times the old eps where w = 0).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.multipliers import Multiplier, check_rate, multiplier_of, nought
from score_lab.types import leaf, pytree_dataclass, static

__all__ = ["EulerMaruyama", "StochasticHeun"]


def _check(name: str, multiplier: Any) -> None:
    """``multiplier >= 0``, or whatever its part checks."""
    if isinstance(multiplier, int | float) and not multiplier >= 0:
        refuse(f"{name}.multiplier", multiplier, ">= 0")
    elif hasattr(part := multiplier_of(multiplier), "check"):
        part.check()


def _still(multiplier: Any) -> bool:
    """Whether the multiplier is a Python 0, or the part that stands for it."""
    return nought(multiplier.m if isinstance(multiplier, Multiplier) else multiplier)


def _draws(multiplier: Any) -> bool:
    """Whether the noise of the part with ``rate`` is other than that of a constant multiplier 0."""
    return not (isinstance(multiplier, Multiplier) and float(multiplier.m) == 0.0)


def _finite(path, t, w):
    """Whether k is finite at t."""
    return jnp.isfinite(path.alpha_dot(t)) & jnp.isfinite(path.sigma_dot(t)) & jnp.isfinite(w)


def _limit(path, s, w):
    """Coefficients of (x, x0, eps, z) to data, or from a level where w is infinite."""
    sigma_s = path.sigma(s)
    return 0.0, path.alpha(s), jnp.where(w > 0, 0.0, sigma_s), jnp.where(w > 0, sigma_s, 0.0)


def _moved(c, x, p, draw):
    """The combination with coefficients of (x, x0, eps, z), without z where nothing draws it."""
    terms = (x, p.x0, p.eps) if draw is None else (x, p.x0, p.eps, draw())
    return combine(*zip(c[: len(terms)], terms, strict=True))


def _slope(path, t, w):
    """The coefficients of k at t in (x0, eps)."""
    return path.alpha_dot(t), path.sigma_dot(t) + 0.5 * w / path.sigma(t)


@pytree_dataclass
class EulerMaruyama:
    """``multiplier`` of the diffusion g: a number m >= 0, a part with ``rate`` (``SiTDiffusion``) or a function (path, t) -> w;
    ``increment`` "g2h" (w at t times the step) or "exact" (see the module)."""

    multiplier: Any = leaf(default=1.0)
    increment: str = "g2h"
    draws: bool = static(default=True, repr=False)
    order = 1
    calls = 1
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with multiplier = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not _still(self.multiplier)

    def specialise(self) -> EulerMaruyama:
        """A number or a function as the part that it stands for; the form without draws where it is 0."""
        return EulerMaruyama(part := multiplier_of(self.multiplier), self.increment, self.draws and _draws(part))

    def check(self) -> None:
        """``multiplier >= 0`` and a known increment."""
        _check("EulerMaruyama", self.multiplier)
        if self.increment not in ("g2h", "exact"):
            refuse("EulerMaruyama.increment", self.increment, "g2h or exact", ("g2h", "exact"))

    def check_steps(self, steps, path) -> None:
        """The same check on every use, and w >= 0 where a step starts."""
        self.check()
        check_rate("EulerMaruyama.multiplier", self.multiplier, steps, path, ends=False)

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step; its limits at sigma_s = 0 and where w is infinite."""
        p, path, rate = denoise(x, t), denoise.path, multiplier_of(self.multiplier).rate
        w, exact = rate(path, t), self.increment == "exact"
        regular = (path.sigma(s) > 0) & (path.alpha(t) > 0 if exact else _finite(path, t, w))
        a, b = jnp.where(regular, t, 0.5), jnp.where(regular, s, 0.25)
        moved = (_exact if exact else _g2h)(path, a, b, rate(path, a))
        c = [jnp.where(regular, u, v) for u, v in zip(moved, _limit(path, s, w), strict=True)]
        return _moved(c, x, p, draw if self.draws else None), carry, p


def _g2h(path, t, s, w):
    """Coefficients of (x, x0, eps, z)."""
    h, (k_0, k_e) = t - s, _slope(path, t, w)
    return 1.0, -h * k_0, -h * k_e, jnp.sqrt(w * h)


def _exact(path, t, s, w):
    """Coefficients of (x, x0, eps, z)."""
    alpha_s, kappa_t, kappa_s, m2 = path.alpha(s), path.kappa(t), path.kappa(s), w / path.diffusion_squared(t)
    D = kappa_t**2 - kappa_s**2
    return alpha_s / path.alpha(t), jnp.zeros_like(D), -0.5 * (1 + m2) * alpha_s * D / kappa_t, alpha_s * jnp.sqrt(m2 * D)


@pytree_dataclass
class StochasticHeun:
    """Weak order 2, strong order 1, two calls and one draw a step; ``multiplier`` as in ``EulerMaruyama``.  One call to data."""

    multiplier: Any = leaf(default=1.0)
    draws: bool = static(default=True, repr=False)
    order = 2
    calls = 2
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with multiplier = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not _still(self.multiplier)

    def specialise(self) -> StochasticHeun:
        """A number or a function as the part that it stands for; the form without draws where it is 0."""
        return StochasticHeun(part := multiplier_of(self.multiplier), self.draws and _draws(part))

    def check(self) -> None:
        """``multiplier >= 0``."""
        _check("StochasticHeun", self.multiplier)

    def check_steps(self, steps, path) -> None:
        """The same check on every use, and w >= 0 where a step starts and ends."""
        self.check()
        check_rate("StochasticHeun.multiplier", self.multiplier, steps, path, ends=True)

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step, written as Euler-Maruyama plus ``-h (k_2 - k_1) / 2``; its first call alone where a slope is infinite."""
        p, path, rate = denoise(x, t), denoise.path, multiplier_of(self.multiplier).rate
        w, w_s = rate(path, t), rate(path, s)
        regular = (path.sigma(s) > 0) & _finite(path, t, w)
        second = regular & _finite(path, s, w_s)
        a, b = jnp.where(regular, t, 0.5), jnp.where(second, s, 0.25)
        h = jnp.where(regular, t - s, 0.25)
        w_a = rate(path, a)
        w_b = jnp.where(second, rate(path, b), w_a)
        k_0, k_e = _slope(path, a, w_a)
        moved = 1.0, -h * k_0, -h * k_e, jnp.sqrt(0.5 * h * (w_a + w_b))
        c = [jnp.where(regular, u, v) for u, v in zip(moved, _limit(path, s, w), strict=True)]
        x_euler = _moved(c, x, p, draw if self.draws else None)
        p_s = denoise(x_euler, s, where=second, otherwise=p)
        half, (q_0, q_e) = jnp.where(second, 0.5 * h, 0.0), _slope(path, b, w_b)
        terms = (-half * q_0, p_s.x0), (-half * q_e, p_s.eps), (half * k_0, p.x0), (half * k_e, p.eps)
        return combine((1.0, x_euler), *terms), carry, p_s
