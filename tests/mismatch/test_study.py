"""A study of the mismatch: what is recorded and kept, what is measured beside its null, and what the sentences say of it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from score_lab.analytic import GaussianMixture
from score_lab.build import ConfigError
from score_lab.mismatch import BandRecord, Spectrum
from score_lab.mismatch.bands import BANDED, PLOTTED
from score_lab.mismatch.estimators import TotalVariance
from score_lab.mismatch.estimators.probe_training import train_probe
from score_lab.mismatch.measures import band_kl
from score_lab.mismatch.on_curve import divergence, share
from score_lab.mismatch.study import Examples, Recording, Records, Subject, estimator_of, measured, named, read_outs_of, spectrum_of
from score_lab.mismatch.study.conclusions import cannot, compared
from score_lab.mismatch.study.measuring import window_labels
from score_lab.mismatch.study.recording import even
from score_lab.mismatch.study.words import bands_of, disagreements, findings, looked, ratio_words, sign_of, variance_verdict
from score_lab.paths import EDM, VP
from score_lab.report.mismatch.page import calls_of, table_of
from score_lab.samplers import Euler, Kappa, Karras, sample
from score_lab.types import pytree_dataclass

PATH, N = EDM(20.0), 1600
TABLE = (0.856, 2.124)
"""R and E eps^2 over that of forward states, Euler of 11 steps at the node nearest sigma = 0.15: an independent program's, see
test_estimators_mixture.py."""


@pytree_dataclass
class Spoils(Euler):
    """NaN in what starts far to the right."""

    def step(self, denoise, x, t, s, draw, carry):
        x_s, carry, p = super().step(denoise, x, t, s, draw, carry)
        return jax.numpy.where((x > 30.0) & (t == 1.0), jax.numpy.nan, x_s), carry, p


def bimodal():
    """+-1, standard deviation 0.1."""
    return GaussianMixture(PATH, *(np.array(v, np.float32) for v in ([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01])))


@functools.cache
def data():
    rng = np.random.default_rng(0)
    return (rng.choice([-1.0, 1.0], (4000, 1)) + 0.1 * rng.standard_normal((4000, 1))).astype(np.float32)


def subject(sampler=None, key="a"):
    steps = Karras(11, sigma_min=0.02, sigma_max=20.0).steps(PATH)
    sampler, exact = Euler(Kappa()) if sampler is None else sampler, bimodal()
    name, axes = f"Euler, 11 NFE, {key}", {"solver": "Euler"}
    return Subject(name, axes, exact, exact, sampler, steps, (1,), Examples(data()), (key,), "exact", lambda n: None)


def recording(folder, *estimators, n=N, chunk=N, seeds=(0,)):
    estimators = tuple(estimator_of(e if isinstance(e, dict) else {"target": e}) for e in estimators)
    return Recording(spectrum_of(data(), "identity", folder / "s.npz"), n, seeds, estimators, Records(folder), chunk, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def found(folder):
    """Bimodal data, an exact denoiser, 11 Euler steps: where estimators disagree in sign."""
    mine = recording(folder, "TotalVariance", {"target": "DenoiserResidual", "points": 7, "n": 4000}, "MixtureLikelihood")
    return mine, measured(mine, subject(), ("P1", "P4"))


def test_the_ratios_are_those_of_an_independent_program(found):
    _, m = found
    k = int(np.argmin(np.abs(m.log_snr + 2 * np.log(0.15))))
    assert m.total.run.low[k] < np.log(TABLE[0]) < m.total.run.high[k] < 0
    assert 0 < m.gap.low[k] < np.log(TABLE[1]) < m.gap.high[k]
    assert m.total.excess.high[k] < 0 and m.total.null.low[k] < 0 < m.total.null.high[k]
    one, square, image = m.read_outs
    assert [r.name for r in m.read_outs] == ["P1", "P4", "P4"] and one.excess.low[k] > 0 and square.excess.low[k] > 0
    np.testing.assert_allclose(square.value.value, m.record.means("eps_square")[:, 0])
    np.testing.assert_allclose(image.paper, np.square(data()).mean(), rtol=1e-3)


def test_a7_disagreement_in_sign_is_said_in_a_sentence(found):
    _, m = found
    lines = findings(m)
    (line,) = [x for x in lines if x.startswith("Estimators disagree in sign")]
    less, more = line.split("less noise than told by ")[1].split("; more noise than told by ")
    assert "total variance (R = 0." in less and "likelihood" not in less and "norm" not in less
    assert "maximum likelihood (density)" in more and "denoiser residual" in more and "norm of the predicted noise" in more
    assert "not those of any one noise level" in line
    assert lines[0].endswith("variance is lost.") and "the last call (log-SNR 7.82)" in lines[0]
    assert any("Lose variance" in x for x in compared([m])) and any("Estimators disagree in sign" in x for x in compared([m]))
    assert compared([m])[0].startswith("Estimators disagree in sign")  # what the report says first
    (silent,) = [x for x in lines if x.startswith("No level by total variance")]
    assert "trajectories would tell" in silent and "no number of them would tell 1" in silent
    (curve,) = [x for x in lines if x.startswith("Curve:")]
    assert "re-timing" in curve or "nothing to share out" in curve
    assert any(x.startswith("Precision: 1600 trajectories tell R") for x in lines)


def test_more_variance_than_any_level_has_is_neither_more_nor_less_noise(found):
    """R of 6000: total variance tells no level, so it is no witness in a disagreement, whichever way the variance goes there."""
    _, m = found
    assert disagreements(m) and "total variance" in disagreements(m)[0]
    estimate = m.effective["total variance"]
    flag = np.full(len(m.log_snr), "beyond the path", object)
    delta = dataclasses.replace(estimate.delta, flag=flag)
    beyond = dataclasses.replace(m, effective={**m.effective, "total variance": dataclasses.replace(estimate, delta=delta)})
    assert not any("total variance" in line for line in disagreements(beyond))


def test_a_level_is_real_where_the_run_is_not_what_forward_samples_read(found):
    """Both, and the difference, stand in calls.csv and in the table; an estimator's bias, which the null has too, is no finding."""
    _, m = found
    calls, table = list(calls_of(m)), table_of([m])
    for name in m.effective:
        pair = m.level(name)
        rows = [r for r in calls if r["quantity"] == f"delta log-SNR, {name}"]
        for column, c in (("value", pair.run.value), ("null", pair.null.value), ("excess", pair.excess.value)):
            np.testing.assert_array_equal([r[column] for r in rows], c)
        both = (pair.run.flag == "ok") & (pair.null.flag == "ok")
        np.testing.assert_allclose(pair.excess.value[both], (pair.run.value - pair.null.value)[both])
        assert both.sum() > 2 and (pair.excess.flag[~both] != "ok").all() and not set(sign_of(pair.excess)[~both]) & {-1, 1}
        (row,) = table.rows
        run, null, excess = (row.measures[f"{name}{end}"] for end in ("", ", null", ", excess"))
        assert excess.value == pytest.approx(run.value - null.value) and excess.low < excess.value < excess.high
        assert abs(excess.value) == pytest.approx(np.nanmax(np.abs(pair.excess.value)))
    assert {"KL nominal", "KL off the curve"} <= {r["quantity"] for r in calls if np.isfinite(r.get("excess", np.nan))}
    biased = dataclasses.replace(m, effective_null=m.effective)
    density = "maximum likelihood (density)"
    assert (sign_of(m.effective[density].delta) != 0).any() and not sign_of(biased.level(density).excess).any()
    (line,) = [x for x in findings(biased) if x.startswith(f"Level by {density}")]
    assert "none of them with an interval that excludes what forward samples read" in line
    assert density not in "".join(disagreements(biased))


