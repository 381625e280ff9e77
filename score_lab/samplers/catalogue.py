"""Every solver of this room, with the family it belongs to, its source and what it is for: what docs/samplers.md and the tests go through.

An entry's ``sampler`` is the solver as one would first use it; ``order``, ``calls``, ``memory`` and ``stochastic`` are its own facts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from score_lab.samplers.ddim import DDIM, DDPM
from score_lab.samplers.dpm import DPMSolverMultistep, DPMSolverPP2M
from score_lab.samplers.dpm_forms import DataPrediction, NoisePrediction
from score_lab.samplers.dpm_singlestep import DPMSolverNodes, DPMSolverSinglestep
from score_lab.samplers.ode import Euler, Heun
from score_lab.samplers.sde import EulerMaruyama
from score_lab.samplers.variables import Kappa, LogSNR, T

__all__ = ["CATALOGUE", "Entry"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One solver: its ``family``, the ``paper`` that it comes from (with the equation or algorithm) and when to ``use`` it."""

    sampler: Any
    family: str
    paper: str
    use: str


ONE_STEP, EXPONENTIAL, MULTISTEP = "one-step", "exponential, singlestep", "multistep"
STOCHASTIC, ADAPTIVE = "stochastic", "adaptive"

CATALOGUE: dict[str, Entry] = {
    "Euler in t": Entry(Euler(T()), ONE_STEP, "Euler's method on the probability-flow ODE", "flow matching's default; a baseline"),
    "Euler in kappa": Entry(Euler(Kappa()), ONE_STEP, "Karras et al. 2022, algorithm 1 without its correction", "the same method as DDIM"),
    "Euler in log-SNR": Entry(Euler(LogSNR()), ONE_STEP, "Euler's method on the probability-flow ODE", "to see what a variable does"),
    "Heun in t": Entry(Heun(T()), ONE_STEP, "Heun's method on the probability-flow ODE", "flows, from 20 NFE on"),
    "Heun in kappa": Entry(Heun(Kappa()), ONE_STEP, "Karras et al. 2022, algorithm 1", "EDM's sampler, from 20 NFE on"),
    "Heun in log-SNR": Entry(Heun(LogSNR()), ONE_STEP, "Heun's method on the probability-flow ODE", "to see what a variable does"),
    "DDIM": Entry(DDIM(), ONE_STEP, "Song et al. 2020a, eq. 12 with eta = 0", "deterministic baseline; encodings"),
    "DDIM, eta = 0.5": Entry(DDIM(0.5), STOCHASTIC, "Song et al. 2020a, eq. 12 and 16", "between DDIM and DDPM"),
    "DDIM, eta = 1": Entry(DDIM(1.0), STOCHASTIC, "Song et al. 2020a, eq. 12 and 16", "DDPM with beta tilde"),
    "DDPM, beta tilde": Entry(DDPM("beta_tilde"), STOCHASTIC, "Ho et al. 2020, algorithm 2, sigma^2 = beta tilde", "100 NFE and more"),
    "DDPM, beta": Entry(DDPM("beta"), STOCHASTIC, "Ho et al. 2020, algorithm 2, sigma^2 = beta", "as many steps as in training"),
    "Euler-Maruyama": Entry(EulerMaruyama(), STOCHASTIC, "Song et al. 2021, eq. 6 and 13", "the reverse SDE as written; 100 NFE and more"),
    "Euler-Maruyama, exact increment": Entry(
        EulerMaruyama(increment="exact"), STOCHASTIC, "Song et al. 2021, eq. 6, diffusion integrated", "the reverse SDE at fewer steps"
    ),
    "DPM-Solver++(2M)": Entry(DPMSolverPP2M(), MULTISTEP, "Lu et al. 2022b, algorithm 2", "10 to 20 NFE, guidance"),
    "DPM-Solver++(3M)": Entry(DPMSolverMultistep(3), MULTISTEP, "Lu et al. 2022b, section 4, D2 corrected", "10 to 20 NFE, no guidance"),
    "DPM-Solver++(3M) as released": Entry(
        DPMSolverMultistep(3, as_released="diffusers"), MULTISTEP, "the authors' code; diffusers", "to reproduce what others report"
    ),
    "DPM-Solver(2M)": Entry(DPMSolverMultistep(2, NoisePrediction()), MULTISTEP, "Lu et al. 2022a, eq. 3.4", "eps in place of x0"),
    "DPM-Solver-2": Entry(DPMSolverSinglestep(2), EXPONENTIAL, "Lu et al. 2022a, algorithm 1", "no history"),
    "DPM-Solver-3": Entry(DPMSolverSinglestep(3), EXPONENTIAL, "Lu et al. 2022a, algorithm 2", "accuracy, from 30 NFE on"),
    "DPM-Solver++(2S)": Entry(DPMSolverSinglestep(2, DataPrediction()), EXPONENTIAL, "Lu et al. 2022b, algorithm 1", "strong guidance"),
    "DPM-Solver++(3S)": Entry(DPMSolverSinglestep(3, DataPrediction()), EXPONENTIAL, "Lu et al. 2022a, algorithm 2, in x0", "accuracy"),
    "DPM-Solver++ on the nodes": Entry(
        DPMSolverNodes(2), EXPONENTIAL, "diffusers' DPMSolverSinglestepScheduler", "a singlestep solver on someone else's grid"
    ),
    "DPM-Solver++(2M) SDE": Entry(
        DPMSolverMultistep(2, eta=1.0), STOCHASTIC, "Lu et al. 2022b, section 5; k-diffusion's dpmpp_2m_sde", "20 NFE and more"
    ),
    "DPM-Solver++(3M) SDE": Entry(
        DPMSolverMultistep(3, solver="heun", eta=1.0), STOCHASTIC, "k-diffusion's dpmpp_3m_sde, D2 corrected", "30 NFE and more"
    ),
}
"""By the name that tables and plots show."""
