"""Our solvers and grids reproduce peers' trajectories, state by state, in float64 (fixtures/make_samplers.py says whose and how)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Mixture

from score_lab.paths import EDM, LinearFlow, ddpm_table
from score_lab.samplers import DDIM, DDPM, Churn, DPMSolverPP2M, Euler, Heun, Kappa, Karras, StateRecorder, T, Times, sample
from score_lab.types import leaf, pytree_dataclass

pytestmark = pytest.mark.usefixtures("x64")
RECORDS = np.load(Path(__file__).parent.parent / "fixtures" / "samplers.npz")


@pytree_dataclass
class Bank:
    """The records' noise: one entry a step, in order.  With churn the first entry raises x_T, and step k's renoising takes entry k + 1."""

    bank: object = leaf()
    before_the_step: bool = False

    def __call__(self, step, call, like):
        last = len(self.bank) - 1
        return jnp.asarray(self.bank)[jnp.clip(step + 1, 0, last) % last if self.before_the_step else step]


def compare(name, path, sampler, grid, scale=1.0, before_the_step=False, rtol=1e-8):
    x = RECORDS[f"{name}/x"]
    n = grid.steps(path).t.shape[0]
    bank = RECORDS["noise"][: n + before_the_step]
    bank = bank if not before_the_step else np.concatenate([bank[:n], bank[:1]])  # step index n, the first renoising, wraps to entry 0
    x_T, noise = jnp.asarray(RECORDS["x_init"] * scale), Bank(jnp.asarray(bank), before_the_step)
    run = sample(Mixture(path), sampler, grid, x_T=x_T, recorder=StateRecorder(4), noise=noise)
    seen = run.record.in_order()
    if f"{name}/final" in RECORDS:
        states, final = seen.x_t, RECORDS[f"{name}/final"]
    else:
        states, final, x = np.asarray(run.record.x_t[:, 0]), x[-1], x[:-1]
    np.testing.assert_allclose(states, x, rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(run.x, final, rtol=rtol, atol=1e-9)
    assert jax.tree.leaves(run.x)[0].dtype == jnp.float64


def test_edm_heun_and_its_churn():
    """NVlabs/edm, edm_sampler(num_steps=18): every (x, sigma) that the denoiser saw, in order."""
    compare("edm_heun_n18", EDM(80.0), Heun(Kappa()), Karras(18), 80.0)
    levels = RECORDS["edm_heun_n18/levels"]
    steps = Karras(18).steps(EDM(80.0))
    np.testing.assert_allclose(80 * np.asarray(steps.t), levels[[0, *range(1, 35, 2)]], rtol=1e-12)
    grid = Churn(Karras(18), s_churn=40.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
    compare("edm_heun_churn", EDM(80.0), Heun(Kappa()), grid, 80.0, before_the_step=True)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("ddim_eta0_leading", DDIM()), ("ddim_eta0.5", DDIM(0.5)), ("ddim_eta1", DDIM(1.0)), ("ddpm_fixed_small_10", DDPM("beta_tilde"))],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_diffusers_on_the_beta_table(name, sampler):
    """DDIMScheduler and DDPMScheduler: table index k is t = (k + 1) / 1000, the last step ends at data."""
    times = [(k + 1) / 1000 for k in RECORDS[f"{name}/levels"]] + [0.0]
    compare(name, ddpm_table("linear", 1000), sampler, Times(tuple(times)))


@pytest.mark.parametrize("name", ["dpmm_++_o2_lof1_karras1_zero", "dpmm_++_o2_lof0_karras0_sigma_min"])
def test_diffusers_dpm_solver(name):
    """DPMSolverMultistepScheduler, dpmsolver++ 2M midpoint: Karras sigmas down to 0, and the table's down to its smallest (second order
    to the end)."""
    compare(name, ddpm_table("linear", 1000), DPMSolverPP2M(), Times(tuple(RECORDS[f"{name}/levels"]), of="kappa"))


@pytest.mark.parametrize("name", ["fm_euler_shift1", "fm_euler_shift3"])
def test_diffusers_flow(name):
    """FlowMatchEulerDiscreteScheduler: sigma is t."""
    compare(name, LinearFlow(), Euler(T()), Times(tuple(RECORDS[f"{name}/levels"])))


@pytest.mark.parametrize(("name", "sampler"), [("k_euler", Euler(Kappa())), ("k_heun", Heun(Kappa())), ("k_dpmpp_2m", DPMSolverPP2M())])
def test_k_diffusion(name, sampler):
    """sample_euler, sample_heun, sample_dpmpp_2m on sigma_max = 10, sigma_min = 0.02, and their Karras grid."""
    grid = Karras(10, sigma_min=0.02, sigma_max=10.0)
    np.testing.assert_allclose(80 * np.asarray(grid.steps(EDM()).t), RECORDS[f"{name}/levels"][:-1], rtol=1e-12)
    compare(name, EDM(), sampler, grid, 10.0)


def test_k_diffusion_churn():
    grid = Churn(Karras(10, sigma_min=0.02, sigma_max=10.0), s_churn=5.0, s_tmin=0.05, s_tmax=8.0, s_noise=1.003)
    compare("k_heun_churn5", EDM(), Heun(Kappa()), grid, 10.0, before_the_step=True)


@pytest.mark.parametrize(("name", "sampler"), [("condot_euler", Euler(T())), ("condot_heun2", Heun(T(), at_data=True))])
def test_flow_matching(name, sampler):
    """torchdiffeq's fixed-grid methods on the conditional-OT path, whose t runs the other way: Heun makes its second call at data too."""
    compare(name, LinearFlow(), sampler, Times(tuple(1 - RECORDS[f"{name}/levels"])))
