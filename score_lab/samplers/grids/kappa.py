"""Grids between two noise levels kappa = sigma / alpha, and a step to data.

With N nodes, w_i = i / (N - 1), from the highest level u_0 = u_max to the lowest u_{N-1} = u_min:

    Karras            u_i = (u_max^(1/rho) + w_i (u_min^(1/rho) - u_max^(1/rho)))^rho            (Karras et al. 2022, eq. 5)
    exponential       ln u_i = ln u_max + w_i (ln u_min - ln u_max)           (EDM's VE discretisation; Lu et al. 2022, uniform lambda)
    polyexponential   ln u_i = ln u_min + (1 - w_i)^rho (ln u_max - ln u_min)                     (k-diffusion)
    beta              u_i = u_min + I^-1(1 - w_i; a, b) (u_max - u_min)       (Lee et al. 2024, Beta Sampling; I^-1 the beta quantile)
    VP time           kappa_i = sqrt(exp(B(t_i)) - 1), t_i = 1 + w_i (eps - 1), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
                                                                              (Karras et al. 2022, table 1, VP; k-diffusion's get_sigmas_vp)
    iDDPM             kappa_i = v_k, k = round(w_i (K - 1)), of v_M = 0,
                      v_{j-1} = sqrt((v_j^2 + 1) / max(abar_{j-1} / abar_j, C_1) - 1), abar_j = sin^2(pi j / (2 M (C_2 + 1)))
                                                                              (Karras et al. 2022, table 1, iDDPM; eq. 162-164)

u is kappa (``of="kappa"``) or, for the first four, t itself (``of="t"``: what flow models call sigma).  ``to_data`` adds a last step to the
path's t = 0 (k-diffusion's append_zero); without it the grid ends at the lowest level.  ``num_steps`` counts all steps: N = num_steps with
``to_data``, num_steps + 1 without, or where the lowest level is the path's own t = 0.  Levels that are None: kappa from 0.002 to 80, t from
0.001 to 1, or the path's own ends where these are narrower.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import betaincinv

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.grids.base import level_range, step_count, times_of
from score_lab.samplers.steps import Steps
from score_lab.types import pytree_dataclass, static

__all__ = ["IDDPM", "BetaQuantiles", "Exponential", "Karras", "PolyExponential", "VPTime", "between"]

_DEFAULTS = {"kappa": (0.002, 80.0), "t": (0.001, 1.0)}


def kappa_range(path: GaussianPath, of: str = "kappa") -> tuple[float, float]:
    """Lowest and highest kappa (or t) of the path."""
    low, high = level_range(path)
    return (np.exp(-0.5 * high), np.exp(-0.5 * low)) if of == "kappa" else (0.0, 1.0)


def between(
    name: str, path: GaussianPath, num_steps: int, sigma_min: float | None, sigma_max: float | None, to_data: bool,
    nodes: Callable[[np.ndarray, float, float], np.ndarray], of: str = "kappa",
) -> Steps:  # fmt: skip
    """The rows through ``nodes(w, lowest, highest)``, w from 0 to 1, and to the path's t = 0 where that is asked for and lies below."""
    n = step_count(name, num_steps)
    if of not in _DEFAULTS:
        refuse(f"{name}.of", of, ", ".join(_DEFAULTS), _DEFAULTS)
    low, high = kappa_range(path, of)
    small = max(_DEFAULTS[of][0], low) if sigma_min is None else sigma_min
    large = min(_DEFAULTS[of][1], high) if sigma_max is None else sigma_max
    if not (0 < small < large < np.inf and low <= small * (1 + 1e-5) and large <= high * (1 + 1e-5)):
        allowed = f"0 < sigma_min < sigma_max inside the path's {of}, [{low:.4g}, {high:.4g}]"
        refuse(f"{name}.sigma_min, sigma_max", (small, large), allowed)
    extra = to_data and small > low
    u = np.array(nodes(np.linspace(0.0, 1.0, n if extra else n + 1), small, large), np.float64)
    times = u if of == "t" else times_of(path, -2.0 * np.log(u), f"{name}.sigma_min, sigma_max")
    return Steps.of(np.append(times, 0.0) if extra else times)


def _pinned(u: np.ndarray, small: float, large: float) -> np.ndarray:
    """The nodes with their two ends to the last bit."""
    u[0] = large
    if len(u) > 1:
        u[-1] = small
    return u


def _positive(field: str, value: float) -> None:
    if not (value > 0 and np.isfinite(value)):
        refuse(field, value, "> 0")


@pytree_dataclass
class Karras:
    """``u_i = (u_max^(1/rho) + w_i (u_min^(1/rho) - u_max^(1/rho)))^rho`` and, with ``to_data``, a last step to t = 0 (see the module)."""

    num_steps: int
    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True
    of: str = static(default="kappa")

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        _positive("Karras.rho", self.rho)

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            return _pinned((large ** (1 / self.rho) * (1 - w) + small ** (1 / self.rho) * w) ** self.rho, small, large)

        return between("Karras", path, self.num_steps, self.sigma_min, self.sigma_max, self.to_data, nodes, self.of)


