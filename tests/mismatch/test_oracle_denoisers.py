"""The oracle on more than one exact solver: wrong, guided and mixing denoisers, pictures, renoising, every solver of the catalogue."""

import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.closed import BANDS, S, of, recursion, same
from samplers.exact import Gaussian
from samplers.impulses import Impulses

from score_lab.analytic import TwoSpectra
from score_lab.build import ConfigError
from score_lab.denoiser import Prediction
from score_lab.guidance import CFG, ClipX0
from score_lab.guidance.wrapper import Wrapper
from score_lab.linear import combine
from score_lab.mismatch.oracle import exact_moments, variance_ratios
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import (
    CATALOGUE,
    DDIM,
    EulerMaruyama,
    Karras,
    Langevin,
    Restart,
    StateRecorder,
    Tsit5,
    UniformLogSNR,
    sample,
)  # fmt: skip
from score_lab.types import leaf, pytree_dataclass

pytestmark = pytest.mark.usefixtures("x64")
REFUSED = [name for name, e in CATALOGUE.items() if hasattr(e.sampler, "integrate") or isinstance(e.sampler, Langevin)]
AFFINE = [name for name in CATALOGUE if name not in REFUSED]
QUICK = {"DPM++ 2S a"}


@pytree_dataclass
class Gain(Wrapper):
    """D = mu + (1 + eta) (D* - mu), eps from it."""

    denoiser: object = leaf()
    eta: float = 0.1

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        x0 = self.denoiser(x_t, t, cond).x0
        mu = jnp.asarray(BANDS.mean)[None]
        return Prediction.of(x_t, t, self.path, x0=mu + (1 + self.eta) * (x0 - mu))


def test_a1_a_gain_error_and_a_wrong_spectrum():
    """r = cos delta + eta sin delta cot phi; misspecified s_theta: m = alpha' D / x + sigma' (1 - alpha D / x) / sigma."""
    path, grid = LinearFlow(), UniformLogSNR(7, -5.0, 5.0, to_data=False)
    R, a, s, V, phi = of(DDIM(), grid, path, denoiser=Gain(BANDS.surrogate(path), 0.2))
    d = phi[:-1] - phi[1:]
    same(R, recursion((np.cos(d) + 0.2 * np.sin(d) / np.tan(phi[:-1])) ** 2))
    wrong = Spectrum((0.7 * S) ** 2, np.arange(4), BANDS.mean)
    R = of(DDIM(), grid, path, denoiser=wrong.surrogate(EDM()))[0]  # moved to the path that is sampled
    gain = (a * (0.7 * S) ** 2 / (a**2 * (0.7 * S) ** 2 + s**2))[:-1]
    m = a[1:] * gain + s[1:] * (1 - a[:-1] * gain) / s[:-1]
    same(R, recursion(m**2 * V[:-1] / V[1:]))


@pytree_dataclass
class Fresh(Wrapper):
    """D* + tau z with z = 1 in row k + 1 at step k, whose time is times[k], and 0 else: the rows' squares add up to what independent noise
    of deviation tau does."""

    denoiser: object = leaf()
    times: object = leaf()
    tau: float = 0.0

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        k = jnp.argmin(jnp.abs(self.times - jnp.reshape(t, (-1,))[0]))
        z = (jnp.arange(len(x_t)) == k + 1).astype(x_t.dtype)[:, None]
        return Prediction.of(x_t, t, self.path, x0=self.denoiser(x_t, t, cond).x0 + self.tau * z)


@pytest.mark.parametrize("path", [LinearFlow(), EDM()], ids=["LinearFlow", "EDM"])
def test_a1_independent_noise_of_the_denoiser(path):
    """(4.6), exactly: R' = cos^2 delta R + sin^2 delta tau^2 / MMSE, MMSE = s^2 sin^2 phi, by the responses to each step's error."""
    grid, tau = UniformLogSNR(6, -5.0, 5.0, to_data=False), 0.3
    steps = grid.steps(path)
    _, _, _, V, phi = of(DDIM(), grid, path)
    zero = Spectrum(S**2, np.arange(4), np.zeros(4)).surrogate(path)
    x_T = np.zeros((7, 4))
    x_T[0] = np.sqrt(V[0])
    x = sample(Fresh(zero, jnp.asarray(steps.t), tau), DDIM(), steps, x_T=jnp.asarray(x_T)).x
    d = phi[:-1] - phi[1:]
    want = recursion(np.cos(d) ** 2, np.sin(d) ** 2 * tau**2 / (S**2 * np.sin(phi[:-1]) ** 2))[-1]
    same(np.square(np.asarray(x)).sum(axis=0) / V[-1], want)
    assert want[0] > 1 > want[3]  # noise beyond the MMSE over-disperses, less than that does not save Euler


