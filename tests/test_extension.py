"""From a folder outside the repository: an objective, a sampler and a path, one file each and one config, without a change here.

tests/extension/my_package is what a researcher would write.  The tests copy it elsewhere, prove each part against its definition, and
take it through the launchers: trained, checkpointed, loaded, sampled.
"""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import launcher
from score_lab.data import Toy
from score_lab.denoiser import NetworkDenoiser
from score_lab.evaluation import energy_distance
from score_lab.objectives import Context
from score_lab.paths import LinearFlow
from score_lab.samplers import Euler, UniformTime, sample
from score_lab.targets import Velocity
from score_lab.training import load
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.metrics import read_metrics
from score_lab.training.state import abstract_state

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"meanflow": 60, "adams": 40, "parabola": 15, "weighed": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the researcher's, on the import path, with my_package in it."""
    home = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(Path(__file__).parent / "extension" / "my_package", home / "my_package", ignore=shutil.ignore_patterns("__pycache__"))
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))
    for name in [n for n in sys.modules if n.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def parts(folder):
    """The modules, imported from the folder."""
    return {name: importlib.import_module(f"my_package.{name}") for name in LIMITS}


def test_each_part_is_one_short_file(parts, folder):
    for name, most in LIMITS.items():
        file = Path(parts[name].__file__)
        assert file.parent == folder / "my_package"
        assert len(file.read_text().splitlines()) <= most


def test_the_path_keeps_the_contract(x64, parts):
    path = parts["parabola"].Parabola(1.5)
    path.check()
    t = jnp.linspace(0.0, 1.0, 41)
    np.testing.assert_allclose(path.time_of(path.log_snr(t)), t, rtol=1e-9)
    np.testing.assert_allclose(path.alpha_dot(t), -1.5 * np.sqrt(t), rtol=1e-12)


def test_two_steps_of_adams_bashforth_are_exact_for_slopes_linear_in_time(x64, parts):
    """x' = a + b t on unequal steps: every step after Euler's is exact."""
    sampler, a, b = parts["adams"].AdamsBashforth2(), -0.7, 1.3
    times = [1.0, 0.9, 0.55, 0.5, 0.0]

    @dataclasses.dataclass
    class Slope:
        velocity: jax.Array

    x = jnp.zeros((2, 3))
    carry = sampler.init(x, dataclasses.make_dataclass("Steps", ["start"])(jnp.asarray(1.0)), LinearFlow())
    for k, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        before = x
        x, carry, _ = sampler.step(lambda x, t: Slope(jnp.full_like(x, a + b * t)), x, jnp.asarray(t), jnp.asarray(s), None, carry)
        exact = (s - t) * a + 0.5 * b * (s**2 - t**2)
        euler = (s - t) * (a + b * t)
        np.testing.assert_allclose(x - before, exact if k else euler, rtol=1e-12)


@dataclasses.dataclass(frozen=True)
class AverageVelocity:
    """Of N(0, c^2) data on the linear flow, times a parameter: u(z, r, t) = (z - z_r) / (t - r).

    z_r = z sqrt(V_r / V_t),  V = (1 - t)^2 c^2 + t^2.
    """

    c: float

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        t, r = (self.c * jnp.tan(a) / (1 + self.c * jnp.tan(a)) for a in (level, level_s))  # from atan2(sigma, c alpha)
        V_t, V_r = ((1 - t) ** 2 * self.c**2 + t**2 for t in (t, r))
        slope = ((1 + self.c**2) * (t + r) - 2 * self.c**2) / (V_t * (1 + jnp.sqrt(V_r / V_t)))  # (1 - sqrt(V_r / V_t)) / (t - r)
        return params * (slope * jnp.sqrt(V_t))[:, None] * x  # the network is fed z / sqrt(V_t)


def denoiser_of(objective, c):
    told = {"level": objective.level, "two_time": objective.two_time}
    return NetworkDenoiser(jnp.asarray(1.0), AverageVelocity(c), LinearFlow(), Velocity(), sigma_data=c, **told)


def test_meanflows_loss_is_zero_at_the_exact_average_velocity(x64, parts):
    n, c = 32, 0.6
    objective = parts["meanflow"].MeanFlow(p=0.0)
    index, denoiser = jnp.arange(n), denoiser_of(objective, c)
    ctx = Context(denoiser=denoiser, path=LinearFlow(), key=jax.random.key(3), batch_size=n)
    t, r = objective.times(ctx, index)
    assert bool((r <= t).all()) and 4 <= int((r < t).sum()) <= n - 4
    z = jax.random.normal(jax.random.key(1), (n, 2))
    v = (((1 + c**2) * t - c**2) / ((1 - t) ** 2 * c**2 + t**2))[:, None] * z  # the marginal velocity, V'/(2V) z
    batch = {"x0": z - t[:, None] * v, "noise": z + (1 - t)[:, None] * v, "index": index}

    def total(scale):
        loss, _, _ = objective.loss(dataclasses.replace(ctx, denoiser=dataclasses.replace(denoiser, params=scale)), {}, {}, batch)
        return loss.sum(), loss

    slope = jax.jit(jax.grad(total, has_aux=True))
    gradient, loss = slope(jnp.asarray(1.0))
    assert float(loss.max()) < 1e-24 and abs(float(gradient)) < 1e-10
    wrong, loss = slope(jnp.asarray(1.1))
    assert float(loss.min()) > 1e-6 and float(wrong) > 0


def test_one_step_of_the_exact_average_velocity_is_the_whole_way(x64, parts):
    c, x_T = 0.6, jax.random.normal(jax.random.key(5), (7, 2))
    denoiser = denoiser_of(parts["meanflow"].MeanFlow(), c)
    for steps in (1, 3):
        done = sample(denoiser, Euler(), UniformTime(steps), x_T=x_T, key=jax.random.key(0))
        np.testing.assert_allclose(done.x, c * x_T, rtol=1e-9)
        assert int(done.nfe) == steps


def launch(folder, module, *args):
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-m", module, *args], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def here(folder, module, *args):
    """``launch`` in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module, *args])
        launcher.launch(importlib.import_module(module).main)
    assert exit_.value.code == 0


def train(folder, variant, *args, name="", how=launch):
    workdir = f"runs/{name or variant}"
    how(folder, "experiments.train", f"--config=my_package/config.py:{variant}", f"--workdir={workdir}", *args)
    return folder / workdir


def test_an_objective_from_outside_is_trained_by_the_launcher_and_loaded(folder):
    """With its two times, and a sample of it is one network call."""
    loaded = load(train(folder, "meanflow", "--config.training.steps=60", name="short", how=here))
    done = sample(loaded.denoiser, Euler(), UniformTime(1), (8, 2), jax.random.key(0))
    assert loaded.step == 60 and loaded.denoiser.two_time and np.isfinite(done.x).all() and int(done.nfe) == 1


@pytest.mark.slow
def test_what_an_objective_from_outside_trains_and_remembers_goes_with_the_run(folder):
    """A parameter of its own, averaged too, and a state: trained by the launcher from its import path, checkpointed, loaded, sampled by
    the launcher.

    d l / d s = 1 - exp(-s) l_0, so s falls while l_0 < exp(s) and rises while it is more, by at most Adam's learning rate a step.
    """
    words = ["--config.objective=my_package.weighed:Weighed", "--config.network.width=8", "--config.network.depth=1"]
    words += ["--config.optimizer.schedule=constant", "--config.optimizer.warmup=0", "--config.optimizer.learning_rate=0.01"]
    words += [f"--config.training.{word}" for word in ("steps=40", "checkpoint_every=20", "log_every=20")]
    workdir = train(folder, "flow", *words, name="weighed", how=here)
    loaded = load(workdir)
    like = abstract_state(loaded.parts)
    with Checkpoints(workdir) as checkpoints:
        first, last = ({k: np.asarray(v) for k, v in own(checkpoints, like, step).items()} for step in (20, 40))
    lines = read_metrics(workdir)
    assert type(loaded.parts.objective).__name__ == "Weighed" and (int(first["updates"]), int(last["updates"]), loaded.step) == (20, 40, 40)
    for before, after, line in ((0.0, first, lines[0]), (first["s"], last, lines[1])):
        moved = after["s"] - before
        assert np.sign(moved) == np.sign(line["plain"] - np.exp(before)) and 0.02 < abs(moved) <= 0.2 + 1e-6, (moved, line)
    assert 0 < abs(last["averaged"]) < abs(last["s"])
    assert 0.3 * lines[0]["plain"] < first["mean"] < 1.2 * lines[0]["plain"]  # 1 - 0.9^20 = 0.88 of it
    here(folder, "experiments.sample", f"--workdir={workdir}", "--n=8")
    made = np.load(workdir / "samples" / "samples.npz")
    direct = sample(loaded.denoiser, Euler(), UniformTime(1), (8, 2), jax.random.key(0))
    np.testing.assert_allclose(made["x"], direct.x, rtol=1e-5, atol=1e-6)


def own(checkpoints, like, step):
    """What the objective trains and remembers, as the checkpoint of ``step`` has it."""
    state = checkpoints.restore({"params": like.params, "ema": like.ema, "objective": like.objective}, step)[0]
    return state["objective"] | {"s": state["params"]["objective"]["s"], "averaged": state["ema"][0]["objective"]["s"]}


@pytest.mark.slow
def test_meanflow_from_outside_beats_one_step_of_a_flow(folder):
    """Trained by the launcher at equal size and budget, loaded from the checkpoint, sampled in one step."""
    toy = Toy(name="mixture")
    weights, means, std = toy.components()
    rng = np.random.default_rng(0)
    fresh = means[rng.choice(len(means), 2000, p=weights)] + std * rng.standard_normal((2000, 2))
    distance = {}
    for variant in ("meanflow", "flow"):
        loaded = load(train(folder, variant))
        assert loaded.step == 400 and loaded.denoiser.two_time == (variant == "meanflow")
        x = sample(loaded.denoiser, Euler(), UniformTime(1), (2000, 2), jax.random.key(0)).x
        distance[variant] = energy_distance(np.asarray(x), fresh)
    assert distance["meanflow"].high <= 0.25 * distance["flow"].low, distance


def test_a_path_and_a_sampler_from_outside_go_through_the_launchers(folder):
    workdir = train(folder, "parabola", "--config.training.steps=300", how=here)
    launch(folder, "experiments.sample", f"--workdir={workdir}", "--n=500")
    made = np.load(workdir / "samples" / "samples.npz")
    assert made["x"].shape == (500, 2) and int(made["nfe"]) == 20 and "AdamsBashforth2" in str(made["made_by"])
    radius = np.linalg.norm(made["x"], axis=1)
    assert abs(np.median(radius) - 1.0) < 0.15  # the ring
