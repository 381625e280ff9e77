"""Every grid of this room with its source and what it is for: what docs/samplers.md and the tests go through."""

from __future__ import annotations

import dataclasses

from score_lab.paths import VP
from score_lab.samplers.grids.base import LevelsOf, Quadratic, Times, UniformLogSNR, UniformTime
from score_lab.samplers.grids.churn import Churn
from score_lab.samplers.grids.kappa import IDDPM, BetaQuantiles, Exponential, Karras, PolyExponential, VPTime
from score_lab.samplers.grids.nodes import Nodes
from score_lab.samplers.grids.restart import Restart
from score_lab.samplers.grids.shift import DynamicShift, FlowTimesteps, ResolutionShift, Shift, Stretch
from score_lab.samplers.grids.spectrum import SpectrumAware
from score_lab.samplers.grids.table import TimestepList, Timesteps
from score_lab.samplers.steps import Grid

__all__ = ["GRIDS", "GridEntry"]


@dataclasses.dataclass(frozen=True)
class GridEntry:
    """One grid as one would first write it, of about ten steps; the ``paper`` that it comes from and when to ``use`` it."""

    grid: Grid
    paper: str
    use: str


_TEN = UniformLogSNR(10)

GRIDS: dict[str, GridEntry] = {
    "uniform in t": GridEntry(UniformTime(10), "Song et al. 2021; Lipman et al. 2023", "flows; the reverse SDE"),
    "quadratic in t": GridEntry(Quadratic(10), "Song et al. 2020a, section 5, tau quadratic", "DDIM's second choice"),
    "uniform in log-SNR": GridEntry(_TEN, "Lu et al. 2022a, section 3.4", "exponential integrators; orders are measured on it"),
    "Karras": GridEntry(Karras(10), "Karras et al. 2022, eq. 5, rho = 7", "first choice on any path"),
    "exponential, EDM's ve": GridEntry(Exponential(10), "Karras et al. 2022, table 1, VE; k-diffusion", "uniform in log-SNR, by kappa"),
    "polyexponential": GridEntry(PolyExponential(10, 0.8), "k-diffusion, get_sigmas_polyexponential", "denser at one end"),
    "beta": GridEntry(BetaQuantiles(10), "Lee et al. 2024 (beta sampling), a = b = 0.6", "dense at both ends"),
    "EDM's vp": GridEntry(VPTime(10), "Karras et al. 2022, table 1, column VP", "as VP score models were"),
    "EDM's iddpm": GridEntry(IDDPM(10), "Karras et al. 2022, table 1, column iDDPM", "as improved DDPM was"),
    "timesteps, trailing": GridEntry(Timesteps(10, T=1000), "Lin et al. 2024, table 2, trailing", "a beta table in few steps"),
    "timesteps, leading": GridEntry(
        Timesteps(10, spacing="leading", offset=1, T=1000), "Lin et al. 2024, table 2, leading", "as Stable Diffusion was"
    ),
    "timesteps, linspace": GridEntry(
        Timesteps(10, spacing="linspace", T=1000), "Lin et al. 2024, table 2, linspace", "as the first DDPM codes did"
    ),
    "timesteps of one's own": GridEntry(TimestepList((999, 500, 100), T=1000), "-", "a list of a beta table's timesteps"),
    "flow shift": GridEntry(Shift(UniformTime(10), 3.0), "Esser et al. 2024, eq. 23", "larger pictures than the levels were made for"),
    "resolution shift": GridEntry(ResolutionShift(UniformTime(10)), "Esser et al. 2024, section 5.3.2", "the shift by the size"),
    "dynamic shift": GridEntry(DynamicShift(UniformTime(10)), "FLUX's sampling code; diffusers", "the shift by the number of tokens"),
    "stretch": GridEntry(Stretch(UniformTime(10)), "LTX-Video's sampling code; diffusers' shift_terminal", "a last level that is given"),
    "flow timesteps": GridEntry(FlowTimesteps(10), "diffusers' FlowMatchEulerDiscreteScheduler", "flows trained at T timesteps"),
    "AYS, GITS": GridEntry(Nodes(10), "Sabour, Fidler & Kreis 2024; Chen et al. 2024", "Stable Diffusion in 5 to 10 steps"),
    "spectrum-aware": GridEntry(SpectrumAware(10, (1.0, 0.1, 0.01)), "this library; see its module", "data whose spectrum is known"),
    "levels of another path": GridEntry(LevelsOf(UniformTime(10), VP()), "-", "one path's levels on another"),
    "list": GridEntry(Times((1.0, 0.5, 0.0)), "-", "one's own times or levels"),
    "EDM's churn": GridEntry(Churn(Karras(10)), "Karras et al. 2022, algorithm 2", "noise around any deterministic step"),
    "Restart": GridEntry(Restart(Karras(10)), "Xu et al. 2023, algorithm 1", "an interval gone through again, with new noise"),
}  # fmt: skip
"""By the name that tables show."""
