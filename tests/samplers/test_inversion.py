"""Encoding: exact multipliers on Gaussian data, the round trip's order, what is refused, NFE."""

import jax.numpy as jnp
import numpy as np
import pytest
from samplers.convergence import HIGH, LOW
from samplers.exact import Gaussian, Mixture
from samplers.impulses import S, levels

from score_lab.build import ConfigError
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    CATALOGUE,
    DDIM,
    DDPM,
    ERSDE,
    GDDIM,
    RK4,
    Churn,
    DPMSolverNodes,
    DPMSolverPP2M,
    EulerAncestral,
    EulerMaruyama,
    Heun,
    ItoEuler,
    Kappa,
    Karras,
    LogSNR,
    PowerNoise,
    SASolver,
    Steps,
    StochasticHeun,
    T,
    UniformLogSNR,
    UniformTime,
    encode,
    sample,
)


@pytest.mark.parametrize("path", [VP(), LinearFlow()], ids=["VP", "LinearFlow"])
def test_ddim_upwards(x64, path):
    """(4.1) with s > t: m = (alpha alpha' s^2 + sigma sigma') / V, from the last finite level to t = 1 where the network is not called."""
    grid = UniformTime(9)
    a, s, V, _ = levels(path, grid.steps(path))
    a, s, V = (np.broadcast_to(v, V.shape)[:, -2::-1] for v in (a, s, V))  # upwards, without pure data
    m = (a[:, :-1] * a[:, 1:] * S**2 + s[:, :-1] * s[:, 1:]) / V[:, :-1]
    coded = encode(Gaussian(path, S[:, 0]), DDIM(), grid, jnp.ones((4, 1)))
    np.testing.assert_allclose(coded.x[:, 0], np.prod(m, axis=1), rtol=1e-12)
    assert int(coded.nfe) == 8
    np.testing.assert_allclose(float(coded.log_snr), float(path.log_snr(jnp.asarray(1 / 9))), rtol=1e-12)


def round_trip(sampler, path, n):
    x0 = jnp.asarray(np.random.default_rng(3).standard_normal((12, 2)))
    denoiser = Mixture(path)
    coded = encode(denoiser, sampler, UniformLogSNR(n, LOW, HIGH, to_data=False), x0)
    if not hasattr(sampler, "integrate"):
        assert n <= int(coded.nfe) <= n * sampler.calls
    back = sample(denoiser, sampler, coded.steps, x_T=coded.x)
    return float(jnp.abs(back.x - x0).mean())


QUICK = ("DDIM",)
DETERMINISTIC = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name, e in CATALOGUE.items() if not e.sampler.stochastic
]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_deterministic_solver_encodes_and_returns_with_its_order(x64, name):
    """The declared order on VP, at most 2 where a multistep solver starts at first order; an adaptive solver to its tolerance."""
    sampler = CATALOGUE[name].sampler
    if hasattr(sampler, "integrate"):
        assert round_trip(sampler, VP(), 1) <= 100 * sampler.rtol
        return
    n = {1: 200, 2: 100, 3: 80, 4: 60}[sampler.order]
    coarse, fine = (round_trip(sampler, VP(), k) for k in (n, 2 * n))
    assert np.log2(coarse / fine) >= (min(sampler.order, 2) if sampler.memory else sampler.order) - 0.2, (coarse, fine)


@pytest.mark.parametrize(
    "sampler",
    [EulerAncestral(0), GDDIM(0), ItoEuler(0), ERSDE(2, PowerNoise(0)), EulerMaruyama(0), SASolver(2, tau=0), StochasticHeun(0)],
    ids=str,
)
def test_without_noise_nothing_is_drawn_and_it_encodes(x64, sampler):
    """A Python 0 is a deterministic solver: ``noise`` is never called, x0 comes back to within the order."""
    assert not sampler.stochastic and type(sampler)().stochastic

    def never(step, call, like):
        raise AssertionError("a draw")

    x0, n = jnp.asarray(np.random.default_rng(3).standard_normal((12, 2))), 40
    grid = UniformLogSNR(n, LOW, HIGH, to_data=False)
    coded = encode(Gaussian(VP()), sampler, grid, x0)
    back = sample(Gaussian(VP()), sampler, coded.steps, x_T=coded.x, noise=never)
    assert float(jnp.abs(back.x - x0).max()) < {1: 0.2, 2: 0.01}[sampler.order]


