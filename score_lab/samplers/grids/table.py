"""Timesteps k of a table of T levels, level k at t = (k + 1) / T: where networks that were trained on a DDPM table look.

    leading    k_i = (n - 1 - i) floor(T / n) + offset               (DDIM's "uniform"; Lin et al. 2024, table 2)
    trailing   k_i = round(T - i T / n) - 1                          (the first level is the table's last, T - 1)
    linspace   k_i = round(w_i (T - 1)), w from 1 to 0               (both ends of the table)
    quadratic  k_i = floor((w_i sqrt(0.8 T))^2)                      (the DDIM code's "quad")

and behind the lowest of them the grid's end: data, or the table's first level k = 0.  A rule is applied to n levels (DDIM, DDPM, PNDM,
Euler, Heun, LMS) or, with ``spare``, to n + 1 of which the lowest is left out, so that the end takes its place (DPM-Solver, UniPC, DEIS).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths import DDPMTable
from score_lab.paths.base import GaussianPath
from score_lab.samplers.grids.base import levels_at, step_count, times_of
from score_lab.samplers.steps import Steps
from score_lab.types import pytree_dataclass, static

__all__ = ["TimestepList", "Timesteps"]

SPACINGS = {
    "leading": lambda T, n: np.arange(n - 1, -1, -1.0) * (T // n),
    "trailing": lambda T, n: np.rint(T - np.arange(n) * (T / n)) - 1,
    "linspace": lambda T, n: np.linspace(0, T - 1, n)[::-1],
    "quadratic": lambda T, n: np.floor(np.linspace(0, np.sqrt(0.8 * T), n) ** 2)[::-1],
}
"""``(T, n) -> n`` descending timesteps."""


def _levels(name: str, path: GaussianPath, T: int | None, end: str) -> tuple[int, np.ndarray | None]:
    """The number of levels, and the table's log-SNRs where the path is a table; what is wrong with T or ``end`` is refused."""
    if end not in ("data", "first"):
        refuse(f"{name}.end", end, "data, first", ("data", "first"))
    table = np.asarray(path.log_snrs, np.float64) if isinstance(path, DDPMTable) else None
    count = T if table is None else len(table)
    if not isinstance(count, int | np.integer) or count < 1 or T not in (None, count):
        allowed = f"a number of levels: {type(path).__name__} is no table" if table is None else f"{count}, the table's"
        refuse(f"{name}.T", T, allowed)
    return count, table


@pytree_dataclass
class TimestepList:
    """One's own descending list of timesteps, each of 0 to T - 1, and the grid's end (``Timesteps`` says what ``end`` and ``T`` are)."""

    values: tuple = static()
    end: str = static(default="data")
    T: int | None = None

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        T, _ = _levels("TimestepList", path, self.T, self.end)
        k = np.asarray(self.values, np.float64)
        if k.ndim != 1 or not len(k):
            refuse("TimestepList.values", self.values, "at least 1 timestep")
        bad = ~((k >= 0) & (k <= T - 1))
        if bad.any():
            refuse("TimestepList.values", self.values[int(bad.argmax())], f"timesteps from 0 to {T - 1}")
        return Steps.of(np.append((k + 1) / T, 0.0 if self.end == "data" else 1 / T))


@pytree_dataclass
class Timesteps:
    """``num_steps`` timesteps of a table, and its end (see the module).

    Fields:
      spacing: "leading", "trailing" (the default: it starts at the table's last level), "linspace" or "quadratic".
      offset: added to every timestep (diffusers' ``steps_offset``).
      end: "data" (t = 0; ``set_alpha_to_one``, ``final_sigmas_type="zero"``) or "first", the table's first level (``"sigma_min"``).
      spare: the rule is applied to num_steps + 1 levels, of which the lowest is left out.
      whole: timesteps are rounded; if not, kappa is linear in k between the table's levels (diffusers' Euler, Heun, LMS with linspace).
      start: the log-SNR below which levels of the table are not used (twice diffusers' ``lambda_min_clipped``); None: all are.
      T: the number of levels on a path that is not a table (then t = (k + 1) / T).
    """

    num_steps: int
    spacing: str = "trailing"
    offset: int = 0
    end: str = static(default="data")
    spare: bool = False
    whole: bool = True
    start: float | None = None
    T: int | None = None

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        n = step_count("Timesteps", self.num_steps)
        if self.spacing not in SPACINGS:
            refuse("Timesteps.spacing", self.spacing, ", ".join(SPACINGS), SPACINGS)
        T, table = _levels("Timesteps", path, self.T, self.end)
        used = T
        if self.start is not None:
            levels = table if table is not None else np.asarray(levels_at(path, jnp.arange(1, T + 1) / T))
            used = max(int((levels >= self.start).sum()), 1)
        if n + self.spare > used:
            refuse("Timesteps.num_steps", n, f"at most {used - self.spare}, for the {used} levels of the table")
        k = SPACINGS[self.spacing](used, n + self.spare)[:n]
        k = (np.rint(k) if self.whole else k) + self.offset
        if not ((k >= 0) & (k <= T - 1)).all():
            refuse("Timesteps.offset", self.offset, f"one with which the timesteps, from {k[0]:g} to {k[-1]:g}, lie in 0 to {T - 1}")
        times = (k + 1) / T
        if table is not None and not self.whole and (k % 1 > 0).any():
            kappa = np.interp(k, np.arange(T), np.exp(-0.5 * table))
            times = np.where(k % 1 > 0, times_of(path, -2 * np.log(kappa), "Timesteps"), times)
        return Steps.of(np.append(times, 0.0 if self.end == "data" else 1 / T))
