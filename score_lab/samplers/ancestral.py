"""k-diffusion's ancestral family and DPM-Solver++ SDE: a deterministic step that goes too far down, then fresh noise up to the level.

On y = x / alpha with kappa = sigma / alpha (K. Crowson, k-diffusion; Song et al. 2021, eq. 16 for the two levels):

    kappa_up = min(kappa_s, eta kappa_s sqrt(1 - kappa_s^2 / kappa_t^2)),     kappa_down = sqrt(kappa_s^2 - kappa_up^2)
    Euler a       y_s = x0 + kappa_down eps                                                     + s_noise kappa_up z
    DPM2 a        y_m = x0 + kappa_m eps,  kappa_m = sqrt(kappa_t kappa_down);   y_s = y + (kappa_down - kappa_t) eps_m   + ...
    DPM++ 2S a    the same y_m;  y_s = (kappa_down / kappa_t) y + (1 - kappa_down / kappa_t) x0_m                           + ...
    DPM++ SDE     kappa_m = kappa_t^(1-r) kappa_s^r,  y_m = Euler a from kappa_t to kappa_m with its own noise,
                  y_s = (kappa_down / kappa_t) y + (1 - kappa_down / kappa_t) [x0 + (x0_m - x0) / (2 r)]                    + ...
                  (Lu et al. 2022b, section 5 and appendix; r = 1/2, two draws a step)
    flow, stochastic   x_s = alpha_s x0 + sigma_s z      (diffusers' stochastic_sampling; Song et al. 2023, consistency models, algorithm 1)

An exact deterministic step followed by exact noising would keep the marginals, so the weak order of the first three is that of their
deterministic step: 1, 2, 2.  All noise is new in the last, which is no solver of an SDE: it keeps nothing of eps, and its error does not
vanish with the step (order 0).  A step to sigma_s = 0, or from alpha_t = 0 where kappa_m is infinite, is Euler a's, with one call.
"""

from __future__ import annotations

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.samplers.contract import check_numbers
from score_lab.samplers.ddim import DDIM
from score_lab.samplers.multipliers import nought
from score_lab.types import Array, pytree_dataclass

__all__ = ["DPM2Ancestral", "DPMPP2SAncestral", "DPMPPSDE", "EulerAncestral", "StochasticFlowEuler", "up_and_down"]


def up_and_down(kappa_t: Array, kappa_s: Array, eta: float | Array, lowest: float | Array = 0.0) -> tuple[Array, Array]:
    """``(kappa_up, kappa_down)`` of the module; ``kappa_t`` may be infinite, ``kappa_s`` 0.

    With ``lowest`` <= kappa_s kappa_down is not below that, and kappa_up = sqrt(kappa_s^2 - kappa_down^2) (k-diffusion's dpm_fast and
    dpm_adaptive).  Both are written without the root of a difference that is a rounding.
    """
    q = kappa_s / kappa_t
    up = kappa_s * jnp.minimum(1.0, eta * jnp.sqrt(jnp.maximum((1.0 - q) * (1.0 + q), 0.0)))
    down = kappa_s * jnp.sqrt(jnp.maximum((1.0 - eta) * (1.0 + eta) + (eta * q) ** 2, 0.0))
    cut = down < lowest
    return jnp.where(cut, jnp.sqrt(jnp.maximum((kappa_s - lowest) * (kappa_s + lowest), 0.0)), up), jnp.where(cut, lowest, down)


def _middle(path, kappa_m, second):
    """``t_m``, alpha and kappa there; any inner level where there is no second call."""
    t_m = jnp.where(second, path.time_of_kappa(jnp.where(second, kappa_m, 1.0)), 0.5)
    return t_m, path.alpha(t_m), jnp.where(second, kappa_m, 1.0)


class _Ancestral:
    """Checks and history, which none of the family has."""

    def check(self) -> None:
        """``eta >= 0`` and ``s_noise >= 0``."""
        check_numbers(self, "eta", "s_noise")

    def check_steps(self, steps, path) -> None:
        """The same check on every use."""
        self.check()

    def init(self, x, steps, path):
        """No history."""
        return ()


