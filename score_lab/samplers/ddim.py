"""DDIM and DDPM: x0 and eps put together again at the next level, with fresh noise in place of a part of eps.

    sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2,    beta_tilde = sigma_s^2 sigma_{t|s}^2 / sigma_t^2
    DDIM(eta):  x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 beta_tilde) eps + eta sqrt(beta_tilde) z            (Song et al. 2021, eq. 12, 16)
    DDPM:       x_s = alpha_s x0 + (alpha_t / alpha_s) (sigma_s^2 / sigma_t) eps + sqrt(nv) z                  (Ho et al. 2020, eq. 7, 11)

    nv = beta_tilde (DDIM with eta = 1), beta = sigma_{t|s}^2, or learned between the two  (Nichol & Dhariwal 2021, eq. 15)
         (the variance that is optimal for the marginals: see ``analytic_dpm``)

The reverse SDE with diffusion multiplier m, on y = x / alpha, solved with one of the two predictions held fixed over the step:

    dy = (1 + m^2)/2 (eps / kappa) dkappa^2 + m dw_{kappa^2}                              (backwards; Song et al. 2021, eq. 6, 13)
    gDDIM:      x_s = alpha_s x0 + sigma_s (kappa_s / kappa_t)^{m^2} eps + sqrt(nv) z,     nv = sigma_s^2 [1 - (kappa_s / kappa_t)^{2 m^2}]
                x0 fixed         (Zhang, Tao & Chen 2022, the stochastic update with lambda = m, on isotropic diffusions)
    ItoEuler:   y_s = y + (1 + m^2)/tau (kappa_s - kappa_t) eps + m sqrt(kappa_t^2 - kappa_s^2) z
                eps fixed, at temperature tau                                             (azula's ItoSampler)

On an isotropic diffusion gDDIM is DDIM with an eta of its own for every step, eta_k^2 = (1 - rho^{2 m^2}) / (1 - rho^2), rho = kappa_s /
kappa_t: m = 0 is DDIM, m = 1 DDIM(1), in between it is no DDIM(eta).

The last step to sigma_s = 0 adds no noise, as in Ho et al. 2020, algorithm 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.paths.transition import interpolate_log_variance, kept_std, log_variance_bounds, transition_variances
from score_lab.samplers.multipliers import nought
from score_lab.types import pytree_dataclass, static

__all__ = ["DDIM", "DDPM", "GDDIM", "ItoEuler"]


@pytree_dataclass
class DDIM:
    """``x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 beta_tilde) eps + eta sqrt(beta_tilde) z``; eta in [0, 1], 0 deterministic, 1 DDPM's
    beta_tilde.

    ``stride`` reproduces a defect of diffusers' DDIMScheduler, for comparisons: every step goes to ``t - stride``, wherever the grid's next
    time is, so that with linspace or uneven trailing timesteps the states leave the levels that the network is told.  None is right.
    """

    eta: float = 0.0
    draws: bool = True
    stride: float | None = None
    order = 1
    calls = 1
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with eta = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not nought(self.eta)

    def specialise(self) -> DDIM:
        """The form without draws where eta is 0."""
        return DDIM(0.0, False, self.stride) if self.draws and float(self.eta) == 0.0 else self

    def check(self) -> None:
        """``0 <= eta <= 1``: more would make a variance negative."""
        if not 0 <= self.eta <= 1:
            refuse("DDIM.eta", self.eta, "0 <= eta <= 1, so that sigma_s^2 - eta^2 beta_tilde is not negative")
        if self.stride is not None and not 0 < self.stride <= 1:
            refuse("DDIM.stride", self.stride, "0 < stride <= 1, or None: to the grid's next time")

    def check_steps(self, steps, path) -> None:
        """The same check on every use; no ``stride`` on the way up, which it would not go."""
        self.check()
        if self.stride is not None and steps.ascends:
            refuse("DDIM.stride", self.stride, "None for an encoding: every step goes down by the stride, whatever the grid")

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p, path = denoise(x, t), denoise.path
        if self.stride is not None:
            s = jnp.maximum(t - self.stride, denoise.steps.s[-1])
        alpha_s, sigma_s = path.alpha(s), path.sigma(s)
        if not self.draws:
            return combine((alpha_s, p.x0), (sigma_s, p.eps)), carry, p
        _, beta_tilde = transition_variances(path, t, s)
        kept = kept_std(path, t, s, self.eta)
        return combine((alpha_s, p.x0), (kept, p.eps), (self.eta * jnp.sqrt(beta_tilde), draw())), carry, p


@pytree_dataclass
class DDPM:
    """Ancestral sampling with noise variance ``beta_tilde``, ``beta`` or ``learned`` (needs a network with ``aux["variance"]`` in [-1,
    1])."""

    variance: str = "beta_tilde"
    order = 1
    calls = 1
    memory = 0
    stochastic = True

    def check(self) -> None:
        """A known variance."""
        known = ("beta_tilde", "beta", "learned")
        if self.variance not in known:
            refuse("DDPM.variance", self.variance, ", ".join(known), known)

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """``x_s = mean + sqrt(nv) z``."""
        p, path = denoise(x, t), denoise.path
        beta, beta_tilde = transition_variances(path, t, s)
        mean = combine((path.alpha(s), p.x0), (path.alpha(t) / path.alpha(s) * path.sigma(s) ** 2 / path.sigma(t), p.eps))
        alive = path.sigma(s) > 0
        if self.variance == "learned":
            if not (isinstance(p.aux, dict) and "variance" in p.aux):
                refuse("DDPM.variance", self.variance, "beta or beta_tilde: the network has no variance output (learned_variance=True)")
            bounds = log_variance_bounds(path, t, jnp.where(alive, s, 0.5 * t), 0.0)
            log_variance = interpolate_log_variance(p.aux["variance"], *bounds)
            fresh = jax.tree.map(lambda v, z: jnp.exp(0.5 * v) * z, log_variance, draw())
            return combine((1.0, mean), (jnp.where(alive, 1.0, 0.0), fresh)), carry, p
        variance = {"beta": beta, "beta_tilde": beta_tilde}[self.variance]
        return combine((1.0, mean), (jnp.where(alive, jnp.sqrt(variance), 0.0), draw())), carry, p



@pytree_dataclass
class GDDIM:
    """The reverse SDE of ``multiplier`` m >= 0 with x0 held fixed over each step (see the module); m = 0 is DDIM, m = 1 DDIM(1).

    From a level without signal (kappa_t infinite) the step is its limit: alpha_s x0 plus sigma_s times fresh noise (eps where m = 0).
    """

    multiplier: float = 1.0
    order = 1
    calls = 1
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with multiplier = 0, for which ``sample`` uses the form that draws none."""
        return not nought(self.multiplier)

    def specialise(self) -> GDDIM | DDIM:
        """DDIM where the multiplier is 0."""
        return DDIM(0.0, False) if float(self.multiplier) == 0.0 else self

    def check(self) -> None:
        """``multiplier >= 0``."""
        if not self.multiplier >= 0:
            refuse("GDDIM.multiplier", self.multiplier, ">= 0")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step; ``log_snr_s - log_snr_t = -2 ln(kappa_s / kappa_t)``."""
        p, path, m2 = denoise(x, t), denoise.path, self.multiplier**2
        e = jnp.where(m2 > 0, m2 * (path.log_snr(s) - path.log_snr(t)), 0.0)
        kept, fresh = path.sigma(s) * jnp.exp(-0.5 * e), path.sigma(s) * jnp.sqrt(-jnp.expm1(-e))
        return combine((path.alpha(s), p.x0), (kept, p.eps), (fresh, draw())), carry, p


@pytree_dataclass
class ItoEuler:
    """The reverse SDE of ``multiplier`` m >= 0 with eps held fixed over each step (see the module); m = 0 is DDIM.

    ``temperature`` tau > 0 divides the score.  A step to sigma_s = 0 returns alpha_s x0; one from a level without signal is its limit, as
    in ``GDDIM``.
    """

    multiplier: float = 1.0
    temperature: float = 1.0
    draws: bool = static(default=True, repr=False)
    order = 1
    calls = 1
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with multiplier = 0, for which ``sample`` uses the form that draws none."""
        return self.draws and not nought(self.multiplier)

    def specialise(self) -> ItoEuler:
        """The form without draws where the multiplier is 0."""
        return ItoEuler(0.0, self.temperature, False) if self.draws and float(self.multiplier) == 0.0 else self

    def check(self) -> None:
        """``multiplier >= 0`` and ``temperature > 0``."""
        if not self.multiplier >= 0:
            refuse("ItoEuler.multiplier", self.multiplier, ">= 0")
        if not self.temperature > 0:
            refuse("ItoEuler.temperature", self.temperature, "> 0")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step; its limits at sigma_s = 0 and alpha_t = 0."""
        p, path, m = denoise(x, t), denoise.path, self.multiplier
        alpha_s, sigma_s = path.alpha(s), path.sigma(s)
        regular = (path.alpha(t) > 0) & (sigma_s > 0)
        kappa_t, kappa_s = path.kappa(jnp.where(regular, t, 0.5)), path.kappa(jnp.where(regular, s, 0.25))
        kept = alpha_s * (kappa_t - (1 + m**2) / self.temperature * (kappa_t - kappa_s))
        kept = jnp.where(regular, kept, jnp.where(m > 0, 0.0, sigma_s))
        terms = (alpha_s, p.x0), (kept, p.eps)
        if not self.draws:
            return combine(*terms), carry, p
        fresh = m * alpha_s * jnp.sqrt(kappa_t**2 - kappa_s**2)
        return combine(*terms, (jnp.where(regular, fresh, jnp.where(m > 0, sigma_s, 0.0)), draw())), carry, p
