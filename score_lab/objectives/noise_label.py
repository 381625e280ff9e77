"""Dropping the noise label: the network learns to answer without being told how noisy its input is.

    level -> null with probability rate, per example;     blind(denoiser): always                       (Sun et al. 2025; Zhong et al. 2026)

The null level lies outside all levels: -30 for log_snr (clipped to +-20 where it is told), -1 for the angle (0 to pi / 2).  The output
is still read in the row of its true level.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.objectives.base import Context
from score_lab.types import Array, Batch, Cond, PyTree, leaf, pytree_dataclass, static

__all__ = ["NULL_LEVEL", "DroppedLevels", "NoiseLabelDropout", "blind"]

NULL_LEVEL = {"log_snr": -30.0, "angle": -1.0}
"""What is told in place of a level, by the kind of level."""

_STREAM = zlib.crc32(b"noise label") & 0x7FFFFFFF


@dataclasses.dataclass(frozen=True)
class DroppedLevels:
    """A network around a ``network``: its level (and second level) is ``null`` with probability ``rate``, drawn from each example's key;
    without keys nothing is dropped, unless the rate is 1."""

    network: Any
    rate: float
    null: float = NULL_LEVEL["log_snr"]

    @property
    def num_classes(self) -> int | None:
        """The inner network's."""
        return getattr(self.network, "num_classes", None)

    def init(self, key: Array, shape: tuple[int, ...]) -> PyTree:
        """The inner network's parameters."""
        return self.network.init(key, shape)

    def apply(self, params: PyTree, x: Array, level: Array, cond: Cond = None, *, level_s=None, key=None) -> Any:
        """The inner network's answer."""
        if self.rate >= 1:
            drop = jnp.ones(level.shape, bool)
        elif key is None:
            return self.network.apply(params, x, level, cond, level_s=level_s, key=key)
        else:
            drop = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, _STREAM), self.rate))(key)
        level, level_s = (None if v is None else jnp.where(drop, jnp.asarray(self.null, v.dtype), v) for v in (level, level_s))
        return self.network.apply(params, x, level, cond, level_s=level_s, key=key)


def blind(denoiser: Any) -> Any:
    """The same network never told its level: the ``s(x)`` of noise awareness guidance.  ConfigError for a denoiser without a network."""
    if not hasattr(denoiser, "network"):
        refuse("blind", type(denoiser).__name__, "a denoiser with a network, trained with NoiseLabelDropout")
    return _dropping(denoiser, 1.0)


def _dropping(denoiser: Any, rate: float) -> Any:
    inner = denoiser.network.network if isinstance(denoiser.network, DroppedLevels) else denoiser.network
    return dataclasses.replace(denoiser, network=DroppedLevels(inner, rate, NULL_LEVEL[denoiser.level]))


@pytree_dataclass
class NoiseLabelDropout:
    """Any ``objective`` that hands keys to its denoiser (all regressions do), with the levels of ``rate`` of its examples dropped.

    Everything that a trainer asks of an objective is the inner one's.
    """

    objective: Any = leaf()
    rate: float = static(default=0.1)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "objective":
            raise AttributeError(name)
        return getattr(self.objective, name)

    def init(self, key: Array, spec: PyTree) -> tuple[PyTree, PyTree]:
        """The inner objective's."""
        return self.objective.init(key, spec)

    def loss(self, ctx: Context, params: PyTree, state: PyTree, batch: Batch) -> tuple[Array, dict[str, Array], PyTree]:
        """The inner loss of a denoiser that forgets levels."""
        return self.objective.loss(dataclasses.replace(ctx, denoiser=_dropping(ctx.denoiser, self.rate)), params, state, batch)

    def check(self) -> None:
        """``0 <= rate < 1``, and what the inner objective refuses."""
        if not hasattr(self.objective, "loss"):
            refuse("NoiseLabelDropout.objective", self.objective, "a specification {'target': ...} of an objective")
        if not 0 <= self.rate < 1:
            refuse("NoiseLabelDropout.rate", self.rate, "0 <= rate < 1")
        if hasattr(self.objective, "check"):
            self.objective.check()
