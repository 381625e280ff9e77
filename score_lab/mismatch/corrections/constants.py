"""The numbers of a correction: one for every step, or one for every step and band; 0 is no correction.

    per step           c_k x
    per step and band  Q diag(c_{k, band(i)}) Q^T x                     Q and band of a ``Spectrum``

What is scaled has mean 0 on forward samples (eps, x0 - mu, x - alpha mu), so a constant changes a variance and moves no mean.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.analytic.bases import Identity
from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.mismatch.spectrum import Spectrum
from score_lab.types import PyTree, leaf, pytree_dataclass

__all__ = ["Constants", "at_step"]


def at_step(values: Any, step: Any) -> Any:
    """Of a number, or of (N,) or (N, B), one for every step: that of ``step``, () or (B,).  ConfigError where there are several and no step
    is known."""
    values = jnp.atleast_1d(jnp.asarray(values))
    if len(values) == 1:
        return values[0]
    if step is None:
        refuse("correction.constants", f"{len(values)} steps", "one for all steps where the denoiser is called outside a sampler")
    return values[step]


@pytree_dataclass
class Constants:
    """``values`` (N,) or (N, B), N the steps of the grid, or 1: the same in all; ``band`` (*shape) and ``basis`` where there are bands."""

    values: Any = leaf()
    band: Any = leaf(default=None)
    basis: Any = leaf(default=Identity())

    @classmethod
    def of(cls, values: Any, spectrum: Spectrum | None = None) -> Constants:
        """From a number, (N,) or, with the ``spectrum`` whose bands are meant, (N, B).  ConfigError for other shapes."""
        values = np.atleast_1d(np.asarray(values, np.float64))
        if not np.isfinite(values).all() or values.ndim > 2:
            refuse("correction.constants", values.shape, "finite numbers, one a step (N,) or one a step and band (N, B)")
        if values.ndim == 1:
            return cls(values)
        if spectrum is None or values.shape[1] != len(spectrum.variance):
            bands = "no spectrum" if spectrum is None else f"{len(spectrum.variance)} bands"
            refuse("correction.constants", values.shape, f"(N, B) with B of the spectrum's bands; there are {bands}")
        return cls(values, spectrum.band, spectrum.basis)

    def at(self, step: Any) -> Any:
        """``c_k``: a scalar, or (B,).  ConfigError where there are several and the step is not known."""
        return at_step(self.values, step)

    def times(self, step: Any, x: PyTree) -> PyTree:
        """``c_k x``, in bands where there are bands."""
        c = self.at(step)
        if self.band is None:
            return combine((c, x))
        factor = c.astype(x.dtype)[jnp.asarray(self.band)]
        return self.basis.synthesise(factor[None] * self.basis.analyse(x))

    def check_steps(self, steps: Any, name: str) -> None:
        """ConfigError unless there is one for all steps, or one for every step of the grid."""
        n, num_steps = np.shape(self.values)[0], int(np.shape(steps.t)[0])
        if n not in (1, num_steps):
            refuse(f"{name}.constants", f"{n} steps", f"{num_steps}, as many as the grid has: they are calibrated for one grid")
