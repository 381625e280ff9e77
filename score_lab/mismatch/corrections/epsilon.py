"""Epsilon scaling: the predicted noise divided by lambda_k before the step is made.

    eps <- eps / lambda_k,    x0 <- (x_t - sigma eps / lambda_k) / alpha = x0 + mu_k eps,    mu_k = kappa (1 - 1/lambda_k)
    lambda_k = slope i + b,    i = N - 1 - k the respaced timestep, 0 at the last step          (Ning et al. 2024, eq. 13, appendix)

So on EDM D <- x - (x - D) / lambda, on VP eps <- eps / lambda, on the linear flow v <- v / lambda - x (1 - 1/lambda) / (1 - t) and not
v / lambda.  Both calls of Heun are scaled.  One step of DDIM on a Gaussian band (phi = arctan(kappa / s), delta = phi - phi'):

    sqrt(R' / R) = cos delta + (1 - 1/lambda) sin delta tan phi,    exact for  lambda* = 1 / (1 - tan(delta / 2) cot phi)

lambda* -> 1 at pure noise while mu* = s tan(delta / 2) there: calibrated constants are mu, finite at both ends of every path.
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
from score_lab.types import Cond, PyTree, Time, leaf, pytree_dataclass

__all__ = ["EpsilonScaling", "linear_scales"]


def linear_scales(num_steps: int, b: float = 1.0, slope: float = 0.0) -> np.ndarray:
    """``lambda_k = slope (N - 1 - k) + b``, (N,): the published schedule in the order of the steps."""
    return slope * (num_steps - 1.0 - np.arange(num_steps)) + b


@pytree_dataclass
class EpsilonScaling(Wrapper):
    """``scale``: lambda, a number or (N,), or ``constants``: mu_k by step, or by step and band.  One of the two.

    Levels with log_snr below ``low`` are left alone.  A scale other than 1 at alpha = 0, where x0 would be infinite, is refused: ``low`` =
    -7.8 is t = 0.98 on the linear flow.  mu needs no limit.
    """

    denoiser: Denoiser = leaf()
    scale: Any = leaf(default=1.0)
    constants: Constants | None = leaf(default=None)
    low: float = -float("inf")
    wraps = "denoiser"

    @classmethod
    def of(cls, inner: Any, number: float) -> EpsilonScaling:
        """Around ``inner`` with one lambda."""
        return cls(inner, scale=number)

    def check(self) -> None:
        """``scale > 0``, and not both of scale and constants."""
        scale = np.asarray(self.scale, np.float64)
        if not ((scale > 0).all() and np.isfinite(scale).all() and scale.ndim <= 1):
            refuse("EpsilonScaling.scale", scale.tolist(), "finite, > 0: a number, or one for every step")
        if self.constants is not None and (scale != 1).any():
            refuse("EpsilonScaling.scale", scale.tolist(), "1 where constants are given: one of the two")

    def check_steps(self, steps: Any, path: Any) -> None:
        """As many numbers as steps; no scale at a level without signal; the inner denoiser's checks."""
        super().check_steps(steps, path)
        if self.constants is not None:
            self.constants.check_steps(steps, "EpsilonScaling")
            return
        Constants.of(self.scale).check_steps(steps, "EpsilonScaling")
        level = float(path.log_snr(jnp.max(jnp.asarray(steps.t))))
        if level == -np.inf and self.low == -np.inf and np.broadcast_to(self.scale, np.shape(steps.t))[0] != 1:
            allowed = "a grid that starts at a finite log-SNR, low (-7.8 is t = 0.98 on the linear flow), or calibrated constants"
            refuse("EpsilonScaling at log-SNR", level, allowed)

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The inner prediction with its noise scaled; x_t = alpha x0 + sigma eps still holds."""
        p, t = self.denoiser(x_t, t, cond, s=s, step=step, key=key), jnp.asarray(t)
        kappa, noisy = self.path.kappa(t), self.path.sigma(t) > 0
        on = noisy & (self.path.log_snr(t) >= self.low)
        if self.constants is None:
            share = jnp.where(on, 1.0 - 1.0 / at_step(self.scale, step), 0.0)
            added = combine((jnp.where(share == 0, 0.0, share * kappa), p.eps))
            removed = combine((share, p.eps))
        else:
            added = combine((jnp.where(on, 1.0, 0.0), self.constants.times(step, p.eps)))
            removed = combine((jnp.where(on, 1.0 / jnp.where(noisy, kappa, 1.0), 0.0), added))
        x0, eps = combine((1.0, p.x0), (1.0, added)), combine((1.0, p.eps), (-1.0, removed))
        return Prediction.of(x_t, t, self.path, x0=x0, eps=eps, raw=p.raw, aux=p.aux, fed=p.fed, nfe=p.nfe, parts=p.parts)

