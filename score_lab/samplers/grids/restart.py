"""Restart: a grid around a grid, which jumps back to a higher level with fresh noise and comes down again (Xu et al. 2023, algorithm 1).

    an interval (kappa_min, kappa_max, K, n):  at the node of the grid nearest kappa_min,  K times:
        x <- x + s_noise sqrt(kappa_max^2 - kappa_min^2) z  on x / alpha,    n steps from kappa_max to kappa_min, spaced as Karras' (rho)

Renoising contracts what went wrong before it (snr_hat of (4.5): R - 1 shrinks by (s^2 + kappa_min^2) / (s^2 + kappa_max^2) each time), the
steps are the sampler's own.  NFE: K n steps more for every interval.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.grids.base import times_of
from score_lab.samplers.steps import Grid, Steps
from score_lab.types import leaf, pytree_dataclass, static

__all__ = ["Restart"]


@pytree_dataclass
class Restart:
    """``intervals`` of (kappa_min, kappa_max, K, n) around ``grid``; ``rho`` spaces the n inner steps, ``s_noise`` multiplies the noise.

    Intervals at the same node follow one another in the order given.  A sampler that remembers earlier steps is refused by ``sample``.
    """

    grid: Grid = leaf()
    intervals: tuple = static(default=((0.05, 0.3, 3, 3),))
    rho: float = 7.0
    s_noise: float = 1.0

    def check(self) -> None:
        """Every interval is (0 < kappa_min < kappa_max, K >= 1, n >= 1); ``rho > 0``, ``s_noise >= 0``."""
        if not (isinstance(self.intervals, tuple | list) and len(self.intervals)):
            refuse("Restart.intervals", self.intervals, "at least one (kappa_min, kappa_max, K, n)")
        for i, interval in enumerate(self.intervals):
            good = isinstance(interval, tuple | list) and len(interval) == 4 and 0 < interval[0] < interval[1] < np.inf
            if not (good and all(isinstance(v, int | np.integer) and not isinstance(v, bool) and v >= 1 for v in interval[2:])):
                refuse(f"Restart.intervals[{i}]", interval, "0 < kappa_min < kappa_max, whole numbers K >= 1 and n >= 1")
        if not self.rho > 0:
            refuse("Restart.rho", self.rho, "> 0")
        if not self.s_noise >= 0:
            refuse("Restart.s_noise", self.s_noise, ">= 0")

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        self.check()
        inner = self.grid.steps(path)
        if inner.renoises:
            refuse("Restart.grid", type(self.grid).__name__, "a grid that does not renoise already")
        t, s = (np.asarray(v, np.float64) for v in (inner.t, inner.s))
        with np.errstate(divide="ignore"):
            kappa = np.asarray(path.kappa(inner.s), np.float64)
        after: dict[int, list[np.ndarray]] = {}
        for i, (low, high, repeats, n) in enumerate(self.intervals):
            k = int(np.abs(kappa - low).argmin())
            if not 0 < kappa[k] < high:
                refuse(f"Restart.intervals[{i}]", (low, high), f"the nearest level of the grid, kappa {kappa[k]:.6g}, in (0, kappa_max)")
            w = np.arange(n) / n
            levels = (high ** (1 / self.rho) * (1 - w) + kappa[k] ** (1 / self.rho) * w) ** self.rho
            down = times_of(path, -2.0 * np.log(levels), f"Restart.intervals[{i}]")
            after.setdefault(k, []).extend([np.append(down, s[k])] * int(repeats))
        rows = []
        for k in range(len(t)):
            rows.append([t[k], s[k], s[k]])
            for down in after.get(k, ()):
                rows[-1][2] = down[0]
                rows.extend([a, b, b] for a, b in zip(down[:-1], down[1:], strict=True))
        t, s, r = (jnp.asarray(np.array(v, jnp.result_type(float))) for v in zip(*rows, strict=True))
        return Steps(t=t, s=s, r=r, start=inner.start, noise_scale=jnp.asarray(self.s_noise), renoises=True)
