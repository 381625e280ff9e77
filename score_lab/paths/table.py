"""The discrete DDPM table as a continuous path.

Level k of a table of T betas, ``alpha_k^2 = prod_{i <= k} (1 - beta_i)``, sits at ``t = (k + 1) / T`` and is hit exactly.  Between levels
log_snr is linear in t; below the first level ``kappa = sigma / alpha`` is linear and reaches 0 at t = 0.  A table whose last level has no
signal (zero terminal SNR) is closed in the same way from the other side: ``1 / kappa`` is linear over the last interval.

Sources: Ho et al. 2020 (eq. 4, section 4: linear table 1e-4 to 0.02, T = 1000); Nichol & Dhariwal 2021 (eq. 17, cosine table);
Rombach et al. 2022 (scaled linear); Lin et al. 2024 (algorithm 1, zero terminal SNR).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.types import Array, Time, pytree_dataclass

__all__ = ["DDPMTable", "cosine_betas", "ddpm_table", "linear_betas", "scaled_linear_betas", "zero_terminal_snr"]


@pytree_dataclass
class DDPMTable(GaussianPath):
    """``log_snrs`` (T,): the strictly decreasing log-SNRs of the table's levels, level k at ``t = (k + 1) / T``."""

    log_snrs: Array

    def log_snr(self, t: Time) -> Time:
        """Linear in t between levels; ``kappa`` linear below the first, ``1 / kappa`` linear above the last finite one."""
        levels = jnp.asarray(self.log_snrs)
        T = levels.shape[0]
        closed = ~jnp.isfinite(levels[-1])  # zero terminal SNR
        last = jnp.where(closed, T - 1, T)  # the last position (in units of 1 / T) with a finite level
        u = jnp.asarray(t) * T
        nearest = jnp.round(u)
        off = jax.lax.stop_gradient(nearest - u)
        u = u + jnp.where(jnp.abs(off) <= 2 * jnp.finfo(u.dtype).eps * nearest, off, 0.0)  # (k + 1) / T * T is k + 1
        k = jnp.clip(jnp.floor(u).astype(int), 1, jnp.maximum(last - 1, 1))
        low, high = jnp.take(levels, k - 1, mode="clip"), jnp.take(levels, k, mode="clip")
        w = u - k
        between = low + w * (jnp.where(jnp.isfinite(high), high, low) - low)
        below = levels[0] - 2.0 * jnp.log(jnp.where(u < 1, u, 1.0))
        final = jnp.where(closed, levels[T - 2], levels[T - 1])
        above = final + 2.0 * jnp.log(jnp.where(u > last, T - u, 1.0))
        exact = between + jax.lax.stop_gradient(final - between)  # the level itself, with the slope of its interval
        return jnp.where(u < 1, below, jnp.where(u > last, above, jnp.where(u == last, exact, between)))

    def alpha(self, t: Time) -> Time:
        """``sqrt(sigmoid(log_snr))``: the table is variance preserving."""
        return jnp.sqrt(jax.nn.sigmoid(self.log_snr(t)))

    def sigma(self, t: Time) -> Time:
        """``sqrt(sigmoid(-log_snr))``."""
        return jnp.sqrt(jax.nn.sigmoid(-self.log_snr(t)))

    def time_of(self, log_snr: Time) -> Time:
        """The inverse, interval by interval."""
        levels, lam = jnp.asarray(self.log_snrs), jnp.asarray(log_snr)
        T = levels.shape[0]
        closed = ~jnp.isfinite(levels[-1])
        last = jnp.where(closed, T - 1, T)
        final = jnp.where(closed, levels[T - 2], levels[T - 1])
        k = jnp.clip(jnp.searchsorted(-levels, -lam, side="right"), 1, jnp.maximum(last - 1, 1))
        low, high = jnp.take(levels, k - 1, mode="clip"), jnp.take(levels, k, mode="clip")
        step = jnp.where(jnp.isfinite(high), high, low - 1.0) - low
        between = k + jnp.clip((lam - low) / jnp.where(step == 0, -1.0, step), 0.0, 1.0)
        below = jnp.exp(-0.5 * (jnp.maximum(lam, levels[0]) - levels[0]))
        above = T - jnp.exp(0.5 * (jnp.minimum(lam, final) - final))
        u = jnp.where(lam >= levels[0], below, jnp.where(lam <= final, jnp.where(closed, above, T), between))
        return u / T

    def sigma_dot(self, t: Time) -> Time:
        """``-sigma alpha^2 log_snr' / 2``; at t = 0 the slope of kappa, at zero terminal SNR 0."""
        inner, first, last = self._inner(t)
        slope = -0.5 * self.sigma(inner) * self.alpha(inner) ** 2 * self.log_snr_dot(inner)
        return jnp.where(first, len(self.log_snrs) * jnp.exp(-0.5 * self.log_snrs[0]), jnp.where(last, 0.0, slope))

    def alpha_dot(self, t: Time) -> Time:
        """``alpha sigma^2 log_snr' / 2``; 0 at t = 0, and at zero terminal SNR the slope of 1 / kappa."""
        inner, first, last = self._inner(t)
        slope = 0.5 * self.alpha(inner) * self.sigma(inner) ** 2 * self.log_snr_dot(inner)
        return jnp.where(first, 0.0, jnp.where(last, -len(self.log_snrs) * jnp.exp(0.5 * self.log_snrs[-2]), slope))

    def diffusion_squared(self, t: Time) -> Time:
        """``-sigma^2 log_snr'``; 0 at t = 0, inf at zero terminal SNR."""
        inner, first, last = self._inner(t)
        return jnp.where(first, 0.0, jnp.where(last, jnp.inf, -(self.sigma(inner) ** 2) * self.log_snr_dot(inner)))

    def _inner(self, t: Time) -> tuple[Time, Array, Array]:
        """Times moved inside where log_snr is infinite, and which of them were at the data end and at the noise end."""
        t = jnp.asarray(t)
        first, last = t <= 0, self.log_snr(t) == -jnp.inf  # the last float below 1 rounds to the last level too
        return jnp.where(first | last, 0.5, t), first, last

    def prior_std(self, t: Time = 1.0) -> Time:
        """1: the table keeps unit variance."""
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float)))

    def check(self) -> None:
        """At least two strictly decreasing levels (only the last may be -inf), then the contract of every path."""
        levels = np.asarray(self.log_snrs)
        if levels.ndim != 1 or len(levels) < 2:
            refuse("DDPMTable.log_snrs", levels.shape, "a vector of at least 2 levels")
        if not (np.isfinite(levels[:-1]).all() and levels[-1] < np.inf and (np.diff(levels) < 0).all()):
            refuse("DDPMTable.log_snrs", "not strictly decreasing", "strictly decreasing, finite but for the last")
        super().check()


