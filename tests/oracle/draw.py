"""New records of the peers with other options, in the committed records' format: to try the translations on what they have not seen.

    python tests/oracle/draw.py FOLDER [N [SEED [CLASS ...]]]    with the ``peers`` extra; then  make oracle RECORDS=FOLDER

N random combinations of options for every class and function (12 by default), from their own lists of values below.  A combination that
the peer refuses, or whose states are not finite, is named and left out.  Float64: the modules' ``torch.float32`` and ``np.float32`` are
float64 while a record is drawn.  The denoiser is the exact one of a mixture; noise comes from a bank, in the order of the calls.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np

W, M, V = np.array([0.5, 0.3, 0.2]), np.array([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]]), np.array([0.09, 0.16, 0.0625])
STEPS = (5, 7, 10, 12, 20, 25)
BETAS = {"beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"), "beta_start": (1e-4, 8.5e-4), "beta_end": (0.02, 0.012)}
SPACED = {"timestep_spacing": ("leading", "trailing", "linspace"), "steps_offset": (0, 1)}
PREDICTED = {"prediction_type": ("epsilon", "v_prediction", "sample")}
CLIPPED = {"clip_sample": (False, True), "clip_sample_range": (1.0, 1.7)}
THRESHOLD = {"thresholding": (False, False, True), "dynamic_thresholding_ratio": (0.995, 0.7), "sample_max_value": (1.0, 1.3)}
CONVERTED = ({}, {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
FLOWS = (_FLOW, _FLOW | {"flow_shift": 3.0})
CHURN = ({}, {}, {"s_churn": 5.0}, {"s_churn": 5.0, "s_tmin": 0.05, "s_tmax": 8.0, "s_noise": 1.003})
VP = {**BETAS, **SPACED, **PREDICTED, "num_train_timesteps": (1000, 1000, 400)}
ZERO = {"rescale_betas_zero_snr": (False, False, False, True)}
EDM = {"sigma_min": (0.002, 0.02), "sigma_max": (80.0, 10.0), "sigma_data": (0.5, 1.0), "rho": (7.0, 5.0),
       "sigma_schedule": ("karras", "exponential"), "final_sigmas_type": ("zero", "sigma_min")}  # fmt: skip
MULTISTEP = {"solver_order": (1, 2, 3), "lower_order_final": (True, False)}
LAST = {"final_sigmas_type": ("zero", "sigma_min")}
DPM = {**MULTISTEP, **THRESHOLD, **LAST, "solver_type": ("midpoint", "heun"), "lambda_min_clipped": (-float("inf"), -float("inf"), -5.1)}
V_OR_EPS = {"prediction_type": ("epsilon", "v_prediction")}
DIFFUSERS = {  # class: (kind, options each on its own, options together, arguments of step)
    "DDIMScheduler": (
        "acp", {**VP, **ZERO, **CLIPPED, **THRESHOLD, "set_alpha_to_one": (True, False)}, ({},),
        ({}, {"eta": 0.3}, {"eta": 1.0}, {"use_clipped_model_output": True}),
    ),
    "DDPMScheduler": (
        "acp", {**VP, **ZERO, **CLIPPED, **THRESHOLD, "beta_schedule": (*BETAS["beta_schedule"], "sigmoid"),
         "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range", "learned")},
        ({},), ({},),
    ),
    "PNDMScheduler": (
        "acp", {**BETAS, **SPACED, **V_OR_EPS, "skip_prk_steps": (True, False), "set_alpha_to_one": (True, False)}, ({},), ({},),
    ),
    "EulerDiscreteScheduler": (
        "k", {**VP, **ZERO, **LAST, "interpolation_type": ("linear", "log_linear"), "timestep_type": ("discrete", "continuous")},
        (*CONVERTED, {"sigma_min": 0.03, "sigma_max": 12.0, "use_karras_sigmas": True}), CHURN,
    ),
    "EulerAncestralDiscreteScheduler": ("k", {**VP, **ZERO, **V_OR_EPS}, ({},), ({},)),
    "HeunDiscreteScheduler": ("k", {**VP, **CLIPPED}, CONVERTED, ({},)),
    "LMSDiscreteScheduler": ("k", VP, CONVERTED, ({}, {"order": 1}, {"order": 2}, {"order": 3})),
    "KDPM2DiscreteScheduler": ("k", {**VP, **V_OR_EPS}, CONVERTED, ({},)),
    "KDPM2AncestralDiscreteScheduler": ("k", {**VP, **V_OR_EPS}, CONVERTED, ({},)),
    "DPMSolverMultistepScheduler": (
        "dpm",
        {**VP, **ZERO, **DPM, "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
         "euler_at_final": (False, True)},
        (*CONVERTED, {"use_lu_lambdas": True}, *FLOWS), ({},),
    ),
    "DPMSolverSinglestepScheduler": (
        "dpm", {**BETAS, **PREDICTED, **DPM, "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++")},
        (*CONVERTED, *FLOWS), ({},),
    ),
    "DPMSolverSDEScheduler": ("k", {**VP, **V_OR_EPS}, CONVERTED, ({}, {"s_noise": 1.1})),
    "SASolverScheduler": (
        "dpm", {**VP, **THRESHOLD, "predictor_order": (1, 2, 3), "corrector_order": (1, 2, 3, 4), "lower_order_final": (True, False)},
        (*CONVERTED, *FLOWS), ({},),
    ),
    "DEISMultistepScheduler": ("dpm", {**VP, **MULTISTEP, **THRESHOLD}, (*CONVERTED, *FLOWS), ({},)),
    "UniPCMultistepScheduler": (
        "dpm",
        {**VP, **ZERO, **LAST, **MULTISTEP, **THRESHOLD, "predict_x0": (True, False), "solver_type": ("bh1", "bh2"),
         "disable_corrector": ([], [], [0], [0, 1], [2, 5])},
        (*CONVERTED, *FLOWS), ({},),
    ),
    "EDMEulerScheduler": ("edm", {**EDM, **V_OR_EPS}, ({},), CHURN),
    "EDMDPMSolverMultistepScheduler": (
        "edm",
        {**EDM, **MULTISTEP, **THRESHOLD, **V_OR_EPS, "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
         "solver_type": ("midpoint", "heun"), "euler_at_final": (False, True)},
        ({},), ({},),
    ),
    "FlowMatchEulerDiscreteScheduler": (
        "flow",
        {"shift": (1.0, 3.0, 0.5), "shift_terminal": (None, None, 0.1), "stochastic_sampling": (False, False, True),
         "invert_sigmas": (False, False, False, True),
         "time_shift_type": ("exponential", "linear")},
        (*CONVERTED, {"use_dynamic_shifting": True}), CHURN,
    ),
    "FlowMatchHeunDiscreteScheduler": ("flow", {"shift": (1.0, 3.0, 0.5)}, ({},), CHURN),
    "IPNDMScheduler": ("ipndm", {}, ({}, {"trained_betas": "sin"}), ({},)),
}  # fmt: skip
GRIDS = (
    {"schedule": "karras", "rho": 7.0}, {"schedule": "karras", "rho": 5.0}, {"schedule": "exponential"},
    {"schedule": "polyexponential", "rho": 1.5}, {"schedule": "vp"},
)  # fmt: skip
ETAS = {"eta": (0.0, 0.4, 1.0), "s_noise": (1.0, 1.1)}
K_DIFFUSION = {  # function: (own options, options together)
    "sample_euler": ({}, CHURN), "sample_heun": ({}, CHURN), "sample_dpm_2": ({}, CHURN), "sample_lms": ({"order": (1, 2, 3, 4)}, ({},)),
    "sample_euler_ancestral": (ETAS, ({},)), "sample_dpm_2_ancestral": (ETAS, ({},)), "sample_dpmpp_2s_ancestral": (ETAS, ({},)),
    "sample_dpmpp_sde": ({**ETAS, "r": (0.5, 0.3)}, ({},)), "sample_dpmpp_2m": ({}, ({},)),
    "sample_dpmpp_2m_sde": ({**ETAS, "solver_type": ("midpoint", "heun")}, ({},)), "sample_dpmpp_3m_sde": (ETAS, ({},)),
    "sample_dpm_fast": ({**ETAS, "n": (5, 6, 7, 12, 20)}, ({},)),
    "sample_dpm_adaptive": (
        {**ETAS, "order": (2, 3), "rtol": (0.05, 0.01), "atol": (0.0078, 0.001), "h_init": (0.05, 0.2), "pcoeff": (0.0, 0.2),
         "icoeff": (1.0, 0.7), "dcoeff": (0.0, 0.1), "accept_safety": (0.81, 0.9)},
        ({},),
    ),
}  # fmt: skip
ORDERS = {"order": (1, 2, 3, 4)}
AZULA = {
    "DDPMSampler": {}, "DDIMSampler": {"eta": (0.0, 0.3, 0.5, 1.0)}, "EulerSampler": {}, "HeunSampler": {},
    "ItoSampler": {"eta": (0.0, 0.5, 1.0), "temperature": (1.0, 1.3)}, "zABSampler": ORDERS, "vABSampler": ORDERS, "zEABSampler": ORDERS,
    "xEABSampler": ORDERS, "REABSampler": ORDERS, "PCSampler": {"corrections": (1, 2), "delta": (0.01, 0.3)},
}  # fmt: skip
METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams")


def exact(x: np.ndarray, a: float, s: float) -> tuple[np.ndarray, np.ndarray]:
    """``E[x0 | x], E[eps | x]`` of the mixture at x = a x0 + s eps."""
    d, var = x[:, None, :] - a * M, a * a * V + s * s
    log = np.log(W) - (d**2).sum(-1) / (2 * var) - np.log(var)
    r = np.exp(log - log.max(1, keepdims=True))
    r = (r / r.sum(1, keepdims=True))[..., None]
    return (r * (M + (a * V / var)[:, None] * d)).sum(1), (r * ((s / var)[:, None] * d)).sum(1)


class Wide:
    """A module whose ``float32`` is ``float64``, with other names replaced."""

    def __init__(self, module, **names):
        self.__dict__.update(module=module, names=names)

    def __getattr__(self, name):
        return self.names[name] if name in self.names else getattr(self.module, "float64" if name == "float32" else name)


class Peers:
    """The records of one file: ``arrays`` is what is written."""

    def __init__(self, seed: int, meta: dict):
        rng = np.random.default_rng(seed)
        self.x_init, self.bank = rng.standard_normal((16, 2)), rng.standard_normal((400, 16, 2))
        self.drawn = 0
        self.arrays = {"__meta__": np.array(json.dumps(meta)), "x_init": self.x_init, "noise_bank": self.bank}
        self.arrays |= {"gmm_w": W, "gmm_m": M, "gmm_v": V}

    def noise(self, like=None):
        """The next of the bank as a tensor, of the shape of the states."""
        import torch

        self.drawn += 1
        z = torch.tensor(self.bank[self.drawn - 1])
        return z if like is None else z.reshape(like.shape)

    def add(self, name: str, config: dict, **arrays) -> None:
        """One record, if it is finite."""
        if not all(np.isfinite(v).all() for k, v in arrays.items() if k in ("states", "final")):
            print(f"{name}: not finite as released: {config.get('ctor') or config.get('kw')}")
            return
        self.arrays[f"{name}/config"] = np.array(json.dumps(config, default=_listed))
        self.arrays.update({f"{name}/{key}": np.asarray(value) for key, value in arrays.items()})


def _listed(value):
    return value.tolist() if hasattr(value, "tolist") else str(value)


def chosen(rng, options: dict) -> dict:
    """One value of each, and half of the options left at their defaults."""
    return {k: values[rng.integers(len(values))] for k, values in options.items() if rng.random() < 0.5}


def _levels(kind: str, sch, i: int, t) -> tuple[float, float]:
    """``(a, s)`` at which the exact denoiser is asked in call i."""
    if kind == "acp":
        bar = float(sch.alphas_cumprod[int(t)])
        return bar**0.5, (1 - bar) ** 0.5
    if kind == "ipndm":
        return float(sch.alphas[i]), float(sch.betas[i])
    sigma = float(sch.sigmas[i])
    if getattr(sch, "mid_point_sigma", None) is not None and not sch.state_in_first_order:
        sigma = float(sch.mid_point_sigma)
    if hasattr(sch, "sigmas_interpol"):
        sigma = float(sch.sigmas[sch.step_index or 0] if sch.state_in_first_order else sch.sigmas_interpol[sch.step_index])
        if not sch.state_in_first_order and type(sch).__name__ == "KDPM2AncestralDiscreteScheduler":
            sigma = float(sch.sigmas_interpol[sch.step_index - 1])
    if kind in ("k", "edm"):
        return 1.0, sigma
    if kind == "flow" or sch.config.get("use_flow_sigmas"):
        return 1 - sigma, sigma
    a = 1 / (1 + sigma**2) ** 0.5
    return a, sigma * a


def _output(kind: str, c: dict, x, a, s) -> np.ndarray:
    """What the network would give: the prediction of the record's type."""
    x0, eps = exact(x, a, s)
    wanted = c.get("prediction_type", "epsilon")
    if kind == "flow" or wanted == "flow_prediction":
        return eps - x0
    if kind == "edm":
        d = c["sigma_data"]
        c_out = s * d / (s * s + d * d) ** 0.5 * (1 if wanted == "epsilon" else -1)
        return (x0 - d * d / (s * s + d * d) * x) / c_out
    if kind == "k":
        a = 1 / (1 + s * s) ** 0.5
        s = s * a
    return {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s * x0}[wanted]