def test_what_cannot_be_concluded_depends_on_what_was_trained(found):
    _, m = found
    assert any("It says nothing of the method" in line for line in cannot([m], 1))
    assert not any("It says nothing of the method" in line for line in cannot([m], 0) + cannot([m], 3))
    assert any("One seed of noise" in line for line in cannot([m], 1))


@pytest.mark.slow
def test_a_probe_is_trained_once_for_a_folder_and_its_sums_are_kept_under_what_was_trained(tmp_path, monkeypatch):
    """Another process, as a resumed run is, reads the probe that is kept, bit by bit, on whatever system; where it is trained again and
    comes out otherwise, the sums of the one before are not found."""
    probe = {"target": "Probe", "members": 2, "steps": 3, "batch": 32, "points": 7, "low": -3.0, "high": 3.0}
    trainings, keys = [], []

    def training(x0, key, **fields):
        trainings.append(x0.shape)
        return train_probe(x0, jax.random.fold_in(key, len(trainings)), **fields)

    monkeypatch.setattr(named, "train_probe", training)
    times, x = np.asarray(subject().steps.t[:3]), jax.numpy.asarray(data()[:5])
    for where, system in (("a", "one"), ("a", "two"), ("b", "one")):
        mine = recording(tmp_path / where, probe)  # its own Records, as of a new process
        other = dataclasses.replace(subject(), system=system)
        (ready,) = mine._prepared(other, times, True)
        keys.append((mine._what("run", 0, (ready,))["sums"], ready.arrays() | {"says": ready.outputs(x, x[:, 0], PATH)}))
        assert ready.tol == 0.1 and ready.digest in keys[-1][0][0]
    assert trainings == [(4000, 1)] * 2  # one for each folder
    assert keys[0][0] == keys[1][0] != keys[2][0]
    for name, value in keys[0][1].items():
        np.testing.assert_array_equal(value, keys[1][1][name])


