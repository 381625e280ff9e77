"""Peers' grids from their arguments: which path and grid of ours has the levels of a record, whatever its solver.

    grid(record) -> (path, grid)            one row a step; a node that the peer repeats is dropped
    levels(record) -> kappa or t            the peer's own table, without repeated nodes, and whether it is of "kappa" or "t"

diffusers: the arguments of the scheduler; k_diffusion: get_sigmas_*; edm: the discretisation of ``ablation_sampler``.
"""

from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
from oracle.case import Record

from score_lab.paths import EDM, LinearFlow, ddpm_table
from score_lab.paths.base import GaussianPath
from score_lab.samplers import (
    IDDPM,
    BetaQuantiles,
    Exponential,
    FlowTimesteps,
    Karras,
    LevelsOf,
    PolyExponential,
    Shift,
    Stretch,
    Times,
    Timesteps,
    UniformTime,
    VPTime,
)
from score_lab.types import pytree_dataclass

SPARE = ("DPMSolver", "DEIS", "UniPC", "SASolver")
"""Schedulers whose leading and linspace rules are applied to n + 1 levels."""
FRACTIONAL = ("Euler", "LMS", "KDPM2", "Heun")
"""Schedulers that do not round linspace."""


@pytree_dataclass
class AzulaVP(GaussianPath):
    """azula's VPSchedule: ``alpha = alpha_min^(t^2), sigma = sqrt(1 - alpha^2 + sigma_min^2)``."""

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3

    def alpha(self, t):
        return jnp.exp(jnp.log(self.alpha_min) * t**2)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * jnp.log(self.alpha_min) * t**2) + self.sigma_min**2)


@pytree_dataclass
class AzulaCosine(GaussianPath):
    """azula's CosineSchedule: ``alpha = cos(t arccos alpha_min), sigma = sqrt(1 - alpha^2 + sigma_min^2)``."""

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3

    def alpha(self, t):
        return jnp.cos(jnp.arccos(self.alpha_min) * t)

    def sigma(self, t):
        return jnp.sqrt(jnp.sin(jnp.arccos(self.alpha_min) * t) ** 2 + self.sigma_min**2)


@pytree_dataclass
class AzulaRectified(GaussianPath):
    """azula's RectifiedSchedule and, with ``gamma``, its DecaySchedule: ``alpha = u alpha_min + (1 - u), sigma = u + (1 - u) sigma_min``,
    ``u = t`` or ``(1 - gamma^t) / (1 - gamma)``."""

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3
    gamma: float | None = None

    def _u(self, t):
        return t if self.gamma is None else (1 - jnp.exp(jnp.log(self.gamma) * t)) / (1 - self.gamma)

    def alpha(self, t):
        return self._u(t) * self.alpha_min + (1 - self._u(t))

    def sigma(self, t):
        return self._u(t) + (1 - self._u(t)) * self.sigma_min


@pytree_dataclass
class AzulaVE(GaussianPath):
    """azula's VESchedule: ``alpha = 1, sigma = sigma_min^(1 - t) sigma_max^t``."""

    sigma_min: float = 1e-3
    sigma_max: float = 1e3

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return jnp.exp((1 - t) * jnp.log(self.sigma_min) + t * jnp.log(self.sigma_max))


AZULA = {
    "vp": AzulaVP(), "rectified": AzulaRectified(), "cosine": AzulaCosine(), "decay": AzulaRectified(gamma=0.1), "ve": AzulaVE(),
}  # fmt: skip


def beta_table(c: dict):
    """Our table path for the resolved arguments of a diffusers scheduler."""
    T, low, high = c["num_train_timesteps"], c["beta_start"], c["beta_end"]
    if c.get("trained_betas") is not None:
        return ddpm_table(tuple(c["trained_betas"]), zero_terminal=c.get("rescale_betas_zero_snr", False))
    betas = {
        "linear": lambda: np.linspace(low, high, T),
        "scaled_linear": lambda: np.linspace(low**0.5, high**0.5, T) ** 2,
        "squaredcos_cap_v2": lambda: _cosine(T),
        "sigmoid": lambda: low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, T))),
    }[c["beta_schedule"]]()
    return ddpm_table(tuple(betas), zero_terminal=c.get("rescale_betas_zero_snr", False))