def diffusers(n: int, seed: int) -> Peers:
    """Records of diffusers' schedulers."""
    import diffusers as package
    import torch

    rng, out = np.random.default_rng(seed), Peers(seed, {"peer": "diffusers", "version": package.__version__, "torch": torch.__version__})
    for cls, (kind, options, together, arguments) in DIFFUSERS.items():
        made, module = getattr(package, cls), importlib.import_module(getattr(package, cls).__module__)
        module.torch, module.np, module.randn_tensor = Wide(torch), Wide(np), lambda shape, **_: out.noise().reshape(tuple(shape))
        for j in range(n):
            ctor = chosen(rng, options) | together[rng.integers(len(together))]
            step_kw, steps = arguments[rng.integers(len(arguments))], int(rng.choice(STEPS))
            if ctor.get("trained_betas") == "sin":
                ctor["trained_betas"] = [*np.sin(np.linspace(1, 0.1, steps) * np.pi / 2), 0.0]
            set_kw = {"mu": 0.8} if ctor.get("use_dynamic_shifting") else {}
            try:
                _scheduler(out, f"{cls.removesuffix('Scheduler')}_{j}", made, kind, steps, ctor, step_kw, set_kw)
            except Exception as e:  # a refusal of the peer's, which is named
                print(f"{cls} {ctor} {step_kw} {steps}: {type(e).__name__}: {str(e).splitlines()[0][:120]}")
    return out


