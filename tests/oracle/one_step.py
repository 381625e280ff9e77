"""Peers' one-step solvers: DDIM and DDPM on a beta table."""

from __future__ import annotations

import numpy as np
from oracle.case import Case, Record

from score_lab.paths import ddpm_table
from score_lab.samplers import DDIM, Times


def beta_table(record: Record):
    """Our table path for a diffusers scheduler's betas."""
    c = record.config["resolved"]
    T, low, high = c["num_train_timesteps"], c["beta_start"], c["beta_end"]
    if c["trained_betas"] is not None:
        return ddpm_table(tuple(c["trained_betas"]))
    betas = {
        "linear": lambda: np.linspace(low, high, T),
        "scaled_linear": lambda: np.linspace(low**0.5, high**0.5, T) ** 2,
    }[c["beta_schedule"]]()
    return ddpm_table(tuple(betas), zero_terminal=c.get("rescale_betas_zero_snr", False))


def ddim(record: Record) -> Case:
    """DDIMScheduler: table index k is t = (k + 1) / T; the last step ends at data."""
    T = record.config["resolved"]["num_train_timesteps"]
    times = (*((k + 1) / T for k in record["timesteps"]), 0.0)
    return Case(
        beta_table(record), DDIM((record.config["step_kw"] or {}).get("eta", 0.0)), Times(times), record["states"][0], record["noise_used"][:, None]
    )


TRANSLATIONS = {"diffusers:DDIMScheduler": ddim}
