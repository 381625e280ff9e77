"""EDM's non-leaky augmentation of images (Karras et al. 2022, appendix F.2; the geometric part of its released pipeline).

    x0' = T x0,   T = mirror? flip? quarter turns? then one affine map,      label a (n,) = how T was drawn, 0 where nothing was done
    G_inv = S(2^(0.2 w))^-1 R(u)^-1 A(2^(0.2 w'), r)^-1 M(0.125 m)^-1,       x0'(z) = x0(G_inv z),  z in pixels from the centre

Each part is drawn with probability p, the mirroring always (half of the images).  The network is told the label, and at sampling time it
is told 0, so that what it draws is not augmented.  Randomness is keyed by (key of the step, global index of the example).

The affine map is resampled as there: reflected at the edges, doubled by the wavelet sym6, linear interpolation, halved by sym6; the
identity gives the image back to rounding, and an example for which no part of the map was drawn is not resampled.  A doubled image with its
reflections is 36 times as large as the image: that is the memory that an example takes here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from score_lab.build import refuse
from score_lab.objectives.base import example_keys
from score_lab.types import Array, Float, Int, Key

__all__ = ["EDMAugmentation", "resample"]

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""The low-pass filter of the wavelet sym6 (Daubechies 1992): orthonormal to its even shifts."""

PAD = len(SYM6) // 4


