"""Which run of a peer is which of ours: the peer's sampler around the torch network, and our path, row, sampler and grid.

    diffusers     the linear DDPM table, network output eps (the flow: velocity)
    k-diffusion   alpha = 1, EDM's preconditioning D = c_skip x + c_out F(c_in x), sigma_data = 0.5
    azula         VP, the same preconditioning in its general form

``theirs(network, label)`` makes a function of the standard normal x_T / std and of a bank of noises, (steps, batch, ...), that samples.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import torch

from score_lab import samplers
from score_lab.paths import EDM, VP, LinearFlow, ddpm_table
from score_lab.samplers import DDIM, DPMSolverPP2M, Euler, Heun, T, Times
from score_lab.targets import Eps, F, Velocity

__all__ = ["Match", "matches_of_all"]

SIGMA_DATA = 0.5
LIMIT = 20.0
TABLE = ddpm_table()


def _k_diffusion() -> Any:
    """``k_diffusion.sampling`` without the package around it, which imports what sampling does not need (CLIP, skimage, wandb)."""
    try:
        folder = distribution("k-diffusion").locate_file("k_diffusion")
    except PackageNotFoundError as error:
        raise ImportError("No module named 'k_diffusion'") from error
    if "k_diffusion" not in sys.modules:
        package = types.ModuleType("k_diffusion")
        package.__path__ = [str(folder)]
        sys.modules["k_diffusion"] = package
    try:
        importlib.import_module("torchvision.transforms.functional")
    except (ImportError, RuntimeError):  # a torchvision built for another torch; k_diffusion.utils names it, sampling does not use it
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
    return importlib.import_module("k_diffusion.sampling")


@dataclasses.dataclass(frozen=True)
class Match:
    """One of their samplers and ours.  ``scale``: our x_T over the standard normal; ``draws``: whether they use the bank of noises."""

    name: str
    path: Any
    target: Any
    sampler: Any
    grid: Any
    theirs: Callable
    sigma_data: float = SIGMA_DATA
    scale: float = 1.0
    draws: bool = False


def _diffusers_on_table(name: str, scheduler: Any, sampler: Any, steps: int) -> Match:
    """A scheduler on table indices; the network predicts eps and is told the table's log-SNR."""
    scheduler.set_timesteps(steps)
    index = [int(k) for k in scheduler.timesteps]
    levels = torch.tensor(np.clip(np.asarray(TABLE.log_snrs), -LIMIT, LIMIT), dtype=torch.float32)

    def theirs(network, label):
        def run(x, bank):
            scheduler.set_timesteps(steps)
            for k in scheduler.timesteps:
                eps = network(x, levels[k].expand(len(x)), label)
                x = scheduler.step(eps, k, x).prev_sample
            return x

        return run

    return Match(name, TABLE, Eps(), sampler, Times((*((k + 1) / 1000 for k in index), 0.0)), theirs, sigma_data=1.0)


def _diffusers_heun(diffusers: Any, steps: int) -> Match:
    """HeunDiscreteScheduler: alpha = 1 outside the network, its table's sigmas between levels; 2 steps - 1 evaluations."""
    scheduler = diffusers.HeunDiscreteScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(steps)
    sigmas = [float(s) for s in scheduler.sigmas[::2]]  # every level twice
    sigmas = sigmas if sigmas[-1] == 0 else [*sigmas, 0.0]

    def theirs(network, label):
        def run(x, bank):
            scheduler.set_timesteps(steps)
            levels = -2 * torch.log(scheduler.sigmas[:-1])
            x = x * sigmas[0]
            for k, t in enumerate(scheduler.timesteps):
                eps = network(scheduler.scale_model_input(x, t), levels[k].expand(len(x)), label)
                x = scheduler.step(eps, t, x).prev_sample
            return x

        return run

    return Match(
        f"diffusers Heun, {steps} steps", EDM(sigmas[0]), Eps(), Heun(), Times(tuple(sigmas), of="kappa"), theirs,
        sigma_data=1.0, scale=sigmas[0],
    )  # fmt: skip


