"""Samplers: one contract, one ``jax.lax.scan``, one small file a family, and the grids they run on."""

from score_lab.samplers.ancestral import DPMPPSDE, DPM2Ancestral, DPMPP2SAncestral, EulerAncestral, StochasticFlowEuler
from score_lab.samplers.base import Recorder, Sampler, Samples
from score_lab.samplers.calls import Calls, NormalDraws
from score_lab.samplers.catalogue import CATALOGUE, Entry
from score_lab.samplers.chunks import sample_chunked
from score_lab.samplers.churn import Churn
from score_lab.samplers.ddim import DDIM, DDPM
from score_lab.samplers.dpm import DPMSolverPP2M
from score_lab.samplers.edit import noised
from score_lab.samplers.er_sde import ERSDE, ERSDENoise, PowerNoise
from score_lab.samplers.grids import Karras, Times, UniformLogSNR, UniformTime
from score_lab.samplers.langevin import Langevin
from score_lab.samplers.loop import sample
from score_lab.samplers.multipliers import Multiplier, Rate, SiTDiffusion
from score_lab.samplers.ode import Euler, Heun
from score_lab.samplers.record import StateRecord, StateRecorder
from score_lab.samplers.restart import Restart
from score_lab.samplers.sa_solver import SASolver
from score_lab.samplers.sde import EulerMaruyama, StochasticHeun
from score_lab.samplers.steps import Grid, Steps
from score_lab.samplers.variables import Kappa, LogSNR, T

__all__ = [
    "CATALOGUE", "DDIM", "DDPM", "DPMPPSDE", "ERSDE", "Calls", "Churn", "DPM2Ancestral", "DPMPP2SAncestral", "DPMSolverPP2M",
    "ERSDENoise", "Entry", "Euler", "EulerAncestral", "EulerMaruyama", "Grid", "Heun", "Kappa", "Karras", "Langevin", "LogSNR",
    "Multiplier", "NormalDraws", "PowerNoise", "Rate", "Recorder", "Restart", "SASolver", "Sampler", "Samples", "SiTDiffusion",
    "StateRecord", "StateRecorder", "Steps", "StochasticFlowEuler", "StochasticHeun", "T", "Times", "UniformLogSNR", "UniformTime",
    "WRAPPERS", "noised", "sample", "sample_chunked",
]  # fmt: skip

WRAPPERS: frozenset[type] = frozenset({Langevin})
"""Samplers around another sampler: no solvers of their own in the catalogue."""
