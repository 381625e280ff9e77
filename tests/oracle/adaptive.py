"""Peers' adaptive solvers: the result, since the states in between lie wherever the error control put them; of scipy's RK45 also those."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import numpy as np
from oracle.case import Case, Compared, Excluded, Record
from samplers.exact import Mixture

from score_lab.likelihood import log_likelihood
from score_lab.paths import EDM, VP
from score_lab.samplers import Dopri5, DPMAdaptive, T, Times

TAKEN = ("order", "rtol", "atol", "h_init", "pcoeff", "icoeff", "dcoeff", "accept_safety", "eta", "s_noise")


def dpm_adaptive(record: Record) -> Case | Excluded:
    """k-diffusion's sample_dpm_adaptive, with one step size for the batch; every evaluation is held in tests/samplers/test_adaptive.py."""
    c = record.config
    path = EDM(max(80.0, c["sigma_max"]))
    times = tuple(np.asarray(path.time_of_kappa(np.array([c["sigma_max"], c["sigma_min"]]))).tolist())
    options = {name: value for name, value in (c["kw"] or {}).items() if name in TAKEN}
    assert set(options) <= set(inspect.signature(DPMAdaptive).parameters)
    return Case(
        path, DPMAdaptive(**options, together=True), Times(times), record["x_start"], np.arange(len(record.noise_bank))[:, None],
        states=record["x_start"][None], final=record["states"][-1],
    )  # fmt: skip


def torchdiffeq_adaptive(record: Record) -> Excluded:
    """One error norm for the whole batch; ours is each sample's."""
    return Excluded("adaptive, one error norm for the whole batch: not a fixed-step record")


def scipy_rk45(record: Record) -> Case | Compared:
    """score_sde's way: scipy's RK45 on the probability-flow ODE of VP, with one error norm for the batch; ours of the same tolerance has
    one for each sample, so that both are held to 30 tolerances: the states at their accepted times, or the log densities."""
    c = record.config
    tol, path = c["tol"], VP(c["beta_min"], c["beta_max"])
    if "states" in record.arrays:
        t = tuple(np.asarray(record["t_grid"], np.float64).tolist())
        return Case(path, Dopri5(tol, tol, variable=T()), Times(t), record["states"][0], bound=30 * tol)

    def measured() -> float:
        x, start = jnp.asarray(record["x"]), float(path.log_snr(jnp.float64(c["eps"])))
        ours = log_likelihood(Mixture(path), x, start=start, rtol=tol, atol=tol)
        return max(float(np.abs(ours.logp - record["ll"]).max()), float(np.abs(ours.x_T - record["z"]).max()))

    return Compared(f"log_likelihood(rtol={tol:g}, atol={tol:g})", measured, 30 * tol)


TRANSLATIONS = {"scipy_ode:-": scipy_rk45, "k_diffusion:sample_dpm_adaptive": dpm_adaptive} | {
    f"flow_matching:{method}": torchdiffeq_adaptive for method in ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
}
