"""Steps of diffusers that differ from the papers', as they are released: to reproduce its states, and for nothing else.

    LateChurn        EDM's churn whose noise is added after the network was called: the prediction at (x, kappa) is read as one at
                     (x^, kappa^), kappa^ = (1 + gamma) kappa, x^ = x + s_noise sqrt(kappa^^2 - kappa^2) z     (EulerDiscrete, EDMEuler)
    LateChurnFlow    the same in Heun's method in t on the linear flow, with t^ for kappa^                         (FlowMatchHeun)
    VInKappa         Adams-Bashforth extrapolates v and turns it into eps at the step's own level                  (PNDM, v_prediction)
    ReadAsV          a network's eps is taken for v                                                                (IPNDM)
    Strided, StridedPNDM    every step goes the same way down the table, wherever the grid's next level is         (PNDM)

What is right: ``Churn`` around the grid, ``PNDM`` and ``PLMS`` in ``Kappa`` or in ``Angle``.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.adams import PNDM
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.variables import Kappa
from score_lab.types import leaf, pytree_dataclass

__all__ = ["LateChurn", "LateChurnFlow", "ReadAsV", "Strided", "StridedPNDM", "VInKappa"]


def _read_f(k, k_hat, d):
    """EDM's F: D = c_skip x + c_out F, with c_skip = d^2 / (k^2 + d^2), c_out = k d / sqrt(k^2 + d^2)."""
    skip, out = (lambda v: d**2 / (v**2 + d**2)), (lambda v: v * d / jnp.sqrt(v**2 + d**2))
    ratio = out(k_hat) / out(k)
    return ratio, -ratio * skip(k), skip(k_hat)


READINGS = {
    "eps": lambda k, k_hat, d: (k_hat / k, -k_hat / k, 1.0),  # x^ - kappa^ eps, eps = (x - x0) / kappa
    "x0": lambda k, k_hat, d: (1.0, 0.0, 0.0),
    "v": lambda k, k_hat, d: (1.0, -1 / (k**2 + 1), 1 / (k**2 + 1)),  # x^ / (kappa^2 + 1) - kappa v / sqrt(kappa^2 + 1)
    "F": _read_f,
}
"""Prediction -> ``(kappa, kappa^, sigma_data) ->`` the factors of x0, x and x^ (over alpha) in the x0 that is read from it."""


class _Late:
    """The fields' checks, and no history."""

    def check(self) -> None:
        """``gamma``, ``s_noise`` >= 0 and a known reading."""
        check_numbers(self, "gamma", "s_noise")
        if getattr(self, "reading", "eps") not in READINGS:
            refuse(f"{type(self).__name__}.reading", self.reading, ", ".join(READINGS), READINGS)

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def _raised(self, level):
        """``(1 + gamma) level`` between ``s_tmin`` and ``s_tmax``, both included."""
        return jnp.where((level >= self.s_tmin) & (level <= self.s_tmax), 1.0 + self.gamma, 1.0) * level

    def _fresh(self, level, raised):
        """``s_noise sqrt(raised^2 - level^2)`` as a product, which is 0 where both are the same; a difference of fused squares is not."""
        return self.s_noise * jnp.sqrt((raised - level) * (raised + level))


@pytree_dataclass
class LateChurn(_Late):
    """Euler in kappa with that churn (see the module); ``gamma`` is min(s_churn / n, sqrt 2 - 1), ``reading`` what the network predicts:
    "eps", "x0", "v" or "F" (EDM's, with ``sigma_data``)."""

    gamma: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
    reading: str = "eps"
    sigma_data: float = 0.5
    order = 1
    calls = 1
    memory = 0
    stochastic = True

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p, path = denoise(x, t), denoise.path
        k, k_s, alpha_s, alpha_t = path.kappa(t), path.kappa(s), path.alpha(s), path.alpha(t)
        k_hat = self._raised(k)
        c_0, c_x, c_hat = READINGS[self.reading](k, k_hat, self.sigma_data)
        r = k_s / k_hat  # y_s = r y^ + (1 - r) x0
        std = self._fresh(k, k_hat)
        on_hat = r + (1 - r) * c_hat
        terms = ((on_hat + (1 - r) * c_x) * alpha_s / alpha_t, x), ((1 - r) * c_0 * alpha_s, p.x0), (on_hat * std * alpha_s, draw())
        return combine(*terms), carry, p


