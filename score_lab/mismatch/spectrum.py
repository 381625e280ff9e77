"""The spectrum of data: their mean, and their variance in the bands of an orthonormal basis.

    c = Q^T (x0 - mu),    s_b^2 = 1 / n_b sum_{i in b} Var c_i,    b = 0 .. B-1,    n_b coefficients in band b
    V_b(t) = alpha^2 s_b^2 + sigma^2,    tan phi_b = kappa / s_b,    Wiener gain cos^2 phi_b,    MMSE_b = s_b^2 sin^2 phi_b

What a Gaussian with this spectrum would do is exact (docs/mismatch.md); for other data V_b is still the exact variance of the forward
states in every band, which is what the states of a sampler are held against.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.analytic import DCT, GaussianBands, Haar, Hartley, Identity, Matrix, pca
from score_lab.analytic.bases import Basis
from score_lab.build import refuse
from score_lab.mismatch.band_maps import bands_of, radial_bands
from score_lab.mismatch.inversion import on_host
from score_lab.paths.base import GaussianPath
from score_lab.types import Array

__all__ = ["BASES", "Spectrum", "by_band", "digest_of"]

BLOCKS = 20
"""Of the jackknife that gives the spectrum's own uncertainty."""


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """``variance`` s_b^2 (B,), its relative standard error ``se`` (B,) (0: given, not measured), ``count`` n_b (B,), the ``band`` of every
    coefficient (*shape), the ``basis``, the ``mean`` (*shape), ``n`` examples (0: given) and the ``digest`` of data and preprocessing."""

    variance: np.ndarray
    band: np.ndarray
    mean: np.ndarray
    basis: Basis = Identity()
    se: np.ndarray | None = None
    n: int = 0
    digest: str = ""

    def __post_init__(self):
        object.__setattr__(self, "variance", np.asarray(self.variance, np.float64))
        object.__setattr__(self, "se", np.zeros(len(self.variance)) if self.se is None else np.asarray(self.se, np.float64))
        object.__setattr__(self, "band", np.asarray(self.band, np.int32))
        object.__setattr__(self, "mean", np.broadcast_to(np.asarray(self.mean, np.float64), self.band.shape))
        bands = np.bincount(self.band.reshape(-1), minlength=len(self.variance))
        if len(bands) != len(self.variance) or self.band.min() < 0 or not bands.all():
            refuse("Spectrum.band", f"{self.band.min()} to {self.band.max()}", f"every band 0 to {len(self.variance) - 1}, none empty")
        if not (np.isfinite(self.variance).all() and (self.variance >= 0).all()):
            refuse("Spectrum.variance", self.variance.tolist(), "finite, >= 0")

    @property
    def count(self) -> np.ndarray:
        """``n_b`` (B,)."""
        return np.bincount(self.band.reshape(-1), minlength=len(self.variance))

    @property
    def d(self) -> int:
        """Values of one state."""
        return int(self.band.size)

    @property
    def total(self) -> float:
        """``s^2 = sum_b n_b s_b^2 / d``."""
        return float(self.count @ self.variance / self.d)

    @classmethod
    def white(cls, s2: float, shape: tuple[int, ...], mean: float = 0.0) -> Spectrum:
        """One band of variance ``s2``: N(mean, s2 I)."""
        return cls(np.array([s2]), np.zeros(shape, np.int32), np.full(shape, mean))

    @classmethod
    def power_law(cls, shape: tuple[int, int, int], slope: float = 2.0, s2: float = 1.0) -> Spectrum:
        """``s_b^2 ~ f_b^-slope`` over DCT frequencies of (height, width, channels), the lowest counted as 1, of total variance ``s2``."""
        band = radial_bands(shape)
        variance = np.maximum(np.arange(band.max() + 1), 1.0) ** -slope
        count = np.bincount(band.reshape(-1))
        return cls(variance * s2 * band.size / (count @ variance), band, np.zeros(shape), DCT((1, 2)))

    @classmethod
    def of(
        cls, data: np.ndarray | Iterable[np.ndarray], basis: str | Basis = "dct", band: str | np.ndarray = "radial",
        per_channel: bool = False, what: str = "",
    ) -> Spectrum:  # fmt: skip
        """Measured on ``data`` (n, *shape), or on batches of them, which are gone through once.

        Args:
          basis: a name in ``BASES`` or a basis.  "pca" needs an array.
          band: "radial" (images; subbands of "haar"; 16 groups of falling variance of "pca"), "each" coefficient its own, or (*shape) of
            whole numbers.
          per_channel: every channel has bands of its own.
          what: words on the preprocessing, part of the digest; so are bands that are not the usual ones (radial of images, each of points).

        The uncertainty is the delete-a-block jackknife over 20 interleaved blocks.  Raises ConfigError for fewer than 40 examples.
        """
        whole = data if isinstance(data, np.ndarray) else None
        if basis == "pca" and whole is None:
            refuse("Spectrum.of.basis", "pca", "an array of data: its axes are found before its spectrum")
        if isinstance(basis, str) and basis not in BASES:
            refuse("Spectrum.of.basis", basis, ", ".join(BASES), tuple(BASES))
        name, found = (basis, BASES[basis](whole)) if isinstance(basis, str) else (type(basis).__name__.lower(), basis)
        sums: Any = None
        seen, taken = 0, _begun(name, what)
        for x in [whole] if whole is not None else data:
            x = np.asarray(x)
            if not np.isfinite(x).all():
                refuse("Spectrum.of.data", "not finite", "finite values")
            if x.ndim <= max(getattr(found, "axes", (0,))):
                refuse("Spectrum.of.basis", name, f"identity or pca for states {x.shape[1:]}, which have no such axes: {name} is of images")
            _take(taken, x)
            for first in range(0, len(x), 4096):
                c = np.asarray(_coefficients(found, jnp.asarray(x[first : first + 4096], jnp.float32)), np.float64)
                if sums is None:
                    shift = c.mean(axis=0)  # near the mean: what is squared is small
                    sums = np.zeros((2, BLOCKS, *c.shape[1:])), np.zeros(BLOCKS)
                block = (seen + np.arange(len(c))) % BLOCKS
                for k in range(BLOCKS):
                    part = c[block == k] - shift
                    sums[0][0, k] += part.sum(axis=0)
                    sums[0][1, k] += np.square(part).sum(axis=0)
                    sums[1][k] += len(part)
                seen += len(c)
        if seen < 2 * BLOCKS:
            refuse("Spectrum.of.data", seen, f"at least {2 * BLOCKS} examples")
        taken.update(_banded(band, per_channel, x.ndim == 4))
        bands = bands_of(name, found, band, c.shape[1:], per_channel)
        totals, n = sums[0].sum(axis=1), sums[1].sum()
        variance = _variance(totals, n, bands)
        without = np.stack([_variance(totals - sums[0][:, k], n - sums[1][k], bands) for k in range(BLOCKS)])
        spread = np.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - without.mean(axis=0)).sum(axis=0))
        se = np.divide(spread, variance, out=np.zeros_like(variance), where=variance > 0)
        mean = np.asarray(found.synthesise(jnp.asarray(shift + totals[0] / n)[None])[0], np.float64)
        return cls(variance, bands, mean, found, se, int(n), taken.hexdigest()[:16])

    def energies(self, c: Array) -> Array:
        """``sum_{i in b} c_i^2`` (n, B) of coefficients (n, *shape)."""
        return by_band(jnp.square(c), self.membership(c.dtype))

    def membership(self, dtype: Any) -> Array:
        """(d, B): 1 where the coefficient is of the band."""
        return jnp.asarray(self.band.reshape(-1)[:, None] == np.arange(len(self.variance)), dtype)

    def V(self, path: GaussianPath, t: np.ndarray) -> np.ndarray:
        """``V_b(t)`` (K, B), float64."""
        alpha, sigma, _ = on_host(path, t)
        return (alpha**2)[:, None] * self.variance + (sigma**2)[:, None]

    def phi(self, path: GaussianPath, t: np.ndarray) -> np.ndarray:
        """``phi_b(t) = arctan(sigma / (alpha s_b))`` (K, B), in [0, pi / 2]."""
        alpha, sigma, _ = on_host(path, t)
        return np.arctan2(sigma[:, None], alpha[:, None] * np.sqrt(self.variance))

    def surrogate(self, path: GaussianPath) -> GaussianBands:
        """The exact denoiser of the Gaussian with this mean and spectrum."""
        return GaussianBands(path, self.mean, np.sqrt(self.variance)[self.band], self.basis)

    def check_data(self, digest: str) -> None:
        """ConfigError unless the spectrum was measured on the data of ``digest``."""
        if self.digest and digest and self.digest != digest:
            refuse("spectrum", self.digest, f"a spectrum of these data and this preprocessing, {digest}")

    def save(self, file: Path) -> None:
        """Into an npz; ``load`` gives it back.  ConfigError for a basis of one's own other than a ``Matrix``, or a name without .npz."""
        if file.suffix != ".npz":
            refuse("Spectrum.save.file", str(file), "a name that ends in .npz")
        kind = {name: type(make(np.zeros((2, *self.band.shape)))) for name, make in BASES.items() if name != "pca"}
        name = "matrix" if isinstance(self.basis, Matrix) else next((n for n, k in kind.items() if type(self.basis) is k), None)
        if name is None:
            refuse("Spectrum.save.basis", type(self.basis).__name__, ", ".join(BASES) + ", or a Matrix")
        parts = {f: getattr(self, f) for f in ("variance", "band", "mean", "se", "n", "digest")}
        extra = {"Q": np.asarray(self.basis.Q)} if isinstance(self.basis, Matrix) else dataclasses.asdict(self.basis)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, basis=name, **parts, **{f"basis_{k}": np.asarray(v) for k, v in extra.items()})

    @classmethod
    def load(cls, file: Path) -> Spectrum:
        """What ``save`` wrote."""
        with np.load(file) as found:
            kinds: dict[str, Callable] = {"identity": Identity, "dct": DCT, "fft": Hartley, "haar": Haar, "matrix": Matrix}
            fields = {k[6:]: v for k, v in found.items() if k.startswith("basis_")}
            fields = {k: v if k == "Q" else tuple(v.tolist()) if v.ndim else v.item() for k, v in fields.items()}
            basis = kinds[str(found["basis"])](**fields)
            parts = {f: found[f] for f in ("variance", "band", "mean", "se")}
            return cls(basis=basis, n=int(found["n"]), digest=str(found["digest"]), **parts)


