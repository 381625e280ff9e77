"""Samplers: one contract, one ``jax.lax.scan``, one small file a family, and the grids they run on."""

from score_lab.samplers.base import Recorder, Sampler, Samples
from score_lab.samplers.calls import Calls, NormalDraws
from score_lab.samplers.catalogue import CATALOGUE, Entry
from score_lab.samplers.chunks import sample_chunked
from score_lab.samplers.churn import Churn
from score_lab.samplers.ddim import DDIM, DDPM
from score_lab.samplers.dpm import DPMSolverMultistep, DPMSolverPP2M
from score_lab.samplers.dpm_forms import DataPrediction, NoisePrediction
from score_lab.samplers.dpm_singlestep import DPMSolverNodes, DPMSolverSinglestep, dpm_fast
from score_lab.samplers.edit import noised
from score_lab.samplers.grids import Karras, Times, UniformLogSNR, UniformTime
from score_lab.samplers.loop import sample
from score_lab.samplers.ode import Euler, Heun
from score_lab.samplers.record import StateRecord, StateRecorder
from score_lab.samplers.sde import EulerMaruyama
from score_lab.samplers.steps import Grid, Steps
from score_lab.samplers.variables import Kappa, LogSNR, T

__all__ = [
    "CATALOGUE", "DDIM", "DDPM", "T", "WRAPPERS", "Calls", "Churn", "DPMSolverMultistep", "DPMSolverNodes", "DPMSolverPP2M",
    "DPMSolverSinglestep", "DataPrediction", "Entry", "Euler", "EulerMaruyama", "Grid", "Heun", "Kappa", "Karras", "LogSNR",
    "NoisePrediction", "NormalDraws", "Recorder", "Sampler", "Samples", "StateRecord", "StateRecorder", "Steps", "Times", "UniformLogSNR",
    "UniformTime", "dpm_fast", "noised", "sample", "sample_chunked",
]  # fmt: skip

WRAPPERS: frozenset[type] = frozenset()
"""Samplers around another sampler: no solvers of their own in the catalogue."""