@dataclasses.dataclass(frozen=True)
class EDMAugmentation:
    """``(key, index, x0) -> (x0', label)`` for images (batch, height, width, channels).

    Attributes:
      p: the probability of each part (the paper's 0.12 on CIFAR-10, 0.15 on FFHQ and AFHQ).
      mirror: the probability of drawing whether to mirror left to right, at even odds; the released settings have 1.
      quarter_turns: turns by 0 to 3 right angles too, which the paper's nine numbers do not have; for square images.
      scale_std, aniso_std: standard deviations of the binary logarithms of the isotropic and the anisotropic scale.
      translate_std: of the translation, over the image's width or height.
    """

    p: float = 0.12
    mirror: float = 1.0
    quarter_turns: bool = False
    scale_std: float = 0.2
    aniso_std: float = 0.2
    translate_std: float = 0.125

    @property
    def size(self) -> int:
        """Numbers in a label: 9, or 11 with quarter turns."""
        return 11 if self.quarter_turns else 9

    def check(self) -> None:
        """Raises ConfigError for probabilities outside [0, 1] and negative deviations."""
        for name in ("p", "mirror"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                refuse(name, getattr(self, name), "a probability in [0, 1]")
        for name in ("scale_std", "aniso_std", "translate_std"):
            if not getattr(self, name) >= 0.0:
                refuse(name, getattr(self, name), "a number of at least 0")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError unless ``shape`` is that of an image, and square where it is turned."""
        if len(shape) != 3 or min(shape[:2]) < 2:
            refuse("config.augment", shape, "images (height, width, channels) of at least 2 x 2")
        if self.quarter_turns and shape[0] != shape[1]:
            refuse("config.augment.quarter_turns", True, f"False: images of {shape[0]} x {shape[1]} are not square")

    def __call__(
        self, key: Key[Array, ""], index: Int[Array, " batch"], x0: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch labels"]]:
        """The augmented images and the labels (batch, size), each from (key, index of the example) alone."""
        return jax.vmap(self.one)(example_keys(key, index, "augment"), x0)

    def one(self, key: Key[Array, ""], x: Float[Array, "height width channels"]) -> tuple[Array, Array]:
        """One image (height, width, channels) and its label (size,)."""
        keys, real = iter(jax.random.split(key, 13)), x.dtype

        def kept(value: Array, probability: float) -> Array:
            """``value`` with the probability, else 0."""
            return jnp.where(jax.random.uniform(next(keys)) < probability, value, jnp.zeros_like(value))

        mirror = kept(jax.random.randint(next(keys), (), 0, 2), self.mirror)
        flip = kept(jax.random.randint(next(keys), (), 0, 2), self.p)
        x = jnp.where(mirror == 1, x[:, ::-1], x)
        x = jnp.where(flip == 1, x[::-1], x)
        label = [mirror, flip]
        if self.quarter_turns:
            turns = kept(jax.random.randint(next(keys), (), 0, 4), self.p)
            x = jax.lax.switch(turns, [functools.partial(jnp.rot90, k=k) for k in range(4)], x)
            label += [(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)]
        normals = jax.random.normal(next(keys), (4,), real)
        angles = jax.random.uniform(next(keys), (2,), real, -np.pi, np.pi)
        scale, turn, aniso, shift = (kept(v, self.p) for v in (normals[0], angles[0], normals[1], normals[2:]))
        axis = jnp.where(jax.random.bernoulli(next(keys)), angles[1], 0.0)  # half of them along the image's own axes
        label += [scale, jnp.cos(turn) - 1.0, jnp.sin(turn), aniso * jnp.cos(axis), aniso * jnp.sin(axis), shift[0], shift[1]]
        matrix, offset = self.inverse(scale, turn, aniso, axis, shift, x.shape)
        moved = (scale != 0) | (turn != 0) | (aniso != 0) | jnp.any(shift != 0)
        return jnp.where(moved, resample(x, matrix, offset), x), jnp.stack([jnp.asarray(v, real) for v in label])

    def inverse(self, scale: Array, turn: Array, aniso: Array, axis: Array, shift: Array, shape: tuple) -> tuple[Array, Array]:
        """``(A (2, 2), t (2,))`` with G_inv z = A z + t on z = (x, y), pixels from the centre, of what was drawn."""
        isotropic = jnp.exp2(-self.scale_std * scale)
        s = jnp.exp2(-self.aniso_std * aniso)
        stretch = _rotation(-axis) @ jnp.diag(jnp.stack([s, 1.0 / s])) @ _rotation(axis)
        matrix = isotropic * _rotation(turn) @ stretch
        height, width = shape[:2]
        return matrix, -matrix @ (shift * self.translate_std * jnp.asarray([width, height], shift.dtype))


def resample(x: Float[Array, "height width channels"], matrix: Float[Array, "2 2"], offset: Float[Array, 2]) -> Array:
    """``x'(z) = x(matrix z + offset)``, z = (x, y) in pixels from the centre, band-limited as the module says."""
    (rise, fall), (widen, narrow) = (_filters(size) for size in x.shape[:2])
    precise = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    doubled = precise("ah,bw,hwc->abc", jnp.asarray(rise, x.dtype), jnp.asarray(widen, x.dtype), x)
    rows, columns = (jnp.arange(f.shape[1], dtype=x.dtype) - 0.5 * (f.shape[1] - 1) + 0.5 for f in (fall, narrow))
    z = jnp.stack(jnp.broadcast_arrays(columns[None, :], rows[:, None]))  # of the doubled image, whose pixels lie half a pixel off
    z = jnp.einsum("ij,jab->iab", matrix, z, precision=jax.lax.Precision.HIGHEST) + 2.0 * offset[:, None, None] - 0.5
    places = [z[1] + 0.5 * (doubled.shape[0] - 1), z[0] + 0.5 * (doubled.shape[1] - 1)]
    picked = jax.vmap(lambda channel: map_coordinates(channel, places, order=1), in_axes=-1, out_axes=-1)(doubled)
    return precise("ha,wb,abc->hwc", jnp.asarray(fall, x.dtype), jnp.asarray(narrow, x.dtype), picked)


@functools.cache
def _filters(size: int) -> tuple[np.ndarray, np.ndarray]:
    """``(double (2 (3 size - 2), size), halve (size, 2 (size + 2 PAD)))``: reflect by size - 1 and double; halve and crop."""
    margin = size - 1
    reflected = np.pad(np.eye(size), ((margin, margin), (0, 0)), mode="reflect")
    up = _taps(np.arange(2 * len(reflected))[:, None] - 2 * np.arange(len(reflected))[None] + 5)
    down = _taps(np.arange(2 * (size + 2 * PAD))[None] - 2 * (np.arange(size)[:, None] + PAD) + 5)
    return up @ reflected, down


def _taps(k: np.ndarray) -> np.ndarray:
    """SYM6[k], 0 where there is none."""
    return np.where((k >= 0) & (k < len(SYM6)), np.asarray(SYM6)[np.clip(k, 0, len(SYM6) - 1)], 0.0)


def _rotation(angle: Any) -> Array:
    """By ``angle`` from the x axis towards the y axis."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])
