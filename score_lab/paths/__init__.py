"""Gaussian paths ``x_t = alpha(t) x0 + sigma(t) eps``: one small file a family, everything derived in ``base``."""

from score_lab.paths.base import GaussianPath, move, normals
from score_lab.paths.cosine import Cosine, Trigonometric
from score_lab.paths.flow import LinearFlow
from score_lab.paths.table import DDPMTable, cosine_betas, ddpm_table, linear_betas, scaled_linear_betas, zero_terminal_snr
from score_lab.paths.ve import EDM, VE
from score_lab.paths.vp import VP, SubVP

__all__ = [
    "DDPMTable", "EDM", "VE", "VP", "Cosine", "GaussianPath", "LinearFlow", "SubVP", "Trigonometric", "cosine_betas",
    "ddpm_table", "linear_betas", "move", "normals", "scaled_linear_betas", "zero_terminal_snr",
]  # fmt: skip