@pytree_dataclass
class Exponential:
    """Equal steps in ln u (see the module); of kappa, they are equal in log-SNR.

    With 0.02 and 100 it is EDM's VE discretisation; between a table's ends, diffusers' ``use_exponential_sigmas`` and ``use_lu_lambdas``.
    """

    num_steps: int
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True
    of: str = static(default="kappa")

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            return _pinned(np.exp(np.log(large) * (1 - w) + np.log(small) * w), small, large)

        return between("Exponential", path, self.num_steps, self.sigma_min, self.sigma_max, self.to_data, nodes, self.of)


@pytree_dataclass
class PolyExponential:
    """``ln u_i = ln u_min + (1 - w_i)^rho (ln u_max - ln u_min)`` (see the module); rho = 1 is the exponential grid."""

    num_steps: int
    rho: float = 1.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True
    of: str = static(default="kappa")

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        _positive("PolyExponential.rho", self.rho)

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            return _pinned(np.exp(np.log(small) + (1 - w) ** self.rho * np.log(large / small)), small, large)

        return between("PolyExponential", path, self.num_steps, self.sigma_min, self.sigma_max, self.to_data, nodes, self.of)


@pytree_dataclass
class BetaQuantiles:
    """``u_i = u_min + I^-1(1 - w_i; a, b) (u_max - u_min)`` (see the module): quantiles of Beta(a, b), dense at both ends below 1.

    The paper's quantiles are of the timestep: ``of="t"``, the default.  ``of="kappa"`` is diffusers' ``use_beta_sigmas`` on a beta table.
    """

    num_steps: int
    a: float = 0.6
    b: float = 0.6
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True
    of: str = static(default="t")

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        _positive("BetaQuantiles.a", self.a)
        _positive("BetaQuantiles.b", self.b)

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            return _pinned(small + betaincinv(self.a, self.b, 1 - w) * (large - small), small, large)

        return between("BetaQuantiles", path, self.num_steps, self.sigma_min, self.sigma_max, self.to_data, nodes, self.of)


@pytree_dataclass
class VPTime:
    """The levels of a VP path at times t_i equally spaced from 1 to ``eps`` (see the module).

    With ``sigma_min`` or ``sigma_max`` the betas are those of the VP path that has sigma_max at t = 1 and sigma_min at t = eps (EDM's
    code); None: the levels of beta_min and beta_max there, or the path's own ends where these are narrower.
    """

    num_steps: int
    beta_min: float = 0.1
    beta_max: float = 20.0
    eps: float = 1e-3
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        if not 0 < self.eps < 1:
            refuse("VPTime.eps", self.eps, "0 < eps < 1")
        if not 0 < self.beta_min <= self.beta_max:
            refuse("VPTime.beta_min, beta_max", (self.beta_min, self.beta_max), "0 < beta_min <= beta_max")
        eps, (low, high) = self.eps, kappa_range(path)

        def own(t: float) -> float:
            return np.sqrt(np.expm1(t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))))

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            B_eps, B_1 = np.log1p(small**2), np.log1p(large**2)
            beta_d = 2 * (B_1 - B_eps / eps) / (1 - eps)
            t = 1 + w * (eps - 1)
            return _pinned(np.sqrt(np.expm1(t * (B_1 - 0.5 * beta_d + 0.5 * beta_d * t))), small, large)

        small = max(own(eps), low) if self.sigma_min is None else self.sigma_min
        large = min(own(1.0), high) if self.sigma_max is None else self.sigma_max
        return between("VPTime", path, self.num_steps, small, large, self.to_data, nodes)


@pytree_dataclass
class IDDPM:
    """The levels of improved DDPM's cosine table of M levels, those from ``sigma_min`` to ``sigma_max``, thinned to N (see the module).

    EDM's code takes abar in float32, which moves the lowest levels by 5e-4 of themselves: ``as_released`` does so too.
    """

    num_steps: int
    sigma_min: float | None = None
    sigma_max: float | None = None
    to_data: bool = True
    M: int = 1000
    C_1: float = 0.001
    C_2: float = 0.008
    as_released: bool = False

    def steps(self, path: GaussianPath) -> Steps:
        """The rows on ``path``."""
        step_count("IDDPM", self.num_steps)
        if not (self.M >= 2 and 0 < self.C_1 < 1 and self.C_2 > 0):
            refuse("IDDPM.M, C_1, C_2", (self.M, self.C_1, self.C_2), "M >= 2, 0 < C_1 < 1, C_2 > 0")
        real = np.float32 if self.as_released else np.float64
        bar = np.sin(real(0.5 * np.pi) * np.arange(self.M + 1, dtype=real) / real(self.M) / real(self.C_2 + 1)) ** 2
        v = np.zeros(self.M + 1)
        for k in range(self.M, 0, -1):
            v[k - 1] = np.sqrt((v[k] ** 2 + 1) / max(float(bar[k - 1] / bar[k]), self.C_1) - 1)
        low, high = kappa_range(path)
        small = max(0.002, low) if self.sigma_min is None else self.sigma_min
        large = min(81.0, high) if self.sigma_max is None else self.sigma_max
        kept = v[(v >= small) & (v <= large)]
        if len(kept) < self.num_steps + (0 if self.to_data else 1) or not len(kept):
            refuse("IDDPM.num_steps", self.num_steps, f"at most the {len(kept)} levels of the table from {small:.4g} to {large:.4g}")

        def nodes(w: np.ndarray, small: float, large: float) -> np.ndarray:
            return kept[np.rint(w * (len(kept) - 1)).astype(int)]

        return between("IDDPM", path, self.num_steps, kept[-1], kept[0], self.to_data, nodes)
