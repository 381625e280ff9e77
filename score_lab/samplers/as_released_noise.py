"""Stochastic solvers of peers that differ from the papers', as they are released: to reproduce their states, and for nothing else.

    SASolverReleased     diffusers' SASolverScheduler: SA-Solver whose second-order steps, of the predictor and of the corrector, get the
                         term c (x0_0 - x0_1) more, for few steps; lower orders at the end; tau by the level of the step's start

                             c = alpha_s a (h^2 / 2 - (a h - 1 + exp(-a h)) / a^2) / (l_0 - l_1),     a = 1 + tau^2    (c is O(h^2))

    PredictorCorrector   azula's PCSampler: DDIM after corrections at the level t itself, which keep its variance if eps is standard,

                             x <- alpha_t x0 + sqrt(1 - delta) sigma_t eps + sqrt(delta) sigma_t z

    DDPMReleased         diffusers' DDPMScheduler where the last timestep is not 0: its step to data adds noise all the same, of variance
                         beta = sigma_t^2 ("beta"), of 1e-20 ("beta_tilde"), or between the two ("learned")

What is right: ``DDPM``, whose last step adds none (Ho et al. 2020, algorithm 2), ``SASolver`` (Xue et al. 2023) and
``Langevin`` (Song et al. 2021, algorithms 4 and 5).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.paths.transition import interpolate_log_variance, transition_variances
from score_lab.samplers.ddim import DDIM, DDPM
from score_lab.samplers.sa_solver import sa_weights, tau_at
from score_lab.types import pytree_dataclass

__all__ = ["DDPMReleased", "PredictorCorrector", "SASolverReleased"]


@pytree_dataclass
class DDPMReleased:
    """``DDPM`` of ``variance`` "beta_tilde", "beta" or "learned", with that noise in its step to data."""

    variance: str = "beta_tilde"
    order = 1
    calls = 1
    memory = 0
    stochastic = True

    def check(self) -> None:
        """A known variance."""
        DDPM(self.variance).check()

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """DDPM's step, and at data what is added to it."""
        path, z = denoise.path, draw()
        x, carry, p = DDPM(self.variance).step(denoise, x, t, s, lambda: z, carry)
        least, end = jnp.log(1e-20), jnp.where(path.sigma(s) > 0, 0.0, 1.0)
        most = jnp.log(transition_variances(path, t, s)[0])
        if self.variance == "learned":
            log_variance = interpolate_log_variance(p.aux["variance"], least, most)
        else:
            log_variance = jax.tree.map(lambda a: most if self.variance == "beta" else least, z)
        fresh = jax.tree.map(lambda v, a: jnp.exp(0.5 * v) * a, log_variance, z)
        return combine((1.0, x), (end, fresh)), carry, p


