"""Where inference looks: a grid is the list of a sampler's steps ``t -> s``, each perhaps followed by renoising to ``r >= s``.

A grid says where it starts and where it ends.  Ends are given as log-SNR (or kappa for Karras); None is the path's own end.  The path's end at t = 0 is data
(kappa = 0) on every path but VE, whose sigma_min is not 0.  Every step moves: a repeated or reversed time is refused.

    uniform time      t_i = t_start + i / N (t_end - t_start)
    uniform log-SNR   log_snr_i = start + i / N (end - start)
    Karras            kappa_i = (kappa_max^(1/rho) + i / (N - 1) (kappa_min^(1/rho) - kappa_max^(1/rho)))^rho, then 0     (Karras et al. 2022, eq. 5)
"""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, leaf, pytree_dataclass, static

__all__ = ["Churn", "Grid", "Karras", "Steps", "Times", "UniformLogSNR", "UniformTime"]

FINITE_START = -10.0
"""Where a grid in log-SNR starts on a path that reaches -inf; a step to data ends it where the path reaches +inf."""
FINITE_END = 10.0


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

    @classmethod
    def of(cls, times: Array) -> Steps:
        """The steps between consecutive ``times``, which descend."""
        times = jnp.asarray(times)
        return cls(t=times[:-1], s=times[1:], r=times[1:], start=times[0])

    def check(self) -> None:
        """At least one step, times in [0, 1], every step descends, renoising ascends; ConfigError names the first that does not."""
        t, s, r = (np.asarray(v, np.float64) for v in (self.t, self.s, self.r))
        if t.ndim != 1 or len(t) < 1:
            refuse("grid.num_steps", len(t) if t.ndim == 1 else t.shape, "at least 1 step")
        for name, bad, rule in (
            ("t", ~((t >= 0) & (t <= 1)), "times in [0, 1]"),
            ("s", ~((s >= 0) & (s < t)), "s < t in every step (a repeated or reversed time)"),
            ("r", ~((r >= s) & (r <= 1)), "s <= r <= 1"),
        ):
            if bad.any():
                k = int(bad.argmax())
                refuse(f"grid step {k} (t, s, r)", tuple(round(float(v[k]), 9) for v in (t, s, r)), rule)
        if not np.array_equal(r[:-1], t[1:]):
            k = int((r[:-1] != t[1:]).argmax())
            refuse(f"grid step {k + 1} starts at t", float(t[k + 1]), f"{float(r[k])!r}, where step {k} ended")


class Grid(Protocol):
    """Anything with ``steps(path)``."""

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""


def _positive(name: str, num_steps: int) -> None:
    if num_steps < 1:
        refuse(f"{name}.num_steps", num_steps, "at least 1 step")


def _ends(path: GaussianPath, start: float | None, end: float | None) -> tuple[Array, Array]:
    """The times of two log-SNRs, None being the path's own ends."""
    one = jnp.ones(())
    for name, level in (("start", start), ("end", end)):
        low, high = float(path.log_snr(one)), float(path.log_snr(0 * one))
        if level is not None and not low - 1e-4 <= level <= high + 1e-4:
            refuse(f"grid.{name}", level, f"a log-SNR of {type(path).__name__}, [{low:.4g}, {high:.4g}]")
    t = one if start is None else path.time_of(jnp.asarray(start, one.dtype))
    return t, (0.0 * one if end is None else path.time_of(jnp.asarray(end, one.dtype)))


@pytree_dataclass
class UniformTime:
    """``num_steps`` equal steps in t between the log-SNRs ``start`` and ``end`` (None: the path's ends, t = 1 and t = 0)."""

    num_steps: int
    start: float | None = None
    end: float | None = None

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        _positive("UniformTime", self.num_steps)
        t0, t1 = _ends(path, self.start, self.end)
        w = jnp.arange(self.num_steps + 1) / self.num_steps
        return Steps.of(t0 * (1 - w) + t1 * w)


@pytree_dataclass
class UniformLogSNR:
    """``num_steps`` steps, equal in log-SNR from ``start`` to ``end``; with ``to_data`` the last of them goes from ``end`` to the path's t = 0.

    None: the path's own end where that is finite, else -10 and +10.
    """

    num_steps: int
    start: float | None = None
    end: float | None = None
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        _positive("UniformLogSNR", self.num_steps)
        low, high = float(path.log_snr(jnp.ones(()))), float(path.log_snr(jnp.zeros(())))
        start = max(low, FINITE_START) if self.start is None else self.start
        end = (min(high, FINITE_END) if self.to_data and high > FINITE_END or not np.isfinite(high) else high) if self.end is None else self.end
        _ends(path, start, end)
        extra = self.to_data and end < high
        if self.num_steps <= extra:
            refuse("UniformLogSNR.num_steps", self.num_steps, "at least 2 with the step to data")
        levels = jnp.linspace(start, end, self.num_steps + 1 - extra)
        times = path.time_of(levels)
        return Steps.of(jnp.append(times, 0.0) if extra else times)


