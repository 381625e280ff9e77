"""The same state read at another noise level of its path: what re-conditioning, relabelling and the probe's correction have in common.

    kappa_eff = kappa exp(shift),    x_eff = (alpha_eff / alpha) x       so that x / alpha, signal and noise together, stays as it is
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from score_lab.paths.base import GaussianPath

__all__ = ["moved"]


def moved(path: GaussianPath, t: Any, shift: Any, least: Any = 0.0) -> tuple[Any, Any]:
    """``(t_eff, alpha_eff / alpha)`` for ln kappa moved by ``shift``, scalar or (batch,); no lower than the time ``least``.

    Where there is no signal, no noise or no shift: t and 1.
    """
    log_snr = path.log_snr(t)
    moves = jnp.isfinite(log_snr) & (shift != 0)
    t_eff = path.time_of(jnp.where(moves, jnp.where(moves, log_snr, 0.0) - 2.0 * shift, 0.0))
    t_eff = jnp.where(moves, jnp.maximum(t_eff, least), t)
    alpha = path.alpha(t)
    return t_eff, jnp.where(moves, path.alpha(t_eff) / jnp.where(alpha > 0, alpha, 1.0), 1.0)
