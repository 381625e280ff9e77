"""Power-function averages: the published widths, the weights of the recursion, and averages of any length put together afterwards."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from score_lab.build import ConfigError
from score_lab.training import Unreadable, load, train
from score_lab.training.prepare import prepare
from score_lab.training.profiles import RESIDUAL, WIDEST, coefficients, exponent, rate, residual_of, snapshots_needed, width
from score_lab.training.snapshots import Snapshots, post_hoc
from score_lab.training.state import abstract_state
from score_lab.training.step import averages


def weights(gamma, t, n):
    """Of theta(1) ... theta(n) in the average at ``t``: the integral of the profile over each step."""
    k = np.arange(1, n + 1)
    return np.where(k <= t, (np.minimum(k, t) ** (gamma + 1.0) - (np.minimum(k, t) - 1.0) ** (gamma + 1.0)) / float(t) ** (gamma + 1), 0.0)


def test_published_widths():
    """EDM2, section 3.1: sigma_rel = 0.05 and 0.10 are gamma = 16.97 and 6.94; sigma_rel is the standard deviation of p over t."""
    assert round(exponent(0.05), 2) == 16.97 and round(exponent(0.10), 2) == 6.94
    for sigma_rel in (0.01, 0.1, 0.25, WIDEST):
        gamma = exponent(sigma_rel)
        np.testing.assert_allclose(width(gamma), sigma_rel, rtol=1e-12)
        first, second = (integrate.quad(lambda u, m=m, g=gamma: (g + 1) * u**g * u**m, 0, 1)[0] for m in (1, 2))
        np.testing.assert_allclose(np.sqrt(second - first**2), sigma_rel, rtol=1e-7)


def test_the_recursion_weighs_every_step_with_the_integral_of_its_profile(x64):
    """In closed form, from whatever parameters it starts; and in float32 at the millionth step, where 1 - beta is 2e-5."""
    trajectory = np.random.default_rng(1).normal(size=(60, 3))
    gammas = tuple(map(exponent, (0.05, 0.2)))
    ema = tuple({"p": jnp.full(3, 9.0)} for _ in gammas)
    for k, p in enumerate(trajectory):
        ema = averages(ema, {"p": jnp.asarray(p)}, jnp.asarray(k), (), True, gammas)
    for average, gamma in zip(ema, gammas, strict=True):
        np.testing.assert_allclose(average["p"], weights(gamma, 60, 60) @ trajectory, rtol=1e-12)
    with jax.enable_x64(False):
        np.testing.assert_allclose(rate(gammas[0], jnp.float32(1e6)), -np.expm1((gammas[0] + 1) * np.log1p(-1e-6)), rtol=1e-6)


@pytest.mark.parametrize("every", [20, 50])
def test_the_least_squares_is_that_of_the_profiles(every):
    """Inner products against quadrature; a tracked profile is itself; one between leaves what it says, and less with more snapshots."""
    n, gammas = 1200, [exponent(w) for w in (0.05, 0.10)]
    stored = [(g, t) for t in range(every, n + 1, every) for g in gammas]
    c, residual = coefficients(stored, gammas[1], n)
    np.testing.assert_allclose(c, np.eye(len(stored))[-1], atol=1e-7)
    assert residual < 1e-6
    for sigma_rel in (0.06, 0.075, 0.09):
        q = exponent(sigma_rel)
        c, residual = coefficients(stored, q, n)
        tau = (np.arange(40 * n) + 0.5) / 40
        made = sum(a * np.where(tau <= t, (g + 1) * (tau / t) ** g / t, 0.0) for a, (g, t) in zip(c, stored, strict=True))
        aim = (q + 1) * (tau / n) ** q / n
        np.testing.assert_allclose(residual, np.linalg.norm(made - aim) / np.linalg.norm(aim), rtol=2e-2)
        assert residual <= (1e-3 if every == 20 else 1e-2)


@pytest.mark.parametrize(("widths", "needed"), [((0.05, 0.10), 32), ((0.05, 0.07, 0.10), 6), ((0.10,), 1), ((0.05, 0.20), 49)])
def test_so_many_snapshots_leave_a_thousandth(widths, needed):
    """And one less leaves more; how long the run is does not matter."""
    assert snapshots_needed(widths) == needed
    for length in (100, 30_000):
        left = [residual_of(widths, [length * k for k in range(1, count + 1)]) for count in (needed, max(needed - 1, 1))]
        assert left[0] <= RESIDUAL and (needed == 1 or left[1] > RESIDUAL)


@pytest.mark.parametrize(
    ("changes", "several", "every"),
    [({"steps": 3200}, 10, 100), ({"steps": 1234}, 10, 30), ({"steps": 320}, 10, 10), ({"steps": 64}, 2, 2), ({"steps": 20}, 1, 1),
     ({"steps": 64, "steps_per_dispatch": 10}, 10, 10), ({"steps": 3200, "snapshot_every": 0}, 10, 0),
     ({"steps": 3200, "snapshot_every": 25}, 5, 25), ({"steps": 3200, "profiles": ()}, 10, 0)],
)  # fmt: skip
def test_by_default_there_are_as_many_as_are_needed(config, changes, several, every):
    """In whole dispatches; only a run of too few steps has shorter ones, unless they are asked for."""
    plan = prepare(config(**{f"training__{name}": value for name, value in ({"profiles": (0.05, 0.10)} | changes).items()}), None)
    assert (plan.several, plan.snapshot_every) == (several, every)
    if every and not {"snapshot_every", "steps_per_dispatch"} & set(changes) and changes["steps"] >= 64:
        assert residual_of((0.05, 0.10), [step for step in range(1, changes["steps"] + 1) if plan.snapshots(step)]) <= RESIDUAL


@pytest.mark.slow
def test_widths_too_far_apart_for_any_number_of_snapshots_are_refused(config, tmp_path):
    """Asked for as "auto" alone; a number of steps, or a width between, is taken."""
    far = {"training__steps": 50_000, "training__profiles": (0.002, 0.2)}
    said = r"^config.training.snapshot_every: 'auto' is refused; allowed: a number of steps, or a third width between in .*512 [^\n]*$"
    with pytest.raises(ConfigError, match=said):
        prepare(config(**far), None)
    assert residual_of((0.002, 0.2), [10 * k for k in range(1, 513)]) > RESIDUAL
    assert prepare(config(**far | {"training__snapshot_every": 10}), None).snapshot_every == 10
    assert prepare(config(**far | {"training__profiles": (0.002, 0.02, 0.2)}), None).snapshot_every > 10


@pytest.mark.parametrize("every", [0, 1, 7, 10, 20, 30])
def test_as_many_snapshots_are_announced_as_are_due(config, every):
    """From the beginning and from any step."""
    plan = prepare(config(training__profiles=(0.05, 0.1), training__snapshot_every=every), None)
    for step in range(20):
        assert plan.snapshots_after(step) == sum(plan.snapshots(k) for k in range(step + 1, 21))


def flat(params):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(params)])


STEPS = 64


@pytest.fixture(scope="module")
def recorded(config, tmp_path_factory):
    """A workdir of two profiles and the snapshots of the default, and the parameters after every step, in float64."""
    home, trajectory = tmp_path_factory.mktemp("recorded"), []
    options = {"steps": STEPS, "ema": (0.0,), "profiles": (0.05, 0.10), "log_every": STEPS, "eval_every": 0, "checkpoint_every": 0}
    options |= {"devices": 1, "accumulate": 1}
    record = (1, lambda denoiser, step: trajectory.append(flat(denoiser.params)))
    train(config(**{f"training__{name}": value for name, value in options.items()}), home, [record])
    return home, np.stack(trajectory)


def test_averages_of_a_run_against_those_of_its_parameters(recorded, capsys):
    """In float64 from the parameters of every step: tracked widths to 1e-5, also put together from the snapshots; a width between with at
    most what the residual of its profile allows, by Cauchy and Schwarz, which is a thousandth; it is said wherever it is loaded.
    """
    home, trajectory = recorded
    assert sorted(int(entry.name) for entry in (home / "snapshots").iterdir()) == list(range(2, STEPS + 1, 2))
    direct = {w: weights(exponent(w), STEPS, STEPS) @ trajectory for w in (0.05, 0.07, 0.10)}

    def far(a, b):
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    tracked = load(home, ema=0.10)
    assert tracked.residual is None and tracked.ema == 0.10 and capsys.readouterr().err == ""
    assert far(flat(tracked.denoiser.params), direct[0.10]) < 1e-5
    found = post_hoc(home, (0.05, 0.10), abstract_state(tracked.parts).ema[1:], 0.05, STEPS)
    assert far(flat(found.params["network"]), direct[0.05]) < 1e-5 and found.residual < 1e-6 and found.snapshots == 32
    between = load(home, ema=0.07)
    said = f"ema 0.07: put together from the snapshots up to step {STEPS}, residual of its profile {between.residual:.1e}\n"
    assert 1e-4 < between.residual <= RESIDUAL and capsys.readouterr().err == said == f"{between.note}\n" and between.step == STEPS
    assert tracked.note is None
    gamma, made = exponent(0.07), flat(between.denoiser.params)
    size = (gamma + 1) / np.sqrt((2 * gamma + 1) * STEPS)  # of the profile
    allowed = between.residual * size * np.linalg.norm(trajectory, axis=0)
    assert np.all(np.abs(made - direct[0.07]) <= allowed + 1e-5 * np.abs(direct[0.07]) + 1e-7)
    assert 20 * far(made, direct[0.07]) < min(far(direct[w], direct[0.07]) for w in (0.05, 0.10))  # it is none of the others


def test_too_few_snapshots_are_told(recorded):
    """From what lies up to an earlier step."""
    home, _ = recorded
    like = abstract_state(load(home).parts).ema[1:]
    few = post_hoc(home, (0.05, 0.10), like, 0.07, 8)
    assert few.snapshots == 4 and few.residual > 1e-2
    told = f"residual of its profile {few.residual:.1e}, above 0.001: of 4 snapshots; more of them (config.training.snapshot_every), or "
    assert few.line(0.07).endswith(told + "a width between, leave less")


@pytest.mark.parametrize(
    ("ema", "message"),
    [
        (0.12, r"ema: 0.12 is refused; allowed: a position below 3, one of the decays \(0.0,\), a width from 0.05 to 0.1"),
        (0.02, "ema: 0.02 is refused"),
    ],
)
def test_a_length_outside_what_was_tracked_is_refused(recorded, ema, message):
    with pytest.raises(ConfigError, match=message):
        load(recorded[0], ema=ema)


STORED = {"training__steps": 60, "training__ema": (0.9,), "training__snapshot_every": 10, "training__profiles": (0.05, 0.08, 0.10)}


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The workdir of sixty steps with three profiles."""
    home = tmp_path_factory.mktemp("profiles")
    train(config(**STORED), home)
    return home


