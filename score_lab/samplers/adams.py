"""Adams-Bashforth: the slopes of earlier steps extrapolate this one's, in any variable (see ``variables``, ``exponential``, ``deis``).

    dy/du = f,  y = x / c:     x_s = (c_s / c_t) x + c_s sum_j f_j int_{u_t}^{u_s} l_j(u) du,      l_j: Lagrange's at u_t, u_{t'}, ...

``AdamsBashforth`` has the weights of the steps as they are and the order that it is given; in kappa it is LMS (Crowson's k-diffusion) and
rho-AB DEIS.  ``PLMS`` and ``PNDM`` keep the weights of equal steps whatever the steps are (Liu et al. 2022, eq. 12; Zhang & Chen 2022):

    f_0;   (3 f_0 - f_1) / 2;   (23 f_0 - 16 f_1 + 5 f_2) / 12;   (55 f_0 - 59 f_1 + 37 f_2 - 9 f_3) / 24

which on a smooth grid that is not uniform in u leaves order 2.  Everything is written as Euler plus multiples of ``f_j - f_0``, so that
the limits of Euler at the path's ends are those of the multistep formula.  The start is of order 1, 2, ..., k (``PNDM``: better); a step
from or to a level where u or f is infinite is Euler's limit, DDIM, and its slope is not used later.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.lagrange import capped, check_order, extrapolation, nodes_there
from score_lab.samplers.variables import Kappa
from score_lab.types import leaf, pytree_dataclass, static

__all__ = ["PLMS", "PNDM", "AdamsBashforth", "lms"]

CONSTANT = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of equal steps, orders 1 to 4."""


def _inside(u, path, t, s):
    """Whether the formula is finite from t to s, and the two times, or others where it is not."""
    inside = u.finite(path, t) & jnp.isfinite(u.at(path, s))
    return inside, jnp.where(inside, t, 0.5), jnp.where(inside, s, 0.25)


def _slope(u, path, t, p):
    """The slope at t, and any finite number where it is infinite: its weight is 0."""
    return u.slope(path, jnp.where(u.finite(path, t), t, 0.5), p)


def _moments(u, path, t, s, n):
    """The variable's own, or those of the weight 1."""
    return u.moments(path, t, s, n) if hasattr(u, "moments") else [u.length(path, t, s) / (i + 1) for i in range(n)]


def _node(u, path):
    """u as a function of t, infinite where u or the slope is."""
    return lambda t: jnp.where(u.finite(path, t), u.at(path, t), jnp.inf)


def _zeros(x, n):
    return tuple(jax.tree.map(jnp.zeros_like, x) for _ in range(n))


def _extrapolated(x_euler, f, past, w):
    """``x_euler + sum_j w_j (f_j - f)``."""
    return combine((1.0, x_euler), (-sum(w), f), *zip(w, past, strict=True)) if w else x_euler


@pytree_dataclass
class AdamsBashforth:
    """``k`` slopes, 1 to 4, on any grid, one call a step: order k; the carry is the last ``k - 1`` slopes.

    ``variable``: ``at`` (u), ``slope`` (f), ``length``, ``finite``, ``euler`` and, where the integral has a weight, ``moments``.
    ``final_orders``: the highest orders of the last steps; (2, 1) is what peers call lower_order_final.
    """

    variable: Any = leaf(default=Kappa())
    k: int = 2
    final_orders: tuple[int, ...] = static(default=())
    calls = 1
    stochastic = False

    @property
    def order(self) -> int:
        """k; ``min(final_orders) + 1`` where the last steps cap it (see ``lagrange.capped``)."""
        return capped(self.k, self.final_orders)

    @property
    def memory(self) -> int:
        """Earlier steps."""
        return self.k - 1

    def check(self) -> None:
        """1 to 4 slopes; ``final_orders`` of at least 1."""
        check_order("AdamsBashforth", self.k, 4)
        if not all(isinstance(p, int) and p >= 1 for p in self.final_orders):
            refuse("AdamsBashforth.final_orders", self.final_orders, "orders of at least 1")

    def check_steps(self, steps, path) -> None:
        """The same, and at least ``k`` steps."""
        self.check()
        check_order("AdamsBashforth", self.k, 4, steps)

    def init(self, x, steps, path):
        """No slopes yet."""
        return _zeros(x, self.k - 1)

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        path, u = denoise.path, self.variable
        p = denoise(x, t)
        x_euler = u.euler(path, x, t, s, p)
        if self.k == 1:
            return x_euler, (), p
        order, past = nodes_there(denoise, 0, self.k, _node(u, path), self.final_orders)
        inside, a, b = _inside(u, path, t, s)
        w = extrapolation(jnp.where(inside, order, 1), u.at(path, a), u.at(path, b), past, _moments(u, path, a, b, self.k))
        f = _slope(u, path, t, p)
        return _extrapolated(x_euler, f, carry, w), (f, *carry)[: self.k - 1], p


def lms(order: int = 4) -> AdamsBashforth:
    """The linear multistep sampler of k-diffusion and diffusers: Adams-Bashforth in kappa, orders 1 to 4."""
    return AdamsBashforth(Kappa(), order)