@pytree_dataclass
class EulerAncestral(_Ancestral):
    """``eta`` 0 is DDIM, 1 the whole of the ancestral noise (more is cut at kappa_up = kappa_s); ``s_noise`` multiplies it."""

    eta: float = 1.0
    s_noise: float = 1.0
    order = 1
    calls = 1
    memory = 0

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: not with eta = 0, for which ``sample`` uses the form that draws none."""
        return not nought(self.eta)

    def specialise(self) -> EulerAncestral | DDIM:
        """DDIM where eta is 0."""
        return DDIM(0.0, False) if float(self.eta) == 0.0 else self

    def step(self, denoise, x, t, s, draw, carry):
        """``x_s = alpha_s (x0 + kappa_down eps + s_noise kappa_up z)``."""
        p, path = denoise(x, t), denoise.path
        alpha_s = path.alpha(s)
        up, down = up_and_down(path.kappa(t), path.kappa(s), self.eta)
        return combine((alpha_s, p.x0), (alpha_s * down, p.eps), (alpha_s * self.s_noise * up, draw())), carry, p


class _TwoStage(_Ancestral):
    """DPM2 a and DPM++ 2S a: the same middle state; ``_more`` is what its prediction adds to Euler a."""

    order = 2
    calls = 2
    memory = 0
    stochastic = True

    def step(self, denoise, x, t, s, draw, carry):
        """One step: Euler a and what the second call corrects of it."""
        p, path = denoise(x, t), denoise.path
        alpha_s, kappa_t = path.alpha(s), path.kappa(t)
        up, down = up_and_down(kappa_t, path.kappa(s), self.eta)
        second = (down > 0) & jnp.isfinite(kappa_t)
        t_m, alpha_m, kappa_m = _middle(path, jnp.sqrt(kappa_t * down), second)
        y_m = combine((alpha_m, p.x0), (alpha_m * kappa_m, p.eps))
        p_m = denoise(y_m, t_m, where=second, otherwise=p)
        c, new, old = self._more(p, p_m, down, jnp.where(second, kappa_t, 1.0))
        c = jnp.where(second, alpha_s * c, 0.0)
        terms = (alpha_s, p.x0), (alpha_s * down, p.eps), (c, new), (-c, old), (alpha_s * self.s_noise * up, draw())
        return combine(*terms), carry, p_m


@pytree_dataclass
class DPM2Ancestral(_TwoStage):
    """Weak order 2 (its deterministic step is the midpoint rule in kappa with a geometric middle); ``eta``, ``s_noise`` as in Euler a."""

    eta: float = 1.0
    s_noise: float = 1.0

    def _more(self, p, p_m, down, kappa_t):
        return down - kappa_t, p_m.eps, p.eps


@pytree_dataclass
class DPMPP2SAncestral(_TwoStage):
    """Weak order 2 (its deterministic step is DPM-Solver++ 2S with r = 1/2); ``eta``, ``s_noise`` as in Euler a."""

    eta: float = 1.0
    s_noise: float = 1.0

    def _more(self, p, p_m, down, kappa_t):
        return 1.0 - down / kappa_t, p_m.x0, p.x0


@pytree_dataclass
class DPMPPSDE(_Ancestral):
    """``r`` in (0, 1] is where the middle is, in log-SNR; ``eta``, ``s_noise`` as in Euler a; draw 0 is the middle's, 1 the step's.

    By default both are of one Brownian path: the step's noise holds the middle's, shrunk as the rest of the state is (weak order 2).
    ``independent`` draws them apart (weak order 1), which is k-diffusion with a noise sampler that is not its Brownian tree."""

    eta: float = 1.0
    s_noise: float = 1.0
    r: float = 0.5
    independent: bool = False
    calls = 2
    memory = 0
    stochastic = True

    @property
    def order(self) -> int:
        """The weak order, measured."""
        return 1 if self.independent else 2

    def check(self) -> None:
        """``eta >= 0``, ``s_noise >= 0``, ``0 < r <= 1``."""
        check_numbers(self, "eta", "s_noise")
        if not 0 < self.r <= 1:
            refuse("DPMPPSDE.r", self.r, "0 < r <= 1")

    def step(self, denoise, x, t, s, draw, carry):
        """One step, two draws."""
        p, path, z_m, z = denoise(x, t), denoise.path, draw(), draw()
        alpha_s, kappa_t, kappa_s = path.alpha(s), path.kappa(t), path.kappa(s)
        up, down = up_and_down(kappa_t, kappa_s, self.eta)
        second = (kappa_s > 0) & jnp.isfinite(kappa_t)
        whole = jnp.where(second, kappa_t, 1.0)
        t_m, alpha_m, kappa_m = _middle(path, whole ** (1 - self.r) * jnp.where(second, kappa_s, 1.0) ** self.r, second)
        up_m, down_m = up_and_down(whole, kappa_m, self.eta)
        x_m = combine((alpha_m, p.x0), (alpha_m * down_m, p.eps), (alpha_m * self.s_noise * up_m, z_m))
        p_m = denoise(x_m, t_m, where=second, otherwise=p)
        c = jnp.where(second, alpha_s * (1.0 - down / whole) / (2 * self.r), 0.0)
        old, fresh = (0.0, up) if self.independent else self._shared(second, up, down, up_m, down_m)
        noise = (alpha_s * self.s_noise * old, z_m), (alpha_s * self.s_noise * fresh, z)
        return combine((alpha_s, p.x0), (alpha_s * down, p.eps), (c, p_m.x0), (-c, p.x0), *noise), carry, p_m

    def _shared(self, second, up, down, up_m, down_m):
        """The step's noise as that of the middle, times kappa_down / kappa_down_m, and what is left of kappa_up."""
        shrink = jnp.where(second & (down_m > 0), down / jnp.where(down_m > 0, down_m, 1.0), 0.0)
        old = jnp.minimum(shrink * up_m, up)
        return old, jnp.sqrt((up - old) * (up + old))


@pytree_dataclass
class StochasticFlowEuler:
    """``x_s = alpha_s x0 + sigma_s z``, on any path: what a flow's Euler step becomes when its noise is drawn anew.  Order 0."""

    order = 0
    calls = 1
    memory = 0
    stochastic = True

    def init(self, x, steps, path):
        """No history."""
        return ()

    def step(self, denoise, x, t, s, draw, carry):
        """One step."""
        p, path = denoise(x, t), denoise.path
        return combine((path.alpha(s), p.x0), (path.sigma(s), draw())), carry, p
