"""Spectral clamp: x0's energy in every band set to what it is on forward samples of that level (of the kind of MCDO and DPM-FR, 2025).

    x0 <- mu + Q diag(g_b) Q^T (x0 - mu),     g_b = (v_ref,b(t) / v_hat_b)^(strength / 2),    v_hat_b = mean over the band, of one sample

One white band is the clamp of a whole image's variance.  v_ref is measured (a record's x0 energies of forward samples) or Gaussian,
s_b^2 cos^2 phi_b.  A band of few coefficients fluctuates by itself, by sqrt(2 / n_b): bands under ``least`` are left alone, for otherwise
the clamp takes the data's own variety away.  It optimises a moment, so it is to be judged by something that is none.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction
from score_lab.guidance.wrapper import Wrapper
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.measures import variances
from score_lab.mismatch.spectrum import Spectrum, by_band
from score_lab.types import Array, Cond, Time, leaf, pytree_dataclass

__all__ = ["SpectralClamp"]


@pytree_dataclass
class SpectralClamp(Wrapper):
    """Make it by ``of``.  ``log_snr`` (K,) ascending and ``reference`` (K, B) the ln v_ref between which is interpolated; ``None``:
    Gaussian, of ``variance`` (B,).  ``strength`` in [0, 1]."""

    denoiser: Denoiser = leaf()
    basis: Any = leaf()
    band: Any = leaf()
    count: Any = leaf()
    variance: Any = leaf()
    mean: Any = leaf()
    log_snr: Any = leaf(default=None)
    reference: Any = leaf(default=None)
    strength: float = 1.0
    least: int = 32
    wraps = "denoiser"

    @classmethod
    def of(
        cls, denoiser: Any, spectrum: Spectrum, forward: BandRecord | None = None, strength: float = 1.0, least: int = 32
    ) -> SpectralClamp:  # fmt: skip
        """``forward``: a record of forward samples through this denoiser, or None for the Gaussian reference."""
        log_snr = reference = None
        if forward is not None:
            good = np.isfinite(forward.log_snr)
            order = np.argsort(forward.log_snr[good])
            log_snr = forward.log_snr[good][order]
            reference = np.log(np.maximum(variances(forward, spectrum, "x0")[good, 0][order], 1e-30))
        parts = (spectrum.basis, spectrum.band, spectrum.count, spectrum.variance, spectrum.mean)
        return cls(denoiser, *parts, log_snr, reference, strength, least)

    def check(self) -> None:
        """``0 <= strength <= 1`` and at least one band of ``least`` coefficients."""
        if not 0 <= self.strength <= 1:
            refuse("SpectralClamp.strength", self.strength, "0 <= strength <= 1")
        largest = int(np.max(np.asarray(self.count)))
        if largest < self.least:
            refuse("SpectralClamp.least", self.least, f"at most {largest}, the coefficients of the largest band")

    def wanted(self, t: Time) -> Array:
        """``v_ref,b(t)`` (B,), t a scalar."""
        if self.reference is None:
            s2, alpha, sigma = jnp.asarray(self.variance), self.path.alpha(t), self.path.sigma(t)
            V = alpha**2 * s2 + sigma**2
            return alpha**2 * s2**2 / jnp.where(V > 0, V, 1.0)
        at, rows = jnp.asarray(self.log_snr), jnp.asarray(self.reference)
        return jnp.exp(jnp.stack([jnp.interp(self.path.log_snr(t), at, rows[:, b]) for b in range(rows.shape[1])]))

    def __call__(self, x_t: Array, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The inner prediction with x0's bands at their reference; ConfigError for a time per sample."""
        t = jnp.asarray(t)
        if t.ndim:
            refuse("SpectralClamp: t", t.shape, "one time for all samples")
        p = self.denoiser(x_t, t, cond, s=s, step=step, key=key)
        mean, band = jnp.asarray(self.mean, x_t.dtype)[None], jnp.asarray(self.band)
        c, count = self.basis.analyse(p.x0 - mean), jnp.asarray(self.count)
        member = (band.reshape(-1)[:, None] == jnp.arange(len(self.variance))[None]).astype(c.dtype)
        found = by_band(jnp.square(c), member) / count.astype(c.dtype)[None]
        use = (count >= self.least)[None] & (found > 0)
        ratio = jnp.where(use, self.wanted(t).astype(c.dtype)[None] / jnp.where(use, found, 1.0), 1.0)
        gain = jnp.power(ratio, 0.5 * self.strength).astype(c.dtype)
        x0 = mean + self.basis.synthesise(gain[:, band] * c)
        return Prediction.of(x_t, t, self.path, x0=x0, raw=p.raw, aux=p.aux, fed=p.fed, nfe=p.nfe, parts=p.parts)
