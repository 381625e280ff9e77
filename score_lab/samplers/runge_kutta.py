"""Explicit Runge-Kutta methods on the probability-flow ODE ``dy/du = k``, in a chosen variable u (see ``variables``), by Butcher tableau.

    y_i = y_t + h sum_{j<i} a_ij k_j,    k_i the slope at (y_i, u_t + c_i h),    c_i = sum_j a_ij
    y_s = y_t + h sum_j b_j k_j,         sum_j b_j = 1                                     (Hairer, Norsett & Wanner 1993, II.1, def. 1.1)

Every stage is Euler to its own level plus slope differences, which stay finite at both ends of a path:

    y_i = (y_t + c_i h k_1) + h sum_{1<j<i} a_ij (k_j - k_1),        y_s = (y_t + h k_1) + h sum_{j>1} b_j (k_j - k_1)

    Heun       c = 1                b = 1/2 1/2           Karras et al. 2022, algorithm 1 without churn
    Midpoint   c = 1/2              b = 0 1               Runge 1895
    Ralston    c = 2/3              b = 1/4 3/4           Ralston 1962, the second order of least error bound
    EDMSecond  c = alpha            b = 1 - 1/(2 alpha), 1/(2 alpha)        Karras et al. 2022, algorithm 3 without churn
    Heun3      c = 1/3 2/3          b = 1/4 0 3/4         Heun 1900
    RK4        c = 1/2 1/2 1        b = 1/6 1/3 1/3 1/6   Kutta 1901
    RK38       c = 1/3 2/3 1        b = 1/8 3/8 3/8 1/8   Kutta 1901, the 3/8 rule
    DPM2       kappa_2 = sqrt(kappa_t kappa_s), b = 0 1   k-diffusion's dpm_2: algorithm 2 of Karras et al. with a log-midpoint, in kappa

A step to pure data (sigma_s = 0) is Euler, as in EDM, and so is one from or to a level where the variable or its slope is infinite: N steps
of c calls to data cost c N - (c - 1) evaluations.  ``at_data`` makes all calls there too wherever the variable's slopes are finite (what
torchdiffeq's fixed-grid methods do on a flow).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.variables import Kappa
from score_lab.types import leaf, pytree_dataclass

__all__ = ["DPM2", "RK4", "RK38", "EDMSecond", "Heun", "Heun3", "Midpoint", "Ralston"]


def _step(denoise, x, t, s, u, nodes, a, b, taken):
    """``(x_s, prediction)``: Euler where ``taken`` is False, else the tableau with stages 2, 3, ... at the times ``nodes``.

    ``a[i]`` holds a_ij / c_i of stage i + 2 for 1 < j < i + 2, ``b`` the weights of stages 2, 3, ...
    """
    path = denoise.path
    p = p_1 = denoise(x, t)
    inside = jnp.where(taken, t, 0.5)
    k = [u.slope(path, inside, p_1)]

    def corrected(to, end, weights):
        """Euler to the time ``to`` plus ``length sum_j w_j (k_j - k_1)``; ``end`` is ``to`` where the length is finite."""
        w = [jnp.where(taken, u.length(path, inside, end) * w, 0.0) for w in weights]
        terms = [(w_j, k_j) for w_j, k_j, given in zip(w, k[1:], weights, strict=True) if not _zero(given)]
        x_to = u.euler(path, x, t, to, p_1)
        if not terms:
            return x_to
        total = sum(w_j for w_j, _ in terms[1:]) + terms[0][0]
        return combine((1.0, x_to), *terms, (-total, k[0]))

    for c_i, a_i in zip(nodes, a, strict=True):
        node = jnp.where(taken, c_i, 0.25)
        p = denoise(corrected(node, node, a_i), node, where=taken, otherwise=p)
        k.append(u.slope(path, node, p))
    return corrected(s, jnp.where(taken, s, 0.25), b), p


def _zero(w: Any) -> bool:
    return isinstance(w, int | float) and w == 0


class _Tableau:
    """A method by its ``rows`` a_i1, a_i2, ... of stages 2, 3, ... and its ``weights`` b_1, b_2, ..."""

    memory = 0
    stochastic = False

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step (see the module)."""
        path, u = denoise.path, self.variable
        c = [sum(row) for row in self.rows]
        finite = u.finite(path, t) & jnp.isfinite(u.length(path, t, s))
        a, b = jnp.where(finite, t, 0.5), jnp.where(finite, s, 0.25)
        nodes = [u.between(path, a, b, c_i) for c_i in c]
        taken = finite if self.at_data else finite & (path.sigma(s) > 0)
        for node in nodes:
            taken &= u.finite(path, node)
        scaled = [[a_ij / c_i for a_ij in row[1:]] for row, c_i in zip(self.rows, c, strict=True)]
        x_s, p = _step(denoise, x, t, s, u, nodes, scaled, self.weights[1:], taken)
        return x_s, carry, p


