"""Every correction with its source, where it lives and where it holds; and what ``sample`` is called with to have it.

    made = CATALOGUE["epsilon scaling, by band"].make(Setting(denoiser, sampler, grid, spectrum))
    sample(made.denoiser, made.sampler, made.grid, x_T=..., ...)

Where a correction has constants they come from the spectrum alone, or from a record of an uncorrected run (``Setting.record``) or of
forward samples (``Setting.forward``); the rest have their papers' own numbers.  ``Setting.number`` takes the place of either, of the one
that ``CorrectionEntry.number`` names.  Training's corrections, and the path's, are listed with the place where they are chosen.
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
from score_lab.mismatch.corrections.awareness import NoiseAwareness
from score_lab.mismatch.corrections.calibration import Corrected, calibrate, corrected
from score_lab.mismatch.corrections.clamp import SpectralClamp
from score_lab.mismatch.corrections.dcw import DCW, WaveletDCW
from score_lab.mismatch.corrections.epsilon import EpsilonScaling
from score_lab.mismatch.corrections.gains import FreshNoise, SignalGain, StateGain
from score_lab.mismatch.corrections.measured import measured_ratios
from score_lab.mismatch.corrections.noise_level import NoiseLevelCorrection
from score_lab.mismatch.corrections.recondition import Recondition, effective_levels, gaussian_levels
from score_lab.mismatch.corrections.start import SignalLeakStart
from score_lab.mismatch.corrections.time_shift import TimeShift
from score_lab.mismatch.corrections.wavelets import haar_share, in_wavelets
from score_lab.mismatch.spectrum import Spectrum
from score_lab.objectives import blind
from score_lab.samplers import DDIM, AnalyticDPM, Churn, EulerMaruyama, ResolutionShift, Restart, SpectrumAware
from score_lab.samplers.steps import steps_of

__all__ = ["CATALOGUE", "CorrectionEntry", "Setting"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is to be corrected: ``denoiser``, ``sampler``, ``grid``, the data's ``spectrum``; and what some corrections are made of: a
    ``record`` of an uncorrected run and the ``last`` ln R_b of its samples, an estimator's ``effective`` reading of it at the times ``t``,
    a noise-level ``probe``, a ``forward`` record; ``number``: the constant of those that have one, in place of a calibration."""

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


@dataclasses.dataclass(frozen=True)
class CorrectionEntry:
    """One correction: where it ``lives`` ("module:Name"), what it ``wraps`` (denoiser, sampler, grid, start, path, training), its
    ``paper``, where it ``applies``, ``make(setting) -> Corrected`` (None where it is chosen in training), and what ``Setting.number`` is
    of it ("" where no one number makes it)."""

    lives: str
    wraps: str
    paper: str
    applies: str
    make: Callable[[Setting], Corrected] | None = None
    number: str = ""


def _knob(kind: Any, per_band: bool, **fields: Any) -> Callable[[Setting], Corrected]:
    """Calibrated: measured where the setting has a record, else from its spectrum."""

    def make(to: Setting) -> Corrected:
        if to.number is not None:
            return corrected(kind, to.denoiser, to.sampler, to.grid, calibrate=to.number, **fields)
        how = {"calibrate": "gaussian"} if to.record is None else {"calibrate": "measured", "record": to.record, "last": to.last}
        centre = {"mean": to.spectrum.mean} if kind in (SignalGain, StateGain) else {}
        return corrected(kind, to.denoiser, to.sampler, to.grid, spectrum=to.spectrum, per_band=per_band, **how, **centre, **fields)

    return make


def _given(to: Setting, number: float) -> float:
    """The setting's number, or the paper's."""
    return number if to.number is None else float(to.number)


def _number(kind: Any, number: float, **fields: Any) -> Callable[[Setting], Corrected]:
    return lambda to: corrected(kind, to.denoiser, to.sampler, to.grid, calibrate=_given(to, number), **fields)


def _wavelets(to: Setting) -> Corrected:
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


