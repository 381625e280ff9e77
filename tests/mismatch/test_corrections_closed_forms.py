"""One-step effects of the corrections on Gaussian bands, and the constants that make R = 1, through ``sample``, float64, 1e-12.

    epsilon scaling  r = cos d + (1 - 1/lambda) sin d tan phi,    lambda* = 1 / (1 - tan(d / 2) cot phi)
    DCW              r = cos d + l sin phi sin phi',              l* = (1 - cos d) / (sin phi sin phi')
    DCW, literal     r = cos d + l (cos d - cos phi s / sqrt(V'))
    optimal noise    nv* = beta_tilde + (alpha' beta / sigma^2)^2 MMSE
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.impulse_bands import S, band_ratio, bands, exact, numbers, same

from score_lab.analytic import GaussianBands
from score_lab.build import ConfigError
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.corrections import (
    DCW,
    Constants,
    EpsilonScaling,
    FreshNoise,
    SignalGain,
    SignalLeakStart,
    StateGain,
    WaveletDCW,
    calibrate,
    corrected,
    linear_scales,
    measured_ratios,
)
from score_lab.mismatch.corrections.measured import rows_at
from score_lab.mismatch.oracle import variance_ratios
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DDPM,
    Churn,
    DPMSolverMultistep,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    Langevin,
    T,
    Tsit5,
    UniformTime,
    UniPC,
    sample,
)

pytestmark = pytest.mark.usefixtures("x64")
PATHS = {"EDM": EDM(), "VP": VP(), "LinearFlow": LinearFlow()}


def angles(path, steps):
    phi = numbers(path, steps)[3]
    return phi[:-1] - phi[1:], phi[:-1], phi[1:]


@pytest.mark.parametrize("name", PATHS)
def test_epsilon_scaling_of_one_number_and_of_a_schedule(name):
    path = PATHS[name]
    steps = Karras(7).steps(path)
    d, p, _ = angles(path, steps)
    for scale in (1.005, 0.99, linear_scales(7, 1.002, 0.0025)):
        r = np.cos(d) + (1 - 1 / np.broadcast_to(scale, (7,)))[:, None] * np.sin(d) * np.tan(p)
        same(band_ratio(EpsilonScaling(exact(path), scale), DDIM(), steps, 1.3), 1.3 * np.prod(r, axis=0) ** 2)
    assert linear_scales(3, 1.0, 0.1).tolist() == [1.2, 1.1, 1.0]  # the respaced timestep counts down


def test_epsilon_scaling_is_edms_form_at_both_calls_of_heun():
    """D <- x - (x - D) / lambda in numpy, Euler and correction."""
    path, steps, scale = EDM(), Karras(5).steps(EDM()), 1.02
    s = numbers(path, steps)[1]
    x = np.sqrt(S**2 + s[0] ** 2)
    for a, b in zip(s[:-1], s[1:], strict=True):
        slope = lambda x, k: (x - (x - (x - S**2 / (S**2 + k**2) * x) / scale)) / k  # noqa: E731
        end = x + (b - a) * slope(x, a)
        x = end if b == 0 else x + 0.5 * (b - a) * (slope(x, a) + slope(end, b))
    same(band_ratio(EpsilonScaling(exact(path), scale), Heun(Kappa()), steps), (x / S) ** 2)


def test_epsilon_scaling_on_the_flow_is_not_v_over_lambda():
    path, x, t, scale = LinearFlow(), jnp.ones((1, 4)), jnp.asarray(0.7), 1.05
    v = exact(path)(x, t).velocity
    p = EpsilonScaling(exact(path), scale)(x, t)
    same(p.velocity, v / scale - x * (1 - 1 / scale) / (1 - t))
    same(p.x0 * 0.3 + p.eps * 0.7, x)


@pytest.mark.parametrize("name", PATHS)
def test_a5_calibrated_epsilon_scaling_is_lambda_star_and_R_is_1(name):
    path = PATHS[name]
    grid = Karras(6) if name == "EDM" else UniformTime(6)  # from pure noise on the flow
    steps = grid.steps(path)
    a, s, _, _ = numbers(path, steps)
    d, p, _ = angles(path, steps)
    found = calibrate(EpsilonScaling, bands(), path, DDIM(), grid)
    finite = a[:-1] > 0
    star = 1 / (1 - np.tan(d / 2) / np.tan(p))
    kappa = (s[:-1] / np.where(finite, a[:-1], 1.0))[:, None]
    same(found.values[finite], (kappa * (1 - 1 / star))[finite], near=2e-12)
    same(found.values[~finite], (S * np.tan(d / 2))[~finite], near=2e-12)
    assert (found.flag == "ok").all()
    same(band_ratio(EpsilonScaling(exact(path), constants=found.constants(bands())), DDIM(), steps), 1.0)


CASES = {
    "Euler in t, EpsilonScaling": (LinearFlow(), Euler(T()), UniformTime(5), EpsilonScaling, 0),
    "Euler in t, SignalGain": (LinearFlow(), Euler(T()), Karras(5), SignalGain, 0),
    "ancestral, EpsilonScaling": (VP(), DDPM(), Karras(5), EpsilonScaling, 1),
    "ancestral, FreshNoise": (VP(), DDPM(), Karras(5, to_data=False, sigma_min=0.01), FreshNoise, 1),
    "DDIM(0.5), DCW": (LinearFlow(), DDIM(0.5), Karras(5, to_data=False, sigma_min=0.05), DCW, 1),
    "Euler-Maruyama, StateGain": (VP(), EulerMaruyama(), UniformTime(20), StateGain, 1),
    "Euler-Maruyama, DCW": (EDM(), EulerMaruyama(increment="exact"), Karras(6, to_data=False, sigma_min=0.05), DCW, 1),
    "Heun, SignalGain": (EDM(), Heun(), Karras(6), SignalGain, 0),
    "2M, EpsilonScaling": (VP(), DPMSolverPP2M(), UniformTime(6), EpsilonScaling, 0),
    "2M, DCW": (EDM(), DPMSolverPP2M(), Karras(6, to_data=False, sigma_min=0.05), DCW, 0),
    "2M SDE, SignalGain": (EDM(), DPMSolverMultistep(2, eta=1.0), Karras(6), SignalGain, 1),
    "churn, EpsilonScaling": (EDM(), DDIM(), Churn(Karras(6, to_data=False, sigma_min=0.05), s_churn=2.0, s_tmax=60.0), EpsilonScaling, 1),
}


FAST = ("Euler in t, EpsilonScaling", "ancestral, FreshNoise", "2M, DCW")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_a5_calibrated_by_band_R_is_1_at_the_end_of_any_sampler(name):
    """A5.  Under ``sample``, whose loop, hoisting and draws are its own, the constants of ``calibrate`` give R = 1 in every band."""
    path, sampler, grid, kind, draws = CASES[name]
    steps = grid.steps(path)
    made = corrected(kind, exact(path), sampler, grid, spectrum=bands())
    plain = band_ratio(exact(path), sampler, steps, draws=draws)
    assert (np.abs(plain - 1) > 1e-3).any()
    same(band_ratio(made.denoiser, made.sampler, steps, draws=draws), 1.0)
    same(np.exp(made.calibration.log_ratio), 1.0)


def test_one_constant_for_all_bands_is_stationary_in_the_divergence():
    """Of one step from the exact law: d/dc sum_b (q_b - 1 - ln q_b) = 0 by central differences, and a number moves away from it."""
    path = LinearFlow()
    steps = Karras(2, sigma_max=5.0, sigma_min=0.5, to_data=False).steps(path)
    found = calibrate(EpsilonScaling, bands(), path, DDIM(), steps, per_band=False)
    assert found.values.shape == (len(steps.t),)

    def divergence(c):
        one = jax.tree.map(lambda v: v[:1] if np.ndim(v) else v, steps)
        q = band_ratio(EpsilonScaling(exact(path), constants=Constants(np.array([c]))), DDIM(), one)
        return float(np.sum(q - 1 - np.log(q)))

    c, h = float(found.values[0]), 1e-4
    assert abs(divergence(c + h) - divergence(c - h)) / (2 * h) < 1e-6
    assert divergence(c) < min(divergence(c + 0.05), divergence(c - 0.05))


@pytest.mark.parametrize("name", PATHS)
def test_a5_dcw_covariant_and_literal(name):
    path = PATHS[name]
    steps = Karras(6, to_data=False, sigma_min=0.05).steps(path)
    _, _, V, _ = numbers(path, steps)
    d, p, q = angles(path, steps)
    for number in (0.01, -0.02):
        r = np.cos(d) + number * np.sin(p) * np.sin(q)
        same(band_ratio(exact(path), DCW(DDIM(), number), steps), np.prod(r, axis=0) ** 2)
        r = np.cos(d) + number * (np.cos(d) - np.cos(p) * S / np.sqrt(V[1:]))
        same(band_ratio(exact(path), DCW(DDIM(), number, form="literal", anywhere=True), steps), np.prod(r, axis=0) ** 2)
    found = calibrate(DCW, bands(), path, DDIM(), steps)
    same(found.values, (1 - np.cos(d)) / (np.sin(p) * np.sin(q)), 1e-9)
    same(band_ratio(exact(path), DCW(DDIM(), constants=found.constants(bands())), steps), 1.0)


def test_dcw_in_pixels_is_epsilon_scaling_on_ve():
    path, number = VE(), 0.01
    steps = Karras(6, sigma_min=0.05, sigma_max=40.0, to_data=False).steps(path)
    s = numbers(path, steps)[1]
    scale = 1 / (1 - number * s[1:] / (s[:-1] - s[1:]))
    x_T = jax.random.normal(jax.random.key(0), (3, 4)) * s[0]
    one = sample(exact(path), DCW(Euler(Kappa()), number, form="literal"), steps, x_T=x_T).x
    two = sample(EpsilonScaling(exact(path), scale), Euler(Kappa()), steps, x_T=x_T).x
    same(one, two, 1e-11)


def test_wavelet_dcw_moves_its_subband_by_its_schedule():
    """One step against 2 x 2 block sums in numpy: LL by low sigma_t / sigma_max, the rest by high (1 - sigma_t / sigma_max)."""
    path = EDM()
    denoiser = GaussianBands(path, np.zeros((4, 4, 1)), 0.5 * np.ones((4, 4, 1)))
    steps = Karras(3, sigma_min=1.0, sigma_max=4.0, to_data=False).steps(path)
    x_T = 4.0 * jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    s = np.asarray(path.sigma(jnp.append(steps.t, steps.s[-1])))

    def run(low, high, schedule):
        x = np.asarray(x_T)
        for a, b in zip(s[:-1], s[1:], strict=True):
            D = x * 0.25 / (0.25 + a**2)
            x = D + b * (x - D) / a
            gap = x - D
            mean = gap.reshape(2, 2, 2, 2, 2, 1).mean(axis=(2, 4), keepdims=True)
            coarse = np.broadcast_to(mean, (2, 2, 2, 2, 2, 1)).reshape(2, 4, 4, 1)
            weights = {"code": (low * a / s[0], high * (1 - a / s[0])), "paper": (low * a, (1 - high) * a), "constant": (low, high)}
            u, w = weights[schedule]
            x = x + u * coarse + w * (gap - coarse)
        return x

    for schedule in ("code", "paper", "constant"):
        made = sample(denoiser, WaveletDCW(Euler(Kappa()), 0.05, 0.02, schedule), steps, x_T=x_T).x
        same(made, run(0.05, 0.02, schedule), 1e-11)


def test_fresh_noise_of_ddpm_is_the_optimal_variance():
    path, grid = VP(), Karras(5, to_data=False, sigma_min=0.01)
    a, s, V, _ = numbers(path, grid.steps(path))
    found = calibrate(FreshNoise, bands(), path, DDPM(), grid)
    beta = s[:-1] ** 2 - (a[:-1] / a[1:]) ** 2 * s[1:] ** 2
    tilde = (s[1:] / s[:-1]) ** 2 * beta
    best = tilde[:, None] + ((a[1:] * beta / s[:-1] ** 2) ** 2)[:, None] * S**2 * (s[:-1] ** 2)[:, None] / V[:-1]
    same((1 + found.values) ** 2 * tilde[:, None], best, 1e-9)


def test_measured_on_what_gaussian_bands_do_is_the_gaussian_calibration():
    for path, sampler, grid in ((EDM(), DDIM(), Karras(5)), (VP(), DDPM(), UniformTime(5))):
        ratios = variance_ratios(sampler, grid, path, bands())
        one = calibrate(SignalGain, bands(), path, sampler, grid)
        two = calibrate(SignalGain, bands(), path, sampler, grid, ratios=ratios)
        good = one.flag == "ok"
        assert good.mean() > 0.5
        same(two.values[good], one.values[good], 1e-8)


def test_measured_from_a_recorded_run():
    """A network whose x0 is 5 % too small: the constants of its own record undo it, those of the spectrum alone do not."""
    path, grid, spectrum = LinearFlow(), Karras(8), bands()
    poor = SignalGain.of(exact(path), 0.95)
    recorder = BandRecorder.of(spectrum, jax.random.key(5), 20)
    run = sample(poor, DDIM(), grid, (4000, 4), jax.random.key(6), recorder=recorder)
    last = np.log(np.square(np.asarray(run.x)).mean(0) / S**2)
    after = {}
    for how in ("gaussian", "measured"):
        made = corrected(
            SignalGain, poor, DDIM(), grid, calibrate=how, spectrum=spectrum, record=recorder.collect(run.record), last=last
        )
        after[how] = np.abs(np.log(band_ratio(made.denoiser, made.sampler, grid.steps(path)))).max()
    assert after["gaussian"] > 0.1
    assert after["measured"] < 0.1


def test_the_calls_that_start_the_steps_of_a_record():
    """Of Heun the second call of a step is at the next step's time: it is not that step's state.  Restart comes back to a time."""
    called = np.array([1.0, 0.5, 0.5, 0.2, 0.2, 0.1, 0.5, 0.2])
    assert rows_at(called, np.array([1.0, 0.5, 0.2, 0.1, 0.5, 0.2])).tolist() == [0, 2, 4, 5, 6, 7]
    with pytest.raises(ConfigError, match="no call at step 1, t = 0.4"):
        rows_at(called, np.array([1.0, 0.4]))


@pytest.mark.slow
def test_measured_from_heun_with_its_two_calls():
    """The record's ln R at the starts of the steps is the oracle's, to its Monte-Carlo error."""
    path, grid, spectrum = EDM(), Karras(5, sigma_max=10.0, sigma_min=0.1), bands()
    recorder = BandRecorder.of(spectrum, jax.random.key(5), 20)
    start = SignalLeakStart(spectrum).x_T(path, grid, jax.random.key(6), 20000)
    run = sample(exact(path), Heun(), grid, x_T=start, recorder=recorder)
    measured = measured_ratios(recorder.collect(run.record), spectrum, path, grid)
    truth = variance_ratios(Heun(), grid, path, spectrum)
    np.testing.assert_allclose(measured[:-1], truth[:-1], atol=5 * np.sqrt(2 / 20000))
    assert np.abs(truth[1:-1]).max() > 0.2 and np.isnan(measured[-1]).all()


def test_outside_limits_and_without_a_solution_are_flagged():
    path, grid = EDM(), Karras(6, to_data=False, sigma_min=0.05)
    found = calibrate(EpsilonScaling, bands(), path, EulerMaruyama(), grid)
    assert "no solution" in found.flag and (np.abs(found.log_ratio[found.flag == "no solution"]) > 0).all()
    assert (calibrate(DCW, bands(), path, DDIM(), Karras(6)).flag[-1] == "no effect").all()
    held = calibrate(DCW, bands(), path, DDIM(), grid, limit=0.01)
    assert "limited" in held.flag and np.abs(held.values).max() <= 0.01
    part = calibrate(DCW, bands(), path, DDIM(), grid, interval=(-2.0, 2.0))
    assert (part.values[part.flag == "outside"] == 0).all() and {"outside", "ok"} <= set(part.flag.ravel())
    ratios = variance_ratios(DDIM(), grid, path, bands())
    ratios[-1] = np.nan
    assert (calibrate(DCW, bands(), path, DDIM(), grid, ratios=ratios).flag[-1] == "not measured").all()


@pytest.mark.parametrize("per_band", [True, False])
def test_a_band_without_variance_is_left_alone(per_band):
    path, grid = LinearFlow(), Karras(3)
    spectrum = Spectrum(np.array([0.25, 0.0]), np.array([0, 0, 1, 1]), np.zeros(4))
    ratios = np.log(np.array([[1.0, 1.0], [0.9, 1.1], [0.8, 1.0], [0.7, np.nan]]))
    for given in (None, ratios):
        found = calibrate(SignalGain, spectrum, path, DDIM(), grid, per_band=per_band, ratios=given)
        assert np.isfinite(found.values).all() and np.isfinite(found.log_ratio).all()
        if per_band:
            assert found.flag[-1].tolist() == ["ok", "no effect" if given is None else "not measured"] and found.values[-1, 1] == 0


REFUSED = {
    "scale at pure noise": (lambda d: EpsilonScaling(d, 1.01), DDIM(), r"EpsilonScaling at log-SNR.*low"),
    "scales of another grid": (lambda d: EpsilonScaling(d, np.ones(3)), DDIM(), r"EpsilonScaling.constants.*as the grid has"),
    "literal DCW on a flow": (lambda d: d, DCW(DDIM(), 0.1, form="literal"), r"DCW.form.*changes sign"),
    "wavelet DCW on a flow": (lambda d: d, WaveletDCW(DDIM(), 0.1), r"WaveletDCW.form.*changes sign"),
    "unknown form": (lambda d: d, DCW(DDIM(), 0.1, form="leteral"), r"DCW.form.*did you mean 'literal'"),
    "states remembered": (lambda d: d, DCW(UniPC(2), 0.1), r"DCW.sampler: 'UniPC'.*remembers states"),
    "no noise to scale": (lambda d: d, FreshNoise.of(DDIM(), 1.01), r"FreshNoise.sampler: 'DDIM'.*draws nothing"),
    "chooses its levels": (lambda d: d, DCW(Tsit5(), 0.1), r"DCW.sampler|sampler"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    wrap, sampler, words = REFUSED[name]
    path = LinearFlow()
    with pytest.raises(ConfigError, match=words):
        sample(wrap(exact(path)), sampler, UniformTime(4), (2, 4), jax.random.key(0))


def test_calibrations_that_are_none_are_refused():
    path, grid = EDM(), Karras(4)
    for options, words in (
        ({"calibrate": "gausian", "spectrum": bands()}, "did you mean 'gaussian'"),
        ({"calibrate": "measured", "spectrum": bands()}, "record="),
        ({"calibrate": "gaussian"}, "spectrum="),
    ):
        with pytest.raises(ConfigError, match=words):
            corrected(EpsilonScaling, exact(path), DDIM(), grid, **options)
    for sampler in (Langevin(DDIM()), Tsit5()):
        with pytest.raises(ConfigError, match="affine in the denoiser"):
            calibrate(EpsilonScaling, bands(), path, sampler, grid)


def test_numbers_are_the_published_forms():
    path, grid = EDM(), Karras(4)
    made = corrected(EpsilonScaling, exact(path), DDIM(), grid, calibrate=1.01)
    assert made.calibration is None and made.denoiser.scale == 1.01
    assert corrected(DCW, exact(path), DDIM(), grid, calibrate=0.02, first=2).sampler.first == 2
