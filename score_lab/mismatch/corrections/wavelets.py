"""A spectrum seen in the subbands of one Haar level, which is where DCW's wavelet form has its constants.

    s_h^2 = sum_b M_hb s_b^2,     M_hb = (1 / n_h) sum_{j in h} sum_{i in b} (H^T Q)_ji^2

Q is the spectrum's basis, H Haar's: M_hb is what subband h holds, per coefficient, of a band b of unit variance, and rows sum to 1.  Any
variances by band go the same way: those that a run was measured to have too.  Subbands of correlated coefficients: what holds for bands
that are independent holds for them on average.  M is rounded to what the precision that is enabled leaves of it, so that subbands which
hold the same (rows and columns, of a spectrum that does not tell them apart) have the same variance, not one of another last digit.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from score_lab.analytic.bases import Haar
from score_lab.build import refuse
from score_lab.mismatch.band_maps import subbands
from score_lab.mismatch.spectrum import Spectrum

__all__ = ["haar_share", "in_wavelets"]

CHUNK = 2**24
"""Values that are transformed at once."""


def haar_share(spectrum: Spectrum) -> np.ndarray:
    """``M`` (4, B), rows LL, LH, HL, HH; ConfigError for states that are no images (height, width, channels) of even sides."""
    shape = np.shape(spectrum.mean)
    if len(shape) != 3 or shape[0] % 2 or shape[1] % 2:
        refuse("wavelets: the spectrum's shape", shape, "images (height, width, channels) of even sides")
    haar, band, sub = Haar(1, (1, 2)), spectrum.band.reshape(-1), subbands(shape).reshape(-1)
    found, rows = np.zeros((4, len(spectrum.variance))), max(CHUNK // len(band), 1)
    dtype = jnp.result_type(float)
    for first in range(0, len(band), rows):
        here = np.arange(first, min(first + rows, len(band)))
        one = np.zeros((len(here), len(band)), dtype)
        one[np.arange(len(here)), here] = 1.0
        energy = np.square(np.asarray(haar.analyse(spectrum.basis.synthesise(jnp.asarray(one.reshape(-1, *shape))))), dtype=np.float64)
        held = np.stack([energy.reshape(len(here), -1)[:, sub == h].sum(axis=1) for h in range(4)])
        np.add.at(found.T, band[here], held.T)
    return np.round(found / found.sum(axis=1, keepdims=True), 12 if dtype == np.float64 else 6)


def in_wavelets(spectrum: Spectrum, share: np.ndarray | None = None) -> Spectrum:
    """The spectrum of the same data by Haar subbands, of the same mean; ``share``: ``haar_share(spectrum)``, if it is known."""
    share = haar_share(spectrum) if share is None else share
    return dataclasses.replace(
        spectrum, variance=(share * spectrum.variance).sum(axis=1), band=np.array(subbands(np.shape(spectrum.mean))),
        basis=Haar(1, (1, 2)), se=None,
    )  # fmt: skip
