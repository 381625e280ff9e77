"""What makes the corrections of the catalogue: a ``Setting`` becomes what ``sample`` is called with to have one (``Corrected``).

    calibrated(kind, per_band)(setting)      constants of the setting's record, else of its spectrum
    published(kind, number)(setting)         the paper's own number
    time_shift, angle_step, ...              what one correction alone needs

``Setting.number`` takes the place of a calibration and of a paper's number.
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
from score_lab.mismatch.corrections.angle import AngleStep
from score_lab.mismatch.corrections.calibration import Corrected, calibrate, corrected
from score_lab.mismatch.corrections.clamp import SpectralClamp
from score_lab.mismatch.corrections.dcw import DCW, WaveletDCW
from score_lab.mismatch.corrections.gains import SignalGain, StateGain
from score_lab.mismatch.corrections.level_residual import LevelResidual
from score_lab.mismatch.corrections.measured import measured_ratios
from score_lab.mismatch.corrections.noise_level import NoiseLevelCorrection
from score_lab.mismatch.corrections.recondition import Recondition, effective_levels, gaussian_levels
from score_lab.mismatch.corrections.time_shift import TimeShift
from score_lab.mismatch.corrections.wavelets import haar_share, in_wavelets
from score_lab.mismatch.estimators.probe import Probe
from score_lab.mismatch.spectrum import Spectrum
from score_lab.samplers import DDIM, AnalyticDPM, EulerMaruyama, ResolutionShift, SpectrumAware
from score_lab.samplers.steps import steps_of

__all__ = [
    "Setting", "analytic_variance", "angle_step", "calibrated", "cfg_rescale", "dcw_in_wavelets", "given", "noise_level", "published",
    "recondition", "resolution_shift", "spectral_clamp", "spectrum_aware", "time_shift",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is to be corrected: ``denoiser``, ``sampler``, ``grid``, the data's ``spectrum``; and what some corrections are made of: a
    ``record`` of an uncorrected run and the ``last`` ln R_b of its samples, an estimator's ``effective`` reading of it at the times ``t``,
    a noise-level ``probe`` (trained, or a callable), a ``forward`` record; ``number``: the constant of those that have one, in place of a
    calibration."""

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
    number: float | None = None

    @property
    def path(self) -> Any:
        """The denoiser's."""
        return self.denoiser.path

    def with_(self, **changes: Any) -> Corrected:
        """As it is, but for the ``changes``."""
        return Corrected(**({"denoiser": self.denoiser, "sampler": self.sampler, "calibration": None, "grid": self.grid} | changes))


def calibrated(kind: Any, per_band: bool, **fields: Any) -> Callable[[Setting], Corrected]:
    """``kind`` with constants measured where the setting has a record, else from its spectrum; ``per_band``: one for every band."""

    def make(to: Setting) -> Corrected:
        if to.number is not None:
            return corrected(kind, to.denoiser, to.sampler, to.grid, calibrate=to.number, **fields)
        how = {"calibrate": "gaussian"} if to.record is None else {"calibrate": "measured", "record": to.record, "last": to.last}
        centre = {"mean": to.spectrum.mean} if kind in (SignalGain, StateGain) else {}
        return corrected(kind, to.denoiser, to.sampler, to.grid, spectrum=to.spectrum, per_band=per_band, **how, **centre, **fields)

    return make


def given(to: Setting, number: float) -> float:
    """The setting's number, or the paper's."""
    return number if to.number is None else float(to.number)


def published(kind: Any, number: float, **fields: Any) -> Callable[[Setting], Corrected]:
    """``kind`` with its paper's ``number``."""
    return lambda to: corrected(kind, to.denoiser, to.sampler, to.grid, calibrate=given(to, number), **fields)


def dcw_in_wavelets(to: Setting) -> Corrected:
    """DCW with constants by Haar subband: the spectrum, and what was measured of it, seen there."""
    share, path = haar_share(to.spectrum), to.path
    if to.number is not None:
        return to.with_(sampler=WaveletDCW(to.sampler, to.number, to.number, "constant", form="covariant"))
    seen, ratios = in_wavelets(to.spectrum, share), None
    if to.record is not None:
        steps = steps_of(to.grid, path)
        V = to.spectrum.V(path, np.append(np.asarray(steps.t, np.float64), float(steps.s[-1])))
        v = np.exp(measured_ratios(to.record, to.spectrum, path, to.grid, to.last)) * V
        ratios = np.log(v @ share.T / (V @ share.T))
    found = calibrate(DCW, seen, path, to.sampler, to.grid, ratios=ratios, limit=0.5)
    return to.with_(sampler=DCW(to.sampler, constants=found.constants(seen)), calibration=found)


