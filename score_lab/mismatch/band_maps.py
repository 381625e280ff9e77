"""Which coefficients of a basis are one band: whole numbers 0 .. B - 1 of the state's shape.

    radial       round(f) of the frequency f of a DCT or an FFT             subbands      LL, then (LH, HL, HH) from coarse to fine, of Haar
    groups       16 of falling variance, of a PCA                           each          every coefficient its own
"""

from __future__ import annotations

import numpy as np

from score_lab.analytic import Haar, Hartley, Matrix
from score_lab.analytic.bases import Basis
from score_lab.build import refuse

__all__ = ["bands_of", "radial_bands", "subbands"]


def radial_bands(shape: tuple[int, int, int], wraps: bool = False) -> np.ndarray:
    """The band round(f) of every coefficient of (height, width, channels), f its radial frequency in steps of the lowest one of the DCT; of
    the FFT (``wraps``) frequencies beyond the middle are negative.  Bands that no coefficient falls into are left out."""
    sides = [np.arange(n) for n in shape[:2]]
    if wraps:
        sides = [np.minimum(k, n - k) for k, n in zip(sides, shape[:2], strict=True)]
    radius = np.hypot(sides[0][:, None], sides[1][None, :])
    found = np.unique(np.round(radius).astype(int), return_inverse=True)[1].reshape(radius.shape)
    return np.broadcast_to(found[..., None], shape)


def subbands(shape: tuple[int, int, int], levels: int = 1) -> np.ndarray:
    """The subbands of Haar wavelets: LL, then (LH, HL, HH) of every level, the coarsest first."""
    found = np.zeros(shape[:2], int)
    for level in range(levels):
        h, w = shape[0] >> level, shape[1] >> level
        base = 1 + 3 * (levels - 1 - level)
        found[: h // 2, w // 2 : w], found[h // 2 : h, : w // 2], found[h // 2 : h, w // 2 : w] = base, base + 1, base + 2
    return np.broadcast_to(found[..., None], shape)


def bands_of(name: str, basis: Basis, band: str | np.ndarray, shape: tuple[int, ...], per_channel: bool) -> np.ndarray:
    """The band of every coefficient of states of ``shape`` in the ``basis`` of this ``name``: see ``Spectrum.of``.  ConfigError for a band
    that the basis or the shape does not have."""
    if per_channel and isinstance(basis, Matrix):
        refuse("Spectrum.of.per_channel", True, f"False with the basis {name}: its vectors go through all channels")
    if not isinstance(band, str):
        found = np.asarray(band)
        if found.shape != shape:
            refuse("Spectrum.of.band", found.shape, f"the shape of one state, {shape}")
    elif band == "each":
        return np.arange(int(np.prod(shape))).reshape(shape)
    elif band != "radial":
        refuse("Spectrum.of.band", band, "radial, each, or whole numbers of the state's shape")
    elif name in ("pca", "matrix"):
        d = int(np.prod(shape))
        found = (np.arange(d) * min(16, d) // d).reshape(shape)
    elif name == "identity":
        found = np.zeros(shape, int)
    elif len(shape) != 3:
        refuse("Spectrum.of.band", band, f"images (height, width, channels); states here are {shape}: each, or a list of one's own")
    else:
        found = subbands(shape, basis.levels) if isinstance(basis, Haar) else radial_bands(shape, wraps=isinstance(basis, Hartley))
    if not per_channel:
        return found
    return found + (found.max() + 1) * np.arange(shape[-1])