@pytree_dataclass
class SASolverReleased:
    """``predictor`` 1 to 3 and ``corrector`` 1 to 4 count nodes as there, the corrector's with the new one; ``tau`` >= 0 between
    ``kappa_min`` and ``kappa_max``, 0 elsewhere; ``lower_order_final`` lowers the orders of the last steps of a grid that has ``dropped``
    more steps there than here."""

    predictor: int = 2
    corrector: int = 2
    tau: float = 1.0
    kappa_min: float = 0.0
    kappa_max: float = float("inf")
    lower_order_final: bool = True
    dropped: int = 0
    calls = 1
    order = 1
    stochastic = True

    @property
    def memory(self) -> int:
        """Earlier predictions that are kept."""
        return max(self.predictor, self.corrector) - 1 or 1

    def check(self) -> None:
        """Orders in range, ``tau >= 0``."""
        if self.predictor not in (1, 2, 3):
            refuse("SASolverReleased.predictor", self.predictor, "1, 2 or 3")
        if self.corrector not in (1, 2, 3, 4):
            refuse("SASolverReleased.corrector", self.corrector, "1, 2, 3 or 4")
        if not self.tau >= 0:
            refuse("SASolverReleased.tau", self.tau, ">= 0")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No predictions yet, newest first; and the last step without its integral."""
        zero = jax.tree.map(jnp.zeros_like, x)
        return (zero,) * self.memory, zero

    def step(self, denoise, x, t, s, draw, carry):
        """Corrects ``x`` with the prediction at it, then predicts."""
        (past, base), path, k = carry, denoise.path, denoise.step
        p = denoise(x, t)
        left = denoise.steps.s.shape[0] + self.dropped - k if self.lower_order_final else 8
        l_t, *earlier = (0.5 * path.log_snr(u) for u in (t, *(denoise.before(j)[0] for j in range(1, self.memory + 1))))
        values, t_last = (p.x0, *past), denoise.before(1)[0]
        nodes = [v - earlier[0] for v in (l_t, *earlier[: self.corrector - 1])]
        order = jnp.minimum(jnp.minimum(self.corrector, left + 2), k + 1)
        corrected = combine((1.0, base), *self._integral(path, t_last, t, l_t - earlier[0], nodes, order, values))
        x = jax.tree.map(lambda a, b: jnp.where(k > 0, a, b), corrected, x)
        nodes = [v - l_t for v in (l_t, *earlier[: self.predictor - 1])]
        order = jnp.minimum(jnp.minimum(self.predictor, left), k + 1)
        h, tau = 0.5 * path.log_snr(s) - l_t, tau_at(self, path, t)
        kept = path.sigma(s) / path.sigma(t) * jnp.exp(-(tau**2) * h)
        rest = combine((kept, x), (path.sigma(s) * jnp.sqrt(-jnp.expm1(-2.0 * tau**2 * h)), draw()))
        x_s = combine((1.0, rest), *self._integral(path, t, s, h, nodes, order, values))
        return x_s, (values[: self.memory], rest), p

    def _integral(self, path, t, s, h, nodes, order, values):
        """``alpha_s int a exp(-a u) x0 du`` through the first ``order`` nodes, as terms over the predictions there."""
        a = 1.0 + tau_at(self, path, t) ** 2
        w = sa_weights(a, h, nodes, [jnp.asarray(j < order) for j in range(len(nodes))])
        if len(nodes) > 1:
            gap = jnp.where(order == 2, nodes[0] - nodes[1], 1.0)
            more = a * (0.5 * h**2 - (a * h + jnp.expm1(-a * h)) / a**2) / gap
            w[0] = w[0] - jnp.where(order == 2, more, 0.0)
        weights = (-jnp.expm1(-a * h) - sum(w), *w)
        return [(path.alpha(s) * c, v) for c, v in zip(weights, values, strict=False)]


@pytree_dataclass
class PredictorCorrector:
    """``corrections`` >= 1 of amplitude ``delta`` in [0, 1] at t, then DDIM to s."""

    corrections: int = 1
    delta: float = 0.01
    order = 0
    memory = 0
    stochastic = True

    @property
    def calls(self) -> int:
        """One for every correction and one for DDIM."""
        return self.corrections + 1

    def check(self) -> None:
        """``corrections >= 1`` and ``0 <= delta <= 1``."""
        if self.corrections < 1:
            refuse("PredictorCorrector.corrections", self.corrections, "at least 1")
        if not 0 <= self.delta <= 1:
            refuse("PredictorCorrector.delta", self.delta, "0 <= delta <= 1")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """The corrections, then DDIM."""
        path = denoise.path
        alpha_t, sigma_t = path.alpha(t), path.sigma(t)
        for _ in range(self.corrections):
            p = denoise(x, t)
            x = combine((alpha_t, p.x0), (jnp.sqrt(1.0 - self.delta) * sigma_t, p.eps), (jnp.sqrt(self.delta) * sigma_t, draw()))
        return DDIM(0.0, False).step(denoise, x, t, s, draw, carry)