@pytree_dataclass
class PLMS:
    """Constant-coefficient Adams-Bashforth of ``k`` slopes, 1 to 4, one call a step: iPNDM, and PLMS without its second-order start.

    Order k on a grid uniform in the variable; declared is what it has off that, 2.
    """

    variable: Any = leaf(default=Kappa())
    k: int = 4
    calls = 1
    stochastic = False

    @property
    def order(self) -> int:
        """2, or 1 with one slope."""
        return min(self.k, 2)

    @property
    def memory(self) -> int:
        """Earlier steps."""
        return self.k - 1

    def check(self) -> None:
        """1 to 4 slopes."""
        check_order("PLMS", self.k, 4)

    def check_steps(self, steps, path) -> None:
        """The same, and a grid of at least ``k`` steps."""
        self.check()
        check_order("PLMS", self.k, 4, steps)

    def init(self, x, steps, path):
        """No slopes yet."""
        return _zeros(x, self.k - 1)

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p = denoise(x, t)
        x_s, f, _ = _constant(denoise, self.variable, x, t, s, p, carry)
        return x_s, (f, *carry)[: self.k - 1], p


def _constant(denoise, u, x, t, s, p, carry):
    """The constant-coefficient step with as many slopes as there are, at most 1 + len(carry); the slope at t; how many there are."""
    path = denoise.path
    x_euler = u.euler(path, x, t, s, p)
    inside, a, b = _inside(u, path, t, s)
    count, _ = nodes_there(denoise, 0, len(carry) + 1, _node(u, path))
    count = jnp.where(inside, count, 1)
    w = [sum(jnp.where(count == n, CONSTANT[n - 1][j], 0.0) for n in range(j + 1, len(carry) + 2)) for j in range(1, len(carry) + 1)]
    length = u.length(path, a, b)
    f = _slope(u, path, t, p)
    return _extrapolated(x_euler, f, carry, [length * v for v in w]), f, count


@pytree_dataclass
class PNDM:
    """PLMS of four slopes with a start of second order or better (Liu et al. 2022, algorithm 2; diffusers' ``PNDMScheduler``).

    ``runge_kutta`` False (diffusers' skip_prk_steps): the first step is taken again with the mean of the slopes at both of its ends, two
    calls.  True: the first three steps are RK4 with the time half way, four calls each:  f = (f_1 + 2 f_2 + 2 f_3 + f_4) / 6.
    A step from or to a level where a slope is infinite, and to pure data, is Euler's before those.  ``variable`` as in ``AdamsBashforth``.
    """

    variable: Any = leaf(default=Kappa())
    runge_kutta: bool = False
    order = 2
    memory = 3
    stochastic = False

    @property
    def calls(self) -> int:
        """At most, in the first steps; one later."""
        return 4 if self.runge_kutta else 2

    def check_steps(self, steps, path) -> None:
        """At least 4 steps."""
        check_order("PNDM", 4, 4, steps)

    def init(self, x, steps, path):
        """No slopes yet."""
        return _zeros(x, 3)

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        path, u = denoise.path, self.variable
        p = denoise(x, t)
        x_s, f, count = _constant(denoise, u, x, t, s, p, carry)
        start = (count < (4 if self.runge_kutta else 2)) & u.finite(path, t) & u.finite(path, s) & (path.sigma(s) > 0)
        a, b = jnp.where(start, t, 0.5), jnp.where(start, s, 0.25)
        x_euler = u.euler(path, x, t, s, p)
        if not self.runge_kutta:
            p_s = denoise(x_euler, b, where=start, otherwise=p)
            first = self._again(path, x, x_euler, a, b, f, u.slope(path, b, p_s))
        else:
            first = self._runge_kutta(denoise, x, x_euler, t, s, p, f, start)
        return jax.tree.map(lambda y, z: jnp.where(start, y, z), first, x_s), (f, *carry[:2]), p

    def _again(self, path, x, x_euler, t, s, f, f_s):
        """``x + length (f + f_s) / 2``."""
        half = 0.5 * self.variable.length(path, t, s)
        return combine((1.0, x_euler), (half, f_s), (-half, f))

    def _half_way(self, t, s):
        """The time to which the first half step of Runge-Kutta goes, and that of its slopes: both (t + s) / 2."""
        return 0.5 * (t + s), 0.5 * (t + s)

    def _runge_kutta(self, denoise, x, x_euler, t, s, p, f, start):
        """``x + length (f_1 + 2 f_2 + 2 f_3 + f_4) / 6`` with f_2, f_3 at (t + s) / 2 and f_4 at s."""
        path, u = denoise.path, self.variable
        a, b = jnp.where(start, t, 0.5), jnp.where(start, s, 0.25)
        to, m = self._half_way(a, b)
        half, whole = u.length(path, a, m), u.length(path, a, b)
        p_2 = denoise(u.euler(path, x, a, to, p), m, where=start, otherwise=p)
        f_2 = u.slope(path, m, p_2)
        p_3 = denoise(combine((1.0, u.euler(path, x, a, m, p)), (half, f_2), (-half, f)), m, where=start, otherwise=p)
        f_3 = u.slope(path, m, p_3)
        p_4 = denoise(combine((1.0, x_euler), (whole, f_3), (-whole, f)), b, where=start, otherwise=p)
        f_4 = u.slope(path, b, p_4)
        return combine((1.0, x_euler), (-whole * 5 / 6, f), (whole / 3, f_2), (whole / 3, f_3), (whole / 6, f_4))
