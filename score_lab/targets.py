"""What a network regresses: rows ``(a, b)`` with ``y = a x0 + b eps``, and the one 2x2 solve that converts between them.

With ``x_t = alpha x0 + sigma eps``, ``y = a x0 + b eps`` and ``det = a sigma - b alpha``, any other quantity ``z = c x0 + d eps`` is

    z = ((c sigma - d alpha) y + (a d - b c) x_t) / det

and the first coefficient squared is the loss re-weighting between the two.  ``det = 0`` is where a target has lost half of the
information: eps and score at alpha = 0 (no x0 left), x0 at sigma = 0 (no eps left).  At exactly det = 0 the lost half comes back as 0,
its prior mean: the correct posterior mean of eps at sigma = 0.  Of x0 at alpha = 0 it would be wrong, so such a configuration is refused
when it is built.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.linear import combine
from score_lab.paths.base import GaussianPath
from score_lab.types import PyTree, Time, pytree_dataclass

__all__ = ["F", "X0", "Eps", "Score", "Target", "V", "Velocity", "condition_number", "convert", "loses_signal", "solve"]

Row = tuple[Time, Time]


@runtime_checkable
class Target(Protocol):
    """A row ``(a, b)`` as a function of path and time."""

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(a, b)``, each of t's shape."""


@pytree_dataclass
class X0:
    """``y = x0``: row (1, 0)."""

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(1, 0)``."""
        return jnp.ones_like(t), jnp.zeros_like(t)


@pytree_dataclass
class Eps:
    """``y = eps``: row (0, 1) (Ho et al. 2020)."""

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(0, 1)``."""
        return jnp.zeros_like(t), jnp.ones_like(t)


@pytree_dataclass
class Score:
    """``y = -eps / sigma``, the score of ``p(x_t | x0)``: row (0, -1/sigma) (Song et al. 2021); -inf at sigma = 0."""

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(0, -1 / sigma)``."""
        return jnp.zeros_like(t), -1.0 / path.sigma(t)


@pytree_dataclass
class V:
    """``y = alpha eps - sigma x0``: row (-sigma, alpha) (Salimans & Ho 2022)."""

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(-sigma, alpha)``."""
        return -path.sigma(t), path.alpha(t)


@pytree_dataclass
class Velocity:
    """``y = alpha' x0 + sigma' eps``: row (alpha', sigma') (Lipman et al. 2023)."""

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(alpha', sigma')``."""
        return path.alpha_dot(t), path.sigma_dot(t)


@pytree_dataclass
class F:
    """EDM's preconditioned output on any path (Karras et al. 2022, eq. 7-8).

    Row ``(sigma / (sigma_data sqrt V), -alpha sigma_data / sqrt V)``, ``V = alpha^2 sigma_data^2 + sigma^2``; det = sqrt(V) / sigma_data.
    Unit variance and unit effective weight at every level, finite at both ends, a function of log_snr alone.
    """

    sigma_data: float = 0.5

    def row(self, path: GaussianPath, t: Time) -> Row:
        """``(sigma / (sigma_data sqrt V), -alpha sigma_data / sqrt V)``."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        root = jnp.hypot(alpha * self.sigma_data, sigma)
        return sigma / (self.sigma_data * root), -alpha * self.sigma_data / root

    def check(self) -> None:
        """``0 < sigma_data < inf``."""
        if not 0 < self.sigma_data < float("inf"):
            refuse("F.sigma_data", self.sigma_data, "> 0 and finite")


def solve(row: Row, wanted: Row, alpha: Time, sigma: Time) -> tuple[Time, Time]:
    """The two coefficients of ``z = p y + q x_t`` for ``y`` in ``row`` and a finite ``wanted`` row.

    A row with an infinite entry (score at sigma = 0, velocity where the path's derivative diverges) is scaled first: ``y`` then counts in
    units of its largest entry, and its coefficient is 0 where that is infinite.  Where det is 0, ``y`` counts for nothing, and x_t for the
    half that is left: ``x0 = x_t / alpha`` at sigma = 0, ``eps = x_t / sigma`` at alpha = 0, the other half 0.
    """
    (a, b, scale), (c, d) = _unit_row(row), wanted
    det = a * sigma - b * alpha
    safe = jnp.where(det == 0, 1.0, det)
    p = (c * sigma - d * alpha) / safe / scale
    q = (a * d - b * c) / safe
    lost = jnp.where(alpha > sigma, c, d) / jnp.maximum(alpha, sigma)  # sigma = 0: x0 = x_t / alpha; alpha = 0: eps = x_t / sigma
    return jnp.where(det == 0, 0.0, p), jnp.where(det == 0, lost, q)


def _unit_row(row: Row) -> tuple[Time, Time, Time]:
    """The row in units of its largest entry, (a, b, entry): entries of size at most 1 also where that is infinite; a row of zeros stays."""
    a, b = row
    scale = jnp.maximum(jnp.abs(a), jnp.abs(b))
    infinite = jnp.isinf(scale)
    unit = jnp.where(infinite | (scale == 0), 1.0, scale)
    a, b = (jnp.where(infinite, jnp.sign(v) * jnp.isinf(v), v / unit) for v in (a, b))
    return a, b, jnp.where(infinite, jnp.inf, unit)


def convert(y: PyTree, x_t: PyTree, row: Row, wanted: Row, alpha: Time, sigma: Time) -> PyTree:
    """``z = c x0 + d eps`` from ``y = a x0 + b eps`` and ``x_t = alpha x0 + sigma eps``; rows and levels scalar or ``(batch,)``.

    In x_t's precision: a bfloat16 network's output does not cost the prediction its float32.
    """
    p, q = solve(row, wanted, alpha, sigma)
    y = jax.tree.map(lambda output, state: output.astype(state.dtype), y, x_t)
    return combine((p, y), (q, x_t))


def condition_number(row: Row, alpha: Time, sigma: Time) -> Time:
    """Frobenius condition number ``2 / |det|`` of the 2x2 system with both rows scaled to length 1: >= 2, inf where information is lost."""
    a, b, _ = _unit_row(row)
    length = jnp.hypot(a, b) * jnp.hypot(alpha, sigma)
    return 2.0 * length / jnp.abs(a * sigma - b * alpha)


def loses_signal(target: Target, path: GaussianPath) -> bool:
    """Whether the target says nothing of x0 at the path's noise end (eps and score at zero terminal SNR)."""
    end = jnp.ones(())
    a, b, _ = _unit_row(target.row(path, end))
    alpha, sigma = path.alpha(end), path.sigma(end)
    return bool((alpha <= 1e-3 * sigma) & (jnp.abs(a * sigma - b * alpha) <= 1e-3 * sigma))
