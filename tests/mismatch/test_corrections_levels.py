"""Corrections of the level, the label, the start and the prediction, against closed forms, float64.

    (4.8)  prior: R_0 = sigma_prior^2 / V_T, mean leak -alpha_T mu sqrt(V_N / V_T) prod cos d;  the signal-leak start: R_0 = 1, no leak
    (4.9)  label alone, VE: r = [cos^2 phi_tau + (tan phi' / tan phi) sin^2 phi_tau] cos phi' / cos phi
           contaminated state, v = V + alpha^2 e^2: R' = cos^2 d (1 + e^2 alpha^2 / V) as it is, cos^2(phi_eff - phi') re-timed
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.impulse_bands import S, band_ratio, bands, exact, numbers, same

from score_lab.analytic import DCT, GaussianBands, pca
from score_lab.build import ConfigError
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.corrections import (
    NoiseAwareness,
    NoiseLevelCorrection,
    Recondition,
    Relabel,
    SignalLeakStart,
    SpectralClamp,
    TimeShift,
    effective_levels,
    gaussian_levels,
    signal_and_noise,
)
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.replicates import curve
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import DDIM, DDPM, DPMSolverPP2M, Euler, EulerMaruyama, Heun, Kappa, Karras, StateRecorder, UniformTime, sample

pytestmark = pytest.mark.usefixtures("x64")


def test_a1_49_the_label_alone():
    path = VE()
    steps = Karras(5, sigma_min=0.1, sigma_max=30.0, to_data=False).steps(path)
    _, s, _, phi = numbers(path, steps)
    shift = np.array([0.03, -0.02, 0.1, 0.0, 0.05])
    tau = np.arctan2((s[:-1] * np.exp(shift))[:, None], S)
    p, q = phi[:-1], phi[1:]
    r = (np.cos(tau) ** 2 + np.tan(q) / np.tan(p) * np.sin(tau) ** 2) * np.cos(q) / np.cos(p)
    same(band_ratio(Relabel(exact(path), shift), DDIM(), steps), np.prod(r, axis=0) ** 2)
    told = Relabel(exact(path), 0.1)(jnp.ones((1, 4)), jnp.asarray(0.5))
    same(told.fed, path.log_snr(jnp.asarray(0.5)) - 0.2, 1e-10)
    same(told.x0 + path.sigma(0.5) * told.eps, 1.0)


@pytest.mark.parametrize("path", [EDM(), VP(), LinearFlow()], ids=["EDM", "VP", "LinearFlow"])
def test_a1_49_a_contaminated_state_retimed(path):
    steps, e = Karras(2, sigma_min=0.3, sigma_max=1.0, to_data=False).steps(path), 0.2
    one = jax.tree.map(lambda v: v[:1] if np.ndim(v) else v, steps)
    a, s, V, phi = numbers(path, one)
    kappa = s[0] / a[0]
    R_0 = 1 + e**2 * a[0] ** 2 / V[0]
    same(band_ratio(exact(path), DDIM(), one, R_0), np.cos(phi[0] - phi[1]) ** 2 * R_0)
    shift = 0.5 * np.log(1 + (e / kappa) ** 2)
    retimed = np.cos(np.arctan2(np.hypot(kappa, e), S) - phi[1]) ** 2
    same(band_ratio(exact(path), Recondition(DDIM(), shift=shift), one, R_0), retimed)
    same(band_ratio(exact(path), Recondition(DDIM(), gain=1.1, shift=shift), one, 1.21 * R_0), retimed)


def test_recondition_keeps_the_mean_and_shows_the_recorder_the_grid():
    path, mean = LinearFlow(), np.array([1.0, -2.0, 0.5, 3.0])
    denoiser = GaussianBands(path, mean, S)
    steps = Karras(2, sigma_min=0.3, sigma_max=2.0, to_data=False).steps(path)
    x_T = path.alpha(steps.t[0]) * jnp.asarray(mean)[None]
    shift = np.array([0.05, -0.05])
    run = sample(denoiser, Recondition(Heun(Kappa()), 1.2, shift, mean), steps, x_T=x_T, recorder=StateRecorder(1))
    same(run.x, path.alpha(steps.s[-1]) * mean[None])
    seen = run.record.in_order()
    same(seen.t[::2], steps.t)
    same(seen.x_t[0], x_T)
    same(seen.fed[::2], np.asarray(path.log_snr(steps.t)) - 2 * shift, 1e-9)


def test_gaussian_levels_are_the_fit_to_what_the_sampler_does():
    path, grid, spectrum = EDM(), Karras(6, sigma_min=0.05, sigma_max=5.0, to_data=False), bands()
    _, s, V, phi = numbers(path, grid.steps(path))
    found = gaussian_levels(spectrum, path, DDIM(), grid, limit=1.0)
    same([found.gain[0], found.shift[0]], [1.0, 0.0], near=1e-12)
    g2, n2, _ = signal_and_noise(np.cos(phi[0] - phi[1]) ** 2 * V[1], S**2, s[1] ** 2, np.ones(4))
    same([found.gain[1], found.shift[1]], [np.sqrt(g2), 0.5 * np.log(n2 / g2)], 1e-10)
    same(signal_and_noise(0.9 * S**2 + 1.2 * 0.3, S**2, 0.3, np.ones(4))[:2], (0.9, 1.2), 1e-10)
    assert (gaussian_levels(spectrum, path, DDIM(), grid, limit=1e-3).flag[1:] == "limited").any()
    with pytest.raises(ConfigError, match="cannot tell signal from noise"):
        gaussian_levels(Spectrum.white(0.5, (4,)), path, DDIM(), grid)


def test_effective_levels_keep_their_guards():
    path, grid = EDM(), UniformTime(4)
    t = np.asarray(grid.steps(path).t)
    draws = np.zeros((4, 41))
    draws[:, 1:] = np.tile([-0.01, 0.01], 20)
    draws += np.array([0.1, 0.015, -0.5, 0.3])[:, None]
    delta = curve(draws, flag=np.array(["ok", "ok", "ok", "signal deficit"], dtype=object))
    gain = curve(np.concatenate([np.full((4, 1), 1.1), 1.1 + draws[:, 1:] * 0.1], axis=1))
    found = effective_levels(delta, t, path, grid, gain)
    assert found.flag.tolist() == ["ok", "not significant", "limited", "signal deficit"]
    same(found.shift, [-0.05, 0.0, 0.1, 0.0])
    same(found.gain, [1.1, 1.0, 1.1, 1.0])
    assert found.around(DDIM()).shift is found.shift


def test_noise_level_correction_steps_every_sample_from_its_own_level():
    path = EDM()
    steps = Karras(1, sigma_min=0.5, sigma_max=2.0, to_data=False).steps(path)
    x_T = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    r = np.array([0.05, -0.02, 0.5])
    probe = lambda x, t: jnp.asarray(r)  # noqa: E731
    run = sample(exact(path), NoiseLevelCorrection(Euler(Kappa()), probe), steps, x_T=x_T, recorder=StateRecorder(3))
    a, b = (np.asarray(path.sigma(v)) for v in (steps.t[0], steps.s[0]))
    k = (a * np.exp(np.clip(r, -0.1, 0.1)))[:, None]
    x = np.asarray(x_T)
    D = S**2 / (S**2 + k**2) * x
    same(run.x, D + b * (x - D) / k, 1e-10)
    same(run.record.x_t[0, 0], x_T)
    same(run.record.t[0, 0], steps.t[0])
    none = sample(exact(path), NoiseLevelCorrection(DDPM(), lambda x, t: jnp.zeros(len(x))), Karras(5), (3, 4), jax.random.key(1)).x
    same(none, sample(exact(path), DDPM(), Karras(5), (3, 4), jax.random.key(1)).x)


def test_a_recorder_of_bands_sees_one_time_for_all():
    path, spectrum = LinearFlow(), bands()
    recorder = BandRecorder.of(spectrum, jax.random.key(0), 20)
    shifted = TimeShift(DDPM(), 0.02, 0.8, "released", s2=float(np.mean(S**2)))
    for sampler in (NoiseLevelCorrection(EulerMaruyama(), lambda x, t: 0.01 * x[:, 0]), shifted):
        run = sample(exact(path), sampler, UniformTime(5), (8, 4), jax.random.key(1), recorder=recorder)
        record = recorder.collect(run.record)
        same(record.t, np.linspace(1.0, 0.2, 5))
        assert np.isfinite(run.x).all() and (record.invalid == 0).all()


class FailedProbe:
    def __call__(self, x, t):
        return jnp.zeros(len(x))

    def check(self):
        raise ConfigError("probe: bias 0.3 at log-SNR 2 is refused; allowed: a probe that passes its calibration")


def test_time_shift_corrected_takes_the_state_for_what_it_is():
    """x of mean square exactly V(tau): the next step starts at tau, and one outside the window at its end."""
    path, s2 = EDM(), 0.25
    shift = TimeShift(DDIM(), 0.02, 0.1, s2=s2)
    for tau, expected in ((0.503, 0.503), (0.498, 0.498), (0.6, 0.51), (0.4, 0.49), (0.5, 0.5)):
        x = np.sqrt(s2 + float(path.sigma(jnp.asarray(tau))) ** 2) * np.array([[1.0, -1.0, 1.0, -1.0]])
        found = shift.match(path, jnp.asarray(x), jnp.asarray(0.5), jnp.asarray(0.49), jnp.asarray(0.51))
        same(found, [expected], 1e-10)


def test_time_shift_as_published_and_as_released_in_numpy():
    path, window, cutoff = VP(), 0.2, 0.3
    t = np.linspace(1.0, 0.0, 6)
    x_T = np.random.default_rng(1).normal(size=(2, 4))
    a, s = (lambda u: np.asarray(path.alpha(jnp.asarray(u))), lambda u: np.asarray(path.sigma(jnp.asarray(u))))

    def nearest(x, low, high):
        v = np.var(x, ddof=1)
        return np.clip(float(path.time_of(jnp.asarray(np.log(1 - v) - np.log(v)))) if v < 1 else 1.0, low, high)

    def ddim(x, at, to):
        V = a(at) ** 2 * S**2 + s(at) ** 2
        return (a(to) * a(at) * S**2 + s(to) * s(at)) / V * x

    for form in ("paper", "released"):
        expected = []
        for x in x_T:
            at = t[0]
            for k in range(5):
                if form == "released":
                    to = nearest(x, max(t[k + 1] - window / 2, 0), min(t[k + 1] + window / 2, t[k])) if t[k] > cutoff else t[k + 1]
                    x = ddim(x, t[k], to)
                else:
                    x = ddim(x, at, t[k + 1])
                    after = t[min(k + 2, 5)]
                    at = nearest(x, max(t[k + 1] - window / 2, after), min(t[k + 1] + window / 2, 1)) if t[k + 1] > cutoff else t[k + 1]
            expected.append(x)
        made = sample(exact(path), TimeShift(DDIM(), window, cutoff, form, anywhere=True), UniformTime(5), x_T=jnp.asarray(x_T)).x
        same(made, np.stack(expected), 1e-8)
        assert np.abs(np.asarray(sample(exact(path), DDIM(), UniformTime(5), x_T=jnp.asarray(x_T)).x) - made).max() > 1e-3


def test_time_shift_can_set_the_variance_in_place_of_the_time():
    path, rng = VP(), np.random.default_rng(2)
    steps = Karras(1, sigma_max=2.0, sigma_min=1.0, to_data=False).steps(path)
    x_T = jnp.asarray(rng.normal(size=(3, 4)))
    s = steps.s[0]
    a, sigma = (float(f(s)) for f in (path.alpha, path.sigma))
    plain = np.asarray(sample(exact(path), DDIM(), steps, x_T=x_T).x)
    made = np.asarray(sample(exact(path), TimeShift(DDIM(), 0.1, 0.0, "paper", normalise=True, anywhere=True), steps, x_T=x_T).x)
    same(np.var(made, axis=1, ddof=1), sigma**2)
    same(made.mean(axis=1), plain.mean(axis=1), 1e-11)
    made = np.asarray(sample(exact(path), TimeShift(DDIM(), 0.1, 0.0, s2=0.25, mean=0.5, normalise=True), steps, x_T=x_T).x)
    same(np.mean(np.square(made - 0.5 * a), axis=1), 0.25 * a**2 + sigma**2)


def test_noise_awareness_mixes_what_two_denoisers_say():
    path, x, t = LinearFlow(), jnp.ones((2, 4)), jnp.asarray(0.6)
    told, blind = exact(path), GaussianBands(path, np.zeros(4), 2 * S)
    p = NoiseAwareness(told, blind, 0.5)(x, t)
    same(p.eps, 1.5 * told(x, t).eps - 0.5 * blind(x, t).eps)
    same(p.velocity, 1.5 * told(x, t).velocity - 0.5 * blind(x, t).velocity)
    run = sample(NoiseAwareness(told, blind, 0.5, low=-1.0), DDIM(), UniformTime(3), (2, 4), jax.random.key(0))
    assert int(run.nfe) == 6
    same(NoiseAwareness(told, blind, 0.5, low=9.0)(x, t).x0, told(x, t).x0)
    plain = sample(NoiseAwareness(told, blind, 0.0), DDIM(), UniformTime(3), (2, 4), jax.random.key(0))
    assert int(plain.nfe) == 3


def test_spectral_clamp_gives_every_sample_the_reference_energy():
    path = LinearFlow()
    spectrum = Spectrum.power_law((8, 8, 1), s2=0.5)
    denoiser = GaussianBands(path, np.zeros((8, 8, 1)), 0.3 * np.ones((8, 8, 1)), DCT((1, 2)))
    x, t = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.asarray(0.4)
    p = SpectralClamp.of(denoiser, spectrum, least=6)(x, t)
    found = np.asarray(spectrum.energies(spectrum.basis.analyse(p.x0))) / spectrum.count
    wanted = spectrum.variance * np.cos(spectrum.phi(path, np.array([0.4]))[0]) ** 2
    large = spectrum.count >= 6
    assert large.any() and not large.all()
    same(found[:, large], np.broadcast_to(wanted[large], (3, large.sum())), 1e-10)
    plain = np.asarray(spectrum.energies(spectrum.basis.analyse(denoiser(x, t).x0))) / spectrum.count
    same(found[:, ~large], plain[:, ~large], 1e-9)
    same(0.6 * p.x0 + 0.4 * p.eps, x)
    same(SpectralClamp.of(denoiser, spectrum, strength=0.0, least=6)(x, t).x0, denoiser(x, t).x0, 1e-10)
    recorder = BandRecorder.of(spectrum, jax.random.key(0), 20)
    data = GaussianBands(path, np.zeros((8, 8, 1)), np.sqrt(spectrum.variance)[spectrum.band], DCT((1, 2))).sample(
        jax.random.key(2), jnp.arange(512)
    )
    times = np.array([0.7, 0.4, 0.1])
    record = recorder.collect(forward_run(spectrum.surrogate(path), np.asarray(data), times, recorder, jax.random.key(3)))
    measured = SpectralClamp.of(denoiser, spectrum, record, least=6)
    same(measured.wanted(t), record.means("x0")[1, 0] / spectrum.count, 1e-9)
    same(np.asarray(measured.wanted(t))[large], wanted[large], 0.2)


def test_a1_48_prior_and_the_signal_leak_start():
    mean = np.array([1.0, -0.5, 2.0, 0.3])
    spectrum = dataclasses.replace(bands(), mean=mean)
    path = VP()
    steps = UniformTime(6).steps(path)
    denoiser = spectrum.surrogate(path)
    a, _, V, phi = numbers(path, steps)
    r = np.prod(np.cos(np.diff(phi, axis=0)), axis=0)
    same(band_ratio(exact(path), DDIM(), steps, 1 / V[0]), r**2 / V[0])
    leaked = sample(denoiser, DDIM(), steps, x_T=jnp.zeros((1, 4))).x[0] - a[-1] * mean
    same(leaked, -a[0] * mean * np.sqrt(V[-1] / V[0]) * r)
    start = SignalLeakStart(spectrum)
    x_T = start.of_noise(path, steps.start, jnp.zeros((1, 4)))
    same(sample(denoiser, DDIM(), steps, x_T=x_T).x[0], a[-1] * mean)
    rows = np.asarray(start.of_noise(path, steps.start, jnp.eye(4))) - a[0] * mean
    same(np.square(rows).sum(axis=0), V[0])


def test_the_start_in_a_basis_has_the_covariance_of_the_data_and_the_noise_of_the_prior():
    Q = pca(np.random.default_rng(0).normal(size=(50, 4)) * S)
    spectrum = Spectrum(S**2, np.arange(4), np.zeros(4), Q)
    for path in (VP(), LinearFlow()):
        rows = np.asarray(SignalLeakStart(spectrum).of_noise(path, 1.0, jnp.eye(4)))
        a, s = (float(f(jnp.ones(()))) for f in (path.alpha, path.sigma))
        same(rows.T @ rows, a**2 * np.asarray(Q.Q) @ np.diag(S**2) @ np.asarray(Q.Q).T + s**2 * np.eye(4), near=1e-12)
    key, grid = jax.random.key(3), UniformTime(3)
    x_T = SignalLeakStart(spectrum).x_T(LinearFlow(), grid, key, 5)
    denoiser = exact(LinearFlow())
    same(sample(denoiser, DDIM(), grid, x_T=x_T, key=key).x, sample(denoiser, DDIM(), grid, (5, 4), key).x, 1e-11)


REFUSED = {
    "time shift on the other branch": (LinearFlow(), TimeShift(DDIM(), 0.05, 0.1, s2=1.0), r"TimeShift.cutoff.*>= 0.52"),
    "time shift of unit variance": (VP(), TimeShift(DDIM(), s2=1.0), r"TimeShift.s2.*unidentifiable"),
    "time shift, released, on the other branch": (
        LinearFlow(), TimeShift(DDIM(), 0.05, 0.1, "released", s2=1.0), r"TimeShift.cutoff.*>= 0.52.*two times, or anywhere=True",
    ),
    "time shift, paper, of unit variance": (VP(), TimeShift(DDIM(), form="paper", s2=1.0), r"TimeShift.s2.*unident.*anywhere=True"),
    "time shift, paper, of falling variance": (VP(), TimeShift(DDIM(), form="paper", s2=2.6), r"TimeShift.form: 'paper'.*falls with"),
    "time shift of two calls": (EDM(), TimeShift(Heun()), r"TimeShift.sampler: 'Heun'.*1 call"),
    "unknown time shift": (EDM(), TimeShift(DDIM(), form="papers"), r"did you mean 'paper'"),
    "level of a multistep": (EDM(), Recondition(DPMSolverPP2M()), r"Recondition.sampler: 'DPMSolverPP2M'.*one-step"),
    "shifts of another grid": (EDM(), Recondition(DDIM(), shift=np.zeros(3)), r"Recondition.shift"),
    "no probe": (EDM(), NoiseLevelCorrection(DDIM(), 3.0), r"NoiseLevelCorrection.probe"),
    "failed probe": (EDM(), NoiseLevelCorrection(DDIM(), FailedProbe()), r"probe: bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    path, sampler, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        sample(exact(path), sampler, Karras(4), (2, 4), jax.random.key(0))


def test_denoisers_refused_by_name():
    path = EDM()
    for denoiser, words in (
        (Relabel(exact(path), 2.0), "Relabel.shift"),
        (SpectralClamp.of(exact(path), bands()), "SpectralClamp.least"),
        (NoiseAwareness(exact(path), exact(path), -1.0), "NoiseAwareness.scale"),
    ):
        with pytest.raises(ConfigError, match=words):
            sample(denoiser, DDIM(), Karras(4), (2, 4), jax.random.key(0))
    with pytest.raises(ConfigError, match="SignalLeakStart.spectrum"):
        SignalLeakStart(bands()).of_noise(path, 1.0, jnp.zeros((1, 3)))
