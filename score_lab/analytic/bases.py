"""Orthonormal bases in which a covariance is diagonal: ``c = Q^T x`` and back ``x = Q c``, on batches (batch, *shape).

    DCT-II:  c_k = w_k sum_n x_n cos(pi (2 n + 1) k / (2 N)),   w_0 = sqrt(1 / N), w_k = sqrt(2 / N)

Source: Ahmed et al. 1974; scipy's ``norm="ortho"``.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.types import Array, pytree_dataclass, static

__all__ = ["DCT", "Basis", "Haar", "Hartley", "Identity", "Matrix", "dct_matrix", "pca"]


@runtime_checkable
class Basis(Protocol):
    """An orthonormal change of coordinates that keeps the array's shape."""

    def analyse(self, x: Array) -> Array:
        """Coefficients ``c = Q^T x`` of every example."""

    def synthesise(self, c: Array) -> Array:
        """``x = Q c``."""


@pytree_dataclass
class Identity:
    """``Q = I``: the coordinates themselves."""

    def analyse(self, x: Array) -> Array:
        """``x``."""
        return x

    def synthesise(self, c: Array) -> Array:
        """``c``."""
        return c


@pytree_dataclass
class DCT:
    """Orthonormal DCT-II along ``axes`` (of the batched array): (1, 2) are the height and width of images."""

    axes: tuple[int, ...] = static(default=(1, 2))

    def analyse(self, x: Array) -> Array:
        """The separable DCT-II."""
        for axis in self.axes:
            x = _along(jnp.asarray(dct_matrix(x.shape[axis]), x.dtype), x, axis)
        return x

    def synthesise(self, c: Array) -> Array:
        """Its inverse, the DCT-III."""
        for axis in self.axes:
            c = _along(jnp.asarray(dct_matrix(c.shape[axis]).T, c.dtype), c, axis)
        return c


@pytree_dataclass
class Hartley:
    """The FFT's real form along ``axes``: ``c = Re F x - Im F x``, orthonormal and its own inverse.

    Over a frequency and its conjugate its energies sum to the FFT's: ``H_k^2 + H_-k^2 = 2 |F_k|^2`` (Bracewell 1983).  Edges wrap.
    """

    axes: tuple[int, ...] = static(default=(1, 2))

    def analyse(self, x: Array) -> Array:
        """The Hartley transform."""
        f = jnp.fft.fftn(x, axes=self.axes, norm="ortho")
        return (f.real - f.imag).astype(x.dtype)

    def synthesise(self, c: Array) -> Array:
        """The same again."""
        return self.analyse(c)


@pytree_dataclass
class Haar:
    """Orthonormal Haar wavelets of ``levels`` levels along ``axes``, each subband in its corner (low frequencies first)."""

    levels: int = static(default=1)
    axes: tuple[int, ...] = static(default=(1, 2))

    def check(self) -> None:
        """``levels >= 1``."""
        if self.levels < 1:
            refuse("Haar.levels", self.levels, "at least 1")

    def analyse(self, x: Array) -> Array:
        """Level by level: pairs into sums and differences over sqrt(2), the sums again."""
        for axis in self.axes:
            if x.shape[axis] % 2**self.levels:
                refuse("Haar.levels", self.levels, f"2^levels must divide the side, {x.shape[axis]}")
        for level in range(self.levels):
            x = self._at(x, level, _split)
        return x

    def synthesise(self, c: Array) -> Array:
        """The inverse."""
        for level in reversed(range(self.levels)):
            c = self._at(c, level, _join)
        return c

    def _at(self, x: Array, level: int, along) -> Array:
        corner = tuple(slice(0, n >> level) if axis in self.axes else slice(None) for axis, n in enumerate(x.shape))
        part = x[corner]
        for axis in self.axes:
            part = along(part, axis)
        return part if level == 0 else x.at[corner].set(part)


def _split(x: Array, axis: int) -> Array:
    even, odd = (jax.lax.slice_in_dim(x, k, None, 2, axis) for k in (0, 1))
    return jnp.concatenate([even + odd, even - odd], axis) / jnp.sqrt(jnp.asarray(2.0, x.dtype))


def _join(c: Array, axis: int) -> Array:
    low, high = jnp.split(c, 2, axis)
    pair = jnp.stack([low + high, low - high], axis + 1) / jnp.sqrt(jnp.asarray(2.0, c.dtype))
    return pair.reshape(c.shape)


@pytree_dataclass
class Matrix:
    """Any orthonormal ``Q`` (d, d), its columns the basis vectors of the flattened state: PCA, wavelets, a random rotation."""

    Q: Array

    def analyse(self, x: Array) -> Array:
        """``Q^T x``."""
        return (x.reshape(len(x), -1) @ jnp.asarray(self.Q, x.dtype)).reshape(x.shape)

    def synthesise(self, c: Array) -> Array:
        """``Q c``."""
        return (c.reshape(len(c), -1) @ jnp.asarray(self.Q, c.dtype).T).reshape(c.shape)

    def check(self) -> None:
        """Raises ConfigError unless Q is square and ``Q^T Q = I`` to 1e-4."""
        Q = np.asarray(self.Q, np.float64)
        if Q.ndim != 2 or Q.shape[0] != Q.shape[1]:
            refuse("Matrix.Q.shape", Q.shape, "a square matrix")
        if not (error := np.abs(Q.T @ Q - np.eye(len(Q))).max()) <= 1e-4:
            refuse("Matrix.Q", f"Q^T Q differs from I by {error:.2g}", "an orthonormal matrix")


def dct_matrix(n: int) -> np.ndarray:
    """The orthonormal DCT-II matrix (n, n), row k the k-th frequency, float64."""
    k, i = np.arange(n)[:, None], np.arange(n)[None, :]
    rows = np.sqrt(2.0 / n) * np.cos(np.pi * (2 * i + 1) * k / (2 * n))
    rows[0] /= np.sqrt(2.0)
    return rows


def pca(x: np.ndarray) -> Matrix:
    """The principal axes of ``x`` (n, *shape), of falling variance, from the covariance in float64; complete even if n < d."""
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    flat = flat - flat.mean(0)
    _, axes = np.linalg.eigh(flat.T @ flat / len(flat))
    return Matrix(axes[:, ::-1])


def _along(matrix: Array, x: Array, axis: int) -> Array:
    return jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis), precision="highest"), 0, axis)
