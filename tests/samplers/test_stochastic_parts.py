"""Langevin correction and Restart, ends of paths, float32 and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle.case import Bank
from samplers.exact import Gaussian, Mixture, paths
from samplers.fake import Counting, rows_fed, small
from samplers.impulses import S, ratio

from score_lab.build import ConfigError
from score_lab.paths import EDM, VP, LinearFlow, ddpm_table
from score_lab.paths.transition import kept_std
from score_lab.samplers import (
    DDIM,
    DPMPPSDE,
    ERSDE,
    Churn,
    DPM2Ancestral,
    DPMPP2SAncestral,
    DPMSolverPP2M,
    Euler,
    EulerAncestral,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    Langevin,
    PowerNoise,
    Rate,
    Restart,
    SASolver,
    SiTDiffusion,
    StochasticFlowEuler,
    StochasticHeun,
    Times,
    UniformTime,
    sample,
)
from score_lab.samplers.ancestral import up_and_down
from score_lab.targets import V

ALL = [
    EulerMaruyama(0.5), EulerMaruyama(SiTDiffusion("decreasing")), EulerMaruyama(SiTDiffusion("SBDM"), "exact"), StochasticHeun(),
    StochasticHeun(SiTDiffusion()), EulerAncestral(), DPM2Ancestral(0.7), DPMPP2SAncestral(), DPMPPSDE(), StochasticFlowEuler(),
    SASolver(3, 2), SASolver(2, tau=0.0), ERSDE(), ERSDE(2, PowerNoise()), Langevin(DDIM()), Langevin(Heun(Kappa()), 0.1, 2),
]  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("path", [VP(), ddpm_table("linear", 1000)], ids=["VP", "DDPMTable"])
def test_langevin_against_numpy(path):
    """Algorithms 4 and 5 on Gaussian data, one sample at a time: norms are a sample's own, and the last step to data is not corrected."""
    times, snr, M, s0 = (0.8, 0.5, 0.2, 0.0), 0.2, 2, 0.5
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((3, 4)) * np.array([[1.0], [0.3], [2.0]]), rng.standard_normal((3, M, 3, 4))
    a, b = (np.asarray(jax.vmap(f)(jnp.asarray(times))) for f in (path.alpha, path.sigma))
    run = sample(
        Gaussian(path, s0), Langevin(DDIM(), snr, M), Times(times), x_T=jnp.asarray(x),
        noise=Bank(jnp.asarray(z.reshape(-1, 3, 4)), jnp.arange(3 * M).reshape(3, M)),
    )  # fmt: skip
    ours = []
    for i in range(3):
        y = x[i]
        for k in range(3):
            V = a[k] ** 2 * s0**2 + b[k] ** 2
            y = (a[k + 1] * a[k] * s0**2 + b[k + 1] * b[k]) / V * y
            if k == 2:
                continue
            V = a[k + 1] ** 2 * s0**2 + b[k + 1] ** 2
            for j in range(M):
                n, score = z[k, j, i], -y / V
                e = 2 * (a[k + 1] / a[k + 2]) ** 2 * (snr * np.linalg.norm(n) / np.linalg.norm(score)) ** 2
                y = y + e * score + np.sqrt(2 * e) * n
        ours.append(y)
    np.testing.assert_allclose(run.x, np.stack(ours), rtol=1e-11)
    assert int(run.nfe) == 3 + 2 * M


def test_a_langevin_sample_does_not_depend_on_its_batch_mates():
    grid, key = UniformTime(4), jax.random.key(3)
    whole = sample(Mixture(VP()), Langevin(DDIM()), grid, (5, 2), key).x
    alone = sample(Mixture(VP()), Langevin(DDIM()), grid, (1, 2), key, index=[3]).x
    np.testing.assert_allclose(alone[0], whole[3], rtol=1e-5)


def test_langevin_keeps_the_marginal_but_for_its_step():
    """One correction at t of exact samples, d = 4096: Var / V = (1 - 2 snr^2)^2 + 4 snr^2 = 1 + 4 snr^4 on a path of constant alpha."""
    path, snr, s0 = EDM(), 0.3, 0.5
    times = (2.0 / 80, 1.0 / 80)
    x_T = jax.random.normal(jax.random.key(0), (16, 4096)) * np.hypot(2, 0.5)
    x = sample(Gaussian(path, s0), Langevin(DDIM(), snr), Times(times), x_T=x_T).x
    ddim = (0.25 + 2.0) ** 2 / (0.25 + 4.0) / 1.25  # (4.1)
    np.testing.assert_allclose(jnp.var(x) / 1.25, (1 - 2 * snr**2 * ddim) ** 2 * ddim + 4 * snr**2 * ddim, rtol=0.02)


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [(Langevin(DDIM(), 0.16, 2), 4 + 3 * 2), (StochasticHeun(), 7), (DPM2Ancestral(), 7), (DPMPPSDE(), 7), (SASolver(2, 1), 4)],
    ids=str,
)
def test_nfe_is_what_the_network_did(sampler, nfe):
    runs = []
    denoiser = small(VP(), V(), Counting())
    counted = rows_fed(lambda: runs.append(sample(denoiser, sampler, UniformTime(4), (2, 2))) or runs[0])
    assert int(runs[0].nfe) == nfe and counted == 2 * nfe