@pytree_dataclass
class Karras:
    """``kappa_i = (kappa_max^(1/rho) + i/(N-1) (kappa_min^(1/rho) - kappa_max^(1/rho)))^rho`` and, with ``to_data``, a last step to t = 0.

    ``sigma_min``, ``sigma_max`` are noise levels kappa = sigma / alpha; None: 0.002 and 80, or the path's own ends where these are narrower.
    ``num_steps`` counts all steps: N = num_steps nodes before the 0 with ``to_data``, num_steps + 1 without.
    """

    num_steps: int
    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        _positive("Karras", self.num_steps)
        if not self.rho > 0:
            refuse("Karras.rho", self.rho, "> 0")
        low, high = float(path.kappa(jnp.zeros(()))), float(path.kappa(jnp.ones(())))
        small = max(0.002, low) if self.sigma_min is None else self.sigma_min
        large = min(80.0, high) if self.sigma_max is None else self.sigma_max
        if not (0 < small < large and low <= small * (1 + 1e-5) and large <= high * (1 + 1e-5)):
            refuse("Karras.sigma_min, sigma_max", (small, large), f"0 < sigma_min < sigma_max inside the path's kappa, [{low:.4g}, {high:.4g}]")
        nodes = self.num_steps if self.to_data and low == 0 or self.to_data and small > low else self.num_steps + 1
        w = jnp.arange(nodes) / max(nodes - 1, 1)
        kappa = (large ** (1 / self.rho) * (1 - w) + small ** (1 / self.rho) * w) ** self.rho
        kappa = kappa.at[0].set(large)
        times = path.time_of_kappa(kappa)
        return Steps.of(jnp.append(times, 0.0) if nodes == self.num_steps else times)


@pytree_dataclass
class Times:
    """One's own descending list: ``values`` are times, or with ``of="log_snr"`` / ``"kappa"`` levels (ascending / descending)."""

    values: tuple = static()
    of: str = "t"

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        values = jnp.asarray(self.values, jnp.result_type(float))
        convert = {"t": lambda v: v, "log_snr": path.time_of, "kappa": path.time_of_kappa}
        if self.of not in convert:
            refuse("Times.of", self.of, ", ".join(convert), convert)
        if values.ndim != 1 or len(values) < 2:
            refuse("Times.values", self.values, "at least 2 values")
        return Steps.of(convert[self.of](values))


@pytree_dataclass
class Churn:
    """EDM's churn around any grid: before a step with s_tmin <= kappa <= s_tmax the noise level is raised to ``kappa (1 + gamma)``.

    ``gamma = min(s_churn / N, sqrt(2) - 1)``, and no higher than the path's end; fresh noise is multiplied by ``s_noise`` (Karras et al. 2022, algorithm 2).
    No network call is spent on it, and the sampler inside does not know of it.
    """

    grid: Grid = leaf()
    s_churn: float = 40.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``: every t raised, r the next raised t."""
        if not (self.s_churn >= 0 and self.s_noise >= 0):
            refuse("Churn.s_churn, s_noise", (self.s_churn, self.s_noise), ">= 0")
        inner = self.grid.steps(path)
        if inner.renoises:
            refuse("Churn.grid", type(self.grid).__name__, "a grid that does not renoise already")
        n = inner.t.shape[0]
        gamma = jnp.minimum(self.s_churn / n, jnp.sqrt(2.0) - 1.0)
        kappa = path.kappa(inner.t)
        raised = path.time_of_kappa(jnp.where(jnp.isfinite(kappa), kappa, 1.0) * (1 + gamma))
        active = (kappa >= self.s_tmin) & (kappa <= self.s_tmax) & jnp.isfinite(kappa)
        t = jnp.where(active, jnp.maximum(raised, inner.t), inner.t)
        return Steps(t=t, s=inner.s, r=jnp.append(t[1:], inner.s[-1]), start=inner.start, noise_scale=jnp.asarray(self.s_noise), renoises=True)
