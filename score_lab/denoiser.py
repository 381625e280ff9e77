"""Network x path x target -> a callable denoiser.

    y   = network(c_in x_t, level(log_snr), cond),     c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2)
    x0, eps  from  y = a x0 + b eps  and  x_t = alpha x0 + sigma eps     (targets.solve)

The network is fed unit variance and a noise level that is a function of log_snr alone, never a raw t of one particular path.  So a network
trained on one path can be sampled on any other at equal log_snr: ``denoiser.on(path)``.  Its output is read through the row it was
trained on.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.linear import batch_of, combine
from score_lab.paths.base import GaussianPath
from score_lab.targets import Target, condition_number, convert, loses_signal
from score_lab.types import Array, Cond, Network, PyTree, Time, leaf, pytree_dataclass, static

__all__ = [
    "LEVEL_LIMIT", "Denoiser", "NetworkDenoiser", "Prediction", "check_labels", "check_levels", "forward_mode", "trained_range",
    "written_out",
]  # fmt: skip

MOST_CONDITION = 1e5
"""Of the two equations for x0 and eps: float32 rounding times this is a hundredth."""
LEVEL_LIMIT = 20.0
"""The log-SNR that a network is told is clipped to +-20: the levels of pure data and pure noise are finite."""


@pytree_dataclass
class Prediction:
    """Everything that one network call says about ``x_t``: the pair (x0, eps), consistent with ``x_t = alpha x0 + sigma eps``.

    ``fed`` is the log-SNR that the network was told (clipped as it was, also where it is told the angle), ``raw`` its output, ``aux`` what
    came beside it, ``nfe`` the evaluations spent per sample (a guided prediction spends two), ``parts`` the predictions that a guided one
    was made of.
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
    def of(
        cls, x_t: PyTree, t: Time, path: GaussianPath, *, x0=None, eps=None, raw=None, target: Target | None = None, **rest
    ) -> Prediction:
        """A prediction from x0, from eps, or from a raw output ``y`` in ``target``'s row: how wrappers and analytic denoisers make one.

        Both x0 and eps are taken as given.  Raises ValueError if there is none of the three, or ``raw`` without its ``target``.
        """
        if x0 is None and eps is None and (raw is None or target is None):
            raise ValueError("Prediction.of needs x0, eps, or raw with its target")
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
        """``alpha' x0 + sigma' eps = dx/dt`` of the probability-flow ODE.

        Where sigma' diverges (VP at sigma = 0) eps is 0, and so is its part of the velocity, as it is of the score.
        """
        sigma_dot = self.path.sigma_dot(self.t)
        return combine((self.path.alpha_dot(self.t), self.x0), (jnp.where(jnp.isinf(sigma_dot), 0.0, sigma_dot), self.eps))

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

    Fields: ``params`` and the ``network`` they belong to; ``path`` the states are on; ``target`` the row that the output is; ``trained_on``
    the path whose row that was (None: ``path``); ``sigma_data`` of the data; ``log_snr_range`` (low, high) on which it was trained;
    ``level`` is ``"log_snr"`` (clipped to +-20) or ``"angle"`` = atan2(sigma, sigma_data alpha), smooth to both ends, for objectives that
    differentiate through time; ``two_time`` networks are also told the level of ``s``; outside ``log_snr_range`` sampling is an error
    unless ``clip`` (the network is told the nearest trained level) or ``extrapolate`` (it is told the true one, as EDM does at sigma = 80).
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
    extrapolate: bool = False
    trained_on: GaussianPath | None = leaf(default=None)

    def level_of(self, t: Time, batch: int | None = None) -> Array:
        """What the network is told of ``t``, (batch,): log_snr clipped to +-20, or the angle; if ``clip``, of the nearest trained level."""
        t = jnp.asarray(t)
        if self.level == "angle":
            level = jnp.arctan2(self.path.sigma(t), self.sigma_data * self.path.alpha(t))
            if self.clip:
                least, most = (jnp.arctan(jnp.exp(-0.5 * jnp.asarray(v)) / self.sigma_data) for v in reversed(self.log_snr_range))
                level = _between(level, least, most)
        else:
            level = self.fed(t)
        return jnp.broadcast_to(level, (batch,)) if batch is not None and level.ndim == 0 else level

    def fed(self, t: Time) -> Time:
        """The log-SNR of which the network is told at ``t``: clipped to +-20 (not the angle's) and, if ``clip``, to the trained range."""
        limit = np.inf if self.level == "angle" else LEVEL_LIMIT
        low, high = self.log_snr_range if self.clip else (-np.inf, np.inf)
        return _between(self.path.log_snr(jnp.asarray(t)), max(low, -limit), min(high, limit))

    def row(self, t: Time) -> tuple[Time, Time]:
        """The row of the network's output at the log-SNR of ``t``, on the path that it was trained on."""
        if self.trained_on is None:
            return self.target.row(self.path, t)
        return self.target.row(self.trained_on, self.trained_on.time_of(self.path.log_snr(t)))

    def __call__(self, x_t: PyTree, t: Time, cond: Cond = None, *, s=None, step=None, key=None) -> Prediction:
        """One network call.  ``s`` is told to two-time networks only; ``key`` (batch,) keys turn dropout on.

        ConfigError for a label that the network does not have; where it is traced it cannot be seen, and gives NaN.
        """
        check_labels(self, cond)
        t = jnp.asarray(t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        n = batch_of(x_t)
        c_in = 1.0 / jnp.hypot(alpha * self.sigma_data, sigma)
        level = self.level_of(t, n)
        level_s = self.level_of(jnp.asarray(s), n) if self.two_time and s is not None else None
        # a sampler asks several times in one program: jax traces the network once for all of them
        apply = self.network.apply if step is None else partial(_apply, self.network)
        out = apply(self.params, combine((c_in, x_t)), level, cond, level_s=level_s, key=key)
        y, aux = out if isinstance(out, tuple) else (out, None)
        row, one, zero = self.row(t), jnp.ones_like(alpha), jnp.zeros_like(alpha)
        x0, eps = (convert(y, x_t, row, wanted, alpha, sigma) for wanted in ((one, zero), (zero, one)))
        return Prediction(x_t=x_t, t=t, path=self.path, x0=x0, eps=eps, raw=y, aux=aux, fed=self.fed(t))

    def on(self, path: GaussianPath, clip: bool | None = None) -> NetworkDenoiser:
        """The same network for states of ``path`` at equal log-SNR; ``clip`` as in the class."""
        trained_on = self.path if self.trained_on is None else self.trained_on
        return dataclasses.replace(self, path=path, trained_on=trained_on, clip=self.clip if clip is None else clip)

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
        low, high = self.log_snr_range
        for level in sorted({max(low, -1e3) if low > -np.inf else min(0.0, high), min(max(0.0, low), high)}):
            t = path.time_of(jnp.asarray(level))
            worst = float(condition_number(self.target.row(path, t), path.alpha(t), path.sigma(t)))
            if not worst <= MOST_CONDITION:
                refuse(
                    "target",
                    f"{type(self.target).__name__} at log-SNR {level:g} of {type(path).__name__}, condition number {worst:.2g}",
                    f"one from which x0 and eps can be told, at most {MOST_CONDITION:g}: X0, V, Velocity, F, or a higher log_snr_min",
                )


@partial(jax.jit, static_argnums=0)
def _apply(network: Any, params: PyTree, x: Array, level: Array, cond: Cond, level_s: Array | None, key: Array | None) -> Any:
    return network.apply(params, x, level, cond, level_s=level_s, key=key)


def trained_range(path: GaussianPath, target: Target, log_snr_min: float | None = None) -> tuple[float, float]:
    """The log-SNRs of a bounded time law on ``path``: from ``log_snr_min`` to the path's t = 0.

    ``log_snr_min`` is by default -10 for targets that lose x0 at the path's end, else that end.  Raises ConfigError for one above t = 0's.
    """
    ends = path.log_snr(jnp.array([1.0, 0.0]))
    low, high = float(ends[0]), float(ends[1])
    if log_snr_min is None:
        log_snr_min = -10.0 if loses_signal(target, path) else -np.inf
    if not log_snr_min < high:
        refuse("denoiser.log_snr_min", log_snr_min, f"below {high:.4g}, the log-SNR of {type(path).__name__} at t = 0")
    return max(low, float(log_snr_min)), high


def _between(value: Array, low: Any, high: Any) -> Array:
    """``value`` clipped; its derivative outside is 0 also where the value and its slope are infinite (jnp.clip: NaN)."""
    return jnp.where(value < low, low, jnp.where(value > high, high, value))


def written_out(network: Any) -> Any:
    """``network`` with attention as products of matrices, which has forward-mode derivatives and can be counted: the same function."""
    return dataclasses.replace(network, attention="xla") if getattr(network, "attention", "xla") != "xla" else network


def forward_mode(denoiser: Any) -> Any:
    """``denoiser``, guided or not, for ``jax.jvp`` and ``jax.linearize`` in its state or its time: every network in it ``written_out``."""

    def one(part: Any) -> Any:
        return dataclasses.replace(part, network=written_out(part.network)) if isinstance(part, NetworkDenoiser) else part

    return jax.tree.map(one, denoiser, is_leaf=lambda part: isinstance(part, NetworkDenoiser))


def check_labels(denoiser: Any, cond: Cond, field: str = "cond") -> None:
    """Refuses labels that ``denoiser``, or the network inside it, does not have: they would give NaN.  Traced ones cannot be seen.

    A network has -1 to num_classes - 1, an exact denoiser -1 and its own ``labels``.
    """
    label = None if not cond else cond.get("label")
    if label is None or isinstance(label, jax.core.Tracer) or not getattr(label, "is_fully_addressable", True):
        return
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    classes, known = getattr(getattr(denoiser, "network", None), "num_classes", None), getattr(denoiser, "labels", None)
    if not classes and (known is None or isinstance(known, jax.core.Tracer)):
        return
    label = np.asarray(label)
    if label.dtype.kind not in "iu":
        refuse(f"{field}['label']", str(label.dtype), "whole numbers, one per sample")
    if known is None:
        bad = () if not label.size or (label.min() >= -1 and label.max() < classes) else label[(label < -1) | (label >= classes)]
        allowed = f"0 to {classes - 1 if classes else 0}, or -1 for no label"
    else:
        bad, allowed = label[~np.isin(label, known) & (label >= 0)], "the labels of the denoiser, or -1 for no label"
    if len(bad):
        refuse(f"{field}['label']", int(np.ravel(bad)[0]), allowed)


def check_levels(denoiser: Any, log_snr: np.ndarray, field: str = "grid") -> None:
    """Refuses levels at which ``denoiser``, or the network inside it, would say nothing or what it was never trained to say.

    A target without x0 (eps, score) where the path has no signal left is always refused; levels outside the trained range, naming both
    ranges, unless ``clip`` or ``extrapolate`` is set.
    """
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    if not len(log_snr):
        return
    target, path = getattr(denoiser, "target", None), denoiser.path
    if target is not None and log_snr.min() == -np.inf and loses_signal(target, path):
        raise ConfigError(
            f"{field}: log-SNR from -inf is refused: '{type(target).__name__}' says nothing of x0 at t = 1 of {type(path).__name__}; "
            f"allowed: a grid that starts at a finite log-SNR (start=-10 is usual)"
        )
    low, high = getattr(denoiser, "log_snr_range", (-np.inf, np.inf))
    if getattr(denoiser, "clip", False) or getattr(denoiser, "extrapolate", False):
        return
    slack = 1e-4 * (1 + max(abs(v) for v in (low, high) if np.isfinite(v))) if np.isfinite((low, high)).any() else 0.0
    if log_snr.min() < low - slack or log_snr.max() > high + slack:
        raise ConfigError(
            f"{field}: log-SNR from {log_snr.min():.4g} to {log_snr.max():.4g} leaves the range [{low:.4g}, {high:.4g}] that the network "
            f"was trained on; allowed: a grid inside it, clip=True to tell it the nearest trained level, or extrapolate=True the true one"
        )
