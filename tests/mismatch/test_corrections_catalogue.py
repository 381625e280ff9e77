"""The catalogue: every entry is where it says, what can be made of a spectrum runs, and corrections go around one another."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import exact_record
from mismatch.impulse_bands import band_ratio, bands, exact, numbers

from score_lab.analytic import GaussianBands
from score_lab.build import ConfigError, build
from score_lab.denoiser import NetworkDenoiser, Prediction
from score_lab.guidance import CFG, ClipX0, Wrapper
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.corrections import (
    CATALOGUE,
    DCW,
    EpsilonScaling,
    FreshNoise,
    Recondition,
    Relabel,
    Setting,
    SignalGain,
    TimeShift,
    calibrate,
    corrected,
    haar_share,
    in_wavelets,
)
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.oracle import variance_ratios
from score_lab.mismatch.spectrum import Spectrum
from score_lab.objectives import DroppedLevels, blind
from score_lab.paths import EDM, VP, LinearFlow, ddpm_table
from score_lab.samplers import DDIM, DDPM, Churn, EulerMaruyama, Heun, Karras, Langevin, UniformTime, sample
from score_lab.targets import X0
from score_lab.types import leaf, pytree_dataclass

NEEDS = {"noise level correction": "probe", "noise awareness guidance": "network", "CFG rescale": "CFG"}
"""What is made of more than a spectrum."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_is_where_it_says(name):
    entry = CATALOGUE[name]
    module, attribute = entry.lives.split(":")
    assert hasattr(importlib.import_module(module), attribute)
    assert entry.paper and entry.applies and entry.wraps in ("denoiser", "sampler", "grid", "start", "path", "training")
    assert (entry.make is None) == (entry.wraps in ("path", "training"))


MADE = [n for n, entry in CATALOGUE.items() if entry.make is not None and n not in NEEDS]
QUICK = ("epsilon scaling", "DCW in wavelets, published", "Time-Shift, corrected", "re-conditioning", "signal-leak start")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MADE])
def test_made_of_a_spectrum_it_runs_and_changes_the_samples(name):
    """Float32, images with a mean, the exact denoiser on EDM: finite samples, other than the uncorrected ones; the shift has a number."""
    spectrum = Spectrum.power_law((8, 8, 1), s2=0.5)
    spectrum = dataclasses.replace(spectrum, mean=0.3 * np.ones((8, 8, 1)))
    path, grid = EDM(), Karras(5, sigma_max=20.0, sigma_min=0.05)
    sampler = DDPM() if name in ("fresh noise, by band", "analytic variance") else DDIM()
    to = Setting(spectrum.surrogate(path), sampler, grid, spectrum, number=4.0 if name == "resolution shift" else None)
    key = jax.random.key(0)
    if "a forward record" in CATALOGUE[name].applies:
        x0, recorder = np.asarray(to.denoiser.sample(key, jnp.arange(200))), BandRecorder.of(spectrum, key, 20)
        record = recorder.collect(forward_run(to.denoiser, x0, np.asarray(grid.steps(path).t), recorder, key))
        to = dataclasses.replace(to, forward=record)
    made = CATALOGUE[name].make(to)
    states = {"shape": (3, 8, 8, 1)} if made.start is None else {"x_T": made.start.x_T(path, made.grid, key, 3)}
    x = sample(made.denoiser, made.sampler, made.grid, **states, key=key).x
    plain = sample(to.denoiser, to.sampler, to.grid, (3, 8, 8, 1), key).x
    assert x.dtype == jnp.float32 and bool(jnp.isfinite(x).all())
    assert float(jnp.abs(x - plain).max()) > 1e-5


@pytest.mark.parametrize("number", [None, 1.0])
def test_a_shift_that_is_not_told_by_how_much_is_refused(number):
    """The grid that is there again would be a row that says nothing."""
    spectrum, path = Spectrum.power_law((8, 8, 1), s2=0.5), EDM()
    to = Setting(spectrum.surrogate(path), DDIM(), Karras(3, sigma_max=20.0), spectrum, number=number)
    with pytest.raises(ConfigError, match="^resolution shift: .* how many times as many values") as error:
        CATALOGUE["resolution shift"].make(to)
    assert "\n" not in str(error.value)