@pytest.mark.usefixtures("x64")
def test_restart_rows_and_variance():
    """Two intervals on EDM's grid: the rows by hand, NFE, and v by (4.1) and v + kappa_max^2 - kappa_min^2."""
    grid = Restart(Karras(6, sigma_max=50.0), ((0.5, 2.0, 2, 3), (5.0, 20.0, 1, 2)), rho=7.0)
    steps, plain = grid.steps(EDM()), Karras(6, sigma_max=50.0).steps(EDM())
    assert len(steps.t) == 6 + 2 * 3 + 1 * 2
    kappa = np.append(80 * np.asarray(plain.t), 0.0)
    spaced = lambda high, low, n: (high ** (1 / 7) + np.arange(n + 1) / n * (low ** (1 / 7) - high ** (1 / 7))) ** 7  # noqa: E731
    rows, low, high = [], kappa[np.abs(kappa - 0.5).argmin()], kappa[np.abs(kappa - 5.0).argmin()]
    for k in range(6):
        rows.append((kappa[k], kappa[k + 1]))
        for node, top, repeats, n in ((low, 2.0, 2, 3), (high, 20.0, 1, 2)):
            if kappa[k + 1] == node:
                for _ in range(repeats):
                    down = spaced(top, node, n)
                    rows += list(zip(down[:-1], down[1:], strict=True))
    np.testing.assert_allclose(80 * np.stack([steps.t, steps.s], 1), rows, rtol=1e-10, atol=1e-12)
    v, s2, last = S[:, 0] ** 2 + 50.0**2, S[:, 0] ** 2, 50.0
    for t, s in rows:
        v = v + max(t**2 - last**2, 0.0)
        v, last = ((s2 + t * s) / (s2 + t**2)) ** 2 * v, s
    np.testing.assert_allclose(ratio(EDM(), Euler(Kappa()), grid, renoising=True), v / s2, rtol=1e-9)
    assert int(sample(Gaussian(EDM()), Heun(Kappa()), grid, x_T=jnp.ones((1, 1))).nfe) == 2 * 14 - 1


@pytest.mark.usefixtures("x64")
def test_restart_contracts_what_was_wrong_before_it():
    """R - 1 shrinks by ((s^2 + kappa_min^2) / (s^2 + kappa_max^2)) at every repetition, the steps below being linear in v."""
    def wrong(K):
        grid = Restart(Times((10.0, 1.0, 0.5), of="kappa"), ((1.0, 4.0, K, 40),))
        r = [ratio(EDM(), Heun(Kappa()), grid, R, renoising=True) for R in (1.5, 1.0)]
        return r[0] - r[1]

    expected = (S[:, 0] ** 2 + 1) / (S[:, 0] ** 2 + 16)
    np.testing.assert_allclose(wrong(2) / wrong(1), expected, rtol=2e-2)


SLOW = (0, 2, 3, 5, 7, 11, 13, 14)


@pytest.mark.parametrize("sampler", [pytest.param(v, marks=[pytest.mark.slow] * (i in SLOW)) for i, v in enumerate(ALL)], ids=str)
def test_from_pure_noise_to_data_in_float32(sampler):
    """The linear flow from alpha = 0 to sigma = 0, where nearly everything has a limit."""
    x = sample(Mixture(LinearFlow()), sampler, UniformTime(6), (32, 2), jax.random.key(1)).x
    assert x.dtype == jnp.float32 and bool(jnp.isfinite(x).all()) and 0.05 < float(x.std()) < 3


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ALL, ids=str)
@pytest.mark.parametrize("name", ["VP", "SubVP", "VE", "EDM", "Cosine", "Trigonometric", "DDPMTable", "ZeroSNRTable"])
def test_every_path_end_to_end(sampler, name):
    for steps in (5, 30):
        x = sample(Mixture(paths()[name]), sampler, UniformTime(steps), (32, 2), jax.random.key(1)).x
        assert bool(jnp.isfinite(x).all()), steps