@pytest.mark.parametrize(
    ("sampler", "path", "n"),
    [(Heun(T()), LinearFlow(), 60), pytest.param(RK4(Kappa()), EDM(), 40, marks=pytest.mark.slow)],
    ids=["Heun", "RK4"],
)
def test_the_round_trip_converges_with_the_order(x64, sampler, path, n):
    """On other paths."""
    coarse, fine = (round_trip(sampler, path, k) for k in (n, 2 * n))
    assert np.log2(coarse / fine) >= sampler.order - 0.2, (coarse, fine)


def test_nodes_encode_with_their_order(x64):
    """The blocks of DPMSolverNodes on the way up are of order 2: the encoded states are the exact ones to O(h^2)."""
    found = []
    for n in (40, 80):
        _, _, V, _ = levels(VP(), (grid := UniformLogSNR(n, LOW, HIGH, to_data=False)).steps(VP()))
        coded = encode(Gaussian(VP(), S[:, 0]), DPMSolverNodes(2), grid, jnp.ones((4, 1)))
        found.append(np.abs(np.asarray(coded.x[:, 0]) / np.sqrt(V[:, 0] / V[:, -1]) - 1).max())
    assert np.log2(found[0] / found[1]) >= 1.8, found


def test_encoded_states_are_the_exact_ones(x64):
    """Not only a round trip: the encoded Gaussian states are x sqrt(V_top / V_low)."""
    path, grid = VP(), UniformLogSNR(40, -4.0, 6.0, to_data=False)
    _, _, V, _ = levels(path, grid.steps(path))
    coded = encode(Gaussian(path, S[:, 0]), RK4(LogSNR()), grid, jnp.ones((4, 1)))
    np.testing.assert_allclose(coded.x[:, 0], np.sqrt(V[:, 0] / V[:, -1]), rtol=2e-4)


@pytest.mark.parametrize(
    ("sampler", "grid", "words"),
    [
        (DDPM(), UniformLogSNR(4), "sampler: 'DDPM'.*deterministic"),
        (DDIM(0.5), UniformLogSNR(4), "sampler: 'DDIM'.*deterministic"),
        (EulerMaruyama(), UniformLogSNR(4), "sampler: 'EulerMaruyama'.*deterministic"),
        (DDIM(stride=0.1), UniformLogSNR(4), "DDIM.stride: 0.1.*encoding"),
        (DDIM(), Churn(Karras(4)), "renoises"),
        (DDIM(), UniformTime(1), "finite levels"),
        (DPMSolverPP2M(), UniformTime(6), "finite log-SNR.*DPMSolverPP2M"),
    ],
    ids=["DDPM", "DDIM-eta", "EulerMaruyama", "DDIM-stride", "churn", "one step", "memory"],
)  # fmt: skip
def test_refusals(sampler, grid, words):
    with pytest.raises(ConfigError, match=words):
        encode(Gaussian(LinearFlow()), sampler, grid, jnp.ones((2, 1)))


def test_ascending_rows_are_refused_unless_they_say_so():
    times = jnp.asarray([0.2, 0.5, 0.9])
    with pytest.raises(ConfigError, match="s < t"):
        sample(Gaussian(VP()), DDIM(), Steps.of(times), x_T=jnp.ones((2, 1)))
    up = Steps(t=times[:-1], s=times[1:], r=times[1:], start=times[0], ascends=True)
    up.check()
    with pytest.raises(ConfigError, match="s > t"):
        Steps(t=times[1:], s=times[:-1], r=times[:-1], start=times[1], ascends=True).check()
