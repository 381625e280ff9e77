"""UniPC: a unified predictor and corrector, one call a step (Zhao et al. 2023, algorithms 1-2, eq. 3-9; appendix for the data prediction).

With l = ln(alpha / sigma), h = l_s - l_t, r_i = (l_{t_i} - l_t) / h of earlier steps t_i, D_i = m_i - m_0 and z = h for eps, -h for x0
(``form``, as in all DPM-Solvers):

    eps   x_s = (alpha_s / alpha_t) x - sigma_s [(e^z - 1) m_0 + B sum_i a_i D_i / r_i]
    x0    x_s = (sigma_s / sigma_t) x - alpha_s [(e^z - 1) m_0 + B sum_i a_i D_i / r_i]
    sum_i a_i r_i^{k-1} = k! z phi_{k+1}(z) / B,  k = 1, 2, ...       B = z (bh1) or e^z - 1 (bh2);   phi: see ``lagrange``

Predictor UniP-p: i = 1..p-1, k = 1..p-1 (p = 2: a_1 = 1/2).  Corrector UniC-p: one more unknown for the new m at s, r = 1, k = 1..p
(p = 1: a = 1/2).  The corrector needs no further call: the network sees the uncorrected prediction, and its output corrects the state from
which the next prediction starts.  So ``x`` is the uncorrected prediction, and the carry the corrected state and p outputs.

The start is of order 1, 2, ..., p.  A step from or to an infinite l is of first order and is not corrected (at sigma_s = 0 diffusers' bh1
is NaN, 0 times infinity; the limit is DDIM).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.dpm_forms import DataPrediction, advance, check_form, half_log_snr
from score_lab.samplers.lagrange import capped, check_order, nodes_there, phi, weights
from score_lab.types import leaf, pytree_dataclass, static

__all__ = ["UniPC"]


@pytree_dataclass
class UniPC:
    """``k``, the paper's p, from 1 to 3: the order that UniP-p has alone; with the corrector the interior formula has p + 1.

    ``B`` "bh1" or "bh2"; ``form`` ``DataPrediction`` (m = x0) or ``NoisePrediction`` (m = eps); ``corrector`` False is UniP;
    ``uncorrected``: the numbers of steps whose results are not corrected (diffusers' disable_corrector); ``final_orders``: the highest
    orders of the last steps, (2, 1) is lower_order_final.
    """

    k: int = 2
    B: str = "bh2"
    form: Any = leaf(default=DataPrediction())
    corrector: bool = True
    uncorrected: tuple[int, ...] = static(default=())
    final_orders: tuple[int, ...] = static(default=())
    calls = 1
    stochastic = False

    @property
    def order(self) -> int:
        """k; ``min(final_orders) + 1`` where the last steps cap it (see ``lagrange.capped``; the last state is not corrected)."""
        return capped(self.k, self.final_orders)

    @property
    def memory(self) -> int:
        """Earlier steps."""
        return self.k if self.corrector else self.k - 1

    def check(self) -> None:
        """k from 1 to 3 and known options."""
        check_order("UniPC", self.k, 3)
        if self.B not in ("bh1", "bh2"):
            refuse("UniPC.B", self.B, "bh1 or bh2", ("bh1", "bh2"))
        check_form("UniPC", self.form)
        if not all(isinstance(p, int) and p >= 1 for p in self.final_orders):
            refuse("UniPC.final_orders", self.final_orders, "orders of at least 1")
        if not all(isinstance(k, int) and k >= 0 for k in self.uncorrected):
            refuse("UniPC.uncorrected", self.uncorrected, "numbers of steps, 0 and up")

    def check_steps(self, steps, path) -> None:
        """The same, and a grid of at least ``k`` steps."""
        self.check()
        check_order("UniPC", self.k, 3, steps)

    def init(self, x, steps, path):
        """Nothing yet."""
        return tuple(jax.tree.map(jnp.zeros_like, x) for _ in range(self.k + 1 if self.corrector else self.k - 1))

    def step(self, denoise, x, t, s, draw, carry):
        """Corrects the state at t by the new output, then predicts from there to s."""
        path = denoise.path
        p = denoise(x, t)
        m = self.form.of(p)
        if not self.corrector:
            return self._predict(denoise, path, x, t, s, (m, *carry), p), (m, *carry)[: self.k - 1], p
        x_last, *past = carry
        x = self._correct(denoise, path, x, x_last, t, m, past)
        return self._predict(denoise, path, x, t, s, (m, *past)[: self.k], p), (x, m, *past)[: self.k + 1], p

    def _predict(self, denoise, path, x, t, s, ms, p):
        """UniP of the order at hand, from the outputs ``ms`` at t and before."""
        order, nodes = nodes_there(denoise, 0, self.k, lambda u: half_log_snr(path, u), self.final_orders)
        u = self.form.update(path, t, s)
        a, b = jnp.where(u.inside, t, 0.5), jnp.where(u.inside, s, 0.25)
        c = self._divided(jnp.where(u.inside, order, 1), nodes, path, a, b, corrector=False)
        return advance(u, (u.w[0] - sum(c), *c), x, ms, p)

    def _correct(self, denoise, path, x, x_last, t, m, past):
        """UniC of the last step's order, from the corrected state where that step started; ``x`` itself where it is not corrected."""
        (start, there), k = denoise.before(1), denoise.step - 1
        order, nodes = nodes_there(denoise, 1, self.k, lambda u: half_log_snr(path, u), self.final_orders)
        used = there & jnp.isfinite(half_log_snr(path, start)) & jnp.isfinite(half_log_snr(path, t))
        for i in self.uncorrected:
            used &= k != i
        a, b = jnp.where(used, start, 0.5), jnp.where(used, t, 0.25)
        u = self.form.update(path, a, b)
        c = [jnp.where(used, v, 0.0) for v in self._divided(order, nodes, path, a, b, corrector=True)]
        terms = [(jnp.where(used, 0.0, 1.0), x), (jnp.where(used, u.x, 0.0), x_last), (c[0], m)]
        return combine(*terms, (jnp.where(used, u.w[0], 0.0) - sum(c), past[0]), *zip(c[1:], past[1:], strict=True))

    def _divided(self, order, nodes, path, t, s, corrector):
        """The weights of D_i, ``-(alpha_s or sigma_s) B a_i / r_i``, of UniP-``order`` or of UniC-``order``, there the new output's first.

        They are 0 where a node is not used."""
        l_t = half_log_snr(path, t)
        h = half_log_snr(path, s) - l_t
        scale, z = self.form.scale(path, s, h)
        r = [jnp.where(i < order, (jnp.where(i < order, u, l_t) - l_t) / h, -float(i)) for i, u in enumerate(nodes, 1)]
        B = z if self.B == "bh1" else jnp.expm1(z)
        b = [math.factorial(k) * z * v for k, v in enumerate(phi(self.k + 1, z)) if k]
        total = [0.0] * (len(nodes) + corrector)
        for p in range(1 if corrector else 2, self.k + 1):
            at = ([1.0] if corrector else []) + r[: p - 1]
            a = [0.5 * B] if len(at) == 1 else weights(at, b[: len(at)])
            for i, (v, r_i) in enumerate(zip(a, at, strict=True)):
                total[i] = total[i] + jnp.where(order == p, v / r_i, 0.0)
        return [-scale * v for v in total]
