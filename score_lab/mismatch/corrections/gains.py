"""Gains: the plainest corrections, one factor on what a step is made of, by step or by step and band.

    SignalGain   x0 <- mu + (1 + c_k) (x0 - mu),   eps from x_t                        on the denoiser
    StateGain    x' <- alpha' mu + (1 + c_k) (x' - alpha' mu)                          on the state after the step
    FreshNoise   z  <- (1 + c_k) z                                                     on what a stochastic step draws

On Gaussian bands SignalGain is epsilon scaling with mu_k = c_k x0 / eps (the two are proportional there) and adds no noise where the data
are not Gaussian; StateGain is the variance normalisation of Time-Shift's released code, by band and calibrated; FreshNoise is EDM's S_noise
by step and band, and with ``DDPM`` calibrated on a spectrum the optimal variance nv* of Bao et al. 2022, theorem 1, for every band:

    nv*_b = beta_tilde + c^2 MMSE_b,    MMSE_b = s_b^2 sin^2 phi_b
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction
from score_lab.guidance.wrapper import Wrapper
from score_lab.linear import combine
from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.constants import Constants
from score_lab.types import Cond, PyTree, Time, leaf, pytree_dataclass

__all__ = ["FreshNoise", "SignalGain", "StateGain"]


class Gain:
    """Base, before ``Wrapper`` or ``Around``, of a correction whose field ``constants`` holds c_k of the factor ``1 + c_k``."""

    @classmethod
    def of(cls, inner: Any, number: float) -> Any:
        """Around ``inner`` with the one factor ``number`` = 1 + c."""
        return cls(inner, constants=Constants.of(number - 1.0))

    def check_steps(self, steps: Any, path: Any) -> None:
        """As many constants as steps, and what is inside; ConfigError in the correction's name."""
        super().check_steps(steps, path)
        self.constants.check_steps(steps, type(self).__name__)


@pytree_dataclass
class SignalGain(Gain, Wrapper):
    """``constants``: c_k; ``mean`` mu (*shape) or 0."""

    denoiser: Denoiser = leaf()
    constants: Constants = leaf()
    mean: Any = leaf(default=0.0)
    wraps = "denoiser"

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The inner prediction with x0 scaled about the mean; eps follows where there is noise."""
        p = self.denoiser(x_t, t, cond, s=s, step=step, key=key)
        added = self.constants.times(step, centred(p.x0, self.mean, 1.0))
        kappa = self.path.kappa(jnp.asarray(t))
        down = jnp.where(kappa > 0, 1.0 / jnp.where(kappa > 0, kappa, 1.0), 0.0)
        x0, eps = combine((jnp.where(kappa > 0, 1.0, 0.0), added), (1.0, p.x0)), combine((1.0, p.eps), (-down, added))
        return Prediction.of(x_t, t, self.path, x0=x0, eps=eps, raw=p.raw, aux=p.aux, fed=p.fed, nfe=p.nfe, parts=p.parts)


@pytree_dataclass
class StateGain(Gain, Around):
    """``sampler`` and, after each of its steps, the state's deviation from ``alpha' mean`` times ``1 + c_k``."""

    sampler: Any = leaf()
    constants: Constants = leaf()
    mean: Any = leaf(default=0.0)
    wraps = "sampler"

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step, then the gain."""
        x, carry, p = self.sampler.step(denoise, x, t, s, draw, carry)
        return combine((1.0, x), (1.0, self.constants.times(denoise.step, centred(x, self.mean, denoise.path.alpha(s))))), carry, p


@pytree_dataclass
class FreshNoise(Gain, Around):
    """``sampler`` with its draws times ``1 + c_k``: only of a stochastic sampler.  It moves no state, so any memory will do."""

    sampler: Any = leaf()
    constants: Constants = leaf()
    wraps = "sampler"
    moves_states = False

    def check_steps(self, steps: Any, path: Any) -> None:
        """A sampler that draws, and as many constants as steps."""
        super().check_steps(steps, path)
        if not self.sampler.stochastic:
            refuse("FreshNoise.sampler", type(self.sampler).__name__, "a stochastic sampler: this one draws nothing to scale")

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step on scaled draws."""

        def scaled():
            z = draw()
            return combine((1.0, z), (1.0, self.constants.times(denoise.step, z)))

        return self.sampler.step(denoise, x, t, s, scaled, carry)


def centred(x: PyTree, mean: Any, alpha: Any) -> PyTree:
    """``x - alpha mean``."""
    if isinstance(mean, float | int) and mean == 0:
        return x
    centre = jnp.asarray(mean, x.dtype)
    return x - jnp.asarray(alpha, x.dtype) * (centre[None] if centre.ndim else centre)
