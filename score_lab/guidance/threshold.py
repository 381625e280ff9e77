"""Keeping x0 in the data's range: static clipping and dynamic thresholding, as denoisers around a denoiser.

    static:   x0 <- clip(x0, low, high)                                                        (Ho et al. 2020)
    dynamic:  x0 <- clip(x0, -q, q) / q * bound,   q = min(largest, max(bound, quantile_p |x0|)) per sample, in the paper without
              largest                                                                      (Saharia et al. 2022, section 2.3)

eps is recomputed from the new x0, so that x_t = alpha x0 + sigma eps still holds; ``keep_eps`` leaves it as predicted, as diffusers'
DDIM does.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction
from score_lab.guidance.wrapper import Wrapper
from score_lab.linear import expand
from score_lab.types import Array, Cond, PyTree, Time, leaf, pytree_dataclass

__all__ = ["ClipX0", "DynamicThreshold"]


def _with_x0(p: Prediction, x0: PyTree) -> Prediction:
    return Prediction.of(p.x_t, p.t, p.path, x0=x0, raw=p.raw, aux=p.aux, fed=p.fed, nfe=p.nfe, parts=p.parts)


@pytree_dataclass
class ClipX0(Wrapper):
    """``x0`` clipped to [low, high]; with ``keep_eps`` eps stays as predicted, and x_t = alpha x0 + sigma eps no longer holds."""

    denoiser: Denoiser = leaf()
    low: float = -1.0
    high: float = 1.0
    keep_eps: bool = False

    def check(self) -> None:
        """``low < high``."""
        if not self.low < self.high:
            refuse("ClipX0.low, high", (self.low, self.high), "low < high")

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The inner prediction with x0 clipped."""
        p = self.denoiser(x_t, t, cond, s=s, step=step, key=key)
        x0 = jax.tree.map(lambda v: jnp.clip(v, self.low, self.high), p.x0)
        return dataclasses.replace(p, x0=x0) if self.keep_eps else _with_x0(p, x0)


@pytree_dataclass
class DynamicThreshold(Wrapper):
    """``x0`` clipped to its own ``quantile`` of |x0| per sample where that exceeds ``bound``, and scaled back to ``bound``.

    ``largest`` is where q ends (diffusers' ``sample_max_value``, whose default 1 makes it static clipping); ``keep_eps`` as in ``ClipX0``.
    """

    denoiser: Denoiser = leaf()
    quantile: float = 0.995
    bound: float = 1.0
    largest: float = float("inf")
    keep_eps: bool = False

    def check(self) -> None:
        """``0 < quantile <= 1`` and ``0 < bound <= largest``."""
        if not 0 < self.quantile <= 1:
            refuse("DynamicThreshold.quantile", self.quantile, "0 < quantile <= 1")
        if not self.bound > 0:
            refuse("DynamicThreshold.bound", self.bound, "> 0")
        if not self.largest >= self.bound:
            refuse("DynamicThreshold.largest", self.largest, f"at least bound, {self.bound:g}")

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The inner prediction with x0 thresholded."""
        p = self.denoiser(x_t, t, cond, s=s, step=step, key=key)
        x0 = jax.tree.map(self._threshold, p.x0)
        return dataclasses.replace(p, x0=x0) if self.keep_eps else _with_x0(p, x0)

    def _threshold(self, x0: Array) -> Array:
        q = jnp.quantile(jnp.abs(x0).reshape(x0.shape[0], -1), self.quantile, axis=1)
        q = expand(jnp.clip(q, self.bound, self.largest), x0)
        return jnp.clip(x0, -q, q) / q * self.bound
