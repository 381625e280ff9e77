"""DPM-Solver and DPM-Solver++, singlestep: a step of order k evaluates the network at k nodes (Lu et al. 2022a, algorithms 1, 2; 2022b, 1).

With the weights w_j(t -> s) of ``dpm_forms`` and the nodes s_i at l_t + r_i h:

    u_1 = c_x x_t + w_0 m(x_t)                                    DPM-Solver-1, in (t, s_1)
    k = 2   x_s from m(x_t), m(u_1), r_1 = 1/2                    midpoint: w_0 / (2 r_1) times m(u_1) - m(x_t);   heun: w_1 / r_1
    k = 3   u_2 in (t, s_2) as k = 2 with heun, r_1 = 1/3, r_2 = 2/3
            x_s from m(x_t), m(u_2): w_1 / r_2 (midpoint), or the parabola through all three (heun; the authors' "taylor")

``DPMSolverSinglestep`` makes the k calls inside (t, s).  ``DPMSolverNodes`` (diffusers' DPMSolverSinglestepScheduler) takes the grid's own
levels as nodes, one call a step, over blocks of the orders 1, 2, .., k that all start from the block's first state.

The eta of ``DPMSolverSinglestep`` is ancestral (k-diffusion's dpm_fast): with y = x / alpha, a step to
kappa_down = sqrt(kappa_s^2 - kappa_up^2), not below the grid's end, then noise of variance kappa_s^2 - kappa_down^2,

    kappa_up = min(kappa_s, eta kappa_s sqrt(1 - kappa_s^2 / kappa_t^2))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine, select
from score_lab.samplers.ancestral import up_and_down
from score_lab.samplers.dpm_forms import (
    DataPrediction,
    NoisePrediction,
    Update,
    advance,
    check_solver,
    choose,
    half_log_snr,
    second,
    third,
)  # fmt: skip
from score_lab.samplers.lagrange import capped
from score_lab.types import leaf, pytree_dataclass

__all__ = ["DPMSolverNodes", "DPMSolverSinglestep", "node", "order_of", "stage_3"]

R2 = 2 / 3
"""The last inner node of k = 3: with another one the method is of order 2."""


def node(path, t, s, r):
    """The time at ``l_t + r h``; t itself where h is infinite."""
    l_t, l_s = half_log_snr(path, t), half_log_snr(path, s)
    inside = jnp.isfinite(l_s - l_t)
    l_t, l_s = jnp.where(inside, l_t, 0.0), jnp.where(inside, l_s, 0.0)
    return jnp.where(inside, path.time_of(2.0 * (l_t + r * (l_s - l_t))), t)


def stage_3(w: tuple, r1: Any, solver: str = "midpoint") -> tuple:
    """Weights of (m(x_t), m(u_1), m(u_2)) for k = 3 with nodes at r1 and 2/3 (Lu et al. 2022a, algorithm 2)."""
    if solver == "heun":
        return third(w, r1, R2)
    return w[0] - w[1] / R2, jnp.zeros_like(w[0]), w[1] / R2


@pytree_dataclass
class DPMSolverSinglestep:
    """``k`` calls a step (one where the step is to pure data or from pure noise, and of first order).

    ``form``: ``NoisePrediction`` (DPM-Solver-k) or ``DataPrediction`` (DPM-Solver++ 2S, 3S).  ``solver``: midpoint or heun.  ``r1`` in
    (0, 1), for k = 3 in (0, 2/3): the first inner node; None: 1/2 for order 2 and 1/3 for order 3.  ``orders``: the order of every step
    of the grid, each at most k (see ``dpm_fast``); () means k throughout.  ``eta`` > 0: ancestral steps (see the module), noise times
    ``s_noise``.
    """

    k: int = 3
    form: Any = leaf(default=NoisePrediction())
    solver: str = "midpoint"
    r1: float | None = None
    orders: tuple = ()
    eta: float | None = None
    s_noise: float = 1.0
    memory = 0

    @property
    def order(self) -> int:
        """k, or what ``orders`` leave of it (see ``order_of``); of ancestral steps in the weak sense: the ODE down to kappa_down and the
        noise up again keep the marginals."""
        return order_of(self.orders) if self.orders else self.k

    @property
    def calls(self) -> int:
        """k."""
        return self.k

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta is not None

    def specialise(self) -> DPMSolverSinglestep:
        """The ODE where eta is 0."""
        return dataclasses.replace(self, eta=float(self.eta) or None) if self.eta is not None else self

    def check(self) -> None:
        """Every field in its range."""
        check_solver("DPMSolverSinglestep", self)
        allowed = R2 if self.k == 3 else 1.0
        if self.r1 is not None and not 0 < self.r1 < allowed:
            refuse("DPMSolverSinglestep.r1", self.r1, f"0 < r1 < {allowed:.4g}, or None")
        if not all(order in range(1, self.k + 1) for order in self.orders):
            refuse("DPMSolverSinglestep.orders", self.orders, f"orders from 1 to k = {self.k}, one for every step")

    def check_steps(self, steps, path) -> None:
        """The same check on every use; as many ``orders`` as steps."""
        self.check()
        if self.orders and len(self.orders) != steps.t.shape[0]:
            refuse("DPMSolverSinglestep.orders", self.orders, f"one order for each of the grid's {steps.t.shape[0]} steps")

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        path, form, n = denoise.path, self.form, denoise.steps.t.shape[0]
        order = jnp.asarray(self.orders)[denoise.step] if self.orders else jnp.full((), self.k)
        down, std = (s, None) if self.eta is None else _ancestral(path, t, s, denoise.steps.s[n - 1], self.eta)
        p = denoise(x, t)
        u = form.update(path, t, down)
        ms, cases = [form.of(p)], [(True, u.w[:1])]
        if self.k >= 2:
            more = u.inside & (order >= 2)
            r = self.r1 if self.r1 is not None else 0.5 if self.k == 2 else jnp.where(order == 3, 1 / 3, 0.5)
            t_1 = node(path, t, down, r)
            u_1 = form.update(path, t, t_1)
            p_1 = denoise(advance(u_1, u_1.w[:1], x, (ms[0],), p), t_1, where=more, otherwise=p)
            ms.append(form.of(p_1))
            cases.insert(0, (more, second(u.w, r, self.solver)))
        if self.k == 3:
            more = u.inside & (order == 3)
            t_2, r = node(path, t, down, R2), 1 / 3 if self.r1 is None else self.r1
            u_2 = form.update(path, t, t_2)
            p_2 = denoise(advance(u_2, second(u_2.w, r / R2, "heun"), x, tuple(ms), p), t_2, where=more, otherwise=p_1)
            ms.append(form.of(p_2))
            cases.insert(0, (more, stage_3(u.w, r, self.solver)))
        x_s = advance(u, choose(cases, self.k), x, tuple(ms), p)
        if std is not None:
            alpha_down = path.alpha(down)
            x_s = combine((path.alpha(s) / alpha_down, x_s), (path.alpha(s) * std * self.s_noise, draw()))
        return x_s, carry, p


def _ancestral(path, t, s, end, eta) -> tuple:
    """The time at kappa_down and the standard deviation of the noise on x / alpha."""
    kappa_t, kappa_s = path.kappa(t), path.kappa(s)
    std, down = up_and_down(kappa_t, kappa_s, eta, path.kappa(end))
    moved = (down > 0) & (down < kappa_s)
    return jnp.where(moved, path.time_of_kappa(jnp.where(moved, down, 1.0)), jnp.where(down > 0, s, end)), std


def order_of(orders: Sequence[int]) -> int:
    """The order of steps (or blocks) of the listed ``orders``, were the grid refined: one that stands once in the list is taken for a step
    at an end, of which there is one however fine the grid is (see ``lagrange.capped``), one that stands there again for a part of it."""
    again = [p for p in orders if orders.count(p) > 1]
    return capped(min(again, default=max(orders)), [p for p in orders if orders.count(p) == 1])


@pytree_dataclass
class DPMSolverNodes:
    """One call a step, the grid's levels being the nodes of blocks of k steps (diffusers' DPMSolverSinglestepScheduler).

    Of order k where a block's nodes are equal in log-SNR: k = 3 with midpoint needs its last node at 2/3.  ``form``, ``solver`` as above;
    ``eta``: the reverse SDE as in ``DPMSolverMultistep``, drawn at every step.  ``lower_order_final``: the last block ends with a step of
    order 1, so that any number of steps will do; without it the number must be a multiple of k.  ``orders``: one's own list of orders, in
    which an order follows the one below it or is 1.  ``as_released``: the peer's weight of its SDE's k = 3, heun.
    """

    k: int = 3
    form: Any = leaf(default=DataPrediction())
    solver: str = "midpoint"
    eta: float | None = None
    s_noise: float = 1.0
    lower_order_final: bool = True
    orders: tuple = ()
    as_released: bool = False
    calls = 1

    @property
    def order(self) -> int:
        """1 for the SDE; for the ODE k, at most 2 where the last block ends with a step of order 1 (``lower_order_final``), or what
        ``orders`` leave of it: those at which their blocks end (see ``order_of``)."""
        if self.stochastic:
            return 1
        if self.orders:
            return order_of([a for a, b in zip(self.orders, (*self.orders[1:], 1), strict=True) if b == 1])
        return capped(self.k, (1,)) if self.lower_order_final else self.k

    @property
    def memory(self) -> int:
        """k - 1."""
        return self.k - 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta is not None

    def specialise(self) -> DPMSolverNodes:
        """The ODE where eta is 0."""
        return dataclasses.replace(self, eta=float(self.eta) or None) if self.eta is not None else self

    def check(self) -> None:
        """Every field in its range."""
        check_solver("DPMSolverNodes", self)
        pairs = zip((0, *self.orders), self.orders, strict=False)
        if not all(b == 1 or (b == a + 1 and b <= self.k) for a, b in pairs):
            refuse("DPMSolverNodes.orders", self.orders, f"orders from 1 to k = {self.k}, each 1 or one more than the one before it")

    def check_steps(self, steps, path) -> None:
        """The same check on every use; a number of steps that the blocks can make."""
        self.check()
        n = steps.t.shape[0]
        if self.orders and len(self.orders) != n:
            refuse("DPMSolverNodes.orders", self.orders, f"one order for each of the grid's {n} steps")
        if not self.orders and not self.lower_order_final and n % self.k:
            refuse("grid.num_steps", n, f"a multiple of {self.k}, or DPMSolverNodes with lower_order_final")

    def orders_of(self, n: int) -> tuple[int, ...]:
        """The order of each of n steps."""
        if self.orders:
            return self.orders
        full = tuple(range(1, self.k + 1))
        rest = n % self.k
        if not self.lower_order_final or self.k == 1:
            return full * (n // self.k)
        if rest:
            return full * (n // self.k) + full[:rest]
        return full * (n // self.k - 1) + full[:-1] + (1,)

    def init(self, x, steps, path):
        """No block yet."""
        zero = jax.tree.map(jnp.zeros_like, x)
        return (zero,) * self.k if self.k > 1 else ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step: of order j from the level j - 1 steps back, through the nodes since."""
        path, p, form, n = denoise.path, denoise(x, t), self.form, denoise.steps.t.shape[0]
        ms = (form.of(p), *carry[1:])
        order = jnp.asarray(self.orders_of(n))[denoise.step]
        starts = [t] + [denoise.before(j)[0] for j in range(1, self.k)]
        base = jnp.stack(starts)[order - 1]
        block = (order > 1) & form.update(path, base, s).inside
        begin = jnp.where(block, base, t)
        u = form.update(path, begin, s, self.eta)
        cases = [(True, u.w[:1])]
        for j in range(2, self.k + 1):
            cases.insert(0, (block & (order == j), self._weights(path, u, starts[:j], path.alpha(s))))
        x_0 = select(order > 1, carry[0], x) if self.k > 1 else x
        x_s = advance(u, choose(cases, self.k), select(block, x_0, x), ms, p, draw() if self.eta is not None else None, self.s_noise)
        return x_s, ((x_0, *ms[:-1]) if self.k > 1 else ()), p

    def _weights(self, path, u: Update, times: list, alpha_s) -> tuple:
        """Weights of (m at t, at one step back, at two) for a step from ``times[-1]``."""
        levels = [half_log_snr(path, v) for v in times]
        r = [v - levels[-1] for v in levels[:-1]]
        r = [jnp.where(jnp.isfinite(v) & (v * u.h > 0), v / u.h, (2.0 - i) / u.h) for i, v in enumerate(r)]
        if len(times) == 2:
            return second(u.w, r[0], self.solver)[::-1]
        if self.solver == "midpoint":
            c = u.w[1] / r[0]
            return c, jnp.zeros_like(c), u.w[0] - c
        w = (u.w[0], u.w[1], u.w[2] - alpha_s) if self.as_released and self.eta is not None else u.w
        return third(w, r[1], r[0])[::-1]