FORMS = {
    "epsilon scaling": ("epsilon scaling", "epsilon scaling, by band", "epsilon scaling, published"),
    "DCW, covariant": ("DCW", "DCW, by band", "DCW in wavelets"),
    "DCW, literal": ("DCW in pixels, published", "DCW in wavelets, published"),
    "Time-Shift: paper, released, corrected": ("Time-Shift", "Time-Shift, released", "Time-Shift, corrected"),
    "label": ("re-conditioning", "noise level correction", "noise awareness guidance"),
    "noise": ("churn", "Restart", "analytic variance", "fresh noise, by band"),
    "rescaling": ("spectral clamp", "CFG rescale"),
    "start and grid": ("signal-leak start", "zero terminal SNR", "resolution shift", "spectrum-aware grid"),
    "training": ("input perturbation", "MixFlow", "self-forcing", "noise-label dropout"),
}  # fmt: skip


def told(made):
    """Every number of what a correction makes, and its types."""
    parts = (made.denoiser, made.sampler, made.grid, made.start)
    leaves, tree = jax.tree.flatten(parts)
    return str(tree), [np.asarray(leaf).tolist() for leaf in leaves], repr(made.grid)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_there_and_a_number_is_the_constant_that_it_names(form):
    """With 1.5 for 1.25 what is made differs where the entry names a constant, and only there; literal and covariant are what they say."""
    spectrum = Spectrum.power_law((8, 8, 1), s2=0.5)
    path = EDM()
    plain = spectrum.surrogate(path)
    noisy = NetworkDenoiser({}, DroppedLevels(Echo(), 0.3), path, X0())
    around = {"CFG rescale": CFG(plain, 2.0), "noise awareness guidance": noisy}
    for name in FORMS[form]:
        entry = CATALOGUE[name]
        if entry.make is None:
            assert entry.wraps in ("path", "training") and not entry.number
            continue
        sampler = DDPM() if name in ("fresh noise, by band", "analytic variance") else DDIM()
        to = Setting(around.get(name, plain), sampler, Karras(3, sigma_max=20.0), spectrum, probe=lambda x, t: 0.0)
        one, two = (entry.make(dataclasses.replace(to, number=v)) for v in (1.25, 1.5))
        assert (told(one) != told(two)) == bool(entry.number), name
        if form.startswith("DCW"):
            assert one.sampler.form == form.split()[1]


@pytree_dataclass
class Echo:
    """A network that says what it is shown."""

    num_classes: int = 0

    def init(self, key, shape):
        return {}

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return x


@pytest.mark.usefixtures("x64")
def test_wavelets_see_the_same_data_in_their_subbands():
    """Of a spectrum that is one of Haar subbands the share is the identity, so R = 1 after every step; of another what a subband holds is
    what draws of the data have there, in total as much; measured on an exact record, its constants are those of the record's own ratios."""
    path, grid = EDM(), Karras(4, sigma_max=20.0, sigma_min=0.5, to_data=False)
    own = in_wavelets(Spectrum.power_law((4, 4, 1), s2=0.5))
    np.testing.assert_allclose(haar_share(own), np.eye(4), atol=1e-12)
    to = Setting(own.surrogate(path), DDIM(), grid, own)
    made = CATALOGUE["DCW in wavelets"].make(to)
    alone = corrected(DCW, to.denoiser, to.sampler, grid, spectrum=own, limit=0.5)
    np.testing.assert_allclose(made.calibration.values, alone.calibration.values, rtol=1e-5)
    ok = made.calibration.flag == "ok"
    assert ok.sum() > 6 and np.abs(made.calibration.log_ratio[: int(ok.all(axis=1).argmin() or 4)]).max() < 1e-6
    ratios = variance_ratios(DDIM(), grid, path, own) - 0.03 * np.arange(5)[:, None]  # what the steps do, and a network that loses more
    t = np.asarray(grid.steps(path).t)
    record = exact_record(own, path, t, np.exp(ratios[:-1]) * own.V(path, t))
    measured = CATALOGUE["DCW in wavelets"].make(dataclasses.replace(to, record=record, last=ratios[-1]))
    wanted = calibrate(DCW, own, path, DDIM(), grid, ratios=ratios, limit=0.5)
    np.testing.assert_allclose(measured.calibration.values, wanted.values, rtol=1e-5, atol=1e-7)
    assert np.abs(measured.calibration.values - made.calibration.values)[ok].min() > 1e-3
    spectrum = Spectrum.power_law((8, 8, 1), s2=0.5)
    seen = in_wavelets(spectrum)
    assert abs(seen.total - spectrum.total) < 1e-6
    assert list(seen.variance) == sorted(seen.variance, reverse=True) and seen.variance[1] == seen.variance[2]  # rows as columns, exactly
    x = np.asarray(spectrum.surrogate(path).sample(jax.random.key(0), jnp.arange(4000)))
    drawn = np.asarray(seen.energies(seen.basis.analyse(jnp.asarray(x)))).mean(axis=0) / seen.count
    np.testing.assert_allclose(seen.variance, drawn, rtol=0.05)
    with pytest.raises(ConfigError, match="wavelets.*even sides"):
        haar_share(bands())


