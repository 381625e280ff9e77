"""Peers' grids are the peers' tables, from their arguments: diffusers' schedulers, k-diffusion's get_sigmas_*, EDM's discretisations."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle.case import Case, error, records
from oracle.grids import describe, grid, levels

from score_lab.samplers import DDIM

pytestmark = pytest.mark.usefixtures("x64")


def with_a_grid(record) -> bool:
    if record.peer == "diffusers":
        return record.config["kind"] != "ipndm"
    return {"k_diffusion": "sigmas", "edm": "eval_sigma", "azula": "t"}[record.peer] in record.arrays and "churn" not in record.name


RECORDS = {
    describe(record): record
    for peer in ("diffusers", "k_diffusion", "edm", "azula")
    for record in records(peer).values()
    if with_a_grid(record)
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda r: f"{r.peer}-{r.name}")
def test_levels(record):
    """Every level to 1e-12 relative; what EDM's code takes through float32 (iDDPM) or through sigma(t) and back (VP), to what is left."""
    of, theirs = levels(record)
    path, ours = grid(record)
    steps = ours.steps(path)
    steps.check()
    times = jnp.append(steps.t, steps.s[-1])
    ours = np.asarray(path.kappa(times) if of == "kappa" else times)
    kw = record.config.get("kw") or {}
    rtol = 1e-6 if kw.get("discretization") == "iddpm" else 1e-10 if kw.get("schedule") == "vp" else 1e-12
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "name", ["ddim_eta0_leading", "ddim_eta0_v_prediction", "euler_karras", "euler_trailing", "fm_euler_shift3", "edm_euler_karras"]
)
def test_states(name):
    """On these grids DDIM makes the states of the peers' DDIM and Euler (in kappa; on the flow, in t), from their first to their last."""
    record = records("diffusers")[name]
    path, ours = grid(record)
    assert error(record, Case(path, DDIM(), ours, record["states"][0])) <= 1e-8
