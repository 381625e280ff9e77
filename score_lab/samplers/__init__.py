"""Samplers: one contract, one ``jax.lax.scan``, one small file a family, and the grids they run on."""

from score_lab.samplers.adams import PLMS, PNDM, AdamsBashforth, lms
from score_lab.samplers.adaptive_dpm import DPMAdaptive
from score_lab.samplers.analytic_dpm import AnalyticDPM, measure_gamma
from score_lab.samplers.ancestral import DPMPPSDE, DPM2Ancestral, DPMPP2SAncestral, EulerAncestral, StochasticFlowEuler
from score_lab.samplers.base import Integrated, Integrator, Recorder, Sampler, Samples
from score_lab.samplers.calls import Calls, NormalDraws
from score_lab.samplers.catalogue import CATALOGUE, Entry
from score_lab.samplers.chunks import sample_chunked
from score_lab.samplers.ddim import DDIM, DDPM, GDDIM, ItoEuler
from score_lab.samplers.deis import EpsInTime, deis
from score_lab.samplers.dpm import DPMSolverMultistep, DPMSolverPP2M
from score_lab.samplers.dpm_fast import DPMFast, dpm_fast
from score_lab.samplers.dpm_forms import DataPrediction, NoisePrediction
from score_lab.samplers.dpm_singlestep import DPMSolverNodes, DPMSolverSinglestep
from score_lab.samplers.edit import noised
from score_lab.samplers.er_sde import ERSDE, ERSDENoise, PowerNoise
from score_lab.samplers.explicit_pairs import Dopri5, Tsit5
from score_lab.samplers.exponential import DataExponential, EpsExponential, Rosenbrock
from score_lab.samplers.grids import (
    GRIDS,
    IDDPM,
    NODES,
    BetaQuantiles,
    Churn,
    DynamicShift,
    Exponential,
    FlowTimesteps,
    GridEntry,
    Karras,
    LevelsOf,
    Nodes,
    PolyExponential,
    Quadratic,
    ResolutionShift,
    Restart,
    Shift,
    SpectrumAware,
    Stretch,
    Times,
    TimestepList,
    Timesteps,
    UniformLogSNR,
    UniformTime,
    VPTime,
    ending,
)
from score_lab.samplers.inversion import Encoded, encode
from score_lab.samplers.kvaerno import Kvaerno5
from score_lab.samplers.langevin import Langevin
from score_lab.samplers.loop import sample
from score_lab.samplers.multipliers import Multiplier, Rate, SiTDiffusion
from score_lab.samplers.ode import Euler
from score_lab.samplers.record import StateRecord, StateRecorder
from score_lab.samplers.runge_kutta import DPM2, RK4, RK38, EDMSecond, Heun, Heun3, Midpoint, Ralston
from score_lab.samplers.sa_solver import SASolver
from score_lab.samplers.sde import EulerMaruyama, StochasticHeun
from score_lab.samplers.steps import Grid, Steps
from score_lab.samplers.unipc import UniPC
from score_lab.samplers.variables import Angle, Kappa, LogSNR, Straight, T
from score_lab.samplers.written import Written, open_written, sample_written

__all__ = [
    "CATALOGUE", "DDIM", "DDPM", "DPM2", "DPMPPSDE", "ERSDE", "GDDIM", "GRIDS", "IDDPM", "NODES", "PLMS", "PNDM", "RK38", "RK4", "T",
    "AdamsBashforth", "AnalyticDPM", "Angle", "BetaQuantiles", "Calls", "Churn", "DPM2Ancestral", "DPMAdaptive", "DPMFast",
    "DPMPP2SAncestral", "DPMSolverMultistep", "DPMSolverNodes", "DPMSolverPP2M", "DPMSolverSinglestep", "DataExponential",
    "DataPrediction", "Dopri5", "DynamicShift", "EDMSecond", "ERSDENoise", "Encoded", "Entry", "EpsExponential", "EpsInTime", "Euler",
    "EulerAncestral", "EulerMaruyama", "Exponential", "FlowTimesteps", "Grid", "GridEntry", "Heun", "Heun3", "Integrated", "Integrator",
    "ItoEuler", "Kappa", "Karras", "Kvaerno5", "Langevin", "LevelsOf", "LogSNR", "Midpoint", "Multiplier", "Nodes", "NoisePrediction",
    "NormalDraws", "PolyExponential", "PowerNoise", "Quadratic", "Ralston", "Rate", "Recorder", "ResolutionShift", "Restart", "Rosenbrock",
    "SASolver", "Sampler", "Samples", "Shift", "SiTDiffusion", "SpectrumAware", "StateRecord", "StateRecorder", "Steps",
    "StochasticFlowEuler", "StochasticHeun", "Straight", "Stretch", "Times", "TimestepList", "Timesteps", "Tsit5", "UniPC",
    "UniformLogSNR", "UniformTime", "VPTime", "Written", "deis", "dpm_fast", "encode", "ending", "lms", "measure_gamma", "noised",
    "open_written", "sample", "sample_chunked", "sample_written",
]  # fmt: skip