def linear_betas(T: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Ho et al. 2020, section 4."""
    return np.linspace(first, last, T)


def scaled_linear_betas(T: int = 1000, first: float = 0.00085, last: float = 0.012) -> np.ndarray:
    """Linear in sqrt(beta): latent diffusion (Rombach et al. 2022)."""
    return np.linspace(first**0.5, last**0.5, T) ** 2


def cosine_betas(T: int = 1000, offset: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """``abar = cos^2((t + s) / (1 + s) pi / 2)``, betas cut at ``largest`` (Nichol & Dhariwal 2021, eq. 17)."""
    u = np.arange(T + 1) / T
    bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], largest)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescales ``sqrt(abar)`` so that its last level is exactly 0 and its first is kept (Lin et al. 2024, algorithm 1)."""
    root = np.sqrt(np.cumprod(1 - np.asarray(betas, np.float64)))
    bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - bar / np.concatenate([[1.0], bar[:-1]])


def ddpm_table(betas: str | tuple = "linear", T: int = 1000, zero_terminal: bool = False) -> DDPMTable:
    """The path of a beta table: a name (``linear``, ``scaled_linear``, ``cosine``) with T levels, or the betas themselves.

    Raises ConfigError for an unknown name, betas outside (0, 1) (the last may be 1: zero terminal SNR) or fewer than two levels.
    """
    tables = {"linear": linear_betas, "scaled_linear": scaled_linear_betas, "cosine": cosine_betas}
    if isinstance(betas, str):
        if betas not in tables:
            refuse("ddpm_table.betas", betas, f"one of {', '.join(tables)}, or the betas", tables)
        if T < 2:
            refuse("ddpm_table.T", T, "at least 2 levels")
        betas = tables[betas](T)
    betas = np.asarray(betas, np.float64)
    if zero_terminal:
        betas = zero_terminal_snr(betas)
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0).all() and (betas[:-1] < 1).all() and betas[-1] <= 1):
        refuse("ddpm_table.betas", betas.tolist() if betas.size < 8 else f"{betas.size} betas in [{betas.min():.3g}, {betas.max():.3g}]",
               "at least 2 betas in (0, 1), the last may be 1")
    with np.errstate(divide="ignore"):
        log_bar = np.cumsum(np.log1p(-betas))
        log_snrs = log_bar - np.log(-np.expm1(log_bar))
    return DDPMTable(log_snrs)