def _scheduler(out: Peers, name, made, kind, steps, ctor, step_kw, set_kw) -> None:
    import torch

    sch = made(**ctor)
    sch.set_timesteps(steps, **set_kw)
    c, out.drawn = dict(sch.config), 0
    deep = (..., None) if c.get("thresholding") else (...,)  # its threshold wants three axes
    x = torch.tensor(out.x_init) * float(getattr(sch, "init_noise_sigma", 1.0))
    states, used, levels, outputs = [x.numpy().copy()], [], [], []
    if made.__name__ == "DPMSolverSDEScheduler":
        sch.noise_sampler = lambda *levels: out.noise()
    for i, t in enumerate(sch.timesteps):
        a, s = _levels(kind, sch, i, t)
        levels.append((a, s))
        if hasattr(sch, "scale_model_input"):
            sch.scale_model_input(x, t)
        before, given = out.drawn, torch.tensor(_output(kind, c, x.numpy(), a, s))
        if c.get("variance_type") in ("learned_range", "learned"):
            given = torch.cat([given, torch.sin(x) if c["variance_type"] == "learned_range" else 0.1 * torch.exp(torch.sin(x))], 1)
            outputs.append(given.numpy().copy())
        x = sch.step(given[deep], t, x[deep], **step_kw).prev_sample.reshape(16, 2)
        used.append(before if out.drawn > before else -1)
        states.append(x.numpy().copy())
    tables = {"timesteps": sch.timesteps, "sigmas_table": getattr(sch, "sigmas", None)}
    resolved = {k: v for k, v in c.items() if not k.startswith("_")}
    config = {"cls": made.__name__, "ctor": ctor, "kind": kind, "resolved": resolved, "steps": steps, "step_kw": step_kw or None,
              "set_kw": set_kw or None}  # fmt: skip
    a, s = np.array(levels).T
    tables |= {"model_out": outputs or None}
    out.add(name, config, states=np.array(states), noise_used=np.array(used, float), model_a=a, model_s=s,
            **{k: np.array(v, float) for k, v in tables.items() if v is not None})  # fmt: skip


