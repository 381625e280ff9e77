"""The denoiser told another noise level than that of the step: on the label alone.

    kappa_tau = kappa exp(shift),    x0 = D((alpha_tau / alpha) x_t; tau),    eps from x_t = alpha x0 + sigma eps at the nominal level

The step is the nominal one.  On VE and a Gaussian band (4.9): r = [cos^2 phi_tau + (tan phi' / tan phi) sin^2 phi_tau] cos phi' / cos phi.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction
from score_lab.guidance.wrapper import Wrapper
from score_lab.linear import combine
from score_lab.mismatch.corrections.constants import Constants, at_step
from score_lab.mismatch.corrections.levels import moved
from score_lab.types import Cond, PyTree, Time, leaf, pytree_dataclass

__all__ = ["Relabel"]


@pytree_dataclass
class Relabel(Wrapper):
    """``shift`` of ln kappa, a number or (N,) by step; at most ``limit`` in size.  The level told is ``.fed`` of the prediction."""

    denoiser: Denoiser = leaf()
    shift: Any = leaf(default=0.0)
    limit: float = 1.0
    wraps = "denoiser"

    def check_steps(self, steps: Any, path: Any) -> None:
        """As many shifts as steps, none larger than the limit; the inner denoiser's checks."""
        super().check_steps(steps, path)
        Constants.of(self.shift).check_steps(steps, "Relabel.shift")
        if np.abs(np.asarray(self.shift)).max() > self.limit:
            refuse("Relabel.shift", float(np.abs(np.asarray(self.shift)).max()), f"|shift| <= limit, {self.limit:g} in ln kappa")

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The prediction at the level told, put together at t."""
        t = jnp.asarray(t)
        tau, ratio = moved(self.path, t, at_step(self.shift, step))
        p = self.denoiser(combine((ratio, x_t)), tau, cond, s=s, step=step, key=key)
        return Prediction.of(x_t, t, self.path, x0=p.x0, raw=p.raw, aux=p.aux, fed=p.fed, nfe=p.nfe, parts=p.parts)
