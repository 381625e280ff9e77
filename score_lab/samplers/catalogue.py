"""Every solver of this room, with the family it belongs to, its source and what it is for: what docs/samplers.md and the tests go through.

An entry's ``sampler`` is the solver as one would first use it; ``order``, ``calls``, ``memory`` and ``stochastic`` are its own facts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from score_lab.samplers.adams import PLMS, PNDM, AdamsBashforth, lms
from score_lab.samplers.adaptive_dpm import DPMAdaptive
from score_lab.samplers.analytic_dpm import AnalyticDPM
from score_lab.samplers.ancestral import DPMPPSDE, DPM2Ancestral, DPMPP2SAncestral, EulerAncestral, StochasticFlowEuler
from score_lab.samplers.ddim import DDIM, DDPM, GDDIM, ItoEuler
from score_lab.samplers.deis import deis
from score_lab.samplers.dpm import DPMSolverMultistep, DPMSolverPP2M
from score_lab.samplers.dpm_fast import DPMFast
from score_lab.samplers.dpm_forms import DataPrediction, NoisePrediction
from score_lab.samplers.dpm_singlestep import DPMSolverNodes, DPMSolverSinglestep
from score_lab.samplers.er_sde import ERSDE
from score_lab.samplers.explicit_pairs import Dopri5, Tsit5
from score_lab.samplers.exponential import DataExponential, EpsExponential, Rosenbrock
from score_lab.samplers.kvaerno import Kvaerno5
from score_lab.samplers.langevin import Langevin
from score_lab.samplers.multipliers import SiTDiffusion
from score_lab.samplers.ode import Euler
from score_lab.samplers.runge_kutta import DPM2, RK4, RK38, EDMSecond, Heun, Heun3, Midpoint, Ralston
from score_lab.samplers.sa_solver import SASolver
from score_lab.samplers.sde import EulerMaruyama, StochasticHeun
from score_lab.samplers.unipc import UniPC
from score_lab.samplers.variables import Angle, Kappa, LogSNR, Straight, T

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
    "midpoint in t": Entry(Midpoint(T()), ONE_STEP, "Runge 1895", "flow matching's midpoint, from 20 NFE on"),
    "midpoint in kappa": Entry(Midpoint(Kappa()), ONE_STEP, "Karras et al. 2022, algorithm 3 with alpha = 1/2", "no call at a step's end"),
    "midpoint in log-SNR": Entry(Midpoint(LogSNR()), ONE_STEP, "Runge 1895", "to see what a variable does"),
    "Ralston in kappa": Entry(Ralston(), ONE_STEP, "Ralston 1962; alpha = 2/3 below", "second order of least error bound"),
    "EDM's second order, alpha = 0.8": Entry(EDMSecond(0.8), ONE_STEP, "Karras et al. 2022, algorithm 3", "Heun to midpoint by one number"),
    "Heun's third order in kappa": Entry(Heun3(), ONE_STEP, "Heun 1900", "references at 50 NFE and more"),
    "RK4 in kappa": Entry(RK4(), ONE_STEP, "Kutta 1901", "references at 100 NFE and more"),
    "RK4 in t": Entry(RK4(T()), ONE_STEP, "Kutta 1901", "references on flows"),
    "3/8 rule in t": Entry(RK38(T()), ONE_STEP, "Kutta 1901", "what torchdiffeq calls rk4"),
    "DPM2": Entry(DPM2(), ONE_STEP, "Karras et al. 2022, algorithm 2, with a log-midpoint (k-diffusion)", "as k-diffusion's dpm_2"),
    "generalised DDIM, m = 0.5": Entry(GDDIM(0.5), STOCHASTIC, "Zhang, Tao & Chen 2022", "noise by the SDE's own multiplier"),
    "Ito-Euler": Entry(ItoEuler(), STOCHASTIC, "Song et al. 2021, eq. 6, eps held over the step", "as azula's ItoSampler"),
    "Analytic-DDPM": Entry(AnalyticDPM((0.0,), (0.5,)), STOCHASTIC, "Bao et al. 2022, theorem 1", "few steps; Gamma is measured"),
    "Analytic-DDIM": Entry(AnalyticDPM((0.0,), (0.5,), eta=0.0), STOCHASTIC, "Bao et al. 2022, theorem 1", "few steps; Gamma is measured"),
    "DDIM": Entry(DDIM(), ONE_STEP, "Song et al. 2020a, eq. 12 with eta = 0", "deterministic baseline; encodings"),
    "DDIM, eta = 0.5": Entry(DDIM(0.5), STOCHASTIC, "Song et al. 2020a, eq. 12 and 16", "between DDIM and DDPM"),
    "DDIM, eta = 1": Entry(DDIM(1.0), STOCHASTIC, "Song et al. 2020a, eq. 12 and 16", "DDPM with beta tilde"),
    "DDPM, beta tilde": Entry(DDPM("beta_tilde"), STOCHASTIC, "Ho et al. 2020, algorithm 2, sigma^2 = beta tilde", "100 NFE and more"),
    "DDPM, beta": Entry(DDPM("beta"), STOCHASTIC, "Ho et al. 2020, algorithm 2, sigma^2 = beta", "as many steps as in training"),
    "Euler-Maruyama": Entry(EulerMaruyama(), STOCHASTIC, "Song et al. 2021, eq. 6 and 13", "the reverse SDE as written; 100 NFE and more"),
    "Euler-Maruyama, exact increment": Entry(
        EulerMaruyama(increment="exact"), STOCHASTIC, "Song et al. 2021, eq. 6, diffusion integrated", "the reverse SDE at fewer steps"
    ),
    "Euler-Maruyama, SiT's sigma": Entry(
        EulerMaruyama(SiTDiffusion("sigma")), STOCHASTIC, "Ma et al. 2024, section 3.3, w = 2 sigma", "flows with noise, 100 NFE and more"
    ),
    "predictor-corrector": Entry(
        Langevin(EulerMaruyama()), STOCHASTIC, "Song et al. 2021, algorithms 4 and 5", "score models at hundreds of NFE"
    ),
    "stochastic Heun": Entry(StochasticHeun(), STOCHASTIC, "Kloeden & Platen 1992, section 15.1", "the reverse SDE at weak order 2"),
    "Euler a": Entry(EulerAncestral(), STOCHASTIC, "Song et al. 2021, eq. 16; k-diffusion", "the same method as DDIM with eta = 1"),
    "DPM2 a": Entry(DPM2Ancestral(), STOCHASTIC, "Karras et al. 2022, midpoint; k-diffusion", "as in k-diffusion"),
    "DPM++ 2S a": Entry(DPMPP2SAncestral(), STOCHASTIC, "Lu et al. 2022b, algorithm 1; k-diffusion", "20 NFE and more, with noise"),
    "DPM++ SDE": Entry(DPMPPSDE(), STOCHASTIC, "Lu et al. 2022b, section 5; k-diffusion", "20 NFE and more, with noise"),
    "SA-Solver": Entry(SASolver(), STOCHASTIC, "Xue et al. 2023, algorithm 1", "20 to 50 NFE, with as much noise as wanted"),
    "ER-SDE": Entry(ERSDE(), STOCHASTIC, "Cui et al. 2023, algorithm 3", "20 to 50 NFE, with little noise"),
    "ER-SDE-2": Entry(ERSDE(2), STOCHASTIC, "Cui et al. 2023, algorithm 2", "ER-SDE with a shorter memory"),
    "ER-SDE-1": Entry(ERSDE(1), STOCHASTIC, "Cui et al. 2023, algorithm 1", "what ER-SDE is without memory"),
    "stochastic flow Euler": Entry(StochasticFlowEuler(), STOCHASTIC, "Song et al. 2023, algorithm 1", "few-step distilled models only"),
    "DPM-Solver++(2M)": Entry(DPMSolverPP2M(), MULTISTEP, "Lu et al. 2022b, algorithm 2", "10 to 20 NFE, guidance"),
    "Adams-Bashforth 2 in t": Entry(AdamsBashforth(T(), 2), MULTISTEP, "Adams-Bashforth, variable steps", "flows, 10 NFE and more"),
    "Adams-Bashforth 2 in angle": Entry(AdamsBashforth(Angle(), 2), MULTISTEP, "Adams-Bashforth, variable steps", "v-prediction"),
    "vAB 3": Entry(AdamsBashforth(Straight(), 3), MULTISTEP, "azula's vAB: Adams-Bashforth of the flow's velocity", "flows, on any path"),
    "LMS 4": Entry(lms(4), MULTISTEP, "k-diffusion's LMS; Zhang & Chen 2022, rho-AB", "what LMS, zAB and rho-AB DEIS are elsewhere"),
    "iPNDM": Entry(PLMS(), MULTISTEP, "Zhang & Chen 2022, iPNDM; Liu et al. 2022, eq. 12", "smooth grids; comparison with PNDM"),
    "PNDM, PLMS start": Entry(PNDM(), MULTISTEP, "Liu et al. 2022, eq. 12, start of second order", "latent diffusion's default of 2022"),
    "PNDM": Entry(PNDM(runge_kutta=True), MULTISTEP, "Liu et al. 2022, algorithm 2", "20 NFE and more: its start costs 12"),
    "DEIS-tAB 3": Entry(deis(3), MULTISTEP, "Zhang & Chen 2022, eq. 14-15", "10 to 20 NFE"),
    "DEIS log-rho 2": Entry(deis(2, "log_rho"), MULTISTEP, "diffusers' DEIS; Zhang & Chen 2022, eq. 15", "10 to 20 NFE"),
    "zEAB 3": Entry(AdamsBashforth(EpsExponential(), 3), MULTISTEP, "azula's zEAB; Lu et al. 2022", "eps in log-SNR, 20 NFE and more"),
    "xEAB 3": Entry(AdamsBashforth(DataExponential(), 3), MULTISTEP, "azula's xEAB; Lu et al. 2022b", "x0 in log-SNR, guidance"),
    "REAB 2": Entry(AdamsBashforth(Rosenbrock(), 2), MULTISTEP, "azula's REAB, corrected; Zheng et al. 2023", "data of unit variance"),
    "UniP-2": Entry(UniPC(2, corrector=False), MULTISTEP, "Zhao et al. 2023, algorithm 2", "what UniPC is without its corrector"),
    "UniPC-2": Entry(UniPC(2), MULTISTEP, "Zhao et al. 2023, algorithm 1, B_2(h)", "5 to 20 NFE"),
    "UniPC-3": Entry(UniPC(3), MULTISTEP, "Zhao et al. 2023, algorithm 1, B_2(h)", "10 to 20 NFE without guidance"),
    "UniPC-3, B_1(h)": Entry(UniPC(3, "bh1"), MULTISTEP, "Zhao et al. 2023, algorithm 1, B_1(h)", "unguided, as the authors advise"),
    "UniPC-2 of eps": Entry(UniPC(2, form=NoisePrediction()), MULTISTEP, "Zhao et al. 2023, algorithm 1, eps", "eps in place of x0"),
    "UniPC-1": Entry(UniPC(1), MULTISTEP, "Zhao et al. 2023, algorithm 1, p = 1", "DDIM with a corrector"),
    "DPM-Solver++(3M)": Entry(DPMSolverMultistep(3), MULTISTEP, "Lu et al. 2022b, section 4, D2 corrected", "10 to 20 NFE, no guidance"),
    "DPM-Solver++(3M) as released": Entry(
        DPMSolverMultistep(3, as_released="diffusers"), MULTISTEP, "the authors' code; diffusers", "to reproduce what others report"
    ),
    "DPM-Solver(2M)": Entry(DPMSolverMultistep(2, NoisePrediction()), MULTISTEP, "Lu et al. 2022a, eq. 3.4", "eps in place of x0"),
    "DPM-Solver-2": Entry(DPMSolverSinglestep(2), EXPONENTIAL, "Lu et al. 2022a, algorithm 1", "no history"),
    "DPM-Solver-3": Entry(DPMSolverSinglestep(3), EXPONENTIAL, "Lu et al. 2022a, algorithm 2", "accuracy, from 30 NFE on"),
    "DPM-Solver++(2S)": Entry(DPMSolverSinglestep(2, DataPrediction()), EXPONENTIAL, "Lu et al. 2022b, algorithm 1", "strong guidance"),
    "DPM-Solver++(3S)": Entry(DPMSolverSinglestep(3, DataPrediction()), EXPONENTIAL, "Lu et al. 2022a, algorithm 2, in x0", "accuracy"),
    "DPM-Solver-fast": Entry(DPMFast(), EXPONENTIAL, "Lu et al. 2022a, section 3.4; k-diffusion's dpm_fast", "any number of evaluations"),
    "DPM-Solver++ on the nodes": Entry(
        DPMSolverNodes(2), EXPONENTIAL, "diffusers' DPMSolverSinglestepScheduler", "a singlestep solver on someone else's grid"
    ),
    "DPM-Solver++(2M) SDE": Entry(
        DPMSolverMultistep(2, eta=1.0), STOCHASTIC, "Lu et al. 2022b, section 5; k-diffusion's dpmpp_2m_sde", "20 NFE and more"
    ),
    "DPM-Solver++(3M) SDE": Entry(
        DPMSolverMultistep(3, solver="heun", eta=1.0), STOCHASTIC, "k-diffusion's dpmpp_3m_sde, D2 corrected", "30 NFE and more"
    ),
    "Dormand-Prince 5(4)": Entry(
        Dopri5(), ADAPTIVE, "Dormand & Prince 1980; scipy's RK45, torchdiffeq's dopri5", "references and encodings to a tolerance"
    ),
    "Tsitouras 5(4)": Entry(Tsit5(), ADAPTIVE, "Tsitouras 2011", "references to a tolerance"),
    "Kvaerno 5(4)": Entry(Kvaerno5(), ADAPTIVE, "Kvaerno 2004, ESDIRK", "stiff problems of few dimensions"),
    "DPM-Solver-23, adaptive": Entry(
        DPMAdaptive(), ADAPTIVE, "Lu et al. 2022, appendix C; k-diffusion's dpm_adaptive", "a step size for each sample at a low tolerance"
    ),
}
"""By the name that tables and plots show."""
