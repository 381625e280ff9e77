"""The step in every band's own angle: exact on Gaussian bands, DDIM where x0 is known, no variance lost on data that are neither."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.impulse_bands import S, band_ratio, bands, exact

from score_lab.analytic import GaussianBands, GaussianMixture
from score_lab.build import ConfigError
from score_lab.mismatch import BandRecorder, Spectrum
from score_lab.mismatch.corrections import CATALOGUE, AngleStep, Setting, resolved_excess
from score_lab.mismatch.forward import forward_run
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.paths.transition import transition_variances
from score_lab.samplers import DDIM, EulerMaruyama, Heun, Karras, Times, UniformLogSNR, UniformTime, sample


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("path", "grid", "eta", "kinds"),
    [
        (VP(), UniformLogSNR(4, end=8.0), 0.0, ("gaussian", "own")), (LinearFlow(), UniformTime(3), 0.7, ("gaussian",)),
        (EDM(), Karras(3), 1.0, ("gaussian",)),
    ],
)  # fmt: skip
def test_gaussian_bands_keep_their_variance(path, grid, eta, kinds):
    """R = 1 after every step with g = 0, and so does the kind that reads g off the sample: v is 0 on every trajectory of such data."""
    for kind in kinds:
        step = AngleStep.of(bands(), eta, kind)
        np.testing.assert_allclose(band_ratio(exact(path), step.specialise(), grid.steps(path), draws=int(eta > 0)), 1.0, rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_with_g_of_1_it_is_ddim():
    path, grid = VP(), UniformLogSNR(4, end=6.0)
    datum = GaussianBands(path, np.array([0.3, -1.0, 2.0, 0.1]), np.zeros(4))
    steps = grid.steps(path)
    for eta in (0.0, 1.0):  # the noise leaves less of the angle
        kept = np.sqrt(np.maximum(path.sigma(steps.s) ** 2 - eta * transition_variances(path, steps.t, steps.s)[1], 0))
        angle = bands().phi(path, np.asarray(steps.t)) - np.arctan2(kept[:, None], np.asarray(path.alpha(steps.s))[:, None] * S)
        turned = dataclasses.replace(AngleStep.of(bands(), eta), kind="forward", root=np.ones((4, 4)), angle=angle)
        run = [sample(datum, s, steps, (5, 4), jax.random.key(1)).x for s in (turned, DDIM(eta))]
        np.testing.assert_allclose(run[0], run[1], rtol=1e-9, atol=1e-10)


LAW = GaussianMixture(VP(), np.ones(2), np.array([[1.0, 0.4], [-1.0, -0.4]]), np.full(2, 0.05))


@pytest.fixture(scope="module")
def known():
    """Of the mixture: x0, its spectrum, and a forward record at 24 levels."""
    x0 = np.asarray(LAW.sample(jax.random.key(3), jnp.arange(40_000)), np.float32)
    spectrum = Spectrum.of(x0, "pca", "each")
    t = np.asarray(VP().time_of(jnp.linspace(-8, 6, 24)))
    recorder = BandRecorder.of(spectrum, jax.random.key(0), 20)
    return x0, spectrum, recorder.collect(forward_run(LAW, x0, t, recorder, jax.random.key(4)))


def test_g_is_what_the_denoiser_beats_the_wiener_filter_by(known):
    """g = 1 - MMSE / (s^2 sin^2 phi), with the MMSE from x0 itself and not from the energies that g is read from."""
    x0, spectrum, record = known
    phi, root = resolved_excess(record, spectrum, VP())
    for k in (6, 10, 14):
        t = float(record.t[k])
        alpha, sigma = float(VP().alpha(t)), float(VP().sigma(t))
        eps = np.random.default_rng(k).standard_normal(x0.shape)
        miss = np.asarray(LAW(jnp.asarray(alpha * x0 + sigma * eps, jnp.float32), jnp.asarray(t)).x0) - x0
        mmse = np.square(np.asarray(spectrum.basis.analyse(jnp.asarray(miss)))).mean(axis=0)
        at = spectrum.phi(VP(), np.array([t]))[0]
        g = 1 - mmse / (spectrum.variance * np.sin(at) ** 2)
        found = [np.interp(at[b], phi[:, b], root[:, b]) ** 2 for b in range(2)]
        assert (np.abs(found - np.clip(g, 0, 1)) < 0.012 / np.sin(at) ** 2).all()  # what 40 000 draws say of a difference near 0
    assert 0.2 < root[:, 0].max() <= 1.0


def test_one_step_from_forward_states_keeps_every_variance_with_the_forward_g(known):
    """On states that are of the level a step starts from, R = 1 after it; DDIM loses what (4.6) says, the Gaussian step gains."""
    x0, spectrum, record = known
    path, t = VP(), float(VP().time_of(jnp.asarray(0.0)))
    s = float(path.time_of(jnp.asarray(3.0)))
    grid = Times((t, s))
    eps = np.random.default_rng(0).standard_normal(x0.shape)
    x_T = jnp.asarray(float(path.alpha(t)) * x0 + float(path.sigma(t)) * eps, jnp.float32)
    after = {}
    for name, sampler in (
        ("ddim", DDIM()), ("gaussian", AngleStep.of(spectrum)),
        ("forward", AngleStep.of(spectrum, 0.0, "forward", record, path, grid)),
        ("trend", AngleStep.of(spectrum, 0.0, "forward", record, path, grid, trend=True)),
    ):  # fmt: skip
        x = np.asarray(sample(LAW, sampler, grid, x_T=x_T).x) - float(path.alpha(s)) * spectrum.mean
        c = np.asarray(spectrum.basis.analyse(jnp.asarray(x, jnp.float32)))
        after[name] = np.square(c).mean(axis=0) / spectrum.V(path, np.array([s]))[0]
    phi, root = resolved_excess(record, spectrum, path)
    start, end = (spectrum.phi(path, np.array([v]))[0] for v in (t, s))
    g = np.array([np.interp(start[b], phi[:, b], root[:, b]) ** 2 for b in range(2)])
    delta = start - end
    np.testing.assert_allclose(after["ddim"], np.cos(delta) ** 2 + np.sin(delta) ** 2 * g, rtol=0.03)
    np.testing.assert_allclose(after["gaussian"], 1 + delta**2 * g, rtol=0.03)
    np.testing.assert_allclose(after["forward"], 1.0, atol=0.02)
    np.testing.assert_allclose(after["trend"], 1.0, atol=0.02)


def test_the_catalogue_puts_it_in_place_of_first_order_samplers(known):
    _, spectrum, record = known
    grid = UniformLogSNR(4, end=6.0)
    for sampler, eta in ((DDIM(), 0.0), (DDIM(0.5), 0.5), (EulerMaruyama(), 1.0)):
        made = CATALOGUE["angle step"].make(Setting(LAW, sampler, grid, spectrum)).sampler
        assert isinstance(made, AngleStep) and made.eta == eta
    found = CATALOGUE["angle step, forward"].make(Setting(LAW, DDIM(), grid, spectrum, forward=record)).sampler
    assert found.root.shape == found.angle.shape == (4, 2) and not found.specialise().stochastic
    for name, sampler in (("angle step", Heun()), ("angle step", EulerMaruyama(0.5)), ("angle step, forward", DDIM())):
        with pytest.raises(ConfigError, match="angle step|forward"):
            CATALOGUE[name].make(Setting(LAW, sampler, grid, spectrum))
    with pytest.raises(ConfigError, match="as many as the grid has"):
        sample(LAW, found, UniformLogSNR(5, end=6.0), (2, 2), jax.random.key(0))