def test_what_was_told_and_steins_identity_are_among_the_calls(found):
    """Of forward samples and an exact denoiser E <eps, x - alpha mu> is d sigma, for two modes too; the states of Euler, of less variance
    and more noise than told, have more at the call of the table; what was told is the nominal level where nothing corrects it."""
    _, m = found
    k = int(np.argmin(np.abs(m.log_snr + 2 * np.log(0.15))))
    kept = {}
    for row in calls_of(m):
        kept.setdefault(row["quantity"], []).append(row)
    told, cosine, stein = (kept[n] for n in ("log-SNR told", "cosine of eps and state", "eps times state, over d sigma"))
    np.testing.assert_allclose([r["value"] for r in told], m.log_snr, rtol=1e-5)
    assert all(-1 <= r["null"] <= 1 and r["low"] <= r["value"] <= r["high"] for r in cosine)
    null = m.stein.null
    assert (np.abs(null.value - 1) < 4 * null.se).all() and (null.se < 0.3).all() and null.flag.tolist() == ["ok"] * 11
    np.testing.assert_allclose([r["value"] for r in stein], m.stein.run.value)
    sums = m.record.banded["cross"].sum(axis=2)[k, 0] / m.record.n
    assert stein[k]["value"] == pytest.approx(sums / np.exp(-0.5 * m.log_snr[k]), rel=1e-5)  # EDM: sigma is kappa, d = 1


def test_everything_is_kept_and_a_null_is_shared(found):
    """A second reading makes nothing; another run of the same levels adds one record, its own."""
    first, m = found
    again = dataclasses.replace(first, records=Records(first.records.folder))
    n = measured(again, subject(), ("P1", "P4"))
    assert again.records.made == 0 < first.records.made
    np.testing.assert_array_equal(n.total.run.draws, m.total.run.draws)
    other = measured(again, subject(key="b"))
    assert again.records.made == 1
    np.testing.assert_array_equal(other.record.banded["state"], m.record.banded["state"])
    np.testing.assert_array_equal(other.recorded.null.banded["state"], m.recorded.null.banded["state"])


def test_a_record_that_is_cut_off_is_made_again(tmp_path):
    records, made = Records(tmp_path), []
    what = {"a": 1}

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(records.kept(what, make)["x"], np.arange(3))
    (file,) = (tmp_path / "records").iterdir()
    file.write_bytes(file.read_bytes()[:40])
    np.testing.assert_array_equal(Records(tmp_path).kept(what, make)["x"], np.arange(3))
    assert len(made) == 2


def test_chunks_and_seeds_add_up(tmp_path):
    """Chunks of one run, or of its seeds, are sums of the same trajectories: the record of chunks is that of one piece."""
    whole, parts = (recording(tmp_path / name, n=80, chunk=c, seeds=(0, 1)) for name, c in (("whole", 80), ("parts", 40)))
    a, b = (measured(r, dataclasses.replace(subject(), keys=("a", "b"))) for r in (whole, parts))
    assert a.record.n == b.record.n == 160 and list(a.seeds) == [0, 1]
    for name in ("state", "eps"):
        np.testing.assert_allclose(a.record.banded[name], b.record.banded[name], rtol=2e-4)
        np.testing.assert_allclose(a.recorded.null.banded[name], b.recorded.null.banded[name], rtol=2e-4)
    assert not np.allclose(a.seeds[0], a.seeds[1])
    mean = np.log(np.mean([np.exp(v) for v in a.seeds.values()], axis=0))
    np.testing.assert_allclose(a.total.run.value, mean, rtol=1e-5)
    lines = findings(a)
    assert any(line.startswith("Seeds of noise") and "the 2 seeds" in line for line in lines)
    assert even(2048, 128) == 128 and even(1000, 128) == 125 and even(97, 40) == 40 and even(60, 128) == 60


