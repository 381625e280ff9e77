"""Peers' adaptive solvers: what is compared is the result, since the states in between lie wherever the error control put them."""

from __future__ import annotations

import inspect

import numpy as np
from oracle.case import Case, Excluded, Record

from score_lab.paths import EDM
from score_lab.samplers import DPMAdaptive, Times

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


TRANSLATIONS = {"k_diffusion:sample_dpm_adaptive": dpm_adaptive} | {
    f"flow_matching:{method}": torchdiffeq_adaptive for method in ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
}
