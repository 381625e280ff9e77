"""Estimators of the effective SNR: of the states of a sampler, the level of the forward process that they are of."""

from score_lab.mismatch.estimators.base import FAMILIES, FLAGS, Effective, Estimator, Levels, too_few, trajectories
from score_lab.mismatch.estimators.likelihood import MaximumLikelihood, MixtureLikelihood, sandwich
from score_lab.mismatch.estimators.spectral import SpectralRegression
from score_lab.mismatch.estimators.streaming import SumRecord, SumRecorder
from score_lab.mismatch.estimators.variance import TotalVariance

__all__ = [
    "FAMILIES", "FLAGS", "Effective", "Estimator", "Levels", "MaximumLikelihood", "MixtureLikelihood", "SpectralRegression", "SumRecord",
    "SumRecorder", "TotalVariance", "sandwich", "too_few", "trajectories",
]  # fmt: skip