@pytest.mark.slow
def test_snapshots_after_a_kill_are_those_of_the_run_that_was_not(run, config, tmp_path):
    """What was stored beyond the checkpoint is made again: the same averages of every length."""

    def kill(denoiser, step):
        if step == 50:
            raise KeyboardInterrupt

    options = STORED | {"training__checkpoint_every": 30}
    with pytest.raises(KeyboardInterrupt):
        train(config(**options), tmp_path, [(10, kill)])
    assert max(int(entry.name) for entry in (tmp_path / "snapshots").iterdir()) >= 40
    train(config(**options), tmp_path)
    assert sorted(int(e.name) for e in (tmp_path / "snapshots").iterdir()) == [10, 20, 30, 40, 50, 60]
    for ema in (0.065, 0.09):
        a, b = (jax.tree.leaves(load(home, ema=ema).denoiser.params) for home in (run, tmp_path))
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def stored_by(config, home):
    """A run of ten steps that stores two profiles twice."""
    short = STORED | {"training__steps": 10, "training__snapshot_every": 5, "training__profiles": (0.05, 0.10), "optimizer__warmup": 1}
    train(config(**short, training__eval_every=0, training__checkpoint_every=0), home)
    return home


def test_a_snapshot_that_was_damaged_enters_no_average(config, tmp_path, monkeypatch, capsys):
    """One bit anywhere, a file that is missing, and one that cannot be read for a while: one line that names it; a tracked width loads."""
    home = stored_by(config, tmp_path / "run")
    size = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(load(home).params)) / 2**20
    assert capsys.readouterr().out.count(f"{home}: 2 snapshots of {size:.3f} MiB will be written, one every 5 steps\n") == 1
    seals = [json.loads((home / "snapshot_seals" / f"{step}.json").read_text()) for step in (5, 10)]
    assert all(seals) and load(home, ema=0.07).residual > 0
    (file,) = (home / "snapshots" / "5" / "state" / "d").iterdir()  # the index of the whole array store: nothing is read without it
    name, before = re.escape(str(file.relative_to(home / "snapshots" / "5"))), file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    said = rf"^ema: 0.07 is refused; allowed: .*snapshots/5 is damaged \({name} is not what was written\)$"
    with pytest.raises(ConfigError, match=said):
        load(home, ema=0.07)
    file.unlink()
    with pytest.raises(ConfigError, match=rf"snapshots/5 is damaged \({name} is missing\)$"):
        load(home, ema=0.07)
    assert load(home, ema=0.05).residual is None
    (home / "snapshot_seals" / "5.json").unlink()  # of a run before there were seals
    with pytest.raises(Unreadable, match=r"snapshots/5: this snapshot could not be read \(") as caught:
        load(home, ema=0.07)
    assert "\n" not in str(caught.value)
    file.write_bytes(before)
    assert load(home, ema=0.07).step == 10
    with Snapshots(home, write=True) as stored:  # what a run does that goes on from step 5
        stored.drop_after(5)
        assert stored.steps == [5]
    assert not (home / "snapshots" / "10").exists() and not (home / "snapshot_seals" / "10.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__profiles": (0.3,)}, r"profiles: \(0.3,\) is refused; allowed: widths above 0 and at most 0.2887"),
        ({"training__profiles": (0.9,)}, "profiles"),
        ({"training__profiles": (0.1, 0.05, 0.1)}, r"profiles: \(0.1, 0.05, 0.1\) is refused; allowed: .*each once"),
        ({"training__snapshot_every": 10}, "snapshot_every: 10 is refused; allowed: 0 or 'auto' where there are no profiles"),
        ({"training__snapshot_every": "atuo", "training__profiles": (0.1,)}, "snapshot_every: 'atuo' is refused.*did you mean 'auto'"),
        ({"training__snapshot_every": -1, "training__profiles": (0.1,)}, "snapshot_every: -1 is refused"),
    ],
)
def test_bad_profiles_are_refused(config, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