def _sampling():
    """k-diffusion's ``sampling`` without the rest of the package, which wants many more."""
    folder = Path(importlib.util.find_spec("k_diffusion").submodule_search_locations[0])
    package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__, package.utils = [str(folder)], utils
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


def k_diffusion(n: int, seed: int) -> Peers:
    """Records of k-diffusion's functions."""
    import torch

    rng, out, module = np.random.default_rng(seed), Peers(seed, {"peer": "k-diffusion"}), _sampling()
    module.torch = Wide(torch, randn_like=lambda x: out.noise())
    for fn, (options, together) in K_DIFFUSION.items():
        for j in range(n):
            kw = chosen(rng, options) | together[rng.integers(len(together))]
            if fn == "sample_dpm_fast":
                kw.setdefault("n", 10)
            grid, steps = dict(GRIDS[rng.integers(len(GRIDS))]), int(rng.choice(STEPS))
            low, high = ((0.02, 10.0), (0.002, 80.0), (0.1, 20.0))[rng.integers(3)]
            sigmas = None
            if not fn.startswith("sample_dpm_fast") and not fn.startswith("sample_dpm_adaptive"):
                rho = {k: v for k, v in grid.items() if k == "rho"}
                ends = () if grid["schedule"] == "vp" else (low, high)
                sigmas = getattr(module, f"get_sigmas_{grid['schedule']}")(steps, *ends, **rho)
                high = float(sigmas[0])
            else:
                grid = {"schedule": None}
            try:
                _function(out, module, f"{fn.removeprefix('sample_')}_{j}", fn, kw, grid, sigmas, low, high)
            except Exception as e:
                print(f"{fn} {kw} {grid}: {type(e).__name__}: {str(e).splitlines()[0][:120]}")
    return out