def _time_shift(form: str) -> Callable[[Setting], Corrected]:
    """On the noisier half of the steps, within half of the least of them; the corrected form where V is monotone besides."""

    def make(to: Setting) -> Corrected:
        steps = steps_of(to.grid, to.path)
        t, s = np.asarray(steps.t, np.float64), np.asarray(steps.s, np.float64)
        half = max(len(t) // 2, 1)
        window, cutoff = _given(to, 0.5 * float((t - s)[:half].min())), float(0.5 * (s[half - 1] + t[half - 1]))
        cutoff = float(min(cutoff, s[0] - 1e-3 * (t[0] - s[0])))
        if form == "corrected":
            times = np.linspace(0.0, 1.0, 1025)
            V = (np.asarray(f(jnp.asarray(times)), np.float64) ** 2 for f in (to.path.alpha, to.path.sigma))
            least = times[int(np.argmin(next(V) * to.spectrum.total + next(V)))]
            cutoff = max(cutoff, float(least + window)) if least > 0 else cutoff
        fields = {"window": window, "cutoff": cutoff, "form": form, "s2": to.spectrum.total, "mean": to.spectrum.mean}
        return to.with_(sampler=TimeShift(to.sampler, **fields))

    return make


def _recondition(to: Setting) -> Corrected:
    if to.number is not None:
        return to.with_(sampler=Recondition(to.sampler, 1.0, to.number, to.spectrum.mean))
    if to.effective is None:
        levels = gaussian_levels(to.spectrum, to.path, to.sampler, to.grid)
    else:
        levels = effective_levels(to.effective.delta, to.t, to.path, to.grid, to.effective.signal_gain)
    return to.with_(sampler=levels.around(to.sampler, to.spectrum.mean))


def _noise_level(to: Setting) -> Corrected:
    if to.probe is None:
        refuse("Setting.probe", None, "a probe (x, t) -> correction of ln kappa, which noise level correction reads")
    return to.with_(sampler=NoiseLevelCorrection(to.sampler, to.probe))


def _rescale(to: Setting) -> Corrected:
    if not isinstance(to.denoiser, CFG):
        refuse("CFG rescale", type(to.denoiser).__name__, "a denoiser that is guided: CFG")
    return to.with_(denoiser=dataclasses.replace(to.denoiser, rescale=_given(to, 0.7)))


def _levels(to: Setting) -> tuple[np.ndarray, float, float, bool]:
    """The finite kappas of the grid's steps, the largest and the least of them, and whether its last step goes to data."""
    steps = steps_of(to.grid, to.path)
    kappa = np.asarray(to.path.kappa(steps.t), np.float64)
    kappa = kappa[np.isfinite(kappa) & (kappa > 0)]
    end = float(to.path.kappa(steps.s[-1]))
    return kappa, float(kappa.max()), float(kappa.min()) if end == 0 else end, end == 0


def _large(spectrum: Spectrum) -> int:
    """32 coefficients, or half of the largest band's where none has as many."""
    return min(32, max(int(spectrum.count.max()) // 2, 1))


def _resolution(to: Setting) -> Corrected:
    """The grid shifted by the ratio of sizes, which the setting must say: by 1 it is the grid that is there."""
    if to.number is None or to.number == 1:
        refuse("resolution shift", to.number, "a number: how many times as many values as one that the grid is for (calibrate = 4, say)")
    return to.with_(grid=ResolutionShift(to.grid, to.spectrum.d * float(to.number), float(to.spectrum.d)))


def _spectrum_aware(to: Setting) -> Corrected:
    """As many steps between the same levels."""
    _, high, low, to_data = _levels(to)
    n, good = int(steps_of(to.grid, to.path).t.shape[0]), to.spectrum.variance > 0
    parts = (n, tuple(to.spectrum.variance[good].tolist()), tuple(to.spectrum.count[good].tolist()), low, high, to_data)
    return to.with_(grid=SpectrumAware(*parts))


def _analytic(to: Setting) -> Corrected:
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


def _angle(kind: str, trend: bool = False) -> Callable[[Setting], Corrected]:
    """In place of DDIM(eta), of Euler in kappa, which is DDIM, and of Euler-Maruyama, whose process is that of eta = 1."""

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


HERE, GRIDS, TRAINING = "score_lab.mismatch.corrections", "score_lab.samplers", "score_lab.objectives"
NING, YU, LI = "Ning et al. 2024, eq. 13", "Yu et al. 2026, eq. 17-21", "Li et al. 2024, algorithm 1"
FIRST = "in place of DDIM(eta) or EulerMaruyama, every path"
ALL = "every path; samplers that go on from the state they are handed"

CATALOGUE: dict[str, CorrectionEntry] = {
    "epsilon scaling": CorrectionEntry(
        f"{HERE}:EpsilonScaling", "denoiser", NING, "every path, any sampler; one constant a step", _knob(EpsilonScaling, False), "lambda"
    ),
    "epsilon scaling, by band": CorrectionEntry(
        f"{HERE}:EpsilonScaling", "denoiser", f"{NING}; by band: this library", "every path, any sampler", _knob(EpsilonScaling, True),
        "lambda",
    ),
    "epsilon scaling, published": CorrectionEntry(
        f"{HERE}:EpsilonScaling", "denoiser", NING, "no level without signal", _number(EpsilonScaling, 1.005, low=-7.8), "lambda"
    ),
    "signal gain, by band": CorrectionEntry(
        f"{HERE}:SignalGain", "denoiser", "this library", "every path, any sampler", _knob(SignalGain, True), "the gain"
    ),
    "DCW": CorrectionEntry(f"{HERE}:DCW", "sampler", f"{YU}; covariant: this library", ALL, _knob(DCW, False), "l"),
    "DCW, by band": CorrectionEntry(f"{HERE}:DCW", "sampler", f"{YU}; covariant: this library", ALL, _knob(DCW, True, limit=0.5), "l"),
    "DCW in pixels, published": CorrectionEntry(
        f"{HERE}:DCW", "sampler", YU, "VE and EDM (alpha' = 1)", _number(DCW, 0.005, form="literal"), "l"
    ),
    "DCW in wavelets, published": CorrectionEntry(
        f"{HERE}:WaveletDCW", "sampler", YU, "images of even sides, VE and EDM (alpha' = 1)",
        lambda to: to.with_(sampler=WaveletDCW(to.sampler, _given(to, 0.005), 0.0)), "l of LL",
    ),
    "DCW in wavelets": CorrectionEntry(
        f"{HERE}:DCW", "sampler", f"{YU}; covariant: this library", f"images of even sides; {ALL}", _wavelets, "l of every subband",
    ),
    "state gain, by band": CorrectionEntry(f"{HERE}:StateGain", "sampler", f"{LI}, released code", ALL, _knob(StateGain, True), "the gain"),
    "fresh noise, by band": CorrectionEntry(
        f"{HERE}:FreshNoise", "sampler", "Karras et al. 2022, S_noise; Bao et al. 2022, theorem 1, by band", "stochastic samplers",
        _knob(FreshNoise, True), "the factor of the noise",
    ),
    "angle step": CorrectionEntry(f"{HERE}:AngleStep", "sampler", "this library, g = 0", FIRST, _angle("gaussian")),
    "angle step, own": CorrectionEntry(f"{HERE}:AngleStep", "sampler", "this library, g of the sample", FIRST, _angle("own")),
    "angle step, forward": CorrectionEntry(
        f"{HERE}:AngleStep", "sampler", "this library, g of forward samples", f"{FIRST}; a forward record", _angle("forward")
    ),
    "angle step, trend": CorrectionEntry(
        f"{HERE}:AngleStep", "sampler", "this library, the integral of sqrt(g)", f"{FIRST}; a forward record", _angle("forward", True)
    ),
    "Time-Shift": CorrectionEntry(f"{HERE}:TimeShift", "sampler", LI, "one-step samplers of one call", _time_shift("paper"), "window"),
    "Time-Shift, released": CorrectionEntry(
        f"{HERE}:TimeShift", "sampler", f"{LI}, released code", "one-step samplers of one call", _time_shift("released"), "window"
    ),
    "Time-Shift, corrected": CorrectionEntry(
        f"{HERE}:TimeShift", "sampler", f"{LI}; corrected: this library",
        "VE; VP if s is not 1; the linear flow above t = s^2 / (1 + s^2)", _time_shift("corrected"), "window",
    ),
    "re-conditioning": CorrectionEntry(
        f"{HERE}:Recondition", "sampler", "this library", "every path; one-step samplers; bands of different variance", _recondition,
        "Delta ln kappa",
    ),
    "noise level correction": CorrectionEntry(
        f"{HERE}:NoiseLevelCorrection", "sampler", "Abuduweili et al. 2025", "one-step samplers of one call, with a probe", _noise_level
    ),
    "noise awareness guidance": CorrectionEntry(
        f"{HERE}:NoiseAwareness", "denoiser", "Zhong et al. 2026", "networks trained with noise-label dropout",
        lambda to: to.with_(denoiser=NoiseAwareness(to.denoiser, blind(to.denoiser), _given(to, 1.0))), "w",
    ),
    "spectral clamp": CorrectionEntry(
        f"{HERE}:SpectralClamp", "denoiser", "MCDO and DPM-FR, 2025", "bands of many coefficients, by default 32",
        lambda to: to.with_(denoiser=SpectralClamp.of(to.denoiser, to.spectrum, to.forward, _given(to, 1.0), _large(to.spectrum))),
        "strength",
    ),
    "signal-leak start": CorrectionEntry(
        f"{HERE}:SignalLeakStart", "start", "Everaert et al. 2024", "paths whose end has signal left: VP, VE",
        lambda to: to.with_(start=SignalLeakStart(to.spectrum)),
    ),
    "churn": CorrectionEntry(
        f"{GRIDS}:Churn", "grid", "Karras et al. 2022, algorithm 2", "one-step samplers",
        lambda to: to.with_(grid=Churn(to.grid, s_noise=_given(to, 1.003))), "S_noise",
    ),
    "Restart": CorrectionEntry(
        f"{GRIDS}:Restart", "grid", "Xu et al. 2023, algorithm 1", "one-step samplers; costs steps",
        lambda to: to.with_(grid=Restart(to.grid)),
    ),
    "analytic variance": CorrectionEntry(
        f"{GRIDS}:AnalyticDPM", "sampler", "Bao et al. 2022, theorem 1", "in place of ancestral sampling", _analytic
    ),
    "CFG rescale": CorrectionEntry("score_lab.guidance:CFG", "denoiser", "Lin et al. 2024, eq. 15-16", "guided denoisers", _rescale, "phi"),
    "resolution shift": CorrectionEntry(
        f"{GRIDS}:ResolutionShift", "grid", "Esser et al. 2024, eq. 23", "pictures larger than those the grid is for",
        _resolution,
        "values for one that the grid is for",
    ),
    "spectrum-aware grid": CorrectionEntry(
        f"{GRIDS}:SpectrumAware", "grid", "this library, (4.10)", "every path, any sampler", _spectrum_aware
    ),
    "zero terminal SNR": CorrectionEntry(
        "score_lab.paths:ddpm_table", "path", "Lin et al. 2024, algorithm 1", "beta tables, v or x0 prediction: zero_terminal=True"
    ),
    "input perturbation": CorrectionEntry(f"{TRAINING}:InputPerturbation", "training", "Ning et al. 2023, algorithm 1", "every path"),
    "MixFlow": CorrectionEntry(f"{TRAINING}:MixFlow", "training", "MixFlow, 2026", "the target Velocity; after training"),
    "self-forcing": CorrectionEntry(
        f"{TRAINING}:SelfForcing", "training", "this library's warning: its target is rho times too small", "one short step"
    ),
    "noise-label dropout": CorrectionEntry(f"{TRAINING}:NoiseLabelDropout", "training", "Sun et al. 2025", "regressions"),
}
"""By the name that tables show."""
