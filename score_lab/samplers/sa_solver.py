"""SA-Solver: stochastic Adams predictor-corrector on the x0-prediction (Xue et al. 2023, eq. 8, 14, 17, algorithm 1).

The reverse SDE with noise tau(t) g, in l = ln(alpha / sigma), h = l_s - l_t, a = 1 + tau^2, tau constant over a step:

    x_s = (sigma_s / sigma_t) exp(-tau^2 h) x_t + alpha_s int_0^h a exp(-a u) x0(l_s - u) du + sigma_s sqrt(1 - exp(-2 tau^2 h)) z

    predictor p:   x0(l) is interpolated through l_t and p - 1 earlier levels (Lagrange); p = 1: DDIM at tau = 0, ancestral at tau = 1
    corrector c:   the same step again, with the same z, through l_s itself (the prediction at the predicted x_s) and c levels up to l_t

The prediction that corrects a step is the one that predicts the next (algorithm 1: one call a step); so the state is the predicted x_s,
the carry holds what corrects it, and the last state is not corrected.  Steps whose history is short, or at an infinite l, have fewer nodes;
the step to data and the one from alpha_t = 0 are first order.  At tau > 0 the weak order is 2
whatever the number of nodes beyond two: between two levels x0 is a diffusion, not a polynomial.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.linear import combine, select
from score_lab.samplers.multipliers import nought
from score_lab.types import Array, pytree_dataclass, static

__all__ = ["SASolver", "sa_weights", "tau_at"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def sa_weights(a: Array, h: Array, nodes: list[Array], good: list[Array]) -> list[Array]:
    """``int_0^h a exp(-a u) L_j(l_t + h - u) du`` for every node but the first, whose weight is what is missing to ``1 - exp(-a h)``.

    ``nodes``: l - l_t of the nodes, 0 (l_t) first; ``good``: which of them there are.  Gauss-Legendre on [0, h].
    """
    l = h - 0.5 * h * (1.0 + jnp.asarray(_NODES, h.dtype))  # noqa: E741
    kernel = 0.5 * h * jnp.asarray(_WEIGHTS, h.dtype) * a * jnp.exp(-a * (h - l))
    places = [jnp.where(g, v, -(j + 1.0)) for j, (v, g) in enumerate(zip(nodes, good, strict=True))]
    found = []
    for j in range(1, len(nodes)):
        basis = jnp.ones_like(l)
        for m in range(len(nodes)):
            if m != j:
                use = good[m] if m else True
                gap = jnp.where(use & good[j], places[j] - places[m], 1.0)
                basis = basis * jnp.where(use, (l - places[m]) / gap, 1.0)
        found.append(jnp.where(good[j], jnp.sum(kernel * basis), 0.0))
    return found


def tau_at(solver: Any, path: Any, t: Array) -> Array:
    """tau of the step that begins at ``t``: ``solver.tau`` where ``kappa_min <= kappa_t <= kappa_max`` of the solver, 0 elsewhere (Xue et
    al. 2023, section 6)."""
    kappa = path.kappa(t)
    return jnp.where((kappa >= solver.kappa_min) & (kappa <= solver.kappa_max), solver.tau, 0.0)


@pytree_dataclass
class SASolver:
    """``predictor`` 1 to 3 and ``corrector`` 0 (none) to 3 are numbers of nodes among the levels passed; ``tau`` >= 0 is the noise, 0
    outside ``kappa_min <= kappa_t <= kappa_max`` (the interval of Xue et al., section 6; everywhere by default)."""

    predictor: int = 3
    corrector: int = 0
    tau: float = 1.0
    kappa_min: float = 0.0
    kappa_max: float = float("inf")
    draws: bool = static(default=True, repr=False)
    calls = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with tau = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not nought(self.tau)

    def specialise(self) -> SASolver:
        """The form without draws where tau is 0."""
        return dataclasses.replace(self, tau=0.0, draws=False) if self.draws and float(self.tau) == 0.0 else self

    @property
    def order(self) -> int:
        """The weak order, measured on Gaussian data: 2 with a second node of either kind, however many more (at tau = 0 they count)."""
        return 1 if (self.predictor, self.corrector) == (1, 0) else 2

    @property
    def memory(self) -> int:
        """Earlier predictions that are kept."""
        return max(self.predictor - 1, self.corrector)

    def check(self) -> None:
        """Orders in range, ``tau >= 0``, an interval."""
        if self.predictor not in (1, 2, 3):
            refuse("SASolver.predictor", self.predictor, "1, 2 or 3")
        if self.corrector not in (0, 1, 2, 3):
            refuse("SASolver.corrector", self.corrector, "0 (none), 1, 2 or 3")
        if not self.tau >= 0:
            refuse("SASolver.tau", self.tau, ">= 0")
        if not 0 <= self.kappa_min <= self.kappa_max:
            refuse("SASolver.kappa_min, kappa_max", (self.kappa_min, self.kappa_max), "0 <= kappa_min <= kappa_max")

    def check_steps(self, steps, path) -> None:
        """The same check on every use; as many steps as fill the nodes, one more than are kept."""
        self.check()
        if (n := steps.t.shape[0]) <= self.memory:
            allowed = f"at least {self.memory + 1} for SASolver with predictor={self.predictor}, corrector={self.corrector}"
            refuse("grid.num_steps", n, allowed)

    def init(self, x, steps, path):
        """No predictions yet, newest first; and, with a corrector, the last step without its integral."""
        zero = jax.tree.map(jnp.zeros_like, x)
        return (zero,) * self.memory, (zero if self.corrector else ())

    def step(self, denoise, x, t, s, draw, carry):
        """Corrects ``x`` with the prediction at it, then predicts."""
        (past, base), path = carry, denoise.path
        p = denoise(x, t)
        known = [denoise.before(j) for j in range(1, self.memory + 1)]
        l_t, *earlier = (0.5 * path.log_snr(u) for u in (t, *(u for u, _ in known)))
        there = [ok & jnp.isfinite(v) for (_, ok), v in zip(known, earlier, strict=True)]
        if self.corrector:
            t_last = known[0][0]
            good, l_u = there[0] & jnp.isfinite(l_t), earlier[0]
            nodes = [0.0, l_t - l_u, *(v - l_u for v in earlier[1 : self.corrector])]
            terms = self._integral(path, t_last, t, l_t - l_u, nodes, [good, good, *there[1 : self.corrector]], (past[0], p.x0, *past[1:]))
            x = select(good, combine((1.0, base), *terms), x)
        h = 0.5 * path.log_snr(s) - l_t
        n = self.predictor - 1
        good = jnp.isfinite(h)
        nodes = [0.0, *(v - l_t for v in earlier[:n])]
        integral = self._integral(path, t, s, h, nodes, [good, *(g & good for g in there[:n])], (p.x0, *past))
        tau, sigma_s = tau_at(self, path, t), path.sigma(s)
        decay = jnp.where(tau > 0, tau**2 * jnp.where(tau > 0, h, 0.0), 0.0)
        fresh = [(sigma_s * jnp.sqrt(-jnp.expm1(-2.0 * decay)), draw())] if self.draws else []
        rest = combine((sigma_s / path.sigma(t) * jnp.exp(-decay), x), *fresh)
        x_s = combine((1.0, rest), *integral)
        return x_s, ((p.x0, *past)[: self.memory], rest if self.corrector else ()), p

    def _integral(self, path, t, s, h, nodes, good, values):
        """``alpha_s int a exp(-a u) x0 du`` as terms over the predictions at the nodes."""
        good = [jnp.asarray(g) for g in good]
        safe, a = jnp.where(good[0], h, 1.0), 1.0 + tau_at(self, path, t) ** 2
        w = sa_weights(a, safe, [jnp.where(g, v, 0.0) for v, g in zip(nodes, good, strict=True)], good)
        alpha_s, whole = path.alpha(s), -jnp.expm1(-a * h)
        return [(alpha_s * (whole - sum(w)), values[0]), *((alpha_s * c, v) for c, v in zip(w, values[1:], strict=False))]
