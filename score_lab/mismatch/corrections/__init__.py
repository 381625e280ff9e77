"""Corrections of the mismatch: wrappers on the denoiser, on the step, on the start; composable, each from its paper.

A wrapper on a denoiser is a denoiser, one on a sampler a sampler, so any of them goes into ``sample`` and around another.  The room is part
of ``mismatch`` because calibrated corrections stand on spectra and records, above samplers and guidance.  ``CATALOGUE`` lists all of them,
those that live in other rooms too (churn, Restart, analytic variance, CFG rescale, shifts, spectrum-aware grids, training).
"""

from score_lab.mismatch.corrections.angle import AngleStep, resolved_excess
from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.awareness import NoiseAwareness
from score_lab.mismatch.corrections.calibration import Calibration, Corrected, calibrate, corrected
from score_lab.mismatch.corrections.catalogue import CATALOGUE, CorrectionEntry
from score_lab.mismatch.corrections.clamp import SpectralClamp
from score_lab.mismatch.corrections.constants import Constants
from score_lab.mismatch.corrections.dcw import DCW, WaveletDCW
from score_lab.mismatch.corrections.epsilon import EpsilonScaling, linear_scales
from score_lab.mismatch.corrections.gains import FreshNoise, SignalGain, StateGain
from score_lab.mismatch.corrections.level_residual import LevelResidual
from score_lab.mismatch.corrections.making import Setting
from score_lab.mismatch.corrections.measured import measured_ratios
from score_lab.mismatch.corrections.noise_level import NoiseLevelCorrection
from score_lab.mismatch.corrections.recondition import Recondition, StepLevels, effective_levels, gaussian_levels, signal_and_noise
from score_lab.mismatch.corrections.relabel import Relabel
from score_lab.mismatch.corrections.start import SignalLeakStart
from score_lab.mismatch.corrections.time_shift import TimeShift
from score_lab.mismatch.corrections.wavelets import haar_share, in_wavelets

__all__ = [
    "CATALOGUE", "DCW", "AngleStep", "Around", "Calibration", "Constants", "Corrected", "CorrectionEntry", "EpsilonScaling",
    "FreshNoise", "LevelResidual", "NoiseAwareness", "NoiseLevelCorrection", "Recondition", "Relabel", "Setting", "SignalGain",
    "SignalLeakStart", "SpectralClamp", "StateGain", "StepLevels", "TimeShift", "WaveletDCW", "calibrate", "corrected",
    "effective_levels", "gaussian_levels", "haar_share", "in_wavelets", "linear_scales", "measured_ratios", "resolved_excess",
    "signal_and_noise",
]  # fmt: skip
