"""DCW, the differential correction of the next state by the prediction just made, in pixels or in Haar subbands (Yu et al. 2026).

    literal      x' <- x' + l_k (x' - D)                   as published and released
    covariant    x' <- x' + l_k (x' - alpha' D)            the same on every path; equal where alpha' = 1
    wavelet      the same in every subband of one Haar level: l_low in LL, l_high in LH, HL, HH

with D the x0 of the step's last call (of Heun: the second).  One DDIM step on a Gaussian band, r = sqrt(R' / R):

    covariant    r = cos delta + l sin phi sin phi',                             exact for l* = (1 - cos delta) / (sin phi sin phi')
    literal      r = cos delta + l (cos delta - cos phi s / sqrt(V'))
    on VE and Euler in kappa the pixel form is epsilon scaling with lambda = 1 / (1 - l kappa' / (kappa - kappa'))

The literal form changes sign with the level wherever alpha' is not 1 (on the linear flow of unit data at t' = 1/2), so there it is refused
unless it is asked for.  Schedules of l: eq. 20 and 21 of the paper (``paper``), what the released code has (``code``), and ``constant``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic.bases import Haar
from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.mismatch.band_maps import subbands
from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.constants import Constants, at_step
from score_lab.types import PyTree, leaf, pytree_dataclass

__all__ = ["DCW", "WaveletDCW"]

FORMS, SCHEDULES = ("covariant", "literal"), ("constant", "code", "paper")


def _check(correction: Any, steps: Any, path: Any) -> None:
    """Refuses ``first`` < 1, an unknown form, and the literal one at levels with alpha' other than 1 unless ``anywhere``."""
    name, form = type(correction).__name__, correction.form
    if correction.first is not None and correction.first < 1:
        refuse(f"{name}.first", correction.first, "at least 1 step, or None for all")
    if form not in FORMS:
        refuse(f"{name}.form", form, " or ".join(FORMS), FORMS)
    alpha = np.asarray(path.alpha(jnp.asarray(steps.s)), np.float64)
    off = np.abs(alpha - 1.0) > 1e-6
    off[-1] &= float(path.sigma(jnp.asarray(steps.s)[-1])) > 0
    if form == "literal" and not correction.anywhere and off.any():
        allowed = "alpha' = 1 (VE, EDM), form='covariant', or anywhere=True: its effect on the variance changes sign with the level"
        refuse(f"{name}.form", f"literal at alpha' = {alpha[off.argmax()]:.4g}", allowed)


def _difference(form: str, path: Any, x: PyTree, s: Any, x0: PyTree) -> PyTree:
    """``x' - alpha' D``, or ``x' - D``."""
    return combine((1.0, x), (-path.alpha(s) if form == "covariant" else -1.0, x0))


def _on(first: int | None, step: Any) -> Any:
    """1 in the steps that are corrected, 0 in the others."""
    return 1.0 if first is None else jnp.where(step < first, 1.0, 0.0)


@pytree_dataclass
class DCW(Around):
    """In pixels: ``scale`` l, a number or (N,), or ``constants`` l_k by step or by step and band of any spectrum.

    ``form`` covariant or literal; ``anywhere`` allows the literal one where alpha' is not 1; ``first``: the first steps only (the paper's
    piecewise schedule has 10), None all.
    """

    sampler: Any = leaf()
    scale: Any = leaf(default=0.0)
    constants: Constants | None = leaf(default=None)
    form: str = "covariant"
    anywhere: bool = False
    first: int | None = None
    wraps = "sampler"

    @classmethod
    def of(cls, inner: Any, number: float) -> DCW:
        """Around ``inner``, covariant, with one l."""
        return cls(inner, scale=number)

    def check_steps(self, steps: Any, path: Any) -> None:
        """One of scale and constants, as many as steps; the form; the sampler."""
        super().check_steps(steps, path)
        if self.constants is not None and np.any(np.asarray(self.scale) != 0):
            refuse("DCW.scale", self.scale, "0 where constants are given: one of the two")
        (Constants.of(self.scale) if self.constants is None else self.constants).check_steps(steps, "DCW")
        _check(self, steps, path)

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step, then ``l_k`` times the difference."""
        x, carry, p = self.sampler.step(denoise, x, t, s, draw, carry)
        off = _difference(self.form, denoise.path, x, s, p.x0)
        added = combine((at_step(self.scale, denoise.step), off)) if self.constants is None else self.constants.times(denoise.step, off)
        return combine((1.0, x), (_on(self.first, denoise.step), added)), carry, p


@pytree_dataclass
class WaveletDCW(Around):
    """In the subbands of one Haar level of images (height, width, channels), sides even.

    ``low``, ``high``: l of LL and of the rest, times the ``schedule`` at the step's level t: ``constant`` 1 and 1; ``code`` sigma_t /
    sigma_max and 1 - sigma_t / sigma_max, sigma_max that of the first step; ``paper`` low sigma_t, and (1 - high) sigma_t in place of
    high.  ``form``, ``anywhere``, ``first`` as in ``DCW``; by default literal, as published.
    """

    sampler: Any = leaf()
    low: float = 0.0
    high: float = 0.0
    schedule: str = "code"
    form: str = "literal"
    anywhere: bool = False
    first: int | None = None
    wraps = "sampler"

    def check_steps(self, steps: Any, path: Any) -> None:
        """A known schedule and form, finite scales; the sampler."""
        super().check_steps(steps, path)
        if self.schedule not in SCHEDULES:
            refuse("WaveletDCW.schedule", self.schedule, ", ".join(SCHEDULES), SCHEDULES)
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            refuse("WaveletDCW.low, high", (self.low, self.high), "finite numbers")
        _check(self, steps, path)

    def scales(self, path: Any, t: Any, t_max: Any) -> tuple[Any, Any]:
        """``(l_low, l_high)`` at the level t of a grid that starts at ``t_max``."""
        sigma, share = path.sigma(t), path.sigma(t) / path.sigma(t_max)
        if self.schedule == "constant":
            return self.low * jnp.ones_like(sigma), self.high * jnp.ones_like(sigma)
        if self.schedule == "code":
            return self.low * share, self.high * (1.0 - share)
        return self.low * sigma, (1.0 - self.high) * sigma

    def step(self, denoise, x, t, s, draw, carry):
        """The inner step, then the difference in its subbands."""
        x, carry, p = self.sampler.step(denoise, x, t, s, draw, carry)
        low, high = self.scales(denoise.path, t, denoise.steps.t[0])

        def one(difference):
            if difference.ndim != 4:
                refuse("WaveletDCW: the state", difference.shape, "images (batch, height, width, channels)")
            haar, band = Haar(1, (1, 2)), subbands(difference.shape[1:])
            scale = jnp.where(jnp.asarray(band == 0), low, high).astype(difference.dtype)
            return haar.synthesise(scale[None] * haar.analyse(difference))

        added = jax.tree.map(one, _difference(self.form, denoise.path, x, s, p.x0))
        return combine((1.0, x), (_on(self.first, denoise.step), added)), carry, p
