"""Peers' one-step solvers: DDIM and DDPM on a beta table, Euler, Heun, midpoint and Runge-Kutta in sigma or t, with and without churn.

Peers' levels are those of their own tables (``sigmas``, ``timesteps``, ``t``): their grids have tests of their own.  Where a node is
repeated (a last step from sigma_min to sigma_min) the dead step and its state are dropped.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from oracle.case import Case, Excluded, Record
from oracle.grids import AZULA, beta_table
from oracle.stochastic import flow_match_stochastic
from samplers.exact import mixture_numpy

from score_lab.guidance import ClipX0, DynamicThreshold
from score_lab.linear import combine
from score_lab.paths import EDM, VP, GaussianPath, LinearFlow, Trigonometric
from score_lab.paths.transition import log_variance_bounds, transition_variances
from score_lab.samplers import (
    DDIM,
    DDPM,
    DPM2,
    RK38,
    Churn,
    EDMSecond,
    Euler,
    Heun,
    Heun3,
    ItoEuler,
    Kappa,
    Karras,
    Midpoint,
    Steps,
    T,
    Times,
)
from score_lab.samplers.as_released import LateChurn, LateChurnFlow
from score_lab.samplers.as_released_noise import DDPMReleased, PredictorCorrector
from score_lab.types import leaf, pytree_dataclass


def moved(levels) -> tuple[tuple, np.ndarray]:
    """``levels`` without repeated ones, and the indices of those kept."""
    levels = np.asarray(levels, np.float64)
    keep = np.flatnonzero(np.append(True, np.abs(np.diff(levels)) > 1e-6 * np.abs(levels[:-1])))
    return tuple(float(v) for v in levels[keep]), keep


def _table(record: Record, sampler, s: list[int], around) -> Case:
    """Steps between table indices k, at t = (k + 1) / T; index -1 is data, and a last step from the first level to itself is dropped."""
    T = record.config["resolved"]["num_train_timesteps"]
    times, keep = moved([(k + 1) / T for k in (*record["timesteps"], s[-1])])
    noise = record["noise_used"][keep[:-1], None]
    path, states = beta_table(record.config["resolved"]), record["states"][keep]
    return Case(path, sampler, Times(times), states[0], noise, states=states[:-1], final=states[-1], around=around)


def clipped(record: Record, keep_eps: bool = False):
    """What diffusers does to x0: dynamic thresholding, which comes before ``clip_sample``, or clipping."""
    c = record.config["resolved"]
    if c.get("thresholding"):
        quantile, largest = c["dynamic_thresholding_ratio"], c["sample_max_value"]
        return lambda denoiser: DynamicThreshold(denoiser, quantile, 1.0, largest, keep_eps)
    if not c.get("clip_sample"):
        return None
    return lambda denoiser: ClipX0(denoiser, -c["clip_sample_range"], c["clip_sample_range"], keep_eps)


def ddim(record: Record) -> Case:
    """DDIMScheduler: every step goes ``T // steps`` table indices down, whatever its next timestep is (``stride``); the last one to data
    or, without ``set_alpha_to_one``, to the table's first level."""
    c, kw = record.config["resolved"], record.config["step_kw"] or {}
    ratio, k = c["num_train_timesteps"] // record.config["steps"], np.asarray(record["timesteps"], int)
    last = -1 if c["set_alpha_to_one"] else 0
    s = [int(v) if v >= 0 else last for v in k - ratio]
    stride = None if s[:-1] == list(k[1:]) else ratio / c["num_train_timesteps"]
    sampler = DDIM(kw.get("eta", 0.0), stride=stride)
    return _table(record, sampler, s, clipped(record, not kw.get("use_clipped_model_output", False)))


@pytree_dataclass
class WithVariance:
    """``denoiser`` whose network also gave ``variance[k]`` at ``times[k]``."""

    denoiser: object = leaf()
    times: object = leaf()
    variance: object = leaf()
    path = property(lambda self: self.denoiser.path)

    def on(self, path):
        return WithVariance(self.denoiser.on(path), self.times, self.variance)

    def __call__(self, x_t, t, cond=None, **rest):
        found = jnp.asarray(self.variance)[jnp.argmin(jnp.abs(jnp.asarray(self.times) - t))]
        return dataclasses.replace(self.denoiser(x_t, t, cond, **rest), aux={"variance": found})


