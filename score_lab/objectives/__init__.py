"""Objectives: a loss sees a callable denoiser and returns one number per example; laws of t, weightings, couplings."""

from score_lab.objectives.base import Context, Objective, draw_noise, drop_labels, example_keys, mean_square, noise_of, shared_key
from score_lab.objectives.couplings import MinibatchOT
from score_lab.objectives.learned_variance import LearnedVariance
from score_lab.objectives.regression import Regression
from score_lab.objectives.time_laws import DiscreteTable, LogitNormal, LogNormalSigma, TimeLaw, UniformLogSNR, UniformTime
from score_lab.objectives.weightings import FUniform, Likelihood, MinSNR, Sigmoid, Simple, VelocityUniform, VUniform, Weighting, X0Uniform

__all__ = [
    "Context", "DiscreteTable", "FUniform", "LearnedVariance", "Likelihood", "LogNormalSigma", "LogitNormal", "MinSNR", "MinibatchOT",
    "Objective", "Regression", "Sigmoid", "Simple", "TimeLaw", "UniformLogSNR", "UniformTime", "VUniform", "VelocityUniform", "Weighting",
    "X0Uniform", "draw_noise", "drop_labels", "example_keys", "mean_square", "noise_of", "shared_key",
]  # fmt: skip
