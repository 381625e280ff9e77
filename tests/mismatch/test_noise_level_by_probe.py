"""Noise level correction by a trained probe: nearer the true level where one was injected, nothing on forward samples, refused if wrong."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.estimating import times

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

D = 32
SPECTRUM = Spectrum(np.array([4.0, 0.01]), np.repeat(np.arange(2), D // 2), np.zeros(D))
MEANS = np.stack([np.ones(D), -np.ones(D)]).astype(np.float32)
LAWS = {"bands": SPECTRUM.surrogate(EDM()), "mixture": GaussianMixture(EDM(), np.ones(2, np.float32), MEANS, np.full(2, 0.02, np.float32))}
TRAINING = {"low": -3.0, "high": 4.0, "steps": 400, "batch": 128, "points": 15, "replicates": 60}
KAPPA, EXCESS = (0.8, 0.4), 0.16
"""Levels told, and ln kappa by which the contaminated states are noisier."""
N = 4000
READ = jax.jit(lambda residual, x, t: residual(x, t))


def draws(law, n, seed):
    return np.asarray(law.sample(jax.random.key(seed), jnp.arange(n)))


@pytest.fixture(scope="module", params=[pytest.param("bands", marks=pytest.mark.slow), "mixture"])
def trained(request):
    law = LAWS[request.param]
    return law, train_probe(draws(law, 5000, 0), jax.random.key(1), **TRAINING)


def states(law, kappa, seed, excess=0.0):
    """N states of VP told kappa, whose x / alpha has noise of kappa exp(excess), one number or (N,)."""
    rng = np.random.default_rng(seed)
    x = draws(law, N, 100 + seed) + (kappa * np.exp(excess) * np.ones(N))[:, None] * rng.standard_normal((N, D))
    t = jnp.asarray(times(VP(), [kappa])[0], jnp.float32)
    return jnp.asarray(float(VP().alpha(t)) * x, jnp.float32), t


def test_an_injected_contamination_is_taken_back_and_forward_samples_are_left(trained):
    """Of ln kappa, over states: forward samples are moved by 0 in the mean, within its standard error; contaminated ones towards their
    level, so that the error of the label falls; and where deviations are as the prior says, half or twice the weight does worse."""
    law, probe = trained
    assert probe.held == 2000 and probe.passed.all()
    residual = LevelResidual.of(probe, VP())
    for k, kappa in enumerate(KAPPA):
        none = np.asarray(READ(residual, *states(law, kappa, k)))
        assert abs(none.mean()) < 4 * none.std() * np.sqrt(1 / N + 1 / probe.held)
        found = np.asarray(READ(residual, *states(law, kappa, 10 + k, EXCESS)))
        assert np.sqrt(np.mean((found - EXCESS) ** 2)) < 0.95 * EXCESS and none.mean() < found.mean() < EXCESS
        true = residual.prior * np.random.default_rng(k).standard_normal(N)
        found = np.asarray(READ(residual, *states(law, kappa, 20 + k, true)))
        errors = [np.mean((scale * found - true) ** 2) for scale in (0.0, 0.5, 1.0, 2.0)]
        assert errors[2] == min(errors) < 0.95 * errors[0]


def test_nothing_is_read_beyond_the_probes_levels_and_less_where_it_tells_less(trained):
    law, probe = trained
    residual = LevelResidual.of(probe, VP())
    for kappa in (np.exp(2.0), np.exp(-3.0)):  # log-SNR -4 and 6
        assert not np.asarray(READ(residual, *states(law, kappa, 3))).any()
    assert not np.asarray(READ(residual, states(law, 1.0, 3)[0], jnp.asarray(0.0, jnp.float32))).any()  # infinite log-SNR
    blunt, sharp = (np.asarray(READ(r, *states(law, 0.4, 4))) for r in (dataclasses.replace(residual, sd=4 * residual.sd), residual))
    assert np.abs(blunt).max() < 0.3 * np.abs(sharp).max()


def test_a_probe_that_fails_its_calibration_makes_no_correction(trained):
    """Refused by name with the level and the error; so is one of which nobody knows how well it was calibrated, or that tells no level."""
    law, probe = trained
    to = Setting(law, DDIM(), Karras(3, sigma_max=20.0), SPECTRUM)
    make = CATALOGUE["noise level correction"].make
    assert isinstance(make(dataclasses.replace(to, probe=probe)).sampler, NoiseLevelCorrection)
    failed = dataclasses.replace(probe, passed=np.arange(5) != 2, error=np.full(5, 0.25))
    for wrong, says in (
        (failed, r"^probe: 'off by \+0.25 nats at log-SNR 0.5' is refused"),
        (dataclasses.replace(probe, held=0), "LevelResidual.probe.held"),
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
