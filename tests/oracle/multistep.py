"""Peers' multistep solvers: Adams, PLMS, LMS, DEIS, UniPC, exponential Adams-Bashforth.

diffusers' repeated last node (Karras and other sigmas with sigma_min last, PNDM's clipped last step) is dropped: their step there is no
step, and orders of the last steps are counted from it.  So is a last step to sigma = 0 whose result is NaN (UniPC bh1, as shipped).
"""

from __future__ import annotations

import numpy as np
from oracle.case import Case, Record
from oracle.grids import AZULA, beta_table
from oracle.one_step import clipped

from score_lab.paths import EDM, LinearFlow, Trigonometric
from score_lab.samplers import (
    PLMS,
    PNDM,
    AdamsBashforth,
    DataExponential,
    DataPrediction,
    EpsExponential,
    Kappa,
    NoisePrediction,
    Rosenbrock,
    Straight,
    Times,
    UniPC,
    lms,
)
from score_lab.samplers.as_released import ReadAsV, Strided, StridedPNDM, VInKappa


def lower_order_final(record: Record, order: int, repeated: int) -> tuple[int, ...]:
    """Orders of the last steps, those that are dropped left out."""
    caps = tuple(range(order - 1, 0, -1))
    return caps[: len(caps) - repeated] if record.config["resolved"]["lower_order_final"] else ()


def sigma_case(record: Record, sampler) -> Case:
    """A scheduler in VP coordinates at its table's sigmas (kappa), or, with use_flow_sigmas, on the linear flow; ``sampler(repeated)``."""
    sigmas = np.asarray(record["sigmas_table"], np.float64)
    repeated = int(abs(sigmas[-1] / sigmas[-2] - 1) < 1e-6 or np.isnan(record["states"][-1]).any())
    sigmas = sigmas[: len(sigmas) - repeated]
    states = record["states"][: len(sigmas)]
    flow = record.config["resolved"].get("use_flow_sigmas")
    path, grid = (LinearFlow(), Times(tuple(sigmas))) if flow else (Trigonometric(), Times(tuple(sigmas), of="kappa"))
    around = clipped(record) if record.config["resolved"].get("predict_x0", True) else None  # UniPC of eps does not threshold
    return Case(path, sampler(repeated), grid, states[0], states=states[:-1], final=states[-1], around=around)


def deis(record: Record) -> Case:
    """DEISMultistepScheduler: log-rho; the lower last orders only below 15 steps."""
    order = min(record.config["resolved"]["solver_order"], 3)

    def sampler(repeated):
        final = lower_order_final(record, order, repeated) if len(record["timesteps"]) < 15 else ()
        return AdamsBashforth(EpsExponential(), order, final)

    return sigma_case(record, sampler)


def unipc(record: Record) -> Case:
    """UniPCMultistepScheduler."""
    c = record.config["resolved"]

    def sampler(repeated):
        return UniPC(
            c["solver_order"], c["solver_type"], DataPrediction() if c["predict_x0"] else NoisePrediction(),
            uncorrected=tuple(c["disable_corrector"]), final_orders=lower_order_final(record, c["solver_order"], repeated),
        )  # fmt: skip

    return sigma_case(record, sampler)


def sigmas_on_edm(sigmas, order: int, x_T, **kwargs) -> Case:
    """LMS at ``sigmas``, alpha = 1."""
    sigmas = np.asarray(sigmas, np.float64)
    return Case(EDM(float(sigmas[0])), lms(order), Times(tuple(sigmas), of="kappa"), x_T, **kwargs)


def diffusers_lms(record: Record) -> Case:
    """LMSDiscreteScheduler: ``order`` is an argument of its step."""
    return sigmas_on_edm(record["sigmas_table"], (record.config["step_kw"] or {}).get("order", 4), record["states"][0])


def k_diffusion_lms(record: Record) -> Case:
    """sample_lms."""
    return sigmas_on_edm(record["sigmas"], record.config["kw"].get("order", 4), record["x_start"])


def ipndm(record: Record) -> Case:
    """IPNDMScheduler: sigma = sin^2, or its trained betas, and t = (2 / pi) atan2(sigma, alpha)."""
    end = np.asarray(record.config["resolved"]["trained_betas"])[-1:] if record.config["resolved"]["trained_betas"] else np.zeros(1)
    times = (*np.asarray(record["timesteps"], np.float64), float(2 / np.pi * np.arcsin(end[0])))
    return Case(Trigonometric(), PLMS(ReadAsV()), Times(times), record["states"][0])


def pndm(record: Record) -> Case:
    """PNDMScheduler: table index k is t = (k + 1) / T; from the last one back to index 0 (no step from 0 itself) or to data.

    Its step always goes T // n indices down.  Where that is the grid's step and even ("leading"), ours is the same as it is."""
    c = record.config["resolved"]
    T, n, nodes = c["num_train_timesteps"], record.config["steps"], [int(k) for k in record["timesteps"]]
    nodes = list(dict.fromkeys(nodes)) if c["skip_prk_steps"] else nodes[0:12:4] + nodes[12:]
    r, last = T // n, -1 if c["set_alpha_to_one"] else 0
    end = nodes[-1] - r if nodes[-1] >= r else last
    repeated = int(end == nodes[-1])
    times = [(k + 1) / T for k in (nodes if repeated else [*nodes, end])]
    states = record["states"][: len(record["states"]) - repeated]
    inner = VInKappa() if c["prediction_type"] == "v_prediction" else Kappa()
    sampler = PNDM(inner, not c["skip_prk_steps"])
    if any(a - b != r for a, b in zip(nodes, nodes[1:], strict=False)) or (sampler.runge_kutta and r % 2):
        variable = Strided(inner, r / T, (nodes[3] + 1.5) / T if sampler.runge_kutta else 2.0, (last + 1) / T)
        sampler = StridedPNDM(variable, sampler.runge_kutta, r / T, (r // 2) / T)
    return Case(beta_table(c), sampler, Times(tuple(times)), states[0], states=states[:-1], final=states[-1])


def azula(variable):
    """One of azula's Adams-Bashforth samplers; the default order is 2."""

    def translate(record: Record) -> Case:
        path = AZULA[record.config["schedule"]]
        sampler = AdamsBashforth(variable, record.config["kw"].get("order", 2))
        x, grid = record["x_start"], Times(tuple(np.asarray(record["t"], np.float64)))
        return Case(path, sampler, grid, x, states=x[None], final=record["final"], calls=slice(0, 1))

    return translate


TRANSLATIONS = {
    "diffusers:DEISMultistepScheduler": deis,
    "diffusers:UniPCMultistepScheduler": unipc,
    "diffusers:LMSDiscreteScheduler": diffusers_lms,
    "diffusers:IPNDMScheduler": ipndm,
    "diffusers:PNDMScheduler": pndm,
    "k_diffusion:sample_lms": k_diffusion_lms,
    "azula:zABSampler": azula(Kappa()),
    "azula:vABSampler": azula(Straight()),
    "azula:zEABSampler": azula(EpsExponential()),
    "azula:xEABSampler": azula(DataExponential()),
    "azula:REABSampler": azula(Rosenbrock(as_released=True)),
}