def test_trajectories_that_are_not_finite_are_named(tmp_path):
    mine = recording(tmp_path, "TotalVariance", n=80, chunk=40)
    m = measured(mine, subject(Spoils(Kappa())))
    drawn = sample(bimodal(), Spoils(Kappa()), subject().steps, (80, 1), jax.random.key(0))
    bad = np.flatnonzero(~np.isfinite(np.asarray(drawn.x)[:, 0]))
    assert 0 < len(bad) < 20 and m.recorded.invalid == tuple((0, int(i)) for i in bad)
    assert m.total.run.flag[0] == "ok" and (m.total.run.flag[1:] == "not finite").all() and np.isnan(m.total.run.value[1:]).all()
    lines = findings(m)
    assert lines[0].startswith(f"Euler, 11 NFE, a: {len(bad)} of 80 trajectories are not finite (index {bad[0]}, ")
    assert "not averaged away: 10 of 11 calls have no number" in lines[0]
    assert any("Cannot be read" in line for line in compared([m]))


@pytest.mark.parametrize(("change", "says"), [({"n": 31}, "n: 31.*at least 32"), ({"replicates": 19}, "replicates: 19.*at least 20")])
def test_too_few_are_refused(change, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(recording(tmp_path), **change).check()


def test_a_spectrum_of_other_data_is_refused(tmp_path):
    x = np.random.default_rng(0).standard_normal((100, 4, 4, 1)).astype(np.float32)
    file = tmp_path / "spectrum_dct.npz"
    first = spectrum_of(x, "dct", file, "as they are")
    again = spectrum_of(x, "dct", file, "as they are")
    np.testing.assert_array_equal(first.variance, again.variance)
    assert first.digest == again.digest
    for other, what in ((x + 1e-3, "as they are"), (x, "mean removed")):
        with pytest.raises(ConfigError, match=r"spectrum_dct.npz.*one of these data and this preprocessing"):
            spectrum_of(other, "dct", file, what)
    file.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="delete it"):
        spectrum_of(x, "dct", file, "as they are")


def banded(spectrum, path, t, v, n=500):
    """A record whose states have variances ``v`` (K, B), Gaussian, with replicates of as many trajectories."""
    rng, shape = np.random.default_rng(0), np.shape(v)
    freedom = n * spectrum.count
    draws = rng.chisquare(freedom, (41, *shape)) / freedom
    draws[0] = 1.0
    state = np.moveaxis(draws * v * spectrum.count, 0, 1) * n
    sums = {name: state if name == "state" else np.zeros_like(state) for name in BANDED}
    plotted = {name: np.full((shape[0], 41), float(n)) for name in PLOTTED}
    with jax.enable_x64(True):
        level = np.asarray(path.log_snr(jax.numpy.asarray(t)))
    zeros = np.zeros(shape[0], int)
    return BandRecord(t, level, np.full(41, float(n)), sums, plotted, np.zeros((shape[0], *spectrum.band.shape)), zeros, zeros - 1)


def test_the_share_on_the_curve_in_closed_form():
    """States of another level are on the curve; states with the signal lost and the noise right are not; forward samples have neither."""
    path, t = VP(), np.array([0.3, 0.4])
    spectrum = Spectrum(np.array([4.0, 0.25, 0.01]), np.repeat([0, 1, 2], [4, 10, 20]), np.zeros(34))
    V, other = spectrum.V(path, t), spectrum.V(path, np.array([0.36, 0.47]))
    alpha = np.sqrt((V[:, :1] - V[:, 1:2]) / 3.75)
    broken = V - alpha**2 * spectrum.variance * np.array([0.0, 0.9, 0.0])
    null = divergence(banded(spectrum, path, t, V), spectrum, path)
    for v, least, most in ((other, 0.97, 1.0), (broken, 0.0, 0.9)):
        d = divergence(banded(spectrum, path, t, v), spectrum, path)
        np.testing.assert_allclose(d.nominal.value, band_kl(v, V, spectrum.count), rtol=1e-9)
        assert (d.off.value <= d.nominal.value).all()
        found = share(d, null)
        assert least <= found.value <= most and found.low <= found.value <= found.high, found
    np.testing.assert_allclose(divergence(banded(spectrum, path, t, other), spectrum, path).off.value, 0.0, atol=1e-5)
    nothing = share(null, null)
    assert np.isnan(nothing.value) and "nothing to share out" in nothing.words


