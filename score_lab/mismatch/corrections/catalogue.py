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

from score_lab.mismatch.corrections.awareness import NoiseAwareness
from score_lab.mismatch.corrections.calibration import Corrected
from score_lab.mismatch.corrections.dcw import DCW, WaveletDCW
from score_lab.mismatch.corrections.epsilon import EpsilonScaling
from score_lab.mismatch.corrections.gains import FreshNoise, SignalGain, StateGain
from score_lab.mismatch.corrections.making import (
    Setting,
    analytic_variance,
    angle_step,
    calibrated,
    cfg_rescale,
    dcw_in_wavelets,
    given,
    noise_level,
    published,
    recondition,
    resolution_shift,
    spectral_clamp,
    spectrum_aware,
    time_shift,
)
from score_lab.mismatch.corrections.start import SignalLeakStart
from score_lab.objectives import blind
from score_lab.samplers import Churn, Restart

__all__ = ["CATALOGUE", "CorrectionEntry"]


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


HERE, GRIDS, TRAINING = "score_lab.mismatch.corrections", "score_lab.samplers", "score_lab.objectives"
NING, YU, LI = "Ning et al. 2024, eq. 13", "Yu et al. 2026, eq. 17-21", "Li et al. 2024, algorithm 1"
FIRST = "in place of DDIM(eta) or EulerMaruyama, every path"
ALL = "every path; samplers that go on from the state they are handed"