def _function(out: Peers, module, name, fn, kw, grid, sigmas, low, high) -> None:
    import inspect

    import torch

    out.drawn, seen, states, asked = 0, [], [], []

    def model(x, sigma):
        s = float(sigma.flatten()[0])
        seen.append((x.numpy().copy(), s))
        return torch.tensor(exact(x.numpy(), 1.0, s)[0])

    def noise_sampler(*levels):
        asked.append([float(v) for v in levels])
        return out.noise()

    taken = {"noise_sampler": noise_sampler} if "noise_sampler" in inspect.signature(getattr(module, fn)).parameters else {}
    x = torch.tensor(out.x_init * high)
    levels = (sigmas.double(),) if sigmas is not None else (low, high)
    made = getattr(module, fn)(model, x, *levels, disable=True, callback=lambda d: states.append(d["x"].numpy().copy()), **kw, **taken)
    config = {"fn": fn, "kw": kw, "noise_calls": asked or [[]] * out.drawn, **grid, "sigma_min": low, "sigma_max": high}
    more = {"sigmas": sigmas.double().numpy()} if sigmas is not None else {}
    out.add(name, config, x_start=out.x_init * high, states=np.array([*states, made.numpy()]), eval_x=np.array([v for v, _ in seen]),
            eval_sigma=np.array([s for _, s in seen]), n_noise=np.array(out.drawn), **more)  # fmt: skip


