"""Network x path x target -> a callable denoiser.

    y   = network(c_in x_t, level(log_snr), cond),     c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2)
    x0, eps  from  y = a x0 + b eps  and  x_t = alpha x0 + sigma eps     (targets.solve)

The network is fed unit variance and a noise level that is a function of log_snr alone, never a raw t of one particular path.  So a network
trained on one path can be sampled on any other at equal log_snr: ``denoiser.on(path)``.  Its output is read through the row it was trained on.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.linear import batch_of, combine
from score_lab.paths.base import GaussianPath
from score_lab.targets import Target, convert, loses_signal
from score_lab.types import Array, Cond, Network, PyTree, Time, leaf, pytree_dataclass, static

__all__ = ["LEVEL_LIMIT", "Denoiser", "NetworkDenoiser", "Prediction", "check_levels", "trained_range"]

LEVEL_LIMIT = 20.0
"""The log-SNR that a network is told is clipped to +-20: the levels of pure data and pure noise are finite."""


@pytree_dataclass
class Prediction:
    """Everything that one network call says about ``x_t``: the pair (x0, eps), consistent with ``x_t = alpha x0 + sigma eps``.

    ``fed`` is the level that the network was told (log_snr, clipped), ``raw`` its output, ``aux`` what came beside it, ``nfe`` the evaluations
    spent per sample (a guided prediction spends two), ``parts`` the predictions that a guided one was made of.
    """

    x_t: PyTree = leaf()
    t: Time = leaf()
    path: GaussianPath = leaf()
    x0: PyTree = leaf()
    eps: PyTree = leaf()
    raw: Any = leaf(default=None)
    aux: Any = leaf(default=None)
    fed: Any = leaf(default=None)
    nfe: Any = leaf(default=1)
    parts: tuple = leaf(default=())

    @classmethod
    def of(cls, x_t: PyTree, t: Time, path: GaussianPath, *, x0=None, eps=None, raw=None, target: Target | None = None, **rest) -> Prediction:
        """A prediction from x0, from eps, or from a raw output ``y`` in ``target``'s row: how wrappers and analytic denoisers make one."""
        t = jnp.asarray(t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        one, zero = jnp.ones_like(alpha), jnp.zeros_like(alpha)
        if x0 is not None and eps is None:
            eps = convert(x0, x_t, (one, zero), (zero, one), alpha, sigma)
        elif eps is not None and x0 is None:
            x0 = convert(eps, x_t, (zero, one), (one, zero), alpha, sigma)
        elif x0 is None:
            row = target.row(path, t)
            x0, eps = (convert(raw, x_t, row, wanted, alpha, sigma) for wanted in ((one, zero), (zero, one)))
        rest.setdefault("fed", path.log_snr(t))
        return cls(x_t=x_t, t=t, path=path, x0=x0, eps=eps, raw=raw, **rest)

    def at(self, s: Time) -> PyTree:
        """``alpha(s) x0 + sigma(s) eps``: the same x0 and eps put together at another time (a DDIM step)."""
        return combine((self.path.alpha(s), self.x0), (self.path.sigma(s), self.eps))

    @property
    def score(self) -> PyTree:
        """``-eps / sigma``; diverges at sigma = 0 (there it is 0 / 0 and comes back as 0)."""
        sigma = self.path.sigma(self.t)
        return combine((jnp.where(sigma > 0, -1.0 / jnp.where(sigma > 0, sigma, 1.0), 0.0), self.eps))

    @property
    def velocity(self) -> PyTree:
        """``alpha' x0 + sigma' eps = dx/dt`` of the probability-flow ODE."""
        return combine((self.path.alpha_dot(self.t), self.x0), (self.path.sigma_dot(self.t), self.eps))

    @property
    def v(self) -> PyTree:
        """``alpha eps - sigma x0``."""
        return combine((self.path.alpha(self.t), self.eps), (-self.path.sigma(self.t), self.x0))


@runtime_checkable
class Denoiser(Protocol):
    """What samplers, guidance and the mismatch call: networks and analytic denoisers alike."""

    path: GaussianPath

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """The prediction at ``x_t``; ``t`` scalar or (batch,); ``s`` the time stepped to, ``step`` the index of the step, where known."""

    def on(self, path: GaussianPath) -> Denoiser:
        """The same denoiser for states of another path at equal log-SNR."""


@pytree_dataclass
class NetworkDenoiser:
    """A trained (or training) network as a denoiser.

    Fields: ``params`` and the ``network`` they belong to; ``path`` the states are on; ``target`` the row that the output is; ``trained_on`` the path whose
    row that was (None: ``path``); ``sigma_data`` of the data; ``log_snr_range`` (low, high) on which it was trained; ``level`` is ``"log_snr"`` (clipped
    to +-20) or ``"angle"`` = atan2(sigma, sigma_data alpha), smooth to both ends, for objectives that differentiate through time; ``two_time``
    networks are also told the level of ``s``; ``clip`` feeds the nearest trained level in place of an error outside ``log_snr_range``.
    """

    params: PyTree = leaf()
    network: Network = static()
    path: GaussianPath = leaf()
    target: Target = leaf()
    sigma_data: float = 1.0
    log_snr_range: tuple[float, float] = static(default=(-np.inf, np.inf))
    level: str = "log_snr"
    two_time: bool = False
    clip: bool = False
    trained_on: GaussianPath | None = leaf(default=None)

    def level_of(self, t: Time, batch: int | None = None) -> Array:
        """What the network is told of ``t``, (batch,): log_snr clipped to +-20 (and to the trained range if ``clip``), or the angle."""
        path, t = self.path, jnp.asarray(t)
        if self.level == "angle":
            level = jnp.arctan2(path.sigma(t), self.sigma_data * path.alpha(t))
        else:
            level = jnp.clip(path.log_snr(t), *self._limits())
        return jnp.broadcast_to(level, (batch,)) if batch is not None and level.ndim == 0 else level

    def _limits(self) -> tuple[float, float]:
        low, high = self.log_snr_range if self.clip else (-np.inf, np.inf)
        return max(low, -LEVEL_LIMIT), min(high, LEVEL_LIMIT)

    def row(self, t: Time) -> tuple[Time, Time]:
        """The row of the network's output at the log-SNR of ``t``, on the path that it was trained on."""
        if self.trained_on is None:
            return self.target.row(self.path, t)
        return self.target.row(self.trained_on, self.trained_on.time_of(self.path.log_snr(t)))

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """One network call.  ``s`` is told to two-time networks only; ``key`` (batch,) keys turn dropout on."""
        t = jnp.asarray(t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        n = batch_of(x_t)
        c_in = 1.0 / jnp.hypot(alpha * self.sigma_data, sigma)
        fed = self.level_of(t, n)
        level_s = self.level_of(jnp.asarray(s), n) if self.two_time and s is not None else None
        out = self.network.apply(self.params, combine((c_in, x_t)), fed, cond, level_s=level_s, key=key)
        y, aux = out if isinstance(out, tuple) else (out, None)
        row, one, zero = self.row(t), jnp.ones_like(alpha), jnp.zeros_like(alpha)
        x0, eps = (convert(y, x_t, row, wanted, alpha, sigma) for wanted in ((one, zero), (zero, one)))
        return Prediction(x_t=x_t, t=t, path=self.path, x0=x0, eps=eps, raw=y, aux=aux, fed=fed if t.ndim else fed[0])

    def on(self, path: GaussianPath, clip: bool | None = None) -> NetworkDenoiser:
        """The same network for states of ``path`` at equal log-SNR; ``clip`` as in the class."""
        trained_on = self.path if self.trained_on is None else self.trained_on
        return self._replace(path=path, trained_on=trained_on, clip=self.clip if clip is None else clip)

    def _replace(self, **changes) -> NetworkDenoiser:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return type(self)(**(fields | changes))

    def check(self) -> None:
        """Refuses, by name, a target that says nothing of x0 on levels where it would be used, and unknown level names."""
        if self.level not in ("log_snr", "angle"):
            refuse("denoiser.level", self.level, "log_snr or angle", ("log_snr", "angle"))
        path = self.trained_on or self.path
        if loses_signal(self.target, path) and self.log_snr_range[0] == -np.inf:
            name = type(self.target).__name__
            raise ConfigError(
                f"target: '{name}' says nothing of x0 at t = 1 of {type(path).__name__}, which has zero terminal SNR; "
                f"allowed: a finite lowest log-SNR (log_snr_min, -10 is usual), or one of X0, V, Velocity, F"
            )


def trained_range(path: GaussianPath, target: Target, log_snr_min: float | None = None) -> tuple[float, float]:
    """The log-SNRs of a bounded time law on ``path``: from ``log_snr_min`` (default -10 for targets that lose x0 there, else the path's end) to the path's t = 0."""
    ends = path.log_snr(jnp.array([1.0, 0.0]))
    low, high = float(ends[0]), float(ends[1])
    if log_snr_min is None:
        log_snr_min = -10.0 if loses_signal(target, path) else -np.inf
    return max(low, float(log_snr_min)), high


def check_levels(denoiser: Any, log_snr: np.ndarray, field: str = "grid") -> None:
    """Refuses levels outside the range that ``denoiser`` was trained on, naming both ranges, unless its ``clip`` is set."""
    low, high = getattr(denoiser, "log_snr_range", (-np.inf, np.inf))
    if getattr(denoiser, "clip", False) or not len(log_snr):
        return
    slack = 1e-4 * (1 + max(abs(v) for v in (low, high) if np.isfinite(v))) if np.isfinite((low, high)).any() else 0.0
    if log_snr.min() < low - slack or log_snr.max() > high + slack:
        raise ConfigError(
            f"{field}: log-SNR from {log_snr.min():.4g} to {log_snr.max():.4g} leaves the range [{low:.4g}, {high:.4g}] that the network was trained on; "
            f"allowed: a grid inside it, or clip=True to feed the nearest trained level"
        )
