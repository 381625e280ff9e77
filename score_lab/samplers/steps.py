"""The rows of a grid: a sampler's steps ``t -> s``, each perhaps followed by renoising to ``r >= s`` without a network call.

    x_T at start  (-> t_0),   t_0 -> s_0 (-> r_0 = t_1),   t_1 -> s_1 (-> r_1 = t_2),   ...,   t_{N-1} -> s_{N-1} (-> r_{N-1})

The last level is the grid's end.  Every step moves: a repeated or reversed time is refused.  ``ascends`` marks the rows of an encoding,
which run from data to noise, s > t (see ``inversion``).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, leaf, pytree_dataclass, static

__all__ = ["Grid", "Steps", "steps_of"]


@pytree_dataclass
class Steps:
    """Rows (t, s, r): a step t -> s, then renoising to r >= s without a network call; r = s elsewhere.

    ``start`` is the level of x_T (renoised to t[0] first where they differ), ``noise_scale`` the factor on renoising noise (EDM's s_noise).
    """

    t: Array = leaf()
    s: Array = leaf()
    r: Array = leaf()
    start: Array = leaf()
    noise_scale: Array = leaf(default=1.0)
    renoises: bool = static(default=False)
    ascends: bool = static(default=False)

    @classmethod
    def of(cls, times: Array | np.ndarray) -> Steps:
        """The steps between consecutive ``times``, which descend; numpy's become arrays of the default precision."""
        times = times if isinstance(times, jax.Array) else np.asarray(times, jnp.result_type(float))
        return cls(*(jnp.asarray(v) for v in (times[:-1], times[1:], times[1:], times[0])))

    def check(self) -> None:
        """At least one step, times in [0, 1], every step descends (or, of an encoding, ascends), renoising ascends; ConfigError names the
        first that does not."""
        t, s, r, start = (np.asarray(v, np.float64) for v in (self.t, self.s, self.r, self.start))
        if t.ndim != 1 or len(t) < 1:
            refuse("grid.num_steps", len(t) if t.ndim == 1 else t.shape, "at least 1 step")
        for bad, rule in (
            (~((t >= 0) & (t <= 1)), "times in [0, 1]"),
            (~((s >= 0) & (s < t)), "s < t in every step (a repeated or reversed time)")
            if not self.ascends
            else (~((s > t) & (s <= 1)), "s > t in every step of an encoding (a repeated or reversed time)"),
            (~((r >= s) & (r <= 1)), "s <= r <= 1"),
        ):
            if bad.any():
                k = int(bad.argmax())
                refuse(f"grid step {k} (t, s, r)", tuple(round(float(v[k]), 9) for v in (t, s, r)), rule)
        if not np.array_equal(r[:-1], t[1:]):
            k = int((r[:-1] != t[1:]).argmax())
            refuse(f"grid step {k + 1} starts at t", float(t[k + 1]), f"{float(r[k])!r}, where step {k} ended")
        if not (start == t[0] or (self.renoises and 0 < start < t[0])):
            refuse("grid.start", float(start), f"{float(t[0])!r}, where the first step starts" + (", or below it" if self.renoises else ""))


@runtime_checkable
class Grid(Protocol):
    """Anything with ``steps(path)``."""

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""


def steps_of(grid: Any, path: GaussianPath) -> Steps:
    """The rows of a grid (anything with ``steps(path)``) on ``path``, made on the host also inside ``jax.jit``; ``Steps`` as they are.

    Raises ConfigError for a grid or path that is traced, whose times are not known: its rows are made outside and handed over.
    """
    if isinstance(grid, Steps):
        return grid
    try:
        with jax.ensure_compile_time_eval():
            return grid.steps(path)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((grid, path))):
            refuse("grid", type(grid).__name__, "grid.steps(path), made outside of jax.jit and handed to it: inside it a traced grid "
                   "or path has no times yet")  # fmt: skip
        raise
