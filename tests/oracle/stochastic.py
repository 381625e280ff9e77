"""Peers' stochastic solvers: the ancestral family, DPM++ SDE, SA-Solver, stochastic Euler.

Both peers' states are on alpha = 1 with sigma from a table; a repeated sigma of theirs is dropped with its state.  diffusers draws in every
step, k-diffusion in every step that does not end at 0 (twice in DPM++ SDE).
"""

from __future__ import annotations

import numpy as np
from oracle.case import Case, Excluded, Record

from score_lab.guidance import DynamicThreshold
from score_lab.paths import EDM, LinearFlow, Trigonometric
from score_lab.samplers import DPMPPSDE, DPM2Ancestral, DPMPP2SAncestral, EulerAncestral, StochasticFlowEuler, Times
from score_lab.samplers.as_released_noise import SASolverReleased


def _path(sigmas: np.ndarray) -> EDM:
    """The path with alpha = 1 that reaches the highest of their levels."""
    return EDM(sigma_max=max(80.0, float(sigmas[0])))


def _moving(sigmas: np.ndarray) -> np.ndarray:
    """The indices of their steps that move."""
    return np.flatnonzero(sigmas[1:] < sigmas[:-1])


def euler_ancestral_diffusers(record: Record) -> Case:
    """EulerAncestralDiscreteScheduler: eta 1, noise times ``s_noise`` = 1, one draw in every step."""
    sigmas = record["sigmas_table"]
    steps = _moving(sigmas)
    return Case(
        _path(sigmas), EulerAncestral(), Times((*sigmas[:-1][steps], sigmas[-1]), of="kappa"), record["states"][0],
        record["noise_used"][steps, None], record["states"][:-1][steps],
    )  # fmt: skip


def dpm2_ancestral_diffusers(record: Record) -> Case:
    """KDPM2AncestralDiscreteScheduler: a state for every call, its table holds the inner levels twice, one draw in every second call."""
    sigmas, states = record["sigmas_table"], record["states"]
    levels = sigmas[np.append(True, sigmas[1:] < sigmas[:-1])]
    noise = np.append(record["noise_used"][1::2], -1)[:, None]
    return Case(_path(levels), DPM2Ancestral(), Times(tuple(levels), of="kappa"), states[0], noise)


def flow_match_stochastic(record: Record) -> Case:
    """FlowMatchEulerDiscreteScheduler(stochastic_sampling=True): alpha = 1 - sigma, all noise new in every step."""
    sigmas = record["sigmas_table"]
    if not record.config["resolved"]["stochastic_sampling"]:
        raise ValueError(f"{record.name}: stochastic_sampling is off")
    steps = _moving(sigmas)
    return Case(
        LinearFlow(), StochasticFlowEuler(), Times((*sigmas[:-1][steps], sigmas[-1])), record["states"][0],
        record["noise_used"][steps, None], record["states"][:-1][steps],
    )  # fmt: skip


def dpm_sde_diffusers(record: Record) -> Case:
    """DPMSolverSDEScheduler: DPM++ SDE of eta 1; a state for every call, inner levels twice, two draws a step but for the one to 0."""
    levels, states = record["sigmas_table"], record["states"]
    levels = levels[np.append(True, levels[1:] < levels[:-1])]
    noise = np.append(record["noise_used"][:-1], (-1, -1)).reshape(-1, 2)
    s_noise = float((record.config["step_kw"] or {}).get("s_noise", 1.0))
    return Case(_path(levels), DPMPPSDE(s_noise=s_noise, independent=True), Times(tuple(levels), of="kappa"), states[0], noise)


def sa_solver(record: Record) -> Case | Excluded:
    """SASolverScheduler with its own tau: 1 at the timesteps 200 to 800, 0 elsewhere; a level that it repeats at its end is dropped."""
    c, t = record.config["resolved"], np.asarray(record["timesteps"])
    if c["algorithm_type"] != "data_prediction":
        return Excluded("algorithm_type noise_prediction: SA-Solver on eps, ours is on x0")
    if c.get("tau_func") not in (None, "None"):
        return Excluded("tau_func: a function of the timestep, which a record does not hold")
    sigmas = np.asarray(record["sigmas_table"], np.float64)
    dropped = int(abs(sigmas[-1] / sigmas[-2] - 1) < 1e-6)
    sigmas, states = sigmas[: len(sigmas) - dropped], record["states"][: len(sigmas) - dropped]
    flow = c.get("use_flow_sigmas")
    kappa = sigmas / (1 - sigmas) if flow else sigmas
    noisy = kappa[: len(t)][((t >= 200) & (t <= 800))[: len(kappa)]]
    low, high = (noisy.min() * (1 - 1e-9), noisy.max() * (1 + 1e-9)) if len(noisy) else (1e9, 1e9)
    sampler = SASolverReleased(
        c["predictor_order"], c["corrector_order"], 1.0, float(low), float(high), c["lower_order_final"], dropped
    )  # fmt: skip
    path, grid = (LinearFlow(), Times(tuple(sigmas))) if flow else (Trigonometric(), Times(tuple(sigmas), of="kappa"))
    noise = record["noise_used"].astype(int)[: len(sigmas) - 1, None]
    return Case(path, sampler, grid, states[0], noise, states=states[:-1], final=states[-1], around=_thresholded(record))


def _thresholded(record: Record):
    """Their x0 after dynamic thresholding, of which eps follows nothing here: the solver is on x0."""
    c = record.config["resolved"]
    if not c["thresholding"]:
        return None
    return lambda denoiser: DynamicThreshold(denoiser, c["dynamic_thresholding_ratio"], 1.0, c["sample_max_value"], False)


def _k_diffusion(make, draws: int = 1, needs: str = "", **fixed):
    """A k_diffusion function as our sampler: ``eval_x`` are all network inputs."""

    def translate(record: Record) -> Case:
        kw, sigmas = dict(record.config["kw"] or {}), record["sigmas"]
        steps = _moving(sigmas)
        known = {k: float(kw.pop(k)) for k in ("eta", "s_noise", *needs.split()) if k in kw}
        if kw:
            raise ValueError(f"{record.name}: unknown arguments {sorted(kw)}")
        asks = sigmas[1:] > 0
        first = np.cumsum(np.append(0, asks[:-1])) * draws
        noise = np.where(asks[:, None], first[:, None] + np.arange(draws), -1)[steps]
        return Case(
            _path(sigmas), make(**known, **fixed), Times((*sigmas[:-1][steps], sigmas[-1]), of="kappa"), record["x_start"], noise,
            record["eval_x"],
        )  # fmt: skip

    return translate


TRANSLATIONS = {
    "diffusers:EulerAncestralDiscreteScheduler": euler_ancestral_diffusers,
    "diffusers:DPMSolverSDEScheduler": dpm_sde_diffusers,
    "diffusers:SASolverScheduler": sa_solver,
    "diffusers:KDPM2AncestralDiscreteScheduler": dpm2_ancestral_diffusers,
    "k_diffusion:sample_euler_ancestral": _k_diffusion(EulerAncestral),
    "k_diffusion:sample_dpm_2_ancestral": _k_diffusion(DPM2Ancestral),
    "k_diffusion:sample_dpmpp_2s_ancestral": _k_diffusion(DPMPP2SAncestral),
    "k_diffusion:sample_dpmpp_sde": _k_diffusion(DPMPPSDE, 2, "r", independent=True),
}
