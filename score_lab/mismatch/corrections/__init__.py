"""Corrections of the mismatch: wrappers on the denoiser, on the step, on the start; composable, each from its paper.

A wrapper on a denoiser is a denoiser, one on a sampler a sampler, so any of them goes into ``sample`` and around another.  The room is part
of ``mismatch`` because calibrated corrections stand on spectra and records, above samplers and guidance.  ``CATALOGUE`` lists all of them,
those that live in other rooms too (churn, Restart, analytic variance, CFG rescale, shifts, spectrum-aware grids, training).
"""

from score_lab.mismatch.corrections.around import Around
from score_lab.mismatch.corrections.calibrate import Calibration, Corrected, calibrate, corrected, measured_ratios, oracle_ratios
from score_lab.mismatch.corrections.constants import Constants
from score_lab.mismatch.corrections.dcw import DCW, WaveletDCW
from score_lab.mismatch.corrections.epsilon import EpsilonScaling, linear_scales
from score_lab.mismatch.corrections.gains import FreshNoise, SignalGain, StateGain

__all__ = [
    "DCW", "Around", "Calibration", "Constants", "Corrected", "EpsilonScaling", "FreshNoise", "SignalGain", "StateGain", "WaveletDCW",
    "calibrate", "corrected", "linear_scales", "measured_ratios", "oracle_ratios",
]  # fmt: skip
