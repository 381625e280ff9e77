"""Noise level correction by a trained probe: nearer the true level where one was injected, nothing on forward samples, refused if wrong."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import times
from scipy.interpolate import CubicSpline

from experiments.probe import probe_of
from score_lab.ablation.correcting import assembled, correction_section
from score_lab.ablation.study import Study
from score_lab.analytic import GaussianMixture
from score_lab.build import ConfigError
from score_lab.mismatch.corrections import CATALOGUE, LevelResidual, NoiseLevelCorrection, Setting
from score_lab.mismatch.estimators.probe_training import train_probe
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import EDM, VP
from score_lab.samplers import DDIM, Karras

D = 64
SPECTRUM = Spectrum(np.array([2.0, 0.5, 0.03]), np.repeat(np.arange(3), [16, 16, 32]), np.zeros(D))
MEANS = np.random.default_rng(5311).choice([-1.0, 0.0, 1.0], (3, D)).astype(np.float32)
MIXTURE = GaussianMixture(EDM(), np.array([1.0, 1.0, 2.0], np.float32), MEANS, np.full(3, 0.05, np.float32))
LAWS = {"bands": SPECTRUM.surrogate(EDM()), "mixture": MIXTURE}
TRAINING = {"low": -3.0, "high": 4.0, "steps": 400, "batch": 128, "points": 15, "replicates": 100}
KAPPA = (0.8, 0.4)
"""Levels told."""
N, HELD = 40_000, 4000
"""States of a test, and examples that calibrate the probe: two fifths of its data."""
READ = jax.jit(lambda residual, x, t: residual(x, t))


def draws(law, n, seed):
    return np.asarray(law.sample(jax.random.key(seed), jnp.arange(n)))


@pytest.fixture(scope="module", params=[pytest.param("bands", marks=pytest.mark.slow), "mixture"])
def trained(request):
    law = LAWS[request.param]
    return law, train_probe(draws(law, HELD * 5 // 2, 5312), jax.random.key(5313), **TRAINING)


def states(law, kappa, seed, excess=0.0):
    """N states of VP told kappa, whose x / alpha has noise of kappa exp(excess), one number or (N,)."""
    rng = np.random.default_rng(seed)
    x = draws(law, N, 5400 + seed) + (kappa * np.exp(excess) * np.ones(N))[:, None] * rng.standard_normal((N, D))
    t = jnp.asarray(times(VP(), [kappa])[0], jnp.float32)
    return jnp.asarray(float(VP().alpha(t)) * x, jnp.float32), t


def calibration_errors(probe, level, moved):
    """Of the calibration at ``level``, by its own bootstrap: ``E m`` (R + 1,) of the mean reading of states whose log-SNR is ``level`` -
    ``moved``, with the slope told; and the relative standard error of that slope."""
    spline = CubicSpline(probe.levels, probe.curves)
    here, slope = spline(level), spline(level, 1)  # (R + 1, M)
    read = -0.5 * ((spline(level - moved) - here) / slope[:1]).mean(axis=1)
    return read, float((slope[1:] / slope[:1]).mean(axis=1).std())


@pytest.mark.slow
def test_the_label_comes_as_near_to_the_true_level_as_the_prior_and_the_probe_allow(trained):
    """Let the true ln kappa be the label's plus delta, delta of mean 0 and variance p^2 (``prior``), and the probe read m = delta + e, e of
    mean 0 and variance s^2, independent of delta.  With w = p^2 / (p^2 + s^2) and r = w m,

        E (a r - delta)^2 = (1 - a w)^2 p^2 + a^2 w^2 s^2 = p^2 (1 - 2 a w + a^2 w),      since w^2 s^2 = w (1 - w) p^2

    a = 1: (1 - w) p^2 = 1 / (1 / p^2 + 1 / s^2), the posterior variance where both are normal, and the least of any multiple of m;
    a = 1/2: (1 - 3 w / 4) p^2; a = 2: p^2, nothing is won.  The law of delta enters by its variance alone, so half +p and half -p give the
    same; of one sign, E r = w E m.  s is measured here, of readings without prior of forward states; the residual's ``sd`` has to be it.

    Allowance: 4 standard errors.  Of N differences (a r - delta)^2 - delta^2; of ln s here, of N readings, and of ln sd in the probe, of
    HELD, each sqrt(3 / (4 n)) at a kurtosis of at most 4: they move the derived number by 2 a w (1 - w) |2 - a| p^2 and the error found by
    4 a w (1 - w) |1 - a| p^2; and of the slope of the calibration, of which E m / delta is one to its relative error, which moves
    the error found by 2 a w |1 - a w| p^2.  E m of one sign is as curved as the calibration is; its error is that of the replicates."""
    law, probe = trained
    assert probe.passed.all()
    residual = LevelResidual.of(probe, VP())
    p, raw = residual.prior, dataclasses.replace(residual, prior=1e4)
    of_s, of_sd = np.sqrt(3 / (4 * N)), np.sqrt(3 / (4 * HELD))
    for k, kappa in enumerate(KAPPA):
        level = -2 * np.log(kappa)
        none = np.asarray(READ(raw, *states(law, kappa, k)), np.float64)
        s = none.std()
        assert abs(none.mean()) < 4 * s * np.sqrt(1 / N + 1 / HELD)
        assert abs(np.log(float(np.interp(level, residual.levels, residual.sd)) / s)) < 4 * np.hypot(of_s, of_sd)
        w, slope_error = p**2 / (p**2 + s**2), calibration_errors(probe, level, 0.0)[1]

        def near(found, true, a, w=w, slope_error=slope_error):
            won, derived = (a * found - true) ** 2 - true**2, p**2 * w * (a**2 - 2 * a)
            moved = [a * abs(2 - a) * (1 - w) * of_s, 2 * a * abs(1 - a) * (1 - w) * of_sd, a * abs(1 - a * w) * slope_error]
            allowed = 4 * np.hypot(won.std() / np.sqrt(N), 2 * w * p**2 * np.linalg.norm(moved))
            assert abs(won.mean() - derived) < allowed < 0.5 * w * p**2, f"{a}: {won.mean():.3g}, {derived:.3g} +- {allowed:.2g}"

        true = p * np.random.default_rng(5320 + k).standard_normal(N)
        found = np.asarray(READ(residual, *states(law, kappa, 20 + k, true)), np.float64)
        for a in (0.5, 1.0, 2.0):
            near(found, true, a)
        true = np.where(np.arange(N) < N // 2, p, -p)
        apart = states(law, kappa, 10 + k, true)
        near(np.asarray(READ(residual, *apart), np.float64), true, 1.0)
        seen = np.asarray(READ(raw, *apart), np.float64)
        for sign in (1, -1):
            mine, (read, _) = seen[true * sign > 0], calibration_errors(probe, level, 2 * sign * p)
            allowed = 4 * np.sqrt(mine.var() / len(mine) + read[1:].var() + s**2 / HELD)
            assert abs(mine.mean() - read[0]) < allowed < 0.5 * p and 0.5 < sign * mine.mean() / p < 1.5


def test_nothing_is_read_beyond_the_probes_levels_and_less_where_it_tells_less(trained):
    law, probe = trained
    residual = LevelResidual.of(probe, VP())
    x, t = states(law, 0.4, 3)
    for beyond in (*times(VP(), [np.exp(2.0), np.exp(-3.0)]), 0.0):  # log-SNR -4, 6 and infinite
        assert not np.asarray(READ(residual, x, jnp.asarray(beyond, jnp.float32))).any()
    blunt, sharp = (np.asarray(READ(r, x, t)) for r in (dataclasses.replace(residual, sd=4 * residual.sd), residual))
    assert np.abs(blunt).max() < 0.3 * np.abs(sharp).max()
    apart = 2 * residual.slope * jnp.array([[3.0, 0.0, -3.0]])  # members that read 3, 0 and -3 more: their mean is the same
    split = np.asarray(READ(dataclasses.replace(residual, mean=residual.mean + apart), x, t))
    assert np.abs(split).max() < 0.05 * np.abs(sharp).max() and np.corrcoef(split, sharp)[0, 1] > 0.9


def test_a_probe_that_fails_its_calibration_makes_no_correction(trained):
    """Refused by name with the level and the error; so is one of which nobody knows how well it was calibrated, or that tells no level."""
    law, probe = trained
    to = Setting(law, DDIM(), Karras(3, sigma_max=20.0), SPECTRUM)
    make = CATALOGUE["noise level correction"].make
    assert isinstance(make(dataclasses.replace(to, probe=probe)).sampler, NoiseLevelCorrection)
    failed = dataclasses.replace(probe, passed=np.arange(5) != 2, error=np.full(5, 0.25))
    for wrong, says in (
        (failed, r"^probe: 'off by \+0.25 nats at log-SNR 0.5' is refused"),
        (dataclasses.replace(probe, covariance=None), "LevelResidual.probe.covariance"),
        (dataclasses.replace(probe, curves=0 * probe.curves), "no level that its calibration tells"),
        (None, "Setting.probe"),
    ):
        with pytest.raises(ConfigError, match=says) as error:
            make(dataclasses.replace(to, probe=wrong))
        assert "\n" not in str(error.value)


def test_it_is_trained_once_and_says_what_it_costs(trained, tmp_path, capfd, monkeypatch):
    """Of a model: trained when the correction is first asked for, kept under a hash of data and options, read from there bit by bit; one
    that failed is refused whenever it is read."""
    (law, probe), trainings = trained, []
    monkeypatch.setattr("experiments.probe.train_probe", lambda x0, key, **options: trainings.append(options) or probe)
    x0 = draws(law, 600, 0)
    made, again = (probe_of(x0, tmp_path, TRAINING) for _ in range(2))
    (file,) = (tmp_path / "probe").iterdir()
    assert capfd.readouterr().err == f"training a noise-level probe of 3 networks on 600 examples, 400 steps: {file}\n"
    assert trainings == [{"members": 3, **TRAINING}] and again.probe.digest == probe.digest and again.note == made.note
    assert "no evaluation of the network" in made.note and "5 of 5 levels" in made.note and made.micros > 0
    probe_of(x0, tmp_path, TRAINING | {"steps": 21})
    probe_of(x0[1:], tmp_path, TRAINING)
    assert len(trainings) == 3
    file.write_bytes(file.read_bytes()[:1000])
    assert probe_of(x0, tmp_path, TRAINING).probe.digest == probe.digest and len(trainings) == 4
    for passed in (True, False):
        asked = dataclasses.replace(probe, passed=np.full(5, passed))
        model = SimpleNamespace(
            name="two", denoiser=law, shape=(D,), made={}, said={}, spectrum=SPECTRUM, forward_data=None, cond=lambda n: None, blind=None,
            probe=lambda probe=asked: dataclasses.replace(made, probe=probe),
            assemble=lambda section, denoiser: (denoiser, DDIM(), Karras(3, sigma_max=20.0)),
        )  # fmt: skip
        section = {"correction": correction_section("noise level correction", "gaussian", (0,), 50)}
        if passed:
            parts = assembled(model, section)
            assert parts.digest == asked.digest and "noise level correction" in model.said
        else:
            with pytest.raises(ConfigError, match="^probe: 'off by"):
                assembled(model, section)


def test_options_of_the_probe_that_do_not_exist_are_refused():
    study = {"models": {"a": {"workdir": "x"}}, "solvers": ("DDIM",), "corrections": ("DCW",)}
    Study(**study, probe={"steps": 100}).check()
    with pytest.raises(ConfigError, match="probe.*'step'.*steps"):
        Study(**study, probe={"step": 100}).check()