def time_shift(form: str) -> Callable[[Setting], Corrected]:
    """On the noisier half of the steps, within half of the least of them; the corrected form where V is monotone besides."""

    def make(to: Setting) -> Corrected:
        steps = steps_of(to.grid, to.path)
        t, s = np.asarray(steps.t, np.float64), np.asarray(steps.s, np.float64)
        half = max(len(t) // 2, 1)
        window, cutoff = given(to, 0.5 * float((t - s)[:half].min())), float(0.5 * (s[half - 1] + t[half - 1]))
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
    """Labels by the setting's ``effective`` reading, else by the levels of a Gaussian of its spectrum."""
    if to.number is not None:
        return to.with_(sampler=Recondition(to.sampler, 1.0, to.number, to.spectrum.mean))
    if to.effective is None:
        levels = gaussian_levels(to.spectrum, to.path, to.sampler, to.grid)
    else:
        levels = effective_levels(to.effective.delta, to.t, to.path, to.grid, to.effective.signal_gain)
    return to.with_(sampler=levels.around(to.sampler, to.spectrum.mean))


def noise_level(to: Setting) -> Corrected:
    """Levels by the setting's ``probe``; ConfigError without one, and for one that failed its own test."""
    if to.probe is None:
        refuse("Setting.probe", None, "a trained Probe, or a callable (x, t) -> correction of ln kappa, which noise level correction reads")
    probe = LevelResidual.of(to.probe, to.path) if isinstance(to.probe, Probe) else to.probe
    if hasattr(probe, "check"):
        probe.check()
    return to.with_(sampler=NoiseLevelCorrection(to.sampler, probe))


def cfg_rescale(to: Setting) -> Corrected:
    """phi = 0.7, or the number, of the guided denoiser; ConfigError for one that is not."""
    if not isinstance(to.denoiser, CFG):
        refuse("CFG rescale", type(to.denoiser).__name__, "a denoiser that is guided: CFG")
    return to.with_(denoiser=dataclasses.replace(to.denoiser, rescale=given(to, 0.7)))


def _levels(to: Setting) -> tuple[np.ndarray, float, float, bool]:
    """The finite kappas of the grid's steps, the largest and the least of them, and whether its last step goes to data."""
    steps = steps_of(to.grid, to.path)
    kappa = np.asarray(to.path.kappa(steps.t), np.float64)
    kappa = kappa[np.isfinite(kappa) & (kappa > 0)]
    end = float(to.path.kappa(steps.s[-1]))
    return kappa, float(kappa.max()), float(kappa.min()) if end == 0 else end, end == 0


def spectral_clamp(to: Setting) -> Corrected:
    """Of bands of at least 32 coefficients, or half of the largest band's where none has as many; towards the forward record, if any."""
    large = min(32, max(int(to.spectrum.count.max()) // 2, 1))
    return to.with_(denoiser=SpectralClamp.of(to.denoiser, to.spectrum, to.forward, given(to, 1.0), large))


def resolution_shift(to: Setting) -> Corrected:
    """The grid shifted by the ratio of sizes, which the setting's number must say: by 1 it is the grid that is there."""
    if to.number is None or to.number == 1:
        refuse("resolution shift", to.number, "a number: how many times as many values as one that the grid is for (calibrate = 4, say)")
    return to.with_(grid=ResolutionShift(to.grid, to.spectrum.d * float(to.number), float(to.spectrum.d)))


def spectrum_aware(to: Setting) -> Corrected:
    """As many steps between the same levels."""
    _, high, low, to_data = _levels(to)
    n, good = int(steps_of(to.grid, to.path).t.shape[0]), to.spectrum.variance > 0
    parts = (n, tuple(to.spectrum.variance[good].tolist()), tuple(to.spectrum.count[good].tolist()), low, high, to_data)
    return to.with_(grid=SpectrumAware(*parts))


def analytic_variance(to: Setting) -> Corrected:
    """Gamma = sum_b n_b sin^2 phi_b / d, exact for Gaussian bands; with a forward record E |eps|^2 / d of it, which is the paper's."""
    kappa = np.unique(_levels(to)[0])[::-1]
    share = kappa[:, None] ** 2 / (kappa[:, None] ** 2 + to.spectrum.variance)
    gamma = share @ to.spectrum.count / to.spectrum.d
    if to.forward is not None:
        good = np.isfinite(to.forward.log_snr)
        order = np.argsort(to.forward.log_snr[good])
        seen = to.forward.means("eps")[good, 0].sum(axis=1)[order] / to.spectrum.d
        gamma = np.interp(-2.0 * np.log(kappa), to.forward.log_snr[good][order], np.minimum(seen, 1.0))
    return to.with_(sampler=AnalyticDPM(jnp.asarray(-2.0 * np.log(kappa)), jnp.asarray(gamma)))


def angle_step(kind: str, trend: bool = False) -> Callable[[Setting], Corrected]:
    """In place of DDIM(eta), and of Euler-Maruyama, whose process is that of eta = 1."""

    def make(to: Setting) -> Corrected:
        sampler = to.sampler
        if isinstance(sampler, DDIM) and sampler.stride is None:
            eta = float(sampler.eta)
        elif isinstance(sampler, EulerMaruyama) and isinstance(sampler.multiplier, int | float) and sampler.multiplier == 1:
            eta = 1.0
        else:
            refuse("angle step", type(sampler).__name__, "in place of DDIM(eta), or of EulerMaruyama with multiplier 1")
        if kind == "forward" and to.forward is None:
            refuse("Setting.forward", None, "a record of forward samples (calibrate=measured makes one), which g is read from")
        return to.with_(sampler=AngleStep.of(to.spectrum, eta, kind, to.forward, to.path, to.grid, trend))

    return make
