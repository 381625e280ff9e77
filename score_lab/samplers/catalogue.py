"""Every solver of this room, with the family it belongs to, its source and what it is for: what docs/samplers.md and the tests go through.

An entry's ``sampler`` is the solver as one would first use it; ``order``, ``calls``, ``memory`` and ``stochastic`` are its own facts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from score_lab.samplers.ancestral import DPMPPSDE, DPM2Ancestral, DPMPP2SAncestral, EulerAncestral, StochasticFlowEuler
from score_lab.samplers.ddim import DDIM, DDPM
from score_lab.samplers.dpm import DPMSolverPP2M
from score_lab.samplers.er_sde import ERSDE
from score_lab.samplers.ode import Euler, Heun
from score_lab.samplers.sa_solver import SASolver
from score_lab.samplers.sde import EulerMaruyama, StochasticHeun
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
    "stochastic Heun": Entry(StochasticHeun(), STOCHASTIC, "Kloeden & Platen 1992, section 15.1", "the reverse SDE at weak order 2"),
    "Euler a": Entry(EulerAncestral(), STOCHASTIC, "Song et al. 2021, eq. 16; k-diffusion", "the same method as DDIM with eta = 1"),
    "DPM2 a": Entry(DPM2Ancestral(), STOCHASTIC, "Karras et al. 2022, midpoint; k-diffusion", "as in k-diffusion"),
    "DPM++ 2S a": Entry(DPMPP2SAncestral(), STOCHASTIC, "Lu et al. 2022b, algorithm 1; k-diffusion", "20 NFE and more, with noise"),
    "DPM++ SDE": Entry(DPMPPSDE(), STOCHASTIC, "Lu et al. 2022b, section 5; k-diffusion", "20 NFE and more, with noise"),
    "SA-Solver": Entry(SASolver(), STOCHASTIC, "Xue et al. 2023, algorithm 1", "20 to 50 NFE, with as much noise as wanted"),
    "ER-SDE": Entry(ERSDE(), STOCHASTIC, "Cui et al. 2023, algorithm 3", "20 to 50 NFE, with little noise"),
    "stochastic flow Euler": Entry(StochasticFlowEuler(), STOCHASTIC, "Song et al. 2023, algorithm 1", "few-step distilled models only"),
    "DPM-Solver++(2M)": Entry(DPMSolverPP2M(), MULTISTEP, "Lu et al. 2022b, algorithm 2", "10 to 20 NFE, guidance"),
}
"""By the name that tables and plots show."""