def _diffusers_flow(diffusers: Any, steps: int) -> Match:
    """FlowMatchEulerDiscreteScheduler: the network predicts the velocity eps - x0."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    times = tuple(float(s) for s in scheduler.sigmas)

    def theirs(network, label):
        def run(x, bank):
            scheduler.set_timesteps(steps)
            sigmas = scheduler.sigmas
            levels = torch.clip(2 * (torch.log1p(-sigmas) - torch.log(sigmas)), -LIMIT, LIMIT)
            c_in = 1 / torch.sqrt((SIGMA_DATA * (1 - sigmas)) ** 2 + sigmas**2)
            for k, t in enumerate(scheduler.timesteps):
                v = network(c_in[k] * x, levels[k].expand(len(x)), label)
                x = scheduler.step(v, t, x).prev_sample
            return x

        return run

    return Match(f"diffusers FlowMatchEuler, {steps} steps", LinearFlow(), Velocity(), Euler(T()), Times(times), theirs)


def _k(k_sampling: Any, name: str, function: str, sampler: Any, steps: int, noise: str = "none") -> Match:
    """A function of k-diffusion on Karras' sigmas; ``noise``: "none", "bank" (handed over) or "tree" (its own Brownian tree)."""
    sigmas = k_sampling.get_sigmas_karras(steps, 0.01, 50.0)

    def theirs(network, label):
        def denoise(x, sigma):
            s = sigma.reshape(-1, *[1] * (x.ndim - 1))
            total = s**2 + SIGMA_DATA**2
            y = network(x / total.sqrt(), torch.clip(-2 * torch.log(sigma), -LIMIT, LIMIT), label)
            return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / total.sqrt() * y

        def run(x, bank):
            noises = iter(bank)
            options = {"noise_sampler": lambda s, t: next(noises)} if noise == "bank" else {}
            return getattr(k_sampling, function)(denoise, x * sigmas[0], sigmas, disable=True, **options)

        return run

    grid = Times(tuple(float(s) for s in sigmas), of="kappa")
    name = f"k-diffusion {name}, {steps} steps" + {"tree": ", own noise"}.get(noise, "")
    return Match(name, EDM(float(sigmas[0])), F(SIGMA_DATA), sampler, grid, theirs, scale=float(sigmas[0]), draws=noise == "bank")


def _azula(steps: int) -> Match:
    """DDIMSampler on our VP path, from t = 1 to 0."""
    denoise, noise, sampling = (importlib.import_module(f"azula.{part}") for part in ("denoise", "noise", "sample"))

    class Schedule(noise.Schedule):
        def __call__(self, t):
            total = 0.1 * t + 0.5 * 19.9 * t**2
            return torch.exp(-0.5 * total), torch.sqrt(-torch.expm1(-total))

    class Denoiser(denoise.Denoiser):
        """x0 from the preconditioned output F."""

        def __init__(self, network, label):
            super().__init__()
            self.network, self.label, self.schedule = network, label, Schedule()

        def forward(self, x_t, t, **kwargs):
            alpha, sigma = self.schedule(t)
            root = torch.sqrt((alpha * SIGMA_DATA) ** 2 + sigma**2)
            level = torch.clip(2 * (torch.log(alpha) - torch.log(sigma)), -LIMIT, LIMIT)
            y = self.network(x_t / root, level.expand(len(x_t)), self.label)
            return denoise.DiracPosterior(mean=alpha * SIGMA_DATA**2 / root**2 * x_t + sigma * SIGMA_DATA / root * y)

    def theirs(network, label):
        sampler = sampling.DDIMSampler(Denoiser(network, label), steps=steps, silent=True)
        return lambda x, bank: sampler(x)

    times = tuple(1 - k / steps for k in range(steps + 1))
    return Match(f"azula DDIM, {steps} steps", VP(0.1, 20.0), F(SIGMA_DATA), DDIM(), Times(times), theirs)


def _of_diffusers() -> list[Match]:
    diffusers = importlib.import_module("diffusers")
    table = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    unipc = samplers.UniPC(2, "bh2", final_orders=(1,))
    return [
        _diffusers_on_table("diffusers DDIM, 50 steps", diffusers.DDIMScheduler(clip_sample=False, **table), DDIM(), 50),
        _diffusers_on_table("diffusers DPM++2M, 20 steps", diffusers.DPMSolverMultistepScheduler(**table), DPMSolverPP2M(), 20),
        _diffusers_on_table("diffusers UniPC, 20 steps", diffusers.UniPCMultistepScheduler(**table), unipc, 20),
        _diffusers_heun(diffusers, 20),
        _diffusers_flow(diffusers, 20),
    ]


def _of_k_diffusion() -> list[Match]:
    sampling, sde = _k_diffusion(), samplers.DPMSolverMultistep(2, eta=1.0)
    return [
        _k(sampling, "euler", "sample_euler", Euler(samplers.Kappa()), 20),
        _k(sampling, "heun", "sample_heun", Heun(), 20),
        _k(sampling, "dpmpp_2m", "sample_dpmpp_2m", DPMSolverPP2M(), 20),
        _k(sampling, "dpmpp_2m_sde", "sample_dpmpp_2m_sde", sde, 20, "bank"),
        _k(sampling, "dpmpp_2m_sde", "sample_dpmpp_2m_sde", sde, 20, "tree"),
    ]


OF = {"diffusers": _of_diffusers, "k-diffusion": _of_k_diffusion, "azula": lambda: [_azula(50)]}
"""What each peer's runs are made by: nothing of a peer is imported before."""


def matches_of_all() -> tuple[list[Match], list[str]]:
    """The runs of the peers that can be imported, and one line for each that cannot, whatever is missing of it."""
    found, missing = [], []
    for peer, make in OF.items():
        try:
            found += make()
        except Exception as error:  # a half-installed package raises what it likes
            pip = f"{sys.executable} -m pip install" + (" --no-deps k-diffusion" if peer == "k-diffusion" else f" {peer}")
            missing.append(f"{peer} is not here, or only half ({type(error).__name__}: {' '.join(str(error).split())[:120]}); try: {pip}")
    return found, missing