def test_where_no_number_of_trajectories_helps_it_is_said():
    """VP with unit variance: total variance is 1 at every level."""
    path, t = VP(), np.array([0.3, 0.6])
    spectrum = Spectrum.white(1.0, (6,))
    found = TotalVariance().read(banded(spectrum, path, t, np.ones((2, 1))), spectrum, path)
    assert (found.flag == "unidentifiable").all() and np.isinf(found.needed).all()
    lines = Spectrum.white(4.0, (6,))
    found = TotalVariance().read(banded(lines, path, t, lines.V(path, t), n=40), lines, path)
    few = found.flag == "unidentifiable"
    assert few.any() and np.isfinite(found.needed[few]).all() and (found.needed[few] > 40).all()
    more = TotalVariance().read(banded(lines, path, t, lines.V(path, t), n=4 * int(found.needed[few].max())), lines, path)
    assert (more.flag == "ok").all() and np.isnan(more.needed).all()


def test_words():
    assert [ratio_words(v) for v in (0.8384, 1.0, 6128.183, 3.2e7)] == ["0.838", "1.000", "6130", "3.2e+07"]
    assert bands_of([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7, 8"
    for ratio, ends, words in ((0.9, (0.88, 0.92), "is lost"), (1.1, (1.05, 1.15), "too much"), (1.0, (0.9, 1.1), "cannot be told")):
        assert words in variance_verdict("DDIM", 3.0, ratio, *ends, 1.0)
    assert "(log-SNR" not in variance_verdict("DDIM", np.inf, 1.0, 0.9, 1.1, 1.0)


def test_a_sliding_window_has_a_label_among_the_levels():
    for levels, labels in (([-5, 0, 5], [-2, 2]), ([-1, 1, 3], [2]), ([4, 5, 7], [5]), ([-np.inf, 6], [6]), ([-np.inf], [])):
        assert window_labels(np.array(levels, float)) == labels


def test_the_short_look_speaks_the_same_words():
    from score_lab.mismatch import DataMoments, NormRecord, first_look

    rng, path, t = np.random.default_rng(0), VP(), np.array([0.9, 0.4, 0.1])
    x = 0.5 * rng.standard_normal((400, 30))
    moments = DataMoments.of(x)
    with jax.enable_x64(True):
        V = moments.variance(*(np.asarray(f(jax.numpy.asarray(t))) for f in (path.alpha, path.sigma)))
    square = V[:, None] * rng.chisquare(30, (3, 300)) * np.array([[1.0], [0.95], [0.8]])
    record = NormRecord(t=t, square=square, fed=0 * square, made=np.ones(3, bool), d=30)
    said = looked("DDIM, 3 NFE", first_look(record, path, moments, x))
    assert said.startswith("DDIM, 3 NFE: at the last call (log-SNR") and "variance is lost." in said and "0.8" in said
    square[2, 7] = np.nan
    said = looked("DDIM", first_look(dataclasses.replace(record, square=square), path, moments, x))
    assert "nan" not in said.split("R is furthest")[-1]
    blind = first_look(dataclasses.replace(record, square=square * np.array([[1.0], [1e3], [1.0]])), path, moments, x)
    count = int((blind.sampler.flag != "ok").sum())
    assert f" At {count} of 3 calls R cannot be turned into an effective log-SNR" in looked("DDIM", blind) and 1 <= count <= 3
    blind.sampler.flag[:] = "ok"
    assert looked("DDIM", blind).endswith("].")


def test_names_that_are_not_there_are_refused():
    for name, says in (("P9", "P1, P3"), ("P2", "pair a run with data")):
        with pytest.raises(ConfigError, match=says):
            read_outs_of((name,), ())
    with pytest.raises(ConfigError, match="--estimators ..., Probe"):
        read_outs_of(("P7",), ())
    with pytest.raises(ConfigError, match="did you mean 'TotalVariance'"):
        estimator_of({"target": "TotalVarianc"})
    with pytest.raises(ConfigError, match="an odd number >= 7"):
        estimator_of({"target": "DenoiserResidual", "points": 8})