@pytree_dataclass
class Heun(_Tableau):
    """Second order, two calls a step: the trapezoid of both ends' slopes."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 2
    calls = 2
    rows = ((1.0,),)
    weights = (0.5, 0.5)


@pytree_dataclass
class Midpoint(_Tableau):
    """Second order, two calls a step: the slope half way."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 2
    calls = 2
    rows = ((1 / 2,),)
    weights = (0.0, 1.0)


@pytree_dataclass
class Ralston(_Tableau):
    """Second order, two calls a step, of the least error bound."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 2
    calls = 2
    rows = ((2 / 3,),)
    weights = (1 / 4, 3 / 4)


@pytree_dataclass
class EDMSecond(_Tableau):
    """EDM's family of second order, two calls a step: ``alpha`` in (0, 1], 1 is Heun, 2/3 Ralston, 1/2 the midpoint method."""

    alpha: float = 1.0
    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 2
    calls = 2

    @property
    def rows(self) -> tuple:
        """``a_21 = alpha``."""
        return ((self.alpha,),)

    @property
    def weights(self) -> tuple:
        """``1 - 1 / (2 alpha), 1 / (2 alpha)``."""
        return (1.0 - 0.5 / self.alpha, 0.5 / self.alpha)

    def check(self) -> None:
        """``0 < alpha <= 1``."""
        if not 0 < self.alpha <= 1:
            refuse("EDMSecond.alpha", self.alpha, "0 < alpha <= 1, so that the second call is within the step")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()


@pytree_dataclass
class Heun3(_Tableau):
    """Heun's third order, three calls a step."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 3
    calls = 3
    rows = ((1 / 3,), (0.0, 2 / 3))
    weights = (1 / 4, 0.0, 3 / 4)


@pytree_dataclass
class RK4(_Tableau):
    """The classical fourth order, four calls a step."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 4
    calls = 4
    rows = ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@pytree_dataclass
class RK38(_Tableau):
    """Kutta's 3/8 rule, fourth order, four calls a step (torchdiffeq's ``rk4``)."""

    variable: Any = leaf(default=Kappa())
    at_data: bool = False
    order = 4
    calls = 4
    rows = ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
    weights = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


@pytree_dataclass
class DPM2:
    """Second order, two calls a step: in kappa, with the slope at the geometric mean ``sqrt(kappa_t kappa_s)``; Euler to pure data."""

    order = 2
    calls = 2
    memory = 0
    stochastic = False

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        path = denoise.path
        l_t, l_s = path.log_snr(t), path.log_snr(s)
        taken = jnp.isfinite(l_t) & jnp.isfinite(l_s)
        node = path.time_of(jnp.where(taken, 0.5 * (l_t + l_s), 0.0))
        x_s, p = _step(denoise, x, t, s, Kappa(), [node], [[]], [1.0], taken)
        return x_s, carry, p