@pytree_dataclass
class LateChurnFlow(_Late):
    """Heun in t, on the linear flow, with that churn: the first slope times t / t^ (see the module).  One call to data."""

    gamma: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
    order = 1
    calls = 2
    memory = 0
    stochastic = True

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p = denoise(x, t)
        t_hat, second = self._raised(t), denoise.path.sigma(s) > 0
        x_hat = combine((1.0, x), (self._fresh(t, t_hat), draw()))
        c = (s - t_hat) * t / t_hat
        p_s = denoise(combine((1.0, x_hat), (c, p.eps), (-c, p.x0)), s, where=second, otherwise=p)
        first, half = jnp.where(second, 0.5 * c, c), jnp.where(second, 0.5 * (s - t_hat), 0.0)
        return combine((1.0, x_hat), (first, p.eps), (-first, p.x0), (half, p_s.eps), (-half, p_s.x0)), carry, p_s


@pytree_dataclass
class VInKappa(Kappa):
    """``v = alpha eps - sigma x0`` is extrapolated; a step is DDIM with ``eps = alpha_t v + sigma_t x``."""

    def slope(self, path, t, p):
        """``v``."""
        return combine((path.alpha(t), p.eps), (-path.sigma(t), p.x0))

    def length(self, path, t, s):
        """``alpha_t (sigma_s - alpha_s kappa_t)``."""
        return path.alpha(t) * super().length(path, t, s)


@pytree_dataclass
class ReadAsV(Kappa):
    """eps is taken for v: ``e = sigma x + alpha eps`` for eps, and (x - sigma e) / max(alpha, 1e-8) for x0."""

    def _ratio(self, path, t, s):
        return path.alpha(s) / jnp.maximum(path.alpha(t), 1e-8)

    def at(self, path, t):
        """``t``."""
        return t

    def finite(self, path, t):
        """Always."""
        return jnp.isfinite(t)

    def slope(self, path, t, p):
        """``e``."""
        return combine((path.sigma(t), p.x_t), (path.alpha(t), p.eps))

    def length(self, path, t, s):
        """``sigma_s - (alpha_s / alpha_t) sigma_t``."""
        return path.sigma(s) - self._ratio(path, t, s) * path.sigma(t)

    def euler(self, path, x, t, s, p):
        """``(alpha_s / alpha_t) (x - sigma_t e) + sigma_s e``."""
        e = self.slope(path, t, p)
        return combine((self._ratio(path, t, s), combine((1.0, x), (-path.sigma(t), e))), (path.sigma(s), e))


@pytree_dataclass
class Strided:
    """``inner``, ``Kappa`` or ``VInKappa``, whose steps go ``stride`` down from ``below`` on, wherever the grid's next time is, and to
    ``last`` where that is below a table's first level."""

    inner: Any = leaf(default=Kappa())
    stride: float = 0.0
    below: float = 2.0
    last: float = 0.0

    def _after(self, path, t, s):
        after = jnp.where(t - self.stride < 0.5 / path.log_snrs.shape[0], self.last, t - self.stride)
        return jnp.where(t < self.below, after, s)

    def at(self, path, t):
        """``inner``'s."""
        return self.inner.at(path, t)

    def finite(self, path, t):
        """``inner``'s."""
        return self.inner.finite(path, t)

    def slope(self, path, t, p):
        """``inner``'s."""
        return self.inner.slope(path, t, p)

    def length(self, path, t, s):
        """``inner``'s, to where the step goes."""
        return self.inner.length(path, t, self._after(path, t, s))

    def euler(self, path, x, t, s, p):
        """``inner``'s, to where the step goes."""
        return self.inner.euler(path, x, t, self._after(path, t, s), p)


@pytree_dataclass
class StridedPNDM(PNDM):
    """diffusers' start: the first step is taken again from ``stride`` above its end; a half step is ``half`` of them, from both ends."""

    stride: float = 0.0
    half: float = 0.0

    def _again(self, path, x, x_euler, t, s, f, f_s):
        r, inner = s + self.stride, self.variable.inner
        kept, length = path.alpha(s) / path.alpha(r), inner.length(path, r, s)
        if isinstance(inner, VInKappa):  # eps = alpha v + sigma x
            kept = kept + path.sigma(r) / path.alpha(r) * length
        return combine((kept, x), (length, combine((0.5, f), (0.5, f_s))))

    def _half_way(self, t, s):
        return t - self.half, s + self.half
