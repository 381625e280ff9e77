"""DPM-Solver and DPM-Solver++, multistep, for the probability-flow ODE and for the reverse SDE (Lu et al. 2022a, 2022b).

With the weights w_j of ``dpm_forms`` and the predictions m_0, m_1, m_2 at l_t and one and two steps before, h_0 = l_t - l_1:

    k = 1   x_s = c_x x_t + w_0 m_0                                                       DDIM where eta = 0
    k = 2   + w_1 D_1  or  + (w_0 / 2) D_1,    D_1 = (h / h_0) (m_0 - m_1)                2M: Lu et al. 2022b, algorithm 2
    k = 3   + w_1 h m' + w_2 h^2 m'',          m', m'' of the parabola through the three                3M

The first steps, and the last one to pure data (h infinite), are of lower order.

As released, 3M has h^2 m'' / 2 in place of h^2 m'': order 2, not 3.  diffusers' sde-dpmsolver++ of order 3 has, further, the weight w_2
less alpha_s (a sign of its 1/2): order 1.  ``as_released`` reproduces the one or the other.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.samplers.dpm_forms import DataPrediction, NoisePrediction, advance, check_solver, choose, half_log_snr, second, third
from score_lab.samplers.lagrange import capped
from score_lab.types import leaf, pytree_dataclass

__all__ = ["DPMSolverMultistep", "DPMSolverPP2M"]


@pytree_dataclass
class DPMSolverMultistep:
    """One call a step, k - 1 steps of history.

    ``k``: 1, 2 or 3, the paper's order.  ``form``: ``DataPrediction`` (DPM-Solver++) or ``NoisePrediction`` (DPM-Solver).  ``solver``:
    ``midpoint`` or ``heun``, of the steps of order 2.  ``eta`` >= 0: the reverse SDE with that squared multiplier, fresh noise times
    ``s_noise``; None or 0: the ODE, nothing drawn.  ``final_orders`` caps the orders of the last steps: (1,) is diffusers'
    euler_at_final, (2, 1) what its lower_order_final does below 15 steps (at 15 and more it does nothing).  ``as_released``: None,
    ``k_diffusion`` or ``diffusers`` (see the module).
    """

    k: int = 2
    form: Any = leaf(default=DataPrediction())
    solver: str = "midpoint"
    eta: float | None = None
    s_noise: float = 1.0
    final_orders: tuple = ()
    as_released: str | None = None
    calls = 1

    @property
    def order(self) -> int:
        """k; at most 2 for 3M as released and in the weak sense for the SDE; 1 for the SDE of order 3 as diffusers has it;
        ``min(final_orders) + 1`` where the last steps cap it (see ``lagrange.capped``)."""
        if self.k == 3 and self.as_released == "diffusers" and self.stochastic and isinstance(self.form, DataPrediction):
            return 1
        return capped(min(self.k, 2) if self.as_released or self.stochastic else self.k, self.final_orders)

    @property
    def memory(self) -> int:
        """k - 1."""
        return self.k - 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta is not None

    def specialise(self) -> DPMSolverMultistep:
        """The ODE where eta is 0."""
        return dataclasses.replace(self, eta=float(self.eta) or None) if self.eta is not None else self

    def check(self) -> None:
        """Every field in its range."""
        name = type(self).__name__
        check_solver(name, self)
        if not all(order in (1, 2, 3) for order in self.final_orders):
            refuse(f"{name}.final_orders", self.final_orders, "orders 1, 2 or 3 of the last steps, (2, 1) for instance")
        known = ("k_diffusion", "diffusers")
        if self.as_released not in (None, *known):
            refuse(f"{name}.as_released", self.as_released, "None, k_diffusion or diffusers", known)

    def check_steps(self, steps, path) -> None:
        """The same check on every use, and at least k steps."""
        self.check()
        if steps.t.shape[0] < self.k:
            refuse("grid.num_steps", steps.t.shape[0], f"at least {self.k} for {type(self).__name__} with k = {self.k}")

    def init(self, x, steps, path):
        """No predictions yet."""
        return (jax.tree.map(jnp.zeros_like, x),) * (self.k - 1)

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        path, p = denoise.path, denoise(x, t)
        ms = (self.form.of(p), *carry)
        u = self.form.update(path, t, s, self.eta)
        x_s = advance(u, self._coefficients(denoise, u, t, path.alpha(s)), x, ms, p, draw() if u.z is not None else None, self.s_noise)
        return x_s, ms[:-1], p

    def _coefficients(self, denoise, u, t, alpha_s) -> tuple:
        """The weights of m_0, m_1, m_2: those of the highest order whose history is there."""
        n = denoise.steps.t.shape[0]
        orders = [self.k] * n
        for j, cap in enumerate(reversed(self.final_orders[-n:])):
            orders[n - 1 - j] = min(self.k, cap)
        order, l_t = jnp.asarray(orders)[denoise.step], half_log_snr(denoise.path, t)
        cases, r = [(True, u.w[:1])], []
        for j in range(1, self.k):
            t_j, there = denoise.before(j)
            l_j = half_log_snr(denoise.path, t_j)
            usable = there & (order > j) & u.inside & jnp.isfinite(l_j)
            r.append(jnp.where(usable, (jnp.where(usable, l_j, 0.0) - l_t) / u.h, -float(j)))
            cases.insert(0, (usable, second(u.w, r[0], self.solver) if j == 1 else third(self._released(u.w, alpha_s), *r)))
        return choose(cases, self.k)

    def _released(self, w: tuple, alpha_s) -> tuple:
        """The weights with the peers' defects where they are asked for."""
        if self.as_released is None:
            return w
        if self.as_released == "diffusers" and self.stochastic and not isinstance(self.form, NoisePrediction):
            return w[0], w[1], 0.5 * (w[2] - alpha_s)
        return w[0], w[1], 0.5 * w[2]


@pytree_dataclass
class DPMSolverPP2M(DPMSolverMultistep):
    """DPM-Solver++(2M) under its usual name: ``DPMSolverMultistep`` as its defaults have it."""