@pytest.mark.usefixtures("x64")
def test_analytic_variance_measured_on_forward_samples_is_that_of_the_spectrum():
    """Gaussian bands: E |eps|^2 / d of a forward record is sum_b n_b sin^2 phi_b / d, within what 2000 samples say."""
    path, grid, spectrum = VP(), Karras(5, sigma_max=20.0, sigma_min=0.05, to_data=False), bands()
    denoiser = spectrum.surrogate(path)
    x0 = np.asarray(denoiser.sample(jax.random.key(0), jnp.arange(2000)))
    recorder = BandRecorder.of(spectrum, jax.random.key(1), 20)
    seen = recorder.collect(forward_run(denoiser, x0, np.asarray(grid.steps(path).t), recorder, jax.random.key(2)))
    to = Setting(denoiser, DDPM(), grid, spectrum)
    told, measured = (CATALOGUE["analytic variance"].make(dataclasses.replace(to, forward=f)).sampler for f in (None, seen))
    np.testing.assert_allclose(measured.gamma, told.gamma, atol=0.04)
    assert np.abs(np.asarray(measured.gamma) - np.asarray(told.gamma)).max() > 1e-6


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_missing_is_refused_by_name(name):
    to = Setting(exact(EDM()), DDIM(), Karras(4), bands())
    with pytest.raises(ConfigError, match=NEEDS[name]):
        CATALOGUE[name].make(to)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "sampler"), [("analytic variance", DDPM()), ("fresh noise, by band", DDPM())])
