"""Log likelihood against the density that Gaussian data have in closed form; one fixed Hutchinson probe per trajectory; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_lab.analytic import GaussianBands
from score_lab.build import ConfigError
from score_lab.denoiser import NetworkDenoiser
from score_lab.likelihood import log_likelihood
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.targets import F

STD = np.array([0.3, 0.9, 1.6])


def bands(path):
    return GaussianBands(path, mean=jnp.zeros(3), std=jnp.asarray(STD))


def closed_form(path, x, log_snr):
    t = path.time_of(jnp.asarray(log_snr))
    variance = (np.asarray(path.alpha(t)) * STD) ** 2 + np.asarray(path.sigma(t)) ** 2
    return scipy.stats.norm.logpdf(np.asarray(x), scale=np.sqrt(variance)).sum(axis=1)


@pytest.mark.parametrize(
    ("path", "prior"),
    [(LinearFlow(), 1e-6), (VP(), 2e-3), pytest.param(EDM(sigma_max=80.0), 4e-3, marks=pytest.mark.slow)],
    ids=["flow", "vp", "edm"],
)
def test_gaussian_data_have_their_closed_form(x64, path, prior):
    """The flow's prior is exact; VP's and EDM's differ from the forward marginal by what is left of the signal at t = 1."""
    x = jax.random.normal(jax.random.key(0), (5, 3)) * STD[None]
    found = log_likelihood(bands(path), x, start=8.0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.logp, closed_form(path, x, 8.0), atol=prior)
    assert (np.asarray(found.nfe) > 0).all()


def test_the_probe_is_held_along_a_trajectory(x64):
    """The velocity is linear with a diagonal Jacobian, and v_i^2 = 1: Hutchinson's estimate with one fixed Rademacher probe is exact."""
    x = jax.random.normal(jax.random.key(1), (4, 3))
    exact, probed = (
        log_likelihood(bands(LinearFlow()), x, jax.random.key(2), divergence=d, rtol=1e-9, atol=1e-9) for d in ("exact", "hutchinson")
    )
    np.testing.assert_allclose(exact.logp, probed.logp, atol=1e-7)


@dataclasses.dataclass
class Counted:
    """A network that tells where it was called."""

    seen: list

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        jax.debug.callback(lambda v: self.seen.append(np.ravel(v)[0]), level)
        return params * jnp.tanh(x)

    __hash__ = object.__hash__


@pytest.mark.parametrize(("divergence", "each"), [("exact", 4), ("hutchinson", 2)])
def test_nfe_is_what_the_network_was_called(x64, divergence, each):
    """Every call counts its forward derivatives: 1 + d, or 1 + 1."""
    seen = []
    denoiser = NetworkDenoiser(jnp.asarray(0.5), Counted(seen), LinearFlow(), F(0.5), 0.5)
    found = log_likelihood(denoiser, jnp.ones((1, 3)) * 0.3, divergence=divergence, start=5.0, rtol=1e-6, atol=1e-6)
    jax.effects_barrier()
    assert each * len(seen) == int(found.nfe[0])


def test_refused_by_name():
    x = jnp.zeros((1, 3))
    with pytest.raises(ConfigError, match="divergence.*exact or hutchinson"):
        log_likelihood(bands(LinearFlow()), x, divergence="hutchinsen")
    with pytest.raises(ConfigError, match="end < start"):
        log_likelihood(bands(VP()), x, end=-20.0)
