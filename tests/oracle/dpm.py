"""Peers' DPM-Solvers: multistep and singlestep, deterministic and SDE.

diffusers (kind ``dpm``) keeps VP states with sigma / alpha of its table: the trigonometric path has every such level.  A level that it
repeats at its end (karras with final_sigmas_type="sigma_min") is dropped, and with it the repeated state.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from oracle.case import Case, Excluded, Record
from oracle.one_step import clipped

from score_lab.paths import EDM, LinearFlow, Trigonometric
from score_lab.samplers import (
    DataPrediction,
    DPMSolverMultistep,
    DPMSolverNodes,
    DPMSolverPP2M,
    NoisePrediction,
    Times,
    dpm_fast,
)  # fmt: skip


def _form(algorithm: str):
    return DataPrediction() if algorithm.endswith("++") else NoisePrediction()


def _path_and_levels(record: Record, keep_repeated: bool = False):
    """Our path, the table's levels as its times' kappa, and whether the repeated last level was dropped."""
    c, sigmas = record.config["resolved"], np.asarray(record["sigmas_table"], np.float64)
    repeated = len(sigmas) > 2 and abs(sigmas[-1] - sigmas[-2]) <= 1e-6 * sigmas[-2]  # once in float32 and once in float64, in places
    if repeated:
        sigmas = np.append(sigmas[:-1], sigmas[-2] * (1 - 1e-12)) if keep_repeated else sigmas[:-1]
    if c.get("use_flow_sigmas"):
        return LinearFlow(), Times(tuple(sigmas)), repeated
    path = EDM(float(sigmas[0])) if record.config["kind"] in ("edm", "k") else Trigonometric()
    return path, Times(tuple(sigmas), of="kappa"), repeated


def _case(record: Record, path, sampler, grid, drop: bool) -> Case:
    states = record["states"]
    return Case(
        path, sampler, grid, states[0], record["noise_used"].astype(int)[:, None] if sampler.stochastic else None,
        states=states[:-2] if drop else states[:-1], final=states[-1], around=clipped(record),
    )  # fmt: skip


def multistep(record: Record) -> Case | Excluded:
    """DPMSolverMultistepScheduler and EDMDPMSolverMultistepScheduler."""
    c, n = record.config["resolved"], len(record["sigmas_table"]) - 1
    path, grid, dropped = _path_and_levels(record)
    if dropped and c["solver_order"] == 3 and c.get("use_karras_sigmas") and not c["lower_order_final"] and not c["euler_at_final"]:
        return Excluded("order 3 over a repeated last level (h = 9e-18): degenerate, NaN as shipped (oracle/README.md)")
    few = c["lower_order_final"] and n < 15
    final = (2, 1) if few else (1,) if c["euler_at_final"] else ()
    if dropped:
        final = final[:-1]  # of the level that they repeat
    sampler = DPMSolverMultistep(
        c["solver_order"], _form(c["algorithm_type"]), c["solver_type"], 1.0 if c["algorithm_type"].startswith("sde") else None,
        final_orders=final, as_released="diffusers",
    )  # fmt: skip
    return _case(record, path, sampler, grid, dropped)


def singlestep(record: Record) -> Case:
    """DPMSolverSinglestepScheduler.  Where its last step over a repeated level is of order 2 or 3 it is no repetition but a second estimate
    from the block's start: the level is then moved by 1e-12 of itself, so that the step moves."""
    c, n = record.config["resolved"], len(record["sigmas_table"]) - 1
    final = c["lower_order_final"] or n % c["solver_order"] != 0 or c["final_sigmas_type"] == "zero"
    sampler = DPMSolverNodes(
        c["solver_order"], _form(c["algorithm_type"]), c["solver_type"], 1.0 if c["algorithm_type"].startswith("sde") else None,
        lower_order_final=final, as_released=True,
    )  # fmt: skip
    orders = sampler.orders_of(n)
    path, grid, repeated = _path_and_levels(record, keep_repeated=orders[-1] > 1)
    dropped = repeated and orders[-1] == 1
    if dropped:
        sampler = dataclasses.replace(sampler, orders=orders[:-1])
    return _case(record, path, sampler, grid, dropped)


def _k(record: Record, sampler) -> Case:
    sigmas, calls = record["sigmas"], len(record.config["noise_calls"])
    path = EDM(float(sigmas[0]))
    noise = np.full((len(sigmas) - 1, 1), -1)
    noise[:calls, 0] = np.arange(calls)
    return Case(path, sampler, Times(tuple(sigmas), of="kappa"), record["x_start"], noise if sampler.stochastic else None)


def dpmpp_2m(record: Record) -> Case:
    """sample_dpmpp_2m."""
    return _k(record, DPMSolverPP2M())


def dpmpp_2m_sde(record: Record) -> Case:
    """sample_dpmpp_2m_sde; it draws at every step but the one to 0, and nowhere with eta = 0."""
    kw = record.config["kw"]
    eta = kw.get("eta", 1.0)
    return _k(record, DPMSolverMultistep(2, solver=kw.get("solver_type", "midpoint"), eta=eta or None, s_noise=kw.get("s_noise", 1.0)))


def dpmpp_3m_sde(record: Record) -> Case:
    """sample_dpmpp_3m_sde: its steps of order 2 are of the heun type, its third derivative lacks the factor 2."""
    kw = record.config["kw"]
    eta = kw.get("eta", 1.0)
    sampler = DPMSolverMultistep(3, solver="heun", eta=eta or None, s_noise=kw.get("s_noise", 1.0), as_released="k_diffusion")
    return _k(record, sampler)


def fast(record: Record) -> Case:
    """sample_dpm_fast: its network inputs are the states, then its result."""
    c, kw = record.config, record.config["kw"]
    start, end = (-2.0 * math.log(c[name]) for name in ("sigma_max", "sigma_min"))
    sampler, grid = dpm_fast(kw["n"], start, end, kw.get("eta") or None, kw.get("s_noise", 1.0))
    noise = np.arange(grid.num_steps)[:, None] if sampler.stochastic else None
    return Case(EDM(c["sigma_max"]), sampler, grid, record["x_start"], noise, record["eval_x"], record["states"][-1])


TRANSLATIONS = {
    "diffusers:DPMSolverMultistepScheduler": multistep,
    "diffusers:EDMDPMSolverMultistepScheduler": multistep,
    "diffusers:DPMSolverSinglestepScheduler": singlestep,
    "k_diffusion:sample_dpmpp_2m": dpmpp_2m,
    "k_diffusion:sample_dpmpp_2m_sde": dpmpp_2m_sde,
    "k_diffusion:sample_dpmpp_3m_sde": dpmpp_3m_sde,
    "k_diffusion:sample_dpm_fast": fast,
}