def test_a5_analytic_variance_by_the_spectrum(name, sampler):
    """One white band: R = 1 at the end of Analytic-DDPM; several: each band by its own fresh noise."""
    path, grid = VP(), Karras(5, sigma_max=20.0, sigma_min=0.05, to_data=False)
    spectrum = Spectrum.white(0.25, (4,)) if name == "analytic variance" else bands()
    denoiser = GaussianBands(path, np.zeros(4), 0.5 * np.ones(4)) if name == "analytic variance" else exact(path)
    made = CATALOGUE[name].make(Setting(denoiser, sampler, grid, spectrum))
    steps = grid.steps(path)
    found = band_ratio(made.denoiser, made.sampler, steps, draws=1)
    V = numbers(path, steps)[2]
    if name == "analytic variance":
        a, s = (float(f(t)) for f, t in ((path.alpha, steps.s[-1]), (path.sigma, steps.s[-1])))
        start = float(path.alpha(steps.t[0])) ** 2 * 0.25 + float(path.sigma(steps.t[0])) ** 2
        rho2 = (0.25 + (s / a) ** 2) / (0.25 + float(path.kappa(steps.t[0])) ** 2)
        R_0 = V[0] / start  # the start of ``band_ratio`` has the variance of the four bands
        np.testing.assert_allclose(found * V[-1] / (a**2 * 0.25 + s**2) - 1, rho2 * (R_0 - 1), rtol=1e-7, atol=1e-10)
    else:
        np.testing.assert_allclose(found, 1.0, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_zero_terminal_snr_has_no_prior_mismatch():
    """(4.8), the published table: R_0 = 1.000, 0.899, 0.489 for s = 1, 5, 15 on Stable Diffusion's betas, and 1 at zero terminal SNR."""
    s = np.array([1.0, 5.0, 15.0])
    for zero, expected in ((False, (1.0, 0.899, 0.489)), (True, (1.0, 1.0, 1.0))):
        path = ddpm_table("scaled_linear", zero_terminal=zero)
        alpha, sigma = float(path.alpha(jnp.ones(()))), float(path.sigma(jnp.ones(())))
        np.testing.assert_allclose(float(path.prior_std()) ** 2 / (alpha**2 * s**2 + sigma**2), expected, atol=5e-4 * (not zero) + 1e-12)


@pytest.mark.usefixtures("x64")
def test_corrections_go_around_one_another():
    """A second calibration on top of a first finds nothing left to do; and a stack of all kinds runs in one program, recorded."""
    path, grid, spectrum = LinearFlow(), Karras(5, sigma_max=20.0, sigma_min=0.05, to_data=False), bands()
    one = corrected(FreshNoise, exact(path), DDPM(), grid, spectrum=spectrum)
    two = corrected(DCW, one.denoiser, one.sampler, grid, spectrum=spectrum)
    np.testing.assert_allclose(two.calibration.values, 0.0, atol=1e-9)
    np.testing.assert_allclose(band_ratio(two.denoiser, two.sampler, grid.steps(path), draws=1), 1.0, rtol=1e-12)
    denoiser = ClipX0(EpsilonScaling(Relabel(exact(path), 0.01), 1.01), -9.0, 9.0)
    sampler = DCW(Recondition(TimeShift(EulerMaruyama(), 0.02, 0.9, "released"), shift=0.01), 0.01)
    recorder = BandRecorder.of(spectrum, jax.random.key(0), 20)
    run = sample(denoiser, sampler, grid, (6, 4), jax.random.key(1), recorder=recorder)
    record = recorder.collect(run.record)
    np.testing.assert_allclose(record.t, grid.steps(path).t, rtol=1e-6)
    assert np.isfinite(run.x).all() and int(run.nfe) == 5
    assert np.isfinite(sample(denoiser, Langevin(DCW(DDIM(), 0.01)), grid, (6, 4), jax.random.key(1)).x).all()


@pytest.mark.usefixtures("x64")
def test_around_heun_and_churn_every_call_is_counted():
    path = EDM()
    run = sample(EpsilonScaling(exact(path), 1.01), DCW(Heun(), 0.01), Churn(Karras(4), s_tmax=50.0), (2, 4), jax.random.key(0))
    assert int(run.nfe) == 7 and np.isfinite(run.x).all()


def test_guided_denoisers_are_corrected_inside_and_outside():
    path = LinearFlow()

    @pytree_dataclass
    class Classes(Wrapper):
        denoiser: object = leaf()

        def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
            p = self.denoiser(x_t, t)
            scale = jnp.where(cond["label"] < 0, 1.0, 0.9)
            return dataclasses.replace(p, x0=scale[:, None] * p.x0)

    plain = Classes(exact(path))
    cond = {"label": jnp.zeros(3, jnp.int32)}
    x = jnp.ones((3, 4))
    inside = CFG(EpsilonScaling(plain, 1.02), 2.0)(x, jnp.asarray(0.5), cond).x0
    outside = EpsilonScaling(CFG(plain, 2.0), 1.02)(x, jnp.asarray(0.5), cond).x0
    np.testing.assert_allclose(inside, outside, rtol=0.05)
    made = CATALOGUE["CFG rescale"].make(Setting(CFG(plain, 2.0), DDIM(), UniformTime(3), bands()))
    assert made.denoiser.rescale == 0.7
    with pytest.raises(ConfigError, match="blind"):
        blind(plain)


def test_by_import_path_from_outside():
    """A correction that nobody registered, built by its import path like one of ours."""
    path = EDM()
    spec = {"target": "mismatch.test_corrections_catalogue:Shrink", "amount": 0.1}
    made = build(spec, denoiser=exact(path))
    assert made.amount == 0.1
    theirs = sample(made, DDIM(), Karras(3), (2, 4), jax.random.key(0)).x
    ours = SignalGain.of(exact(path), 0.9)
    np.testing.assert_allclose(theirs, sample(ours, DDIM(), Karras(3), (2, 4), jax.random.key(0)).x, rtol=1e-5)


@pytree_dataclass
class Shrink(Wrapper):
    """x0 a little smaller."""

    denoiser: object = leaf()
    amount: float = 0.0

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        p = self.denoiser(x_t, t, cond, s=s, step=step, key=key)
        return Prediction.of(x_t, t, self.path, x0=(1 - self.amount) * p.x0, fed=p.fed)