def ddpm(record: Record) -> Case | Excluded:
    """DDPMScheduler: the next timestep, and data after the last.  Of "learned_range" ``model_out``'s second half says where between their
    bounds the variance is, of "learned" it is the variance itself, which lies somewhere between the bounds or beyond them."""
    kind, around = record.config["resolved"]["variance_type"], clipped(record, False)
    if kind == "fixed_large_log":
        return Excluded("variance_type fixed_large_log: their noise is the root of ln beta < 0, NaN as released")
    if kind in ("learned", "learned_range"):
        d, T = record.x_init.shape[1], record.config["resolved"]["num_train_timesteps"]
        if "model_out" not in record.arrays or record["model_out"].shape[-1] != 2 * d:
            return Excluded(f"variance_type {kind}: the record has no variance that the network gave")
        times, given, inner = (record["timesteps"] + 1) / T, record["model_out"][..., d:], around or (lambda denoiser: denoiser)
        if kind == "learned" and not (given > 0).all():
            return Excluded("variance_type learned: a variance that the network gave is not positive, its root NaN as released")
        given = given if kind == "learned_range" else _between_bounds(record, given)
        around = lambda denoiser: WithVariance(inner(denoiser), times, given)  # noqa: E731
    variance = {"fixed_small": "beta_tilde", "fixed_small_log": "beta_tilde", "fixed_large": "beta"}.get(kind, "learned")
    sampler = DDPMReleased(variance) if record["timesteps"][-1] > 0 else DDPM(variance)  # no noise is added at timestep 0 alone
    return _table(record, sampler, [*record["timesteps"][1:], -1], around)


def _between_bounds(record: Record, variance: np.ndarray) -> np.ndarray:
    """``variance`` (K, n, d) > 0 of every step as eq. 15 of Nichol & Dhariwal reads it: ln beta_tilde at -1, ln beta at 1."""
    path, k = beta_table(record.config["resolved"]), np.asarray(record["timesteps"], int)
    t = jnp.asarray((k + 1) / record.config["resolved"]["num_train_timesteps"])
    s = jnp.append(t[1:], 0.0)
    low, high = (np.array(b)[:, None, None] for b in log_variance_bounds(path, t, jnp.where(path.sigma(s) > 0, s, 0.5 * t), 0.0))
    if k[-1] > 0:  # DDPMReleased's noise at data
        low[-1], high[-1] = np.log(1e-20), np.log(transition_variances(path, t[-1], s[-1])[0])
    return (2 * np.log(variance) - low - high) / (high - low)


def _late(record: Record) -> dict:
    """The arguments of diffusers' churn, whose noise comes after the network; empty where there is none."""
    kw = dict(record.config["step_kw"] or {})
    share = kw.pop("s_churn", 0.0) / (len(record["sigmas_table"]) - 1)
    return {"gamma": min(share, 2**0.5 - 1), **{name: float(v) for name, v in kw.items()}} if share > 0 else {}


