"""Objectives: a loss sees a callable denoiser and returns one number per example; laws of t, weightings, couplings."""

from score_lab.objectives.augmentation import EDMAugmentation
from score_lab.objectives.base import Context, Objective, draw_noise, drop_labels, example_keys, mean_square, noise_of, shared_key
from score_lab.objectives.couplings import MinibatchOT
from score_lab.objectives.input_perturbation import InputPerturbation
from score_lab.objectives.learned_variance import LearnedVariance
from score_lab.objectives.learned_weighting import LearnedWeighting
from score_lab.objectives.mixflow import MixFlow
from score_lab.objectives.noise_label import DroppedLevels, NoiseLabelDropout, blind
from score_lab.objectives.regression import Regression
from score_lab.objectives.self_forcing import SelfForcing
from score_lab.objectives.time_laws import BetaTime, DiscreteTable, LogitNormal, LogNormalSigma, TimeLaw, UniformLogSNR, UniformTime
from score_lab.objectives.weightings import FUniform, Likelihood, MinSNR, Sigmoid, Simple, VelocityUniform, VUniform, Weighting, X0Uniform

__all__ = [
    "BetaTime", "Context", "DiscreteTable", "DroppedLevels", "EDMAugmentation", "FUniform", "InputPerturbation", "LearnedVariance",
    "LearnedWeighting", "Likelihood", "LogNormalSigma", "LogitNormal", "MinSNR", "MinibatchOT", "MixFlow", "NoiseLabelDropout", "Objective",
    "Regression", "SelfForcing", "Sigmoid", "Simple", "TimeLaw", "UniformLogSNR", "UniformTime", "VUniform", "VelocityUniform", "Weighting",
    "X0Uniform", "blind", "draw_noise", "drop_labels", "example_keys", "mean_square", "noise_of", "shared_key",
]  # fmt: skip
