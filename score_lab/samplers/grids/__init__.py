"""Where inference looks: grids of noise levels, and grids around a grid."""

from score_lab.samplers.grids.base import LevelsOf, Quadratic, Times, UniformLogSNR, UniformTime, ending
from score_lab.samplers.grids.catalogue import GRIDS, GridEntry
from score_lab.samplers.grids.churn import Churn
from score_lab.samplers.grids.kappa import IDDPM, BetaQuantiles, Exponential, Karras, PolyExponential, VPTime
from score_lab.samplers.grids.nodes import NODES, Nodes
from score_lab.samplers.grids.restart import Restart
from score_lab.samplers.grids.shift import DynamicShift, FlowTimesteps, ResolutionShift, Shift, Stretch
from score_lab.samplers.grids.spectrum import SpectrumAware
from score_lab.samplers.grids.table import TimestepList, Timesteps

__all__ = [
    "GRIDS", "IDDPM", "NODES", "BetaQuantiles", "Churn", "DynamicShift", "Exponential", "FlowTimesteps", "GridEntry", "Karras", "LevelsOf",
    "Nodes", "PolyExponential", "Quadratic", "ResolutionShift", "Restart", "Shift", "SpectrumAware", "Stretch", "Times", "TimestepList",
    "Timesteps", "UniformLogSNR", "UniformTime", "VPTime", "ending",
]  # fmt: skip
