"""M5: how much of the mismatch is a wrong level, which re-timing could repair, and how much is not on the forward curve at all.

    KL(p || p_l) = 1/2 sum_b n_b (q_b - 1 - ln q_b),  q_b = v_b / V_b(l)       of Gaussian bands, in nats of a whole state
    off = min_l KL(p || p_l),    share on the curve = 1 - off / KL(p || p_nominal)

n trajectories that are forward samples read about B / (2 n) and not 0, so sums over calls are taken less those of forward samples.
Source: section 1 of the mathematics (M5); Kingma et al. 2021 for the coordinate.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.estimators.levels import Levels
from score_lab.mismatch.replicates import Curve, curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths.base import GaussianPath

__all__ = ["Divergence", "Share", "divergence", "share"]

_REACH, _POINTS = 5.0, 401
"""Levels that are looked at: within so many nats of log-SNR of the nominal one."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Curves over calls, in nats: ``nominal`` KL to the law of the level told, ``off`` to the nearest law of the path; flagged "no level"
    where the nominal one is infinite."""

    nominal: Curve
    off: Curve


@dataclasses.dataclass(frozen=True)
class Share:
    """``value`` with ``low`` and ``high`` (95 %): what of the divergence of all calls is on the curve, forward samples' own taken off;
    NaN, and ``words`` that say why, where there is no divergence to share out."""

    value: float
    low: float
    high: float
    words: str = ""


def divergence(record: BandRecord, spectrum: Spectrum, path: GaussianPath, **options) -> Divergence:
    """Of every call of a record; ``options`` of ``curve``."""
    record.check(spectrum)
    levels, count = Levels.of(path, record.t), spectrum.count
    use = spectrum.variance > 0
    s2, n_b = spectrum.variance[use], count[use].astype(np.float64)
    v = (record.means("state") / count)[..., use]
    nominal, off = (np.full(v.shape[:2], np.nan) for _ in range(2))
    for k in np.flatnonzero(levels.finite & np.isfinite(v).all(axis=(1, 2)) & (v > 0).all(axis=(1, 2))):
        grid = np.clip(levels.log_snr[k] + np.linspace(-_REACH, _REACH, _POINTS), levels.low, levels.high)
        own = np.append(grid, levels.log_snr[k])
        log_v = levels.log_v(own[:, None], s2[None])[0]
        found = 0.5 * (v[k] @ (n_b * np.exp(-log_v)).T + (log_v @ n_b)[None] - (np.log(v[k]) @ n_b + n_b.sum())[:, None])
        nominal[k], off[k] = found[:, -1], np.minimum(_least(found[:, :-1]), found[:, -1])
    flag = np.where(levels.finite, "ok", "no level").astype(object)
    return Divergence(*(curve(np.maximum(d, 0.0), flag=flag, **options) for d in (nominal, off)))


def _least(values: np.ndarray) -> np.ndarray:
    """The minimum of each row (R, m) of equally spaced values: of the parabola through the least one and its neighbours."""
    i = np.clip(np.argmin(values, axis=1), 1, values.shape[1] - 2)
    a, b, c = (np.take_along_axis(values, (i + j)[:, None], 1)[:, 0] for j in (-1, 0, 1))
    bend = a - 2 * b + c
    lower = b - np.where(bend > 0, (a - c) ** 2 / (8 * np.where(bend > 0, bend, 1.0)), 0.0)
    return np.minimum(values.min(axis=1), np.maximum(lower, 0.0))


def share(run: Divergence, null: Divergence) -> Share:
    """Of all calls with a level together: ``1 - sum (off - off of forward samples) / sum (nominal - nominal of forward samples)``."""
    ok = (run.nominal.flag == "ok") & (null.nominal.flag == "ok")
    if not ok.any():
        return Share(np.nan, np.nan, np.nan, "no call has a level and finite states")

    def total(c: Curve) -> np.ndarray:
        return np.concatenate([[c.value[ok].sum()], c.draws[ok].sum(axis=0)])

    r = min(run.nominal.draws.shape[1], null.nominal.draws.shape[1]) + 1
    whole, off = (total(a)[:r] - total(b)[:r] for a, b in ((run.nominal, null.nominal), (run.off, null.off)))
    if not whole[0] > 2 * np.std(whole[1:]):
        return Share(np.nan, np.nan, np.nan, "the divergence is not more than forward samples have: there is nothing to share out")
    found = 1.0 - off / np.where(np.abs(whole) > 1e-300, whole, np.nan)
    half = 1.96 * float(np.nanstd(found[1:]))
    return Share(float(found[0]), float(max(found[0] - half, 0.0)), float(min(found[0] + half, 1.0)))