def test_a1_guidance_of_two_spectra():
    """The guided gain is (1 - w) u + w c; published: s_c = .5, s_u = 1, w = 3, 25 Euler nodes: 0.027, at w = 1: 0.789."""
    path, grid = EDM(), Karras(25)
    one = Spectrum(np.array([0.25]), np.zeros(1), np.zeros(1))
    both = TwoSpectra(one.surrogate(path), Spectrum.white(1.0, (1,)).surrogate(path))
    for w, published in ((3.0, 0.027), (1.0, 0.789)):
        found = exact_moments(DDIM(), grid, path, one, "prior", denoiser=CFG(both, w), label=0)
        kappa2 = np.asarray(path.sigma(jnp.asarray(found.t)))[:, None] ** 2
        eps = w * kappa2 / (0.25 + kappa2) + (1 - w) * kappa2 / (1 + kappa2)
        m = 1 + (np.sqrt(kappa2[1:] / kappa2[:-1]) - 1) * eps[:-1]
        same(np.exp(found.log_ratio), recursion(m**2 * (0.25 + kappa2[:-1]) / (0.25 + kappa2[1:]), 0.0, 6400 / (0.25 + 6400)))
        np.testing.assert_allclose(np.exp(found.log_ratio[-1]), published, atol=6e-4)


def test_states_of_pictures_in_a_basis():
    """The DCT of pictures with a mean, band by band: (4.1), and Restart's renoising contracts, (4.5)."""
    picture = Spectrum.power_law((4, 4, 2), 1.5, 0.7)
    picture = Spectrum(picture.variance, picture.band, np.random.default_rng(0).normal(size=(4, 4, 2)), picture.basis)
    path = EDM()
    grid = Restart(UniformLogSNR(5, -6.0, 4.0, to_data=False), ((0.3, 2.0, 2, 1),))
    found = exact_moments(DDIM(), grid, path, picture)
    steps = grid.steps(path)
    R = np.ones(len(picture.variance))
    for k, (t, s, r) in enumerate(zip(*(np.asarray(v) for v in (steps.t, steps.s, steps.r)), strict=True)):
        same(np.exp(found.log_ratio[k]), R)
        phi, V = (f(path, np.array([t, s, r])) for f in (picture.phi, picture.V))
        R = np.cos(phi[0] - phi[1]) ** 2 * R
        R = 1 + (R - 1) * V[1] / V[2] if r > s else R
    assert (np.asarray(steps.r) > np.asarray(steps.s)).sum() == 2


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in AFFINE])
def test_every_affine_solver_of_the_catalogue(name):
    """At every step's start and at the end, against states of impulses that know nothing of the oracle."""
    sampler, path = CATALOGUE[name].sampler, VP()
    steps = UniformLogSNR(6, -6.0, 4.0).steps(path)
    n, calls = 6, 3 if sampler.stochastic else 0
    draws = [(-1, 0)] + [(k, j) for k in range(n) for j in range(calls)]
    step, call = (np.tile(np.array(v), len(S)) for v in zip(*draws, strict=True))
    std = np.repeat(S, len(draws))
    V = lambda t: float(path.alpha(t)) ** 2 * S**2 + float(path.sigma(t)) ** 2  # noqa: E731
    x_T = np.where(step == -1, np.repeat(np.sqrt(1.1 * V(steps.start)), len(draws)), 0.0)[:, None]
    noise = Impulses(jnp.asarray(step), jnp.asarray(call))
    run = sample(Gaussian(path, std), sampler, steps, x_T=jnp.asarray(x_T), noise=noise, recorder=StateRecorder(rows=len(x_T)))
    states = np.concatenate([np.asarray(run.record.x_t)[:, 0, :, 0], np.asarray(run.x).T])
    R = np.square(states).reshape(n + 1, 4, -1).sum(-1) / np.array([V(t) for t in jnp.append(steps.t, steps.s[-1])])
    same(np.exp(variance_ratios(sampler, steps, path, BANDS, 1.1)), R, 1e-11)


def test_what_is_not_affine_is_refused_by_name():
    grid, path = Karras(4, sigma_max=40.0), EDM()
    assert REFUSED and all("adaptive" in CATALOGUE[n].family or n == "predictor-corrector" for n in REFUSED)
    langevin = Langevin(EulerMaruyama())
    for sampler, word in ((Tsit5(), "Tsit5.*adaptive"), (langevin, "Langevin.*norms"), (Around(langevin), "Langevin.*norms")):
        with pytest.raises(ConfigError, match=word):
            variance_ratios(sampler, grid, path, BANDS)
    with pytest.raises(ConfigError, match="ClipX0.*do not add up"):
        variance_ratios(DDIM(), grid, path, BANDS, denoiser=ClipX0(BANDS.surrogate(path)))
    turned = BANDS.surrogate(path)
    with pytest.raises(ConfigError, match="do not add up"):  # affine, but it mixes coefficients
        variance_ratios(DDIM(), grid, path, BANDS, denoiser=Mixing(turned))
    with pytest.raises(ConfigError, match="prior"):
        variance_ratios(DDIM(), grid, path, BANDS, "posterior")
    with pytest.raises(ConfigError, match="R_0"):
        variance_ratios(DDIM(), grid, path, BANDS, np.ones(3))
    with pytest.raises(ConfigError, match="levels or calls"):
        variance_ratios(DDIM(), grid, path, BANDS, at="steps")


@pytree_dataclass
class Around:
    """A sampler around a sampler."""

    inner: object = leaf()


@pytree_dataclass
class Mixing(Wrapper):
    """A denoiser that smears every coefficient over its neighbour."""

    denoiser: object = leaf()

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        x0 = self.denoiser(x_t, t, cond).x0
        return Prediction.of(x_t, t, self.path, x0=combine((0.9, x0), (0.1, jnp.roll(x0, 1, axis=1))))
