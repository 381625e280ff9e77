"""A trained noise-level probe as noise level correction reads it: (x, t) -> what is to be added to ln kappa, state by state.

    r_m = -(mean_m(x) - c_m(lambda)) / (2 c_m'(lambda)),    c_m the member's calibration: E r_m = 0 on forward samples of lambda
    r   = w mean_m r_m,    w = prior^2 / (prior^2 + max(sd^2(lambda), spread^2))

``sd``: of single forward states, on the held-out examples of the calibration; what the members do not agree on is in it, so ``spread``, of
the mean over members, is not added: it counts where it is the larger, on states unlike any that they were trained on.  ``prior``: how far
from its label a state is thought to be, in ln kappa.  A single state tells its level to about ``1 / sqrt(2 d)``, so without w every label
would be moved by that much noise.  For a deviation of variance prior^2 and a reading whose error has variance sd^2, independent of it, w is
the factor of the least mean square error, ``(1 - w) prior^2``.  (Abuduweili et al. 2025 train r as a network of its own, with the label; a
posterior mean too.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline, interp1d

from score_lab.build import refuse
from score_lab.mismatch.estimators.probe import Outputs, Probe
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Time, leaf, pytree_dataclass, static

__all__ = ["LevelResidual"]

FINE = 401
"""Levels between which the calibration is interpolated linearly; itself it is a cubic spline."""
FLATTEST = 0.05
"""The least slope of a calibration that tells a level."""


@pytree_dataclass
class LevelResidual:
    """``path`` of the states' times, ``outputs`` the probe's networks; on ``levels`` (L,) of log-SNR: ``mean`` and ``slope`` (L, M) of
    every member's calibration, and ``sd`` (L,) of ln kappa as one forward state tells it, infinite where it tells nothing; ``prior`` > 0
    in ln kappa.

    ``failed``: the levels at which the probe did not recover a known contamination, and by how much, (level, error in nats) each; one is
    enough for ``check`` to refuse.  0 outside the probe's levels and where no level is told.
    """

    path: GaussianPath = leaf()
    outputs: Outputs = leaf()
    levels: Array = leaf()
    mean: Array = leaf()
    slope: Array = leaf()
    sd: Array = leaf()
    prior: float = 0.1
    failed: tuple = static(default=())

    @classmethod
    def of(cls, probe: Probe, path: GaussianPath, prior: float = 0.1) -> LevelResidual:
        """Of a probe that knows how single states scatter (``train_probe`` measures it); ConfigError for one that does not, or a prior
        that is not > 0."""
        if probe.covariance is None:
            refuse("LevelResidual.probe.covariance", None, "what its members read of single forward states: train it with train_probe")
        if not prior > 0:
            refuse("LevelResidual.prior", prior, "> 0, in ln kappa")
        fine = np.linspace(probe.levels[0], probe.levels[-1], FINE)
        spline = CubicSpline(probe.levels, probe.curves)  # (C, R + 1, M)
        mean, slopes = spline(fine)[:, 0], spline(fine, 1)
        slope, noise = slopes[:, 0], slopes[:, 1:].std(axis=1)
        told = (slope > np.maximum(4 * noise, FLATTEST)).all(axis=1)
        slope = np.where(told[:, None], slope, 1.0)
        covariance = interp1d(probe.levels, probe.covariance, axis=0)(fine)  # linearly: it stays one
        member = 0.5 / (slope * probe.outputs.members)  # of each in ln kappa of their mean
        sd = np.where(told, np.sqrt(np.einsum("lm,lmk,lk->l", member, covariance, member)), np.inf)
        failed = tuple((float(a), float(e)) for a, e, p in zip(probe.tested, probe.error, probe.passed, strict=True) if not p)
        parts = (jnp.asarray(v, jnp.float32) for v in (fine, mean, slope, sd))
        return cls(path, probe.outputs, *parts, float(prior), failed)

    def check(self) -> None:
        """ConfigError where the probe failed its own calibration at any level, naming them, and where it tells no level at all."""
        if self.failed:
            wrong = "off by " + ", ".join(f"{error:+.2g} nats at log-SNR {level:.2g}" for level, error in self.failed)
            refuse("probe", wrong, "one that recovers the contamination of its own test: train it longer (--config.probe.steps)")
        if not np.isfinite(np.asarray(self.sd)).any():
            refuse("probe", "no level that its calibration tells", "data whose states tell their noise level, or a longer training")

    def __call__(self, x: Array, t: Time) -> Array:
        """r (batch,) for states x (batch, *shape) at one time t of the path."""
        M = self.outputs.members
        lam = jnp.asarray(self.path.log_snr(jnp.asarray(t)), jnp.float32)
        inside = (lam > self.levels[0]) & (lam < self.levels[-1])
        here = jnp.clip(jnp.where(jnp.isfinite(lam), lam, 0.0), self.levels[0], self.levels[-1])
        look = jax.vmap(lambda values: jnp.interp(here, self.levels, values), in_axes=1)
        mean, slope = look(self.mean), look(self.slope)
        right = jnp.clip(jnp.searchsorted(self.levels, here), 1, self.levels.shape[0] - 1)
        sd = jnp.maximum(self.sd[right - 1], self.sd[right])  # not interpolated: it may be infinite
        r = -0.5 * (self.outputs(x, t, self.path)[:, :M] - mean[None]) / slope[None]
        spread = r.var(axis=1, ddof=1) / M if M > 1 else jnp.zeros(r.shape[:1])
        w = self.prior**2 / (self.prior**2 + jnp.maximum(jnp.square(sd), spread))
        return jnp.where(inside, w * r.mean(axis=1), 0.0)