def _kappa(record: Record, sampler) -> Case:
    """Diffusers' schedulers in sigma: states x0 + sigma eps; Heun's table holds its inner levels twice."""
    late, noise, c = _late(record), None, record.config["resolved"]
    states, table = record["states"], record["sigmas_table"]
    sigmas, keep = moved(table[: len(states)] if sampler.calls == 1 else table)  # log_linear's table goes on where its timesteps end
    if late and sampler.calls == 1:
        reading = "F" if record.config["kind"] == "edm" else {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[c["prediction_type"]]
        sampler, noise = LateChurn(**late, reading=reading, sigma_data=c.get("sigma_data", 0.5)), record["noise_used"][keep[:-1], None]
    if sampler.calls == 1:  # a state per level
        states = states[keep]
    elif len(states) != 2 * len(sigmas) - 2:
        raise AssertionError(f"{len(states)} states of {len(sigmas)} levels")
    path = EDM(max(sigmas))
    return Case(path, sampler, Times(sigmas, of="kappa"), states[0], noise, states=states[:-1], final=states[-1], around=clipped(record))


def _ascending(record: Record, sampler) -> Case | Excluded:
    """``invert_sigmas`` (for Mochi, whose network counts from noise to data): the levels 1 - sigma, from 0 up to 1, with Euler's steps."""
    if record.config["resolved"].get("stochastic_sampling"):
        return Excluded("invert_sigmas with stochastic_sampling: noise drawn anew on the way up, which no sampler of ours does")
    t, keep = _once(np.asarray(record["sigmas_table"], np.float64))
    t, states = jnp.asarray(t), record["states"][keep]
    steps = Steps(t=t[:-1], s=t[1:], r=t[1:], start=t[0], ascends=True)
    return Case(LinearFlow(), sampler, steps, states[0], states=states[:-1], final=states[-1])


def _once(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``levels`` that ascend without repeated ones, and the indices of those kept."""
    keep = np.flatnonzero(np.append(True, np.diff(levels) > 1e-9))
    return levels[keep], keep


def _flow(record: Record, sampler) -> Case | Excluded:
    """Diffusers' flow schedulers: sigma is t; FlowMatchEuler does not churn, whatever it is told; with ``invert_sigmas`` it goes up."""
    if record.config["resolved"].get("invert_sigmas"):
        return _ascending(record, sampler)
    if record.config["resolved"].get("stochastic_sampling"):
        return flow_match_stochastic(record)
    late, noise = _late(record) if sampler.calls == 2 else {}, None
    sigmas, _ = moved(record["sigmas_table"])
    if late:
        sampler, noise = LateChurnFlow(**late), record["noise_used"][::2, None]
    return Case(LinearFlow(), sampler, Times(sigmas), record["states"][0], noise)


def churned(grid, n: int, s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"), s_noise=1.0):
    """``(grid, noise)`` of n steps: peers draw once before every step, whether they churn or not; our first renoising is step n's."""
    if not s_churn > 0:
        return grid, None
    noise = np.append(np.arange(1, n), (-1, 0))[:, None]
    return Churn(grid, float(s_churn), float(s_tmin), float(s_tmax), float(s_noise)), noise


def _k(record: Record, sampler) -> Case:
    """k-diffusion on its sigmas, from x_init sigma_0; ``eval_x`` is what the network saw, after churn."""
    sigmas, _ = moved(record["sigmas"])
    grid, noise = churned(Times(sigmas, of="kappa"), len(sigmas) - 1, **record.config["kw"])
    return Case(EDM(2 * sigmas[0]), sampler, grid, record["x_start"], noise, states=record["eval_x"], final=record["states"][-1])


def schedule(record: Record) -> Excluded:
    """``schedule_*`` and ``log_likelihood``, which no sampler made."""
    return Excluded("not a sampler: " + ("a grid, see the grids' tests" if "sigmas" in record.arrays else "a likelihood"))


@pytree_dataclass
class RootVE(GaussianPath):
    """EDM's ``ve`` schedule, ``sigma(t) = sqrt(t)``, its time divided by ``t_max``."""

    t_max: float = 1e4

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return jnp.sqrt(self.t_max * t)

    def time_of(self, log_snr):
        return jnp.clip(jnp.exp(-jnp.asarray(log_snr)) / self.t_max, 0.0, 1.0)


@pytree_dataclass
class UnscaledVP(VP):
    """EDM's ``vp`` schedule without its scaling: sigma is kappa of VP, alpha is 1."""

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return jnp.sqrt(jnp.expm1(self.integral(t)))

    def drift(self, t):
        return jnp.zeros_like(t)

    def diffusion_squared(self, t):
        return self.beta(t) * jnp.exp(self.integral(t))

    def prior_std(self, t=1.0):
        return self.sigma(t)


@pytree_dataclass
class Scaled(GaussianPath):
    """``inner``, a path of alpha 1, with EDM's ``vp`` scaling ``s = 1 / sqrt(1 + sigma^2)``."""

    inner: GaussianPath

    def alpha(self, t):
        return 1 / jnp.sqrt(1 + self.inner.sigma(t) ** 2)

    def sigma(self, t):
        return self.inner.sigma(t) * self.alpha(t)

    def log_snr(self, t):
        return self.inner.log_snr(t)

    def time_of(self, log_snr):
        return self.inner.time_of(log_snr)


@pytree_dataclass
class Rounding:
    """``inner`` after noise of ``scale[k]`` before step k: what EDM's churn adds at gamma = 0 where sigma(sigma_inv(sigma)) comes out an
    ulp above sigma, for sqrt(sigma_hat^2 - sigma^2) is then 1e-8 of sigma."""

    inner: object = leaf()
    scale: object = leaf()
    order, memory, stochastic = 1, 0, False
    calls = property(lambda self: self.inner.calls)

    def init(self, x, steps, path):
        return self.inner.init(x, steps, path)

    def step(self, denoise, x, t, s, draw, carry):
        return self.inner.step(denoise, combine((1.0, x), (jnp.asarray(self.scale)[denoise.step], draw())), t, s, draw, carry)


def _rounding(record: Record, d: float, b: float, s: np.ndarray, heun: bool) -> np.ndarray:
    """The scale of that noise for every step, ``s sqrt((sigma + m ulp)^2 - sigma^2)``, m = 0, 1, ...: how many ulp sigma(sigma_inv(sigma))
    missed sigma by on the peer's machine.  Heun saw every level twice, where the step before ended and after gamma = 0; of Euler's states
    only the whole number m is read, from what their own formulas in numpy leave over.  It must be within ``most``: not all that a state
    is off by is noise."""
    sigma, most = record["eval_sigma"], _most_off(record["eval_sigma"], d, b)
    if heun:
        m = (sigma[::2] - np.append(sigma[0], sigma[1:-1:2])) / np.spacing(sigma[::2])
        m = np.where((m > 0) & (m <= most[::2]), m, 0)
        return s[::2] * np.sqrt(np.spacing(sigma[::2]) * m * (2 * sigma[::2] - np.spacing(sigma[::2]) * m))
    t = (np.sqrt(b**2 + 2 * d * np.log1p(sigma**2)) - b) / d
    slope = (1 + sigma**2) * (d * t + b) / (2 * sigma)  # dsigma/dt
    lowers = np.where(s < 1, -sigma * slope * s**2, 0.0)  # dln s/dt of s = 1 / sqrt(1 + sigma^2)
    scale, x = np.zeros(len(t)), record["eval_x"] * s[:, None, None]
    for k in range(1, len(t)):
        x0, _ = mixture_numpy(x[k - 1], s[k - 1], sigma[k - 1] * s[k - 1])
        move = (slope[k - 1] / sigma[k - 1] + lowers[k - 1]) * x[k - 1] - slope[k - 1] * s[k - 1] / sigma[k - 1] * x0
        off, z = x[k] - x[k - 1] - (t[k] - t[k - 1]) * move, record.noise_bank[k]
        found, ulp = max(float((off * z).sum() / (z * z).sum()), 0.0), np.spacing(sigma[k])
        m = round((found / s[k]) ** 2 / (2 * sigma[k] * ulp))
        scale[k] = s[k] * np.sqrt(ulp * m * (2 * sigma[k] + ulp * m)) if m <= most[k] else 0.0
    return scale


def _most_off(sigma: np.ndarray, d: float, b: float) -> np.ndarray:
    """The most ulp by which ``sigma(sigma_inv(sigma))`` can be off in float64, to first order, every operation exact to eps:

        sigma_inv = (w - b) / d,  w = sqrt(b^2 + 2 d u),  u = ln(sigma^2 + 1);       sigma(t) = sqrt(e^u - 1),  u = d t^2 / 2 + b t
        du        <= eps [2 (sum) + u (ln)]  and, by 4 operations up to w and 2 after it,  dt <= eps (4 w + 2 (w - b)) / d + du / w
        back      du' = w dt + 3 eps u,      dsigma / sigma <= (sigma^2 + 1) / (2 sigma^2) (du' + 2 eps (exp)) + 2 eps
    """
    u = np.log1p(sigma**2)
    w = np.sqrt(b**2 + 2 * d * u)
    du = 2 + u
    dt = (4 * w + 2 * (w - b)) / d + du / w
    relative = (sigma**2 + 1) / (2 * sigma**2) * (w * dt + 3 * u + 2) + 2
    return np.finfo(np.float64).eps * relative * sigma / np.spacing(sigma)


def ablation(record: Record) -> Case:
    """generate.py's ablation_sampler: levels by ``discretization``, the path by ``schedule`` and ``scaling`` (table 1 of Karras et al.)."""
    kw = {
        "num_steps": 18, "sigma_min": None, "sigma_max": None, "rho": 7, "solver": "heun", "discretization": "edm", "schedule": "linear",
        "scaling": "none", "epsilon_s": 1e-3, "alpha": 1, "S_churn": 0, "S_min": 0, "S_max": float("inf"), "S_noise": 1,
        **record.config["kw"],
    }  # fmt: skip
    n, eps, disc = kw["num_steps"], kw["epsilon_s"], kw["discretization"]
    i = np.arange(n) / (n - 1)
    vp = lambda t, d, b: np.sqrt(np.expm1(0.5 * d * t**2 + b * t))  # noqa: E731
    low, high = {"vp": (vp(eps, 19.9, 0.1), vp(1.0, 19.9, 0.1)), "ve": (0.02, 100), "iddpm": (0.002, 81), "edm": (0.002, 80)}[disc]
    low, high = kw["sigma_min"] or low, kw["sigma_max"] or high
    d = 2 * (np.log(low**2 + 1) / eps - np.log(high**2 + 1)) / (eps - 1)
    b = np.log(high**2 + 1) - 0.5 * d
    rho = kw["rho"]
    sigma = record["eval_sigma"]
    levels = {
        "iddpm": lambda: sigma[:: 1 if kw["solver"] == "euler" else 2],  # their table is float32
        "vp": lambda: vp(1 + i * (eps - 1), d, b),
        "ve": lambda: high * (low / high) ** i,
        "edm": lambda: (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho,
    }[disc]()
    top = 1.5 * levels[0]  # room for churn
    c = 1.25  # their vp time, of which ours is a fraction
    path = {"linear": EDM(top), "ve": RootVE(top**2), "vp": UnscaledVP(c * b, c * b + c**2 * d)}[kw["schedule"]]
    if kw["scaling"] == "vp":
        path = VP(c * b, c * b + c**2 * d) if kw["schedule"] == "vp" else Scaled(path)
    grid = Times((*map(float, levels), 0.0), of="kappa")
    grid, noise = churned(grid, n, kw["S_churn"], kw["S_min"], kw["S_max"], kw["S_noise"])
    sampler = Euler(T()) if kw["solver"] == "euler" else EDMSecond(float(kw["alpha"]), T())
    s = 1 / np.sqrt(1 + sigma**2) if kw["scaling"] == "vp" else np.ones_like(sigma)
    if kw["schedule"] == "vp" and noise is None:
        scale = _rounding(record, d, b, s, kw["solver"] == "heun" and kw["alpha"] == 1)
        if scale.any():
            sampler, noise = Rounding(sampler, scale), np.arange(n)[:, None]
    x_T = record.x_init * levels[0] * (1 / np.sqrt(1 + levels[0] ** 2) if kw["scaling"] == "vp" else 1.0)
    return Case(path, sampler, grid, x_T, noise, states=record["eval_x"] * s[:, None, None], final=record["final"])


def edm(record: Record) -> Case:
    """generate.py's edm_sampler: Heun in sigma."""
    kw = {"num_steps": 18, "sigma_min": 0.002, "sigma_max": 80, "rho": 7, "S_churn": 0, "S_min": 0, "S_max": float("inf"), "S_noise": 1,
          **record.config["kw"]}  # fmt: skip
    n, high = kw["num_steps"], float(kw["sigma_max"])
    grid = Karras(n, float(kw["rho"]), float(kw["sigma_min"]), high)
    grid, noise = churned(grid, n, kw["S_churn"], kw["S_min"], kw["S_max"], kw["S_noise"])
    return Case(EDM(1.5 * high), Heun(Kappa()), grid, record.x_init * high, noise, states=record["eval_x"], final=record["final"])


@pytree_dataclass
class LinearVP(GaussianPath):
    """flow_matching's LinearVPScheduler: ``alpha = 1 - t, sigma = sqrt(1 - alpha^2)``."""

    def alpha(self, t):
        return 1.0 - t

    def sigma(self, t):
        return jnp.sqrt(t * (2.0 - t))


FLOWS = {"condot": LinearFlow(), "cosine": Trigonometric(), "linear_vp": LinearVP(), "vp": VP()}
METHODS = {
    "euler": Euler(T()), "midpoint": Midpoint(T(), True), "heun2": Heun(T(), True), "heun3": Heun3(T(), True), "rk4": RK38(T(), True),
}  # fmt: skip


def flow_matching(record: Record) -> Case | Excluded:
    """ODESolver on torchdiffeq's fixed-grid methods: their t runs the other way, and a ``step_size`` refines the grid.

    Of a likelihood with a fixed step the encoded states are compared: it runs from data up.
    """
    method, step = record.config["method"], record.config.get("step_size")
    if method.endswith("adams"):
        return Excluded("torchdiffeq's Adams methods of up to 12 steps with constant coefficients, started by RK4: ours are of at most 4")
    if method not in METHODS:
        return Excluded("adaptive, one error norm for the whole batch: see the adaptive solvers' tests")
    if "x_source" in record.arrays:
        n = round(1 / step)
        times = jnp.arange(n + 1) / n
        steps = Steps(t=times[:-1], s=times[1:], r=times[1:], start=times[0], ascends=True)
        x1 = np.asarray(record.inputs["likelihood_inputs"]["x1"])
        return Case(FLOWS[record.name.split("_")[1]], METHODS[method], steps, x1, states=record["x_source"][:0], final=record["x_source"],
                    calls=slice(0))  # fmt: skip
    t, read = np.asarray(record["t"], np.float64), None
    if step is not None:
        asked, t = t, np.arange(np.ceil((t[-1] - t[0]) / step + 1)) * step + t[0]
        t[-1] = asked[-1]
        read = lambda ours: _between(t, np.asarray(ours), asked)  # noqa: E731
    stages = METHODS[method].calls
    path, grid = FLOWS[record.config["schedule"]], Times(tuple(1 - t))
    return Case(path, METHODS[method], grid, record["states"][0], calls=slice(None, None, stages), read=read)


def _between(t: np.ndarray, states: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
    """The states at ``asked``, linear between the ascending times ``t``."""
    k = np.clip(np.searchsorted(t, asked, side="right") - 1, 0, len(t) - 2)
    share = ((asked - t[k]) / (t[k + 1] - t[k]))[:, None, None]
    return list((1 - share) * states[k] + share * states[k + 1])


def _azula(sampler, draws=lambda made: 1):
    """A case on azula's schedule; its states, where it has them, are those between steps.  ``draws`` a step where it is stochastic."""

    def case(record: Record) -> Case:
        made, n = sampler(record.config["kw"]), len(record["t"]) - 1
        states = record.arrays.get("states", record["x_start"][None])
        calls = slice(None, None, made.calls) if "states" in record.arrays else slice(1)
        noise = np.arange(n * draws(made)).reshape(n, -1) if made.stochastic else None
        grid = Times(tuple(record["t"]))
        return Case(AZULA[record.config["schedule"]], made, grid, record["x_start"], noise,
                    states=states[:n] if "states" in record.arrays else states, final=record["final"], calls=calls)  # fmt: skip

    return case


TRANSLATIONS = {
    "diffusers:DDIMScheduler": ddim,
    "diffusers:DDPMScheduler": ddpm,
    "diffusers:EulerDiscreteScheduler": lambda record: _kappa(record, Euler(Kappa())),
    "diffusers:EDMEulerScheduler": lambda record: _kappa(record, Euler(Kappa())),
    "diffusers:KDPM2DiscreteScheduler": lambda record: _kappa(record, DPM2()),
    "diffusers:HeunDiscreteScheduler": lambda record: _kappa(record, Heun(Kappa())),
    "diffusers:FlowMatchEulerDiscreteScheduler": lambda record: _flow(record, Euler(T())),
    "diffusers:FlowMatchHeunDiscreteScheduler": lambda record: _flow(record, Heun(T())),
    "k_diffusion:sample_euler": lambda record: _k(record, Euler(Kappa())),
    "k_diffusion:sample_heun": lambda record: _k(record, Heun(Kappa())),
    "k_diffusion:sample_dpm_2": lambda record: _k(record, DPM2()),
    "k_diffusion:-": schedule,
    "edm:edm_sampler": edm,
    "edm:ablation_sampler": ablation,
    **{
        f"flow_matching:{method}": flow_matching
        for method in (*METHODS, "adaptive_heun", "bosh3", "dopri5", "dopri8", "fehlberg2", "fehlberg", "tsit5", "explicit_adams",
                       "implicit_adams", "fixed_adams")
    },
    "flow_matching:-": lambda record: Excluded("not a sampler: values of a path, see the paths' tests, or a likelihood's inputs"),
    "azula:DDIMSampler": _azula(lambda kw: DDIM(float(kw.get("eta", 0.0)) ** 0.5)),
    "azula:DDPMSampler": _azula(lambda kw: DDPM()),
    "azula:EulerSampler": _azula(lambda kw: Euler(Kappa())),
    "azula:HeunSampler": _azula(lambda kw: Heun(Kappa())),
    "azula:ItoSampler": _azula(lambda kw: ItoEuler(float(kw.get("eta", 1.0)), float(kw.get("temperature", 1.0)))),
    "azula:PCSampler": _azula(lambda kw: PredictorCorrector(**{"delta": 0.01, **kw}), lambda made: made.corrections),
}