def _cosine(T: int) -> np.ndarray:
    u = np.arange(T + 1) / T
    bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], 0.999)


def _converted(c: dict, n: int, small: float, large: float, to_data: bool, of: str):
    """The grid that a scheduler's ``use_*_sigmas`` puts between two levels; None where it has none."""
    if c.get("use_karras_sigmas"):
        return Karras(n, 7.0, small, large, to_data, of)
    if c.get("use_exponential_sigmas") or c.get("use_lu_lambdas"):
        return Exponential(n, small, large, to_data, of)
    if c.get("use_beta_sigmas"):
        return BetaQuantiles(n, 0.6, 0.6, small, large, to_data, of)
    return None


def _table(record: Record):
    c, n, cls = record.config["resolved"], record.config["steps"], record.config["cls"]
    table = beta_table(c)
    to_data = c.get("final_sigmas_type", "zero") == "zero" and not cls.startswith(("DEIS", "SASolver")) and c.get("set_alpha_to_one", True)
    kappa = np.exp(-0.5 * np.asarray(table.log_snrs))
    spaced = c.get("timestep_spacing", "linspace")
    offset = c.get("steps_offset", 0) if spaced == "leading" else 0
    whole = not cls.startswith(FRACTIONAL)
    spare = cls.startswith(SPARE) and spaced != "trailing"
    repeats = not to_data and not spare and spaced != "trailing" and not offset
    grid = _converted(c, n if to_data else n - 1, kappa[0], kappa[-1], to_data, "kappa")
    if grid is None:
        clip = c.get("lambda_min_clipped", -math.inf)
        grid = Timesteps(
            n - repeats, spaced, offset, "data" if to_data else "first", spare or repeats, whole,
            None if clip == -math.inf else 2 * clip,
        )  # fmt: skip
    return (EDM(float(kappa[-1])), LevelsOf(grid, table)) if record.config["kind"] == "k" else (table, grid)


def _flow(record: Record):
    c, n = record.config["resolved"], record.config["steps"]
    T, shift, dynamic = c["num_train_timesteps"], c["shift"], c.get("use_dynamic_shifting", False)
    if dynamic:
        mu = record.config["set_kw"]["mu"]
        grid = Shift(FlowTimesteps(n, 1.0, T), mu if c.get("time_shift_type") == "linear" else math.exp(mu))
    else:
        grid = FlowTimesteps(n, shift, T, as_released=True)
    if c.get("shift_terminal"):
        grid = Stretch(grid, c["shift_terminal"])
    times = np.asarray(grid.steps(LinearFlow()).t)
    return LinearFlow(), _converted(c, n, float(times[-1]), float(times[0]), True, "t") or grid


def _flow_sigmas(record: Record):
    """``use_flow_sigmas``: DPM-Solver's times are equal from 1 - 1 / T to 0, UniPC's from 1 (moved down by 1e-6) to 1 / T, then 0."""
    c, n = record.config["resolved"], record.config["steps"]
    T = c["num_train_timesteps"]
    if record.config["cls"].startswith("DPMSolver"):
        return LinearFlow(), Shift(UniformTime(n, start=-2 * math.log(T - 1)), c["flow_shift"])
    times = np.append(np.linspace(1, 1 / T, n + 1)[:-1], 0.0)
    times = c["flow_shift"] * times / (1 + (c["flow_shift"] - 1) * times)
    return LinearFlow(), Times((1 - 1e-6, *times[1:]))


def _edm_scheduler(record: Record):
    c, n = record.config["resolved"], record.config["steps"]
    to_data = c.get("final_sigmas_type", "zero") == "zero"
    n = n if to_data else n - 1
    ends = (c["sigma_min"], c["sigma_max"], to_data)
    path = EDM(c["sigma_max"])
    return path, Karras(n, c["rho"], *ends) if c["sigma_schedule"] == "karras" else Exponential(n, *ends)


