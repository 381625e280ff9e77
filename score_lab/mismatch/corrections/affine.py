"""What a real sampler does to the variance of Gaussian bands, step by step and exactly: impulse responses of its own code, no Monte Carlo.

Every band is one coordinate of a state with the exact denoiser of N(0, s_b^2), so a step that is affine in the denoiser is linear in the
start and in what was drawn.  Row 0 starts at sqrt(R_0 V_b) with no noise, row 1 + k J + j at 0 and draws 1 in draw j of step k:

    v_b(k) = sum_rows x_b^2,      of which the rows of step k are its fresh noise

History, churn and Heun's second call are in it, because it is the sampler's own ``step``.  Not for samplers that are not linear (adaptive
ones, Langevin's norms) or not the same in every coordinate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic import GaussianBands
from score_lab.mismatch.impulses import check_affine, draws_per_step
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath
from score_lab.samplers.calls import Calls, renoise
from score_lab.samplers.loop import check_run
from score_lab.samplers.steps import Steps, steps_of

__all__ = ["BandRun", "at_precision"]


def at_precision(grid: Any, path: GaussianPath) -> Steps:
    """The rows of a grid, or ``Steps``, in the precision at hand."""
    return jax.tree.map(lambda v: jnp.asarray(np.asarray(v), jnp.result_type(float)), steps_of(grid, path))


class BandRun:
    """A run of one coordinate for each of the spectrum's bands; used under ``jax.enable_x64``.

    ``build(inner denoiser, sampler, c) -> (denoiser, sampler)`` puts a correction with the constants c around both; ``start``: R_0, a
    number or (B,).  ``x``, ``carry`` are the impulse responses so far, ``k`` the steps made.
    """

    def __init__(self, spectrum: Spectrum, path: GaussianPath, sampler: Any, grid: Any, build: Callable, start: Any = 1.0):
        self.path, self.steps = path, at_precision(grid, path)
        std = np.sqrt(spectrum.variance)
        exact = GaussianBands(path, np.zeros(len(std)), std)
        sampler = sampler.specialise() if hasattr(sampler, "specialise") else sampler
        check_affine("calibrate.sampler", sampler)
        check_run(exact, sampler, self.steps, path)
        self.num_steps, self.k = int(self.steps.t.shape[0]), 0
        self._make = lambda c: build(exact, sampler, c)
        self._draws = draws_per_step(sampler, exact, self.steps, std.shape)
        rows = 1 + self._draws * self.num_steps + int(self.steps.renoises)
        first = jnp.sqrt(jnp.asarray(start) * self._level(self.steps.start, std))
        self.x = jnp.zeros((rows, len(std))).at[0].set(first)
        if self.steps.renoises:
            last = lambda: jnp.zeros((rows, len(std))).at[-1].set(1.0)  # noqa: E731
            self.x = renoise(path, self.x, self.steps.start, self.steps.t[0], self.steps.noise_scale, last)
        self.carry = sampler.init(self.x, self.steps, path)
        self.levels = np.stack([np.asarray(self._level(r, std)) for r in self.steps.r])
        self._variances = jax.jit(self.two_variances)
        self._moved = jax.jit(self._move)

    def _level(self, t: Any, std: np.ndarray) -> Any:
        return self.path.alpha(t) ** 2 * std**2 + self.path.sigma(t) ** 2

    def _one(self, denoiser: Any, sampler: Any, k: Any, x: Any, carry: Any, draw: Callable) -> tuple[Any, Any]:
        steps = self.steps
        denoise = Calls(denoiser, None, k, steps, steps.s[k], jnp.zeros((), jnp.int32), None, ())
        x, carry, _ = sampler.step(denoise, x, steps.t[k], steps.s[k], draw, carry)
        if steps.renoises:
            x = renoise(self.path, x, steps.s[k], steps.r[k], steps.noise_scale, draw)
        return x, carry

    def _move(self, k: Any, x: Any, carry: Any, c: Any) -> tuple[Any, Any]:
        place = itertools.count()

        def draw():
            return jnp.where(jnp.arange(x.shape[0])[:, None] == 1 + k * self._draws + next(place), 1.0, 0.0) * jnp.ones_like(x)

        return self._one(*self._make(c), k, x, carry, draw)

    def two_variances(self, k: Any, x: Any, carry: Any, c: Any) -> tuple[Any, Any]:
        """``(v_old, v_fresh)`` (B,) after step k from (x, carry) with constants c: a pure function, to be differentiated."""
        x, _ = self._move(k, x, carry, c)
        row = jnp.arange(x.shape[0])[:, None]
        fresh = (row >= 1 + k * self._draws) & (row < 1 + (k + 1) * self._draws)
        return jnp.sum(jnp.where(fresh, 0.0, x**2), axis=0), jnp.sum(jnp.where(fresh, x**2, 0.0), axis=0)

    def variances(self, c: Any) -> tuple[Any, Any]:
        """``(v_old, v_fresh)`` (B,) after the next step with constants c: what came from before, and what was drawn."""
        return self._variances(self.k, self.x, self.carry, c)

    def at_start(self) -> np.ndarray:
        """``v_b`` (B,) now."""
        return np.asarray(jnp.sum(self.x**2, axis=0))

    def step(self, c: Any) -> np.ndarray:
        """Makes the next step with constants c; ``v_b`` (B,) after it."""
        self.x, self.carry = self._moved(self.k, self.x, self.carry, c)
        self.k += 1
        return self.at_start()

    def scale(self, factor: Any) -> None:
        """All responses, remembered predictions too, times ``factor`` (B,)."""
        shape, factor = self.x.shape, factor[None]
        self.x = self.x * factor
        self.carry = jax.tree.map(lambda v: v * factor if jnp.shape(v) == shape else v, self.carry)
