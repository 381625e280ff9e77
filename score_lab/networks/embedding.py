"""What a network is told beside ``x``: one vector per example, the sum of its level, second level, label and augmentation.

    features(l) = (cos w_j l, sin w_j l),  w_j geometric from 1/16 to max_frequency (64 of them),   level(l) = W2 silu(W1 features(l))
    c = level(level) + level_s(level - level_s) + table[label + 1] + W augment

The level is taken unscaled.  Over log_snr in [-20, 20] the lowest frequency sweeps 2.5 rad (< pi: no two levels look alike) and the
highest has a wavelength of 0.4 nats; for EDM's c_noise = ln(sigma) / 4 = -log_snr / 8 (Karras et al. 2022) that is 1/2 to 128 rad per unit.
Over an angle in [0, pi/2] the upper half of the frequencies, 1 to 16, turns up to four times.  Objectives that differentiate through the
level want smooth features: lower ``max_frequency`` there (Lu & Song 2024, sCM, section 4.1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from score_lab.networks.base import FlaxNetwork
from score_lab.networks.initializers import small, zeros
from score_lab.networks.layers import widened
from score_lab.types import Array, Float, Int

__all__ = ["Conditioning", "LevelEmbedding", "level_features", "rows_of"]

COUNT = 64
MIN_FREQUENCY = 1.0 / 16.0


def level_features(level: Float[Array, " batch"], max_frequency: float) -> Float[Array, "batch features"]:
    """(cos w_j l, sin w_j l) for 64 frequencies, geometric from 1/16 to ``max_frequency``; float32 or higher, (batch, 128)."""
    level = widened(level)
    frequencies = jnp.asarray(np.geomspace(MIN_FREQUENCY, max_frequency, COUNT), level.dtype)
    angle = level[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def rows_of(table: Float[Array, "rows width"], label: Int[Array, " batch"]) -> Float[Array, "batch width"]:
    """table[label + 1]: row 0 is "no label" (-1), row k + 1 is label k; labels outside [-1, rows - 2] give NaN, never another class."""
    row = jnp.where((label >= -1) & (label < len(table) - 1), label + 1, len(table))
    return jnp.take(table, row, axis=0, mode="fill", fill_value=jnp.nan)


class LevelEmbedding(nnx.Module):
    """W2 silu(W1 features(level)), (batch,) -> (batch, width); normal(0.02) weights as in DiT (Peebles & Xie 2023)."""

    def __init__(self, width: int, max_frequency: float, rngs: nnx.Rngs):
        self.max_frequency = max_frequency
        self.first = nnx.Linear(2 * COUNT, width, kernel_init=small, rngs=rngs)
        self.second = nnx.Linear(width, width, kernel_init=small, rngs=rngs)

    def __call__(self, level: Float[Array, " batch"]) -> Float[Array, "batch width"]:
        """The embedding in the parameters' dtype; its features are computed in float32 or higher."""
        features = level_features(level, self.max_frequency).astype(self.first.kernel.dtype)
        return self.second(jax.nn.silu(self.first(features)))


class Conditioning(nnx.Module):
    """The vector c (batch, width) of everything that a network is told beside ``x``.

    The second level enters as the difference ``level - level_s``: at level_s = level (the instantaneous limit of two-time objectives, and
    the default) it is a constant.  Row 0 of the label table is "no label" (-1), row k + 1 is label k; other labels give NaN.
    An augmentation's label enters linearly, without a bias and at first with W = 0 (Karras et al. 2022): a label of 0 is none.
    """

    def __init__(self, network: FlaxNetwork, width: int, rngs: nnx.Rngs):
        self.level = LevelEmbedding(width, network.max_frequency, rngs)
        if network.two_time:
            self.level_s = LevelEmbedding(width, network.max_frequency, rngs)
        if network.num_classes:
            self.table = nnx.Param(small(rngs.params(), (network.num_classes + 1, width), jnp.float32))
        if network.augment_dim:
            self.augment = nnx.Linear(network.augment_dim, width, use_bias=False, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        level: Float[Array, " batch"],
        level_s: Float[Array, " batch"],
        label: Int[Array, " batch"],
        augment: Float[Array, "batch numbers"] | None,
    ) -> Float[Array, "batch width"]:
        """c of the levels and the labels, each (batch,), and the augmentation's labels (batch, augment_dim) or None."""
        c = self.level(level)
        if hasattr(self, "level_s"):
            c = c + self.level_s(level - level_s)
        if hasattr(self, "table"):
            c = c + rows_of(self.table[...], label)
        if hasattr(self, "augment"):
            c = c + self.augment(augment)
        return c
