"""Samplers: one contract, one ``jax.lax.scan``, one small file a family, and the grids they run on."""

from score_lab.samplers.adams import PLMS, PNDM, AdamsBashforth, lms
from score_lab.samplers.base import Recorder, Sampler, Samples
from score_lab.samplers.calls import Calls, NormalDraws
from score_lab.samplers.catalogue import CATALOGUE, Entry
from score_lab.samplers.chunks import sample_chunked
from score_lab.samplers.churn import Churn
from score_lab.samplers.ddim import DDIM, DDPM
from score_lab.samplers.deis import EpsInTime, deis
from score_lab.samplers.dpm import DPMSolverPP2M
from score_lab.samplers.edit import noised
from score_lab.samplers.exponential import DataExponential, EpsExponential, Rosenbrock
from score_lab.samplers.grids import Karras, Times, UniformLogSNR, UniformTime
from score_lab.samplers.loop import sample
from score_lab.samplers.ode import Euler, Heun
from score_lab.samplers.record import StateRecord, StateRecorder
from score_lab.samplers.sde import EulerMaruyama
from score_lab.samplers.steps import Grid, Steps
from score_lab.samplers.unipc import UniPC
from score_lab.samplers.variables import Angle, Kappa, LogSNR, Straight, T

__all__ = [
    "CATALOGUE", "DDIM", "DDPM", "PLMS", "PNDM", "T", "WRAPPERS", "AdamsBashforth", "Angle", "Calls", "Churn", "DPMSolverPP2M",
    "DataExponential", "Entry", "EpsExponential", "EpsInTime", "Euler", "EulerMaruyama", "Grid", "Heun", "Kappa", "Karras", "LogSNR",
    "NormalDraws", "Recorder", "Rosenbrock", "Sampler", "Samples", "StateRecord", "StateRecorder", "Steps", "Straight", "Times", "UniPC",
    "UniformLogSNR", "UniformTime", "deis", "lms", "noised", "sample", "sample_chunked",
]  # fmt: skip

WRAPPERS: frozenset[type] = frozenset()
"""Samplers around another sampler: no solvers of their own in the catalogue."""
