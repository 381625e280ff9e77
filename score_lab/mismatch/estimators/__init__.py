"""Estimators of the effective SNR: of the states of a sampler, the level of the forward process that they are of."""

from score_lab.mismatch.estimators.base import FLAGS, Effective, Estimator, too_few, trajectories
from score_lab.mismatch.estimators.density import MixtureLikelihood
from score_lab.mismatch.estimators.levels import FAMILIES, Levels
from score_lab.mismatch.estimators.likelihood import MaximumLikelihood, sandwich
from score_lab.mismatch.estimators.probe import Probe
from score_lab.mismatch.estimators.probe_training import train_probe
from score_lab.mismatch.estimators.residual import DenoiserResidual, calibrate
from score_lab.mismatch.estimators.spectral import SpectralRegression
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.estimators.variance import TotalVariance

__all__ = [
    "FAMILIES", "FLAGS", "DenoiserResidual", "Effective", "Estimator", "Levels", "MaximumLikelihood", "MixtureLikelihood", "Probe",
    "SpectralRegression", "SumRecord", "SumRecorder", "TotalVariance", "calibrate", "sandwich", "too_few", "train_probe", "trajectories",
]  # fmt: skip