def test_a_long_step_keeps_the_digits_of_what_it_keeps_in_float32():
    """Of a full ancestral step that is kappa_s / kappa_t, here 1e-3: a difference of squares near 1 has two digits of it.
    From pure noise nothing is kept at all."""
    path, t, s = VP(), jnp.float32(0.99), jnp.float32(0.05)
    kappa_t, kappa_s = (np.float64(path.kappa(v)) for v in (t, s))
    assert 1e-4 < kappa_s / kappa_t < 2e-3
    np.testing.assert_allclose(kept_std(path, t, s, 1.0), np.float64(path.sigma(s)) * kappa_s / kappa_t, rtol=1e-6)
    levels = jnp.asarray([kappa_t, 2.0, np.inf], jnp.float32), jnp.asarray([kappa_s, 1.0, 1.0], jnp.float32)
    up, down = up_and_down(*levels, 1.0)
    np.testing.assert_allclose(down, [kappa_s**2 / kappa_t, 0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(up, [kappa_s, np.sqrt(0.75), 1.0], rtol=1e-6)
    up, down = up_and_down(*levels, 1.0, jnp.asarray([0.0, 0.9, 0.6], jnp.float32))  # not below these
    np.testing.assert_allclose(down, [kappa_s**2 / kappa_t, 0.9, 0.6], rtol=1e-6)
    np.testing.assert_allclose(up, [kappa_s, np.sqrt(0.19), 0.8], rtol=1e-6)
    assert kept_std(LinearFlow(), jnp.float32(1.0), jnp.float32(0.5), 1.0) == 0


def test_a_function_of_time_is_a_multiplier():
    """A bare function and a part that holds it are the same, and SiT's sigma by name."""
    def rate(path, t):
        return 2.0 * path.sigma(t)

    many = (rate, Rate(rate), SiTDiffusion("sigma"))
    a, b, c = (sample(Mixture(VP()), EulerMaruyama(m), UniformTime(4), (3, 2), jax.random.key(1)).x for m in many)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, c, rtol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "grid", "words"),
    [
        (EulerMaruyama(-1.0), UniformTime(3), "EulerMaruyama.multiplier"),
        (StochasticHeun(-1.0), UniformTime(3), "StochasticHeun.multiplier"),
        (EulerMaruyama(lambda path, t: 0.5 - t), UniformTime(4), r"EulerMaruyama.multiplier: 'w = -0.5 at t = 1' .*w\(t\) >= 0"),
        (EulerMaruyama(Rate(lambda path, t: t - 0.6)), UniformTime(4), "EulerMaruyama.multiplier: 'w = -0.1 at t = 0.5'"),
        (StochasticHeun(lambda path, t: t - 0.2), UniformTime(4), "StochasticHeun.multiplier: 'w = -0.2 at t = 0'"),
        (Langevin(EulerMaruyama(lambda path, t: -t)), UniformTime(4), "EulerMaruyama.multiplier: 'w = -1 at t = 1'"),
        (EulerMaruyama(SiTDiffusion("sigmoid")), UniformTime(3), "SiTDiffusion.form"),
        (StochasticHeun(SiTDiffusion("sigma", -1.0)), UniformTime(3), "SiTDiffusion.norm"),
        (EulerAncestral(-0.1), UniformTime(3), "EulerAncestral.eta"), (DPM2Ancestral(1.0, -1.0), UniformTime(3), "DPM2Ancestral.s_noise"),
        (DPMPPSDE(r=0.0), UniformTime(3), "DPMPPSDE.r"), (SASolver(4), UniformTime(3), "SASolver.predictor"),
        (SASolver(2, 4), UniformTime(3), "SASolver.corrector"), (SASolver(tau=-1.0), UniformTime(3), "SASolver.tau"),
        (SASolver(kappa_min=2.0, kappa_max=1.0), UniformTime(3), "SASolver.kappa_min"), (ERSDE(0), UniformTime(3), "ERSDE.levels"),
        (SASolver(3, 3), UniformTime(3), "num_steps: 3 .*at least 4 for SASolver"),
        (SASolver(3), UniformTime(2), "at least 3 for SASolver"), (ERSDE(3), UniformTime(2), "num_steps: 2 .*at least 3 for ERSDE"),
        (ERSDE(2, PowerNoise(-0.5)), UniformTime(3), "PowerNoise.p"), (Langevin(DDIM(), 0.0), UniformTime(3), "Langevin.snr"),
        (Langevin(DDIM(), 0.1, 0), UniformTime(3), "Langevin.corrections"), (Langevin(DDIM(2.0)), UniformTime(3), "DDIM.eta"),
        (Langevin(DPMSolverPP2M()), UniformTime(3), "DPMSolverPP2M remembers 1"),
        (SASolver(), Restart(Karras(6)), "SASolver remembers 2"), (DDIM(), Restart(Karras(6), ()), "Restart.intervals"),
        (DDIM(), Restart(Karras(6), ((2.0, 1.0, 1, 1),)), "kappa_min < kappa_max"),
        (DDIM(), Restart(Karras(6), ((0.1, 1.0, 0, 1),)), "K >= 1"), (DDIM(), Restart(Karras(3), ((1e-4, 0.5, 1, 1),)), "nearest level"),
        (DDIM(), Restart(Churn(Karras(3))), "Restart.grid"),
    ],
    ids=lambda part: re.sub(r" at 0x\w+", "", str(part)),  # the same in every process
)  # fmt: skip
def test_refused_in_one_line(sampler, grid, words):
    with pytest.raises(ConfigError, match=words) as e:
        sample(Mixture(EDM()), sampler, grid, (2, 2))
    assert "\n" not in str(e.value)
