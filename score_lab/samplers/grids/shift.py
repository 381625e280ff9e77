"""Grids around a grid: all its noise levels moved by one factor, as flow models do for larger pictures.

    shift        kappa' = shift kappa,  on the linear flow  t' = shift t / (1 + (shift - 1) t);  log_snr' = log_snr - 2 ln shift
    resolution   shift = sqrt(m / n),   m pixels (tokens) in place of n                           (Esser et al. 2024, SD3, eq. 23)
                 (simple diffusion's d / 64 is the same with m = d^2, n = 64^2: Hoogeboom et al. 2023, eq. 4-5)
    dynamic      shift = e^mu,  mu = base_shift + (max_shift - base_shift) (m - base) / (max - base)  for m tokens  (Flux; diffusers)
    stretch      1 - t' = (1 - t) (1 - terminal) / (1 - t_last):  the last level before the end becomes ``terminal``     (LTX-Video)

The ends stay where kappa is 0 or infinite; elsewhere a shifted level that the path does not have is refused.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.grids.base import level_range, levels_at, step_count, times_of
from score_lab.samplers.steps import Grid, Steps
from score_lab.types import leaf, pytree_dataclass

__all__ = ["DynamicShift", "FlowTimesteps", "ResolutionShift", "Shift", "Stretch"]


def _inner(name: str, grid: Grid, path: GaussianPath) -> np.ndarray:
    """The times of ``grid``, N + 1 of them; a grid that renoises is refused."""
    steps = grid.steps(path)
    if steps.renoises:
        refuse(f"{name}.grid", type(grid).__name__, "a grid that does not renoise (put the renoising around this one)")
    steps.check()
    return np.append(np.asarray(steps.t, np.float64), float(steps.s[-1]))


def shifted(name: str, path: GaussianPath, times: np.ndarray, shift: float) -> np.ndarray:
    """The times of ``shift`` times their kappa."""
    if not (0 < shift < np.inf):
        refuse(name, shift, "> 0")
    if shift == 1:
        return times
    low, high = level_range(path)
    levels = np.asarray(levels_at(path, jnp.asarray(times, jnp.result_type(float))), np.float64) - 2 * math.log(shift)
    bad = ~((levels >= low - 1e-4) & (levels <= high + 1e-4))
    if bad.any():
        k, name_of = int(bad.argmax()), type(path).__name__
        refuse(name, shift, f"one that keeps log-SNR {levels[k] + 2 * math.log(shift):.6g} inside {name_of}, {low:.6g} to {high:.6g}")
    return times_of(path, levels, name)


@pytree_dataclass
class Shift:
    """Every level of ``grid`` with ``shift`` times its kappa (SD3 uses 3); diffusers' ``time_shift`` is shift = e^mu or mu."""

    grid: Grid = leaf()
    shift: float = 3.0

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        return Steps.of(shifted("Shift.shift", path, _inner("Shift", self.grid, path), self.shift))


@pytree_dataclass
class ResolutionShift:
    """``Shift`` by ``sqrt(size / base_size)``: ``size`` pixels or tokens of the pictures to be drawn, ``base_size`` of those for which
    ``grid`` was chosen."""

    grid: Grid = leaf()
    size: float = 4096.0
    base_size: float = 256.0

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        if not (0 < self.size < np.inf and 0 < self.base_size < np.inf):
            refuse("ResolutionShift.size, base_size", (self.size, self.base_size), "> 0")
        times = _inner("ResolutionShift", self.grid, path)
        return Steps.of(shifted("ResolutionShift", path, times, math.sqrt(self.size / self.base_size)))


@pytree_dataclass
class DynamicShift:
    """``Shift`` by e^mu, mu linear in the number of ``tokens``: base_shift at base_tokens, max_shift at max_tokens (and on, outside).

    With ``linear`` the shift is mu itself (diffusers' ``time_shift_type="linear"``).
    """

    grid: Grid = leaf()
    tokens: int = 4096
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15
    linear: bool = False

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        if not (0 < self.base_tokens < self.max_tokens and self.tokens > 0):
            allowed = "tokens > 0 and 0 < base_tokens < max_tokens"
            refuse("DynamicShift.tokens, base_tokens, max_tokens", (self.tokens, self.base_tokens, self.max_tokens), allowed)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        mu = self.base_shift + slope * (self.tokens - self.base_tokens)
        times = _inner("DynamicShift", self.grid, path)
        return Steps.of(shifted("DynamicShift (the shift of mu)", path, times, mu if self.linear else math.exp(mu)))


@pytree_dataclass
class Stretch:
    """``1 - t`` of all but the grid's end times one factor, so that the last level before the end is t = ``terminal``; t = 1 stays."""

    grid: Grid = leaf()
    terminal: float = 0.1

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        times = _inner("Stretch", self.grid, path)
        if len(times) < 3:
            refuse("Stretch.grid", f"{len(times) - 1} step", "at least 2 steps")
        if not times[-1] < self.terminal < 1:
            refuse("Stretch.terminal", self.terminal, f"a time between the grid's end {times[-1]:g} and 1")
        times[:-1] = 1 - (1 - times[:-1]) * ((1 - self.terminal) / (1 - times[-2]))
        return Steps.of(times)


@pytree_dataclass
class FlowTimesteps:
    """``num_steps`` times of a flow trained at T timesteps, equal from 1 to 1 / T, shifted, and a step to data.

    diffusers' FlowMatchEuler shifts the lowest level twice if ``shift`` is not dynamic: ``as_released`` does so too.
    """

    num_steps: int
    shift: float = 1.0
    T: int = 1000
    as_released: bool = False

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n = step_count("FlowTimesteps", self.num_steps)
        if not self.T >= 2:
            refuse("FlowTimesteps.T", self.T, "at least 2 timesteps")
        ends = np.array([1.0, 1 / self.T])
        first, last = shifted("FlowTimesteps.shift", path, ends, self.shift) if self.as_released else ends
        times = np.append(np.linspace(first, last, n), 0.0)
        return Steps.of(shifted("FlowTimesteps.shift", path, times, self.shift))