CATALOGUE: dict[str, CorrectionEntry] = {
    "epsilon scaling": CorrectionEntry(
        f"{HERE}:EpsilonScaling", "denoiser", NING, "every path, any sampler; one constant a step",
        calibrated(EpsilonScaling, False), "lambda",
    ),
    "epsilon scaling, by band": CorrectionEntry(
        f"{HERE}:EpsilonScaling", "denoiser", f"{NING}; by band: this library", "every path, any sampler", calibrated(EpsilonScaling, True),
        "lambda",
    ),
    "epsilon scaling, published": CorrectionEntry(
        f"{HERE}:EpsilonScaling", "denoiser", NING, "no level without signal", published(EpsilonScaling, 1.005, low=-7.8), "lambda"
    ),
    "signal gain, by band": CorrectionEntry(
        f"{HERE}:SignalGain", "denoiser", "this library", "every path, any sampler", calibrated(SignalGain, True), "the gain"
    ),
    "DCW": CorrectionEntry(f"{HERE}:DCW", "sampler", f"{YU}; covariant: this library", ALL, calibrated(DCW, False), "l"),
    "DCW, by band": CorrectionEntry(f"{HERE}:DCW", "sampler", f"{YU}; covariant: this library", ALL, calibrated(DCW, True, limit=0.5), "l"),
    "DCW in pixels, published": CorrectionEntry(
        f"{HERE}:DCW", "sampler", YU, "VE and EDM (alpha' = 1)", published(DCW, 0.005, form="literal"), "l"
    ),
    "DCW in wavelets, published": CorrectionEntry(
        f"{HERE}:WaveletDCW", "sampler", YU, "images of even sides, VE and EDM (alpha' = 1)",
        lambda to: to.with_(sampler=WaveletDCW(to.sampler, given(to, 0.005), 0.0)), "l of LL",
    ),
    "DCW in wavelets": CorrectionEntry(
        f"{HERE}:DCW", "sampler", f"{YU}; covariant: this library", f"images of even sides; {ALL}", dcw_in_wavelets, "l of every subband",
    ),
    "state gain, by band": CorrectionEntry(
        f"{HERE}:StateGain", "sampler", f"{LI}, released code", ALL, calibrated(StateGain, True), "the gain"
    ),
    "fresh noise, by band": CorrectionEntry(
        f"{HERE}:FreshNoise", "sampler", "Karras et al. 2022, S_noise; Bao et al. 2022, theorem 1, by band", "stochastic samplers",
        calibrated(FreshNoise, True), "the factor of the noise",
    ),
    "angle step": CorrectionEntry(f"{HERE}:AngleStep", "sampler", "this library, g = 0", FIRST, angle_step("gaussian")),
    "angle step, own": CorrectionEntry(f"{HERE}:AngleStep", "sampler", "this library, g of the sample", FIRST, angle_step("own")),
    "angle step, forward": CorrectionEntry(
        f"{HERE}:AngleStep", "sampler", "this library, g of forward samples", f"{FIRST}; a forward record", angle_step("forward")
    ),
    "angle step, trend": CorrectionEntry(
        f"{HERE}:AngleStep", "sampler", "this library, the integral of sqrt(g)", f"{FIRST}; a forward record", angle_step("forward", True)
    ),
    "Time-Shift": CorrectionEntry(f"{HERE}:TimeShift", "sampler", LI, "one-step samplers of one call", time_shift("paper"), "window"),
    "Time-Shift, released": CorrectionEntry(
        f"{HERE}:TimeShift", "sampler", f"{LI}, released code", "one-step samplers of one call", time_shift("released"), "window"
    ),
    "Time-Shift, corrected": CorrectionEntry(
        f"{HERE}:TimeShift", "sampler", f"{LI}; corrected: this library",
        "VE; VP if s is not 1; the linear flow above t = s^2 / (1 + s^2)", time_shift("corrected"), "window",
    ),
    "re-conditioning": CorrectionEntry(
        f"{HERE}:Recondition", "sampler", "this library", "every path; one-step samplers; bands of different variance", recondition,
        "Delta ln kappa",
    ),
    "noise level correction": CorrectionEntry(
        f"{HERE}:NoiseLevelCorrection", "sampler", "Abuduweili et al. 2025", "one-step samplers of one call, with a probe", noise_level
    ),
    "noise awareness guidance": CorrectionEntry(
        f"{HERE}:NoiseAwareness", "denoiser", "Zhong et al. 2026", "networks trained with noise-label dropout",
        lambda to: to.with_(denoiser=NoiseAwareness(to.denoiser, blind(to.denoiser), given(to, 1.0))), "w",
    ),
    "spectral clamp": CorrectionEntry(
        f"{HERE}:SpectralClamp", "denoiser", "MCDO and DPM-FR, 2025", "bands of many coefficients, by default 32",
        spectral_clamp, "strength",
    ),
    "signal-leak start": CorrectionEntry(
        f"{HERE}:SignalLeakStart", "start", "Everaert et al. 2024", "paths whose end has signal left: VP, VE",
        lambda to: to.with_(start=SignalLeakStart(to.spectrum)),
    ),
    "churn": CorrectionEntry(
        f"{GRIDS}:Churn", "grid", "Karras et al. 2022, algorithm 2", "one-step samplers",
        lambda to: to.with_(grid=Churn(to.grid, s_noise=given(to, 1.003))), "S_noise",
    ),
    "Restart": CorrectionEntry(
        f"{GRIDS}:Restart", "grid", "Xu et al. 2023, algorithm 1", "one-step samplers; costs steps",
        lambda to: to.with_(grid=Restart(to.grid)),
    ),
    "analytic variance": CorrectionEntry(
        f"{GRIDS}:AnalyticDPM", "sampler", "Bao et al. 2022, theorem 1", "in place of ancestral sampling", analytic_variance
    ),
    "CFG rescale": CorrectionEntry(
        "score_lab.guidance:CFG", "denoiser", "Lin et al. 2024, eq. 15-16", "guided denoisers", cfg_rescale, "phi"
    ),
    "resolution shift": CorrectionEntry(
        f"{GRIDS}:ResolutionShift", "grid", "Esser et al. 2024, eq. 23", "pictures larger than those the grid is for",
        resolution_shift,
        "values for one that the grid is for",
    ),
    "spectrum-aware grid": CorrectionEntry(
        f"{GRIDS}:SpectrumAware", "grid", "this library, (4.10)", "every path, any sampler", spectrum_aware
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
