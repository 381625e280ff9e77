"""How each correction of the catalogue is made for one setting: its constants from a spectrum or a record, or a paper's numbers.

    make(setting) -> Corrected(denoiser, sampler, grid, start),   of which a correction changes the one that it wraps
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.guidance import CFG
from score_lab.mismatch.bands import BandRecord
from score_lab.mismatch.corrections.calibration import Corrected, corrected
from score_lab.mismatch.corrections.gains import SignalGain, StateGain
from score_lab.mismatch.corrections.noise_level import NoiseLevelCorrection
from score_lab.mismatch.corrections.recondition import effective_levels, gaussian_levels
from score_lab.mismatch.corrections.time_shift import TimeShift
from score_lab.mismatch.spectrum import Spectrum
from score_lab.samplers import AnalyticDPM, SpectrumAware
from score_lab.samplers.steps import steps_of

__all__ = [
    "Setting", "analytic_variance", "calibrated", "cfg_rescale", "large_bands", "noise_level", "of_number", "recondition",
    "spectrum_aware", "time_shift",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is to be corrected: ``denoiser``, ``sampler``, ``grid``, the data's ``spectrum``; and what some corrections are made of: a
    ``record`` of an uncorrected run and the ``last`` ln R_b of its samples, an estimator's ``effective`` reading of it at the times ``t``,
    a noise-level ``probe``, a ``forward`` record."""

    denoiser: Any
    sampler: Any
    grid: Any
    spectrum: Spectrum
    record: BandRecord | None = None
    last: np.ndarray | None = None
    effective: Any = None
    t: np.ndarray | None = None
    probe: Any = None
    forward: BandRecord | None = None

    @property
    def path(self) -> Any:
        """The denoiser's."""
        return self.denoiser.path

    def with_(self, **changes: Any) -> Corrected:
        """As it is, but for the ``changes``."""
        return Corrected(**({"denoiser": self.denoiser, "sampler": self.sampler, "calibration": None, "grid": self.grid} | changes))


def calibrated(kind: Any, per_band: bool, **fields: Any) -> Callable[[Setting], Corrected]:
    """Calibrated: measured where the setting has a record, else from its spectrum."""

    def make(to: Setting) -> Corrected:
        how = {"calibrate": "gaussian"} if to.record is None else {"calibrate": "measured", "record": to.record, "last": to.last}
        centre = {"mean": to.spectrum.mean} if kind in (SignalGain, StateGain) else {}
        return corrected(kind, to.denoiser, to.sampler, to.grid, spectrum=to.spectrum, per_band=per_band, **how, **centre, **fields)

    return make


def of_number(kind: Any, number: float, **fields: Any) -> Callable[[Setting], Corrected]:
    """With the one ``number`` of a paper everywhere, and ``fields`` of the kind."""
    return lambda to: corrected(kind, to.denoiser, to.sampler, to.grid, calibrate=number, **fields)


def time_shift(form: str) -> Callable[[Setting], Corrected]:
    """On the noisier half of the steps, within half of the least of them; the corrected form where V is monotone besides."""

    def make(to: Setting) -> Corrected:
        steps = steps_of(to.grid, to.path)
        t, s = np.asarray(steps.t, np.float64), np.asarray(steps.s, np.float64)
        half = max(len(t) // 2, 1)
        window, cutoff = 0.5 * float((t - s)[:half].min()), float(0.5 * (s[half - 1] + t[half - 1]))
        cutoff = float(min(cutoff, s[0] - 1e-3 * (t[0] - s[0])))
        if form == "corrected":
            times = np.linspace(0.0, 1.0, 1025)
            V = (np.asarray(f(jnp.asarray(times)), np.float64) ** 2 for f in (to.path.alpha, to.path.sigma))
            least = times[int(np.argmin(next(V) * to.spectrum.total + next(V)))]
            cutoff = max(cutoff, float(least + window)) if least > 0 else cutoff
        fields = {"window": window, "cutoff": cutoff, "form": form, "s2": to.spectrum.total, "mean": to.spectrum.mean}
        return to.with_(sampler=TimeShift(to.sampler, **fields))

    return make


def recondition(to: Setting) -> Corrected:
    """Levels of an estimator's reading where the setting has one, else of the spectrum: ``x_eff``, ``kappa_eff`` by step."""
    if to.effective is None:
        levels = gaussian_levels(to.spectrum, to.path, to.sampler, to.grid)
    else:
        levels = effective_levels(to.effective.delta, to.t, to.path, to.grid, to.effective.signal_gain)
    return to.with_(sampler=levels.around(to.sampler, to.spectrum.mean))


def noise_level(to: Setting) -> Corrected:
    """Every sample's own level, by the setting's probe.  ConfigError without one."""
    if to.probe is None:
        refuse("Setting.probe", None, "a probe (x, t) -> correction of ln kappa, which noise level correction reads")
    return to.with_(sampler=NoiseLevelCorrection(to.sampler, to.probe))


def cfg_rescale(to: Setting) -> Corrected:
    """Rescaled by 0.7, the paper's; ConfigError for a denoiser that is not guided."""
    if not isinstance(to.denoiser, CFG):
        refuse("CFG rescale", type(to.denoiser).__name__, "a denoiser that is guided: CFG")
    return to.with_(denoiser=dataclasses.replace(to.denoiser, rescale=0.7))


def _levels(to: Setting) -> tuple[np.ndarray, float, float, bool]:
    """The finite kappas of the grid's steps, the largest and the least of them, and whether its last step goes to data."""
    steps = steps_of(to.grid, to.path)
    kappa = np.asarray(to.path.kappa(steps.t), np.float64)
    kappa = kappa[np.isfinite(kappa) & (kappa > 0)]
    end = float(to.path.kappa(steps.s[-1]))
    return kappa, float(kappa.max()), float(kappa.min()) if end == 0 else end, end == 0


def large_bands(spectrum: Spectrum) -> int:
    """32 coefficients, or half of the largest band's where none has as many."""
    return min(32, max(int(spectrum.count.max()) // 2, 1))


def spectrum_aware(to: Setting) -> Corrected:
    """As many steps between the same levels."""
    _, high, low, to_data = _levels(to)
    n, good = int(steps_of(to.grid, to.path).t.shape[0]), to.spectrum.variance > 0
    parts = (n, tuple(to.spectrum.variance[good].tolist()), tuple(to.spectrum.count[good].tolist()), low, high, to_data)
    return to.with_(grid=SpectrumAware(*parts))


def analytic_variance(to: Setting) -> Corrected:
    """Gamma = sum_b n_b sin^2 phi_b / d, exact for Gaussian bands."""
    kappa = np.unique(_levels(to)[0])[::-1]
    share = kappa[:, None] ** 2 / (kappa[:, None] ** 2 + to.spectrum.variance)
    gamma = share @ to.spectrum.count / to.spectrum.d
    return to.with_(sampler=AnalyticDPM(jnp.asarray(-2.0 * np.log(kappa)), jnp.asarray(gamma)))
