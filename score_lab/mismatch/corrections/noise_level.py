"""Noise level correction: every sample's own noise level, as a probe reads it, in place of the grid's (Abuduweili et al. 2025).

    kappa_hat = kappa exp(r),   r = probe(x_t, t);    x_hat = (alpha_hat / alpha) x_t,    then the step from kappa_hat to kappa'

The paper's sigma_hat = sigma (1 + r_theta) is the same to first order.  ``probe`` is any callable (x (batch, *shape), t scalar) ->
(batch,), ``LevelResidual`` of a trained one; if it has ``check()``, that is called before every run, and one that failed its own
calibration refuses there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.levels import moved
from score_lab.mismatch.corrections.nominal import step_at
from score_lab.types import leaf, pytree_dataclass

__all__ = ["NoiseLevelCorrection"]


@pytree_dataclass
class NoiseLevelCorrection(Around):
    """``probe`` around a one-step ``sampler`` of one call; r is cut at ``limit`` in size, and 0 below the log-SNR ``low``."""

    sampler: Any = leaf()
    probe: Any = leaf()
    limit: float = 0.1
    low: float = -float("inf")
    memoryless = True
    most_calls = 1
    wraps = "sampler"

    def specialise(self) -> NoiseLevelCorrection:
        """A plain function as a pytree that can be called; the inner sampler's cheaper form."""
        plain = jax.tree_util.all_leaves([self.probe]) and callable(self.probe)
        probe = jax.tree_util.Partial(self.probe) if plain else self.probe
        inner = self.sampler.specialise() if hasattr(self.sampler, "specialise") else self.sampler
        return dataclasses.replace(self, sampler=inner, probe=probe)

    def check_steps(self, steps: Any, path: Any) -> None:
        """``limit > 0``, a probe that can be called and passes its own check; the sampler."""
        super().check_steps(steps, path)
        if not self.limit > 0:
            refuse("NoiseLevelCorrection.limit", self.limit, "> 0, in ln kappa")
        if not callable(self.probe):
            refuse("NoiseLevelCorrection.probe", type(self.probe).__name__, "a callable (x, t) -> correction of ln kappa, (batch,)")
        if hasattr(self.probe, "check"):
            self.probe.check()

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step, every sample from its own level."""
        path = denoise.path
        r = jnp.clip(self.probe(x, t), -self.limit, self.limit)
        r = jnp.where((path.log_snr(t) >= self.low) & jnp.isfinite(r), r, 0.0)
        t_hat, ratio = moved(path, jnp.broadcast_to(t, r.shape), r, s)
        return step_at(self.sampler, denoise, combine((ratio, x)), t_hat, s, draw, carry, shown=(x, t))