def _k_diffusion(record: Record):
    c = record.config
    name = c.get("schedule") or record.name.removeprefix("schedule_").split("_")[0]
    n, ends = c.get("n", len(record["sigmas"]) - 1), (c["sigma_min"], c["sigma_max"])
    grid = {
        "karras": lambda: Karras(n, c.get("rho", 7.0), *ends),
        "exponential": lambda: Exponential(n, *ends),
        "polyexponential": lambda: PolyExponential(n, c.get("rho", 1.0), *ends),
        "vp": lambda: VPTime(n, c.get("beta_min", 0.1), c.get("beta_min", 0.1) + c.get("beta_d", 19.9), c.get("eps_s", 1e-3)),
    }[name]()
    return EDM(float(record["sigmas"][0])), grid


def _edm(record: Record):
    kw = record.config["kw"]
    n, name, ends = kw["num_steps"], kw.get("discretization", "edm"), (kw.get("sigma_min"), kw.get("sigma_max"))
    grid = {
        "edm": lambda: Karras(n, kw.get("rho", 7.0), ends[0] or 0.002, ends[1] or 80.0),
        "ve": lambda: Exponential(n, ends[0] or 0.02, ends[1] or 100.0),
        "vp": lambda: VPTime(n, eps=kw.get("epsilon_s", 1e-3), sigma_min=ends[0], sigma_max=ends[1]),
        "iddpm": lambda: IDDPM(n, *ends, M=kw.get("M", 1000), C_1=kw.get("C_1", 0.001), C_2=kw.get("C_2", 0.008), as_released=True),
    }[name]()
    return EDM(max(float(np.max(record["eval_sigma"])), 200.0)), grid


def grid(record: Record):
    """``(path, grid)`` for the peer's arguments; KeyError for what has no grid of its own."""
    if record.peer == "k_diffusion":
        return _k_diffusion(record)
    if record.peer == "edm":
        return _edm(record)
    if record.peer == "azula":
        return LinearFlow(), UniformTime(len(record["t"]) - 1)
    kind = record.config["kind"]
    if record.config["resolved"].get("use_flow_sigmas"):
        return _flow_sigmas(record)
    return {"acp": _table, "dpm": _table, "k": _table, "flow": _flow, "edm": _edm_scheduler}[kind](record)


def _once(values: np.ndarray) -> np.ndarray:
    """Without the nodes that repeat the one before them."""
    return values[np.append(True, np.abs(np.diff(values)) > 1e-9 * np.abs(values[:-1]))]


def levels(record: Record) -> tuple[str, np.ndarray]:
    """``("kappa" or "t", the peer's levels)``."""
    if record.peer == "k_diffusion":
        return "kappa", _once(record["sigmas"])
    if record.peer == "azula":
        return "t", record["t"]
    if record.peer == "edm":
        n, calls = record.config["kw"]["num_steps"], record["eval_sigma"]
        return "kappa", np.append(calls[::2] if len(calls) == 2 * n - 1 else calls, 0.0)
    kind = record.config["kind"]
    if kind == "acp":  # DDIM, DDPM, PNDM: a timestep is a level, and the end is data or the first of them
        c = record.config["resolved"]
        T = c["num_train_timesteps"]
        return "t", _once(np.append((record["timesteps"] + 1) / T, 0.0 if c.get("set_alpha_to_one", True) else 1 / T))
    flow = kind == "flow" or record.config["resolved"].get("use_flow_sigmas")
    return "t" if flow else "kappa", _once(record["sigmas_table"])


def describe(record: Record) -> str:
    """The record's arguments that choose a grid, so that equal ones are compared once."""
    c = record.config
    words = ("sigma", "spacing", "shift", "lambda", "beta")
    chosen = {k: v for k, v in (c.get("resolved") or {}).items() if any(word in k for word in words)}
    rest = [c.get(k) for k in ("cls", "schedule", "sigma_min", "sigma_max", "steps", "n", "kind", "set_kw")]
    kw = {k: v for k, v in (c.get("kw") or {}).items() if k not in ("solver", "schedule", "scaling")} if record.peer == "edm" else {}
    own = record.name if record.name.startswith("schedule_") else ""
    return json.dumps([record.peer, chosen, rest, kw, own], sort_keys=True, default=str)
