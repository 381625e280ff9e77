"""The contract of a path, verified on the host when the path is built.

alpha and sigma finite, >= 0, never both 0, of t's shape (in the session's own precision); log_snr strictly decreasing, ``time_of`` its
inverse, derivatives never NaN (in float64, on a grid that is dense near both ends).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.types import check_pytree

__all__ = ["check_path"]

_LEVELS = ("alpha", "sigma", "log_snr")
_DERIVATIVES = ("alpha_dot", "sigma_dot", "log_snr_dot", "drift", "diffusion_squared")


def check_path(path: Any, own_inverse: bool) -> None:
    """Raises ConfigError that names the first violation, its time and its value.

    ``own_inverse``: the family writes ``time_of`` in closed form, which is held to 1e-12 relative; bisection to 1e-9.
    """
    ends = np.geomspace(1e-6, 3e-3, 12)
    t = np.concatenate([[0.0], ends, np.linspace(0.0, 1.0, 257)[1:-1], (1.0 - ends)[::-1], [1.0]])
    name = type(path).__name__
    _check_levels(name, t, _evaluate(path, name, t, _LEVELS))
    with jax.enable_x64(True):
        values = _evaluate(path, name, t, _LEVELS + _DERIVATIVES)
    _check_levels(name, t, values)
    _check_log_snr(name, t, values, 1e-12 if own_inverse else 1e-9)
    for symbol in _DERIVATIVES:
        if (bad := np.isnan(values[symbol])).any():
            refuse(f"{name}.{symbol}(t={t[bad][0]:.6g})", "NaN", "a number, +inf or -inf where it diverges")


def _evaluate(path: Any, name: str, t: np.ndarray, symbols: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named quantities at ``t``, and ``back = time_of(log_snr(t))`` with the digits that log_snr has, compiled once."""

    def everything(times: jax.Array) -> dict[str, jax.Array]:
        out = {symbol: getattr(path, symbol)(times) for symbol in symbols}
        return out | {"back": path.time_of(out["log_snr"])}

    try:
        values = jax.jit(everything)(jnp.asarray(t, jnp.result_type(float)))
    except (TypeError, ValueError, AttributeError) as error:
        check_pytree(path, "path")
        refuse(name, str(error).partition("\n")[0], "alpha(t) and sigma(t) in jax.numpy that take an array of times")
    for symbol in symbols:
        if values[symbol].shape != t.shape:
            refuse(f"{name}.{symbol}(t).shape", values[symbol].shape, "the shape of t")
    digits = np.full(t.shape, jnp.finfo(values["log_snr"].dtype).eps)
    return {symbol: np.array(v, np.float64) for symbol, v in values.items()} | {"digits": digits}


DECREASING = "strictly decreasing in t: t = 0 is data and t = 1 is noise (a path that is written the other way round takes 1 - t)"


def _check_levels(name: str, t: np.ndarray, values: dict[str, np.ndarray]) -> None:
    for symbol in ("alpha", "sigma"):
        bad = ~(np.isfinite(values[symbol]) & (values[symbol] >= 0))
        if bad.any():
            refuse(f"{name}.{symbol}(t={t[bad][0]:.6g})", values[symbol][bad][0].item(), "finite and >= 0")
    both = (values["alpha"] == 0) & (values["sigma"] == 0)
    if both.any():
        refuse(f"{name}.alpha, sigma at t={t[both][0]:.6g}", (0.0, 0.0), "never both 0")


def _check_log_snr(name: str, t: np.ndarray, values: dict[str, np.ndarray], relative: float) -> None:
    """Strictly decreasing, and inverted by ``time_of`` to ``relative`` plus what the rounding of log_snr makes of t."""
    log_snr, slope = values["log_snr"], np.abs(values["log_snr_dot"])
    bad = ~(np.diff(log_snr) < 0)
    if bad.any():
        k = int(bad.argmax())
        refuse(f"{name}.log_snr", f"{log_snr[k]:.8g} at t={t[k]:.6g}, {log_snr[k + 1]:.8g} at t={t[k + 1]:.6g}", DECREASING)
    size = np.where(np.isfinite(log_snr), np.abs(log_snr), 0.0)
    tolerance = relative * t + 64 * values["digits"] * (1 + size) / np.where(slope > 0, slope, np.inf)
    bad = ~(np.abs(values["back"] - t) <= tolerance)
    if bad.any():
        refuse(f"{name}.time_of(log_snr({t[bad][0]:.6g}))", values["back"][bad][0].item(), f"{t[bad][0]:.6g}")