def azula(n: int, seed: int) -> Peers:
    """Records of azula's samplers."""
    import azula.noise
    import azula.sample
    import torch

    rng, out = np.random.default_rng(seed), Peers(seed, {"peer": "azula"})
    azula.sample.torch = Wide(torch, randn_like=lambda x: out.noise())
    schedules = {name.lower(): f"{name}Schedule" for name in ("VP", "Rectified", "Cosine", "VE", "Decay")}
    for cls, options in AZULA.items():
        for j in range(n):
            kw, name, steps = chosen(rng, options), list(schedules)[rng.integers(len(schedules))], int(rng.choice(STEPS))
            schedule, out.drawn, states = getattr(azula.noise, schedules[name])(), 0, []

            class Denoiser:
                def __call__(self, x, t, schedule=schedule, **_):
                    a, s = schedule(t)
                    return types.SimpleNamespace(mean=torch.tensor(exact(x.numpy(), float(a), float(s))[0]))

            denoiser = Denoiser()
            denoiser.schedule = schedule
            sampler = getattr(azula.sample, cls)(denoiser, steps=steps, silent=True, dtype=torch.float64, **kw)
            t = sampler.timesteps
            alpha, sigma = schedule(t)
            start = out.x_init * float(sigma[0])
            if "step" in vars(type(sampler)):
                inner = sampler.step
                sampler.step = lambda x, t, s, inner=inner, states=states, **k: (states.append(x.numpy().copy()), inner(x, t, s, **k))[1]
            final = sampler(torch.tensor(start)).numpy()
            more = {"states": np.array([*states, final])} if states else {}
            config = {"cls": cls, "kw": kw, "n_noise": out.drawn, "schedule": name}
            out.add(f"{name}_{cls}_{j}", config, t=t.numpy(), alpha=alpha.numpy(), sigma=sigma.numpy(), x_start=start, final=final, **more)
    return out


def flow_matching(n: int, seed: int) -> Peers:
    """Records of flow_matching's ODESolver with fixed steps."""
    import torch
    from flow_matching.path import scheduler
    from flow_matching.solver import ODESolver

    rng, out = np.random.default_rng(seed), Peers(seed, {"peer": "flow_matching"})
    classes = {"condot": "CondOT", "cosine": "Cosine", "linear_vp": "LinearVP", "vp": "VP"}
    schedules = {name: getattr(scheduler, f"{cls}Scheduler")() for name, cls in classes.items()}
    for method in METHODS:
        for j in range(n):
            name = list(schedules)[rng.integers(4)]
            steps, schedule = int(rng.choice(STEPS)), schedules[name]
            grid = np.linspace(0, 0.99 if "vp" in name else 1, steps + 1) ** rng.choice((1.0, 0.7, 1.3))

            def velocity(x, t, schedule=schedule, **_):
                u = schedule(t.reshape(()).double())
                a, s, da, ds = (float(v) for v in (u.alpha_t, u.sigma_t, u.d_alpha_t, u.d_sigma_t))
                x0, eps = exact(x.detach().numpy(), a, s)
                return torch.tensor(da * x0 + ds * eps)

            solver = ODESolver(velocity_model=velocity)
            step = None if rng.random() < 0.5 else float(rng.choice((0.05, 0.13)))
            kw = {"step_size": step, "method": method, "time_grid": torch.tensor(grid), "return_intermediates": True}
            states = solver.sample(torch.tensor(out.x_init), **kw).detach().numpy()
            out.add(f"{name}_{method}_{j}", {"method": method, "schedule": name, "step_size": step}, t=grid, states=states)
    return out


def main(folder: Path, n: int = 12, seed: int = 1, *classes: str) -> None:
    """Writes ``<peer>.npz`` of every peer that is installed; ``classes``: only records whose class or function is one of these."""
    import torch

    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    for table in (DIFFUSERS, K_DIFFUSION, AZULA):
        for name in [k for k in table if classes and k not in classes]:
            del table[name]
    for make in (diffusers, k_diffusion, flow_matching, azula):
        out = make(n, seed)
        np.savez_compressed(folder / f"{make.__name__}.npz", **out.arrays)
        print(f"{make.__name__}: {sum(key.endswith('/config') for key in out.arrays)} records")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:4]), *sys.argv[4:])