def by_band(c: Array, membership: Array) -> Array:
    """``sum_{i in b} c_i`` (n, B) of ``c`` (n, *shape), in full precision: an accelerator's default has 11 bits."""
    return jnp.matmul(c.reshape(len(c), -1), membership, precision="highest")


def digest_of(x: np.ndarray, basis: str = "dct", what: str = "", band: str | np.ndarray = "", per_channel: bool = False) -> str:
    """The ``digest`` that ``Spectrum.of`` would give to data ``x`` (n, *shape) in these bands ("": radial of images, each of points),
    without measuring anything."""
    taken, x = _begun(basis, what), np.asarray(x)
    _take(taken, x)
    taken.update(_banded(_usual(x.ndim == 4) if isinstance(band, str) and not band else band, per_channel, x.ndim == 4))
    return taken.hexdigest()[:16]


def _usual(images: bool) -> str:
    return "radial" if images else "each"


def _banded(band: str | np.ndarray, per_channel: bool, images: bool) -> bytes:
    """What the bands add to the digest: nothing where they are the usual ones."""
    if isinstance(band, str):
        return b"" if band == _usual(images) and not per_channel else f" {band} {per_channel}".encode()
    return np.ascontiguousarray(band, np.int32).tobytes() + f" {per_channel}".encode()


def _begun(name: str, what: str) -> Any:
    return hashlib.sha256(f"{what} {name}".encode())


def _take(taken: Any, x: np.ndarray) -> None:
    taken.update(np.ascontiguousarray(x, np.float32).tobytes())


@jax.jit
def _coefficients(basis: Basis, x: Array) -> Array:
    return basis.analyse(x)


def _variance(totals: np.ndarray, n: float, bands: np.ndarray) -> np.ndarray:
    """``s_b^2`` from sums of c - shift and of its square, divided by n - 1."""
    one = (totals[1] - totals[0] ** 2 / n) / (n - 1)
    count = np.bincount(bands.reshape(-1))
    return np.maximum(np.bincount(bands.reshape(-1), weights=one.reshape(-1)) / count, 0.0)


BASES: dict[str, Callable[[np.ndarray], Basis]] = {
    "dct": lambda x: DCT((1, 2)),
    "fft": lambda x: Hartley((1, 2)),
    "haar": lambda x: Haar(1, (1, 2)),
    "identity": lambda x: Identity(),
    "pca": pca,
}
"""By name: what makes the basis from the data."""
