"""Noise awareness guidance: away from what the network says when it is not told the noise level (Zhong et al. 2026).

    s_w(x | t) = (1 + w) s(x | t) - w s(x)           so on x0, eps, velocity and v alike: all are the same combination

``blind`` is the denoiser without its label: the same network if 10-20 % of its noise labels were dropped in training
(``objectives.NoiseLabelDropout``, ``objectives.blind``).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction
from score_lab.guidance.wrapper import Wrapper
from score_lab.linear import combine
from score_lab.types import Cond, PyTree, Time, leaf, pytree_dataclass

__all__ = ["NoiseAwareness"]


@pytree_dataclass
class NoiseAwareness(Wrapper):
    """``scale`` w >= 0 (0: none) on levels with log_snr in [``low``, ``high``]; two evaluations a call."""

    denoiser: Denoiser = leaf()
    blind: Denoiser = leaf()
    scale: float = 1.0
    low: float = -float("inf")
    high: float = float("inf")
    wraps = "denoiser"

    def on(self, path: Any, **kwargs) -> NoiseAwareness:
        """Both denoisers on another path."""
        return dataclasses.replace(self, denoiser=self.denoiser.on(path, **kwargs), blind=self.blind.on(path, **kwargs))

    def specialise(self) -> Any:
        """The bare denoiser at scale 0."""
        inner = super().specialise()
        return inner.denoiser if float(self.scale) == 0.0 else inner

    def check(self) -> None:
        """A finite scale >= 0, ``low < high``."""
        if not 0 <= self.scale < float("inf"):
            refuse("NoiseAwareness.scale", self.scale, "finite, >= 0")
        if not self.low < self.high:
            refuse("NoiseAwareness.low, high", (self.low, self.high), "a log-SNR interval, low < high")

    def check_steps(self, steps: Any, path: Any) -> None:
        """The checks of both denoisers."""
        super().check_steps(steps, path)
        if hasattr(self.blind, "check_steps"):
            self.blind.check_steps(steps, path)

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The guided prediction; ``.parts`` are the one with the label and the one without."""
        p, q = (d(x_t, t, cond, s=s, step=step, key=key) for d in (self.denoiser, self.blind))
        log_snr = self.path.log_snr(jnp.asarray(t))
        w = jnp.where((log_snr >= self.low) & (log_snr <= self.high), self.scale, 0.0)
        x0 = combine((1.0 + w, p.x0), (-w, q.x0))
        return Prediction.of(x_t, t, self.path, x0=x0, aux=p.aux, fed=p.fed, nfe=jnp.asarray(p.nfe + q.nfe, jnp.int32), parts=(p, q))
