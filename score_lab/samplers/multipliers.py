"""How much noise a reverse SDE adds: the rate w(t) >= 0 of

    dx = [velocity - (w / 2) score] dt + sqrt(w) dW, backwards in t                (Song et al. 2021, eq. 6, 13; Ma et al. 2024, eq. 9)

whose marginals are the path's own whatever w >= 0 is.  A multiplier m of the path's g has w = m^2 g^2: 1 is the reverse SDE, 0 the
probability-flow ODE.  A multiplier is a number, a part with ``rate(path, t)``, or a function ``(path, t) -> w``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.paths.base import GaussianPath
from score_lab.samplers.steps import Steps
from score_lab.types import Array, pytree_dataclass, static

__all__ = ["Multiplier", "Rate", "SiTDiffusion", "check_rate", "multiplier_of", "nought"]


def nought(value: Any) -> bool:
    """Whether ``value`` is a Python 0: what a solver is known by, before it runs, to draw nothing."""
    return isinstance(value, int | float) and value == 0


@pytree_dataclass
class Multiplier:
    """``w = m^2 g^2`` with a constant ``m >= 0``; 0 also where g is infinite if m = 0."""

    m: float = 1.0

    def check(self) -> None:
        """``m >= 0``."""
        if not self.m >= 0:
            refuse("Multiplier.m", self.m, ">= 0")

    def rate(self, path: GaussianPath, t: Array) -> Array:
        """``m^2 g(t)^2``."""
        some = jnp.asarray(self.m) > 0
        return jnp.where(some, jnp.where(some, self.m, 1.0) ** 2 * path.diffusion_squared(t), 0.0)


_FORMS = {
    "constant": lambda path, t, c: c * jnp.ones_like(t),
    "SBDM": lambda path, t, c: c * 0.5 * path.diffusion_squared(t),
    "sigma": lambda path, t, c: c * path.sigma(t),
    "linear": lambda path, t, c: c * t,
    "decreasing": lambda path, t, c: 0.25 * (1.0 - c * jnp.cos(jnp.pi * t)) ** 2,
    "increasing-decreasing": lambda path, t, c: c * jnp.sin(jnp.pi * t) ** 2,
}


@pytree_dataclass
class SiTDiffusion:
    """SiT's named forms (Ma et al. 2024, section 3.3 and the released code, whose time 1 - t is ours): ``w = 2 D``, c = ``norm``,

    constant D = c; SBDM D = c g^2 / 2 (the reverse SDE at c = 1); sigma D = c sigma; linear D = c t;
    decreasing D = (1 - c cos(pi t))^2 / 4, which decreases towards data; increasing-decreasing D = c sin^2(pi t).
    """

    form: str = "sigma"
    norm: float = 1.0

    def check(self) -> None:
        """A known form and ``norm >= 0``."""
        if self.form not in _FORMS:
            refuse("SiTDiffusion.form", self.form, ", ".join(_FORMS), tuple(_FORMS))
        if not self.norm >= 0:
            refuse("SiTDiffusion.norm", self.norm, ">= 0")

    def rate(self, path: GaussianPath, t: Array) -> Array:
        """``2 D(t)``; 0 everywhere at norm 0 but for "decreasing", which is 1/2 there."""
        if self.form == "SBDM":
            return Multiplier(jnp.sqrt(self.norm)).rate(path, t)
        return 2.0 * _FORMS[self.form](path, jnp.asarray(t), self.norm)


@pytree_dataclass
class Rate:
    """``w = function(path, t)``, one's own: >= 0, of t's shape; a hashable function, part of the compiled program."""

    function: Callable[[GaussianPath, Array], Array] = static()

    def check(self) -> None:
        """A function."""
        if not callable(self.function):
            refuse("Rate.function", self.function, "a function (path, t) -> w >= 0")

    def rate(self, path: GaussianPath, t: Array) -> Array:
        """``function(path, t)``."""
        return jnp.asarray(self.function(path, t), jnp.result_type(t))


def multiplier_of(value: Any) -> Any:
    """The part with ``rate`` that a number, a part or a function ``(path, t) -> w`` stands for; 1 and 1.0 are one compiled program."""
    if hasattr(value, "rate"):
        return value
    return Rate(value) if callable(value) else Multiplier(float(value) if isinstance(value, int) else value)


def check_rate(field: str, value: Any, steps: Steps, path: GaussianPath, ends: bool) -> None:
    """Refuses, in the name of ``field``, a multiplier whose w is negative at the start of a step, or with ``ends`` at its end, and names
    the first such time: sqrt(w) would be NaN in every sample.  ``Multiplier`` and ``SiTDiffusion`` are >= 0 by their own ``check``."""
    part = multiplier_of(value)
    if isinstance(part, Multiplier | SiTDiffusion):
        return
    times = np.concatenate([np.asarray(steps.t), np.asarray(steps.s)] if ends else [np.asarray(steps.t)])
    rates = np.broadcast_to(np.asarray(part.rate(path, jnp.asarray(times))), times.shape)
    if (below := rates < 0).any():
        k = int(below.argmax())
        refuse(field, f"w = {float(rates[k]):.4g} at t = {float(times[k]):.4g}", "a rate of noise w(t) >= 0 at every level of the grid")
