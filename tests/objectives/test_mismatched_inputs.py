"""Objectives whose inputs are what a sampler would hand over: what the best linear network learns from them, in closed form.

A batch of eight rows whose columns are orthogonal (Hadamard) has the second moments of Gaussian data exactly, so the least squares of the
objective's own loss are the population's: no Monte Carlo.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mismatch.impulse_bands import S, band_ratio, exact, numbers

from score_lab.build import ConfigError, build
from score_lab.denoiser import NetworkDenoiser, Prediction
from score_lab.linear import expand
from score_lab.objectives import (
    BetaTime,
    Context,
    DroppedLevels,
    InputPerturbation,
    LearnedVariance,
    MixFlow,
    NoiseLabelDropout,
    Regression,
    SelfForcing,
    blind,
    input_perturbation,
)
from score_lab.objectives.self_forcing import target_gain
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDIM, Karras
from score_lab.targets import X0, Eps, F, Velocity
from score_lab.types import leaf, pytree_dataclass

X64 = pytest.mark.usefixtures("x64")


@dataclasses.dataclass(frozen=True)
class Line:
    """``y = w x``."""

    def init(self, key, shape):
        return jnp.zeros(())

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return params * x


@pytree_dataclass
class At:
    """One time for all."""

    t: object = leaf()

    def sample(self, key, index, n, path, log_snr_range=()):
        return jnp.full(len(index), self.t)


def hadamard(k):
    """Column ``k`` of 8 x 8, (8, 1): mean square 1, orthogonal to the others."""
    one = np.array([[1.0, 1.0], [1.0, -1.0]])
    return jnp.asarray(np.kron(np.kron(one, one), one)[:, [k]])


def best(objective, path, target, s):
    """The w of least loss: the loss is quadratic in w, so two slopes are enough."""
    low, high = (float(_slope(w, objective, path, target, s)) for w in (0.0, 1.0))
    return -low / (high - low)


@jax.jit
def _slope(w, objective, path, target, s):
    batch = {"x0": s * hadamard(1), "noise": hadamard(2), "index": jnp.arange(8, dtype=jnp.int32)}

    def loss(w):
        denoiser = NetworkDenoiser(w, Line(), path, target, sigma_data=s)
        return jnp.mean(objective.loss(Context(denoiser, path=path, key=jax.random.key(0), batch_size=8), {}, {}, batch)[0])

    return jax.grad(loss)(w)


@pytree_dataclass
class Table:
    """``eps = gain(t) x_t``, gain by the time among ``t``."""

    path: object = leaf()
    t: object = leaf()
    gain: object = leaf()

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        gain = jnp.asarray(self.gain)[jnp.argmin(jnp.abs(jnp.asarray(self.t) - t))]
        return Prediction.of(x_t, jnp.asarray(t), self.path, eps=gain[None] * x_t)

    def on(self, path):
        return dataclasses.replace(self, path=path)


@X64
@pytest.mark.parametrize("path", [VP(), EDM(), LinearFlow()], ids=["VP", "EDM", "LinearFlow"])
def test_a10_trained_on_perturbed_inputs_is_epsilon_scaling(path, monkeypatch):
    """eps_IP = (sigma / V) y / lambda with lambda = 1 + gamma^2 sin^2 phi, and DDIM with it has the R of (5.0), through ``sample``."""
    monkeypatch.setattr(input_perturbation, "perturbation", lambda key, index, x0: hadamard(4))
    gamma = 0.3
    steps = Karras(4, sigma_min=0.2, sigma_max=4.0, to_data=False).steps(path)
    a, s, V, phi = numbers(path, steps)
    gains = np.empty((4, 4))
    for k, t in enumerate(np.asarray(steps.t)):
        for b, std in enumerate(S):
            w = best(InputPerturbation(At(float(t)), gamma=gamma), path, Eps(), float(std))
            gains[k, b] = w / np.hypot(a[k] * std, s[k])  # the network is fed c_in y
    scale = 1 + gamma**2 * np.sin(phi[:-1]) ** 2
    np.testing.assert_allclose(gains, s[:-1, None] / V[:-1] / scale, rtol=1e-12)
    label = np.hypot(a[:-1, None] * S, s[:-1, None] * np.sqrt(1 + gamma**2)) ** 2
    np.testing.assert_allclose(gains, s[:-1, None] * np.sqrt(1 + gamma**2) / label / np.sqrt(1 + gamma**2), rtol=1e-12)
    d, p = phi[:-1] - phi[1:], phi[:-1]
    r = np.cos(d) + (1 - 1 / scale) * np.sin(d) * np.tan(p)
    np.testing.assert_allclose(band_ratio(Table(path, np.asarray(steps.t), gains), DDIM(), steps), np.prod(r, axis=0) ** 2, rtol=1e-12)
    assert np.abs(band_ratio(exact(path), DDIM(), steps) - np.prod(r, axis=0) ** 2).max() > 1e-3


def noised(objective, denoiser, batch):
    return jax.jit(lambda d, b: objective.corrupt(Context(d, path=d.path, key=jax.random.key(0), batch_size=len(b["index"])), b))(
        denoiser, batch
    )


def test_perturbation_changes_the_input_alone(make, batch_of_three):
    denoiser, batch = make(VP(), Eps()), batch_of_three(4000)
    plain, moved = noised(Regression(), denoiser, batch), noised(InputPerturbation(gamma=0.1), denoiser, batch)
    np.testing.assert_array_equal(plain.eps, moved.eps)
    np.testing.assert_array_equal(plain.t, moved.t)
    xi = (moved.x_t - plain.x_t) / (0.1 * VP().sigma(plain.t))[:, None]
    good = np.asarray(plain.t) > 0.05
    assert abs(float(np.std(xi[good])) - 1) < 0.03
    assert abs(float(np.mean(xi[good] * plain.eps[good]))) < 0.03
    part = {"x0": batch["x0"][7:9], "index": batch["index"][7:9]}
    n = Context(denoiser, path=VP(), key=jax.random.key(0), batch_size=4000)
    np.testing.assert_allclose(InputPerturbation(gamma=0.1).corrupt(n, part).x_t, moved.x_t[7:9], rtol=2e-5, atol=2e-6)


def test_mixflow_shows_noisier_states_by_its_law(make, batch_of_three):
    path, batch = LinearFlow(), batch_of_three(4000)
    objective, denoiser = MixFlow(BetaTime(2.0), slowing=0.8), make(path, Velocity())
    ctx = Context(denoiser, path=path, key=jax.random.key(0), batch_size=4000)
    states, m = jax.jit(lambda c, b: objective.slowed(c, b))(ctx, batch)
    t, m = np.asarray(states.t), np.asarray(m)
    share = (1 - m) / (1 - t)
    assert (share >= 0.2 - 1e-4).all() and (share <= 1 + 1e-4).all()
    assert abs(share.mean() - 0.6) < 0.01 and abs(share.std() - 0.8 / np.sqrt(12)) < 0.01
    assert abs((1 - t).mean() - 2 / 3) < 1e-3  # Beta(2, 1)
    np.testing.assert_allclose(states.x_t, (1 - m)[:, None] * batch["x0"] + m[:, None] * states.eps, rtol=1e-5, atol=1e-5)
    loss, metrics, _ = objective.loss(ctx, {}, {}, batch)
    raw = denoiser(states.x_t, states.t).raw
    np.testing.assert_allclose(loss, np.mean(np.square(raw - (states.eps - batch["x0"])), axis=1), rtol=1e-4)
    np.testing.assert_allclose(metrics["slowed"], m - t, atol=1e-6)
    plain = Regression().loss(ctx, {}, {}, batch)[0]
    np.testing.assert_allclose(MixFlow(slowing=0.0).loss(ctx, {}, {}, batch)[0], plain, rtol=1e-5)
    with pytest.raises(ConfigError, match="MixFlow: config.target: 'F'"):
        objective.loss(dataclasses.replace(ctx, denoiser=make(path, F(0.7))), {}, {}, batch)


@pytree_dataclass
class Rollout:
    """The exact denoiser where the objective makes its own input, the network ``w x`` where it is trained."""

    network: object = leaf()
    log_snr_range = (-np.inf, np.inf)

    @property
    def path(self):
        return self.network.path

    @property
    def sigma_data(self):
        return self.network.sigma_data

    @property
    def row(self):
        return self.network.row

    def __call__(self, x, t, cond=None, *, s=None, step=None, key=None):
        if key is not None:
            return self.network(x, t, cond)
        V = (self.path.alpha(t) * self.sigma_data) ** 2 + self.path.sigma(t) ** 2
        return Prediction.of(x, t, self.path, eps=expand(self.path.sigma(t) / V, x) * x)


@X64
@pytest.mark.parametrize("path", [EDM(), LinearFlow()], ids=["EDM", "LinearFlow"])
def test_self_forcing_learns_rho_times_too_little(path):
    """One DDIM step of the exact denoiser, x0 paired: the best gain is rho / cos delta of the right one (rho for exact steps)."""
    s, kappa, length = 0.5, 0.3, 0.4
    t = path.time_of_kappa(jnp.asarray(kappa))
    objective = SelfForcing(At(t), rate=1.0, length=length, biased=True)
    batch = {"x0": s * hadamard(1), "noise": hadamard(2), "index": jnp.arange(8, dtype=jnp.int32)}

    def slope(w):
        def loss(w):
            network = NetworkDenoiser(w, Line(), path, X0(), sigma_data=s)
            ctx = Context(Rollout(network), path=path, key=jax.random.key(0), batch_size=8)
            return jnp.mean(objective.loss(ctx, {}, {}, batch)[0])

        return jax.grad(loss)(jnp.asarray(w))

    low, high = float(slope(0.0)), float(slope(1.0))
    a, sigma = float(path.alpha(t)), float(path.sigma(t))
    root = np.hypot(a * s, sigma)
    learned = -low / (high - low) / root  # x0 = learned * x
    far, near = np.arctan2(kappa * np.exp(length), s), np.arctan2(kappa, s)
    rho = np.cos(far) / np.cos(near)
    np.testing.assert_allclose(learned / (a * s**2 / root**2), rho / np.cos(far - near), rtol=1e-10)
    t_far = path.time_of_kappa(jnp.asarray(kappa * np.exp(length)))
    np.testing.assert_allclose(float(target_gain(path, t_far, t, s)), rho, rtol=1e-9)


@X64
def test_the_published_warning():
    """From kappa 1.2 to 0.3 at s = 0.5 the target is 0.449 of the right one."""
    path = EDM()
    t = [path.time_of_kappa(jnp.asarray(k)) for k in (1.2, 0.3)]
    np.testing.assert_allclose(float(target_gain(path, *t, 0.5)), 0.449, atol=5e-4)


def test_self_forcing_replaces_its_share_and_says_the_gain(make, batch_of_three):
    denoiser, batch = make(LinearFlow(), Velocity(), sigma_data=0.7), batch_of_three(600)
    ctx = Context(denoiser, path=LinearFlow(), key=jax.random.key(0), batch_size=600)
    plain = noised(Regression(), denoiser, batch)
    made = noised(SelfForcing(rate=0.3), denoiser, batch)
    own = np.abs(np.asarray(made.x_t - plain.x_t)).max(axis=1) > 0
    assert abs(own.mean() - 0.3) < 0.06
    t = np.asarray(made.t)[:, None]
    np.testing.assert_allclose(made.x_t, (1 - t) * batch["x0"] + t * made.eps, rtol=1e-4, atol=1e-4)
    rho = np.asarray(SelfForcing(rate=0.3).loss(ctx, {}, {}, batch)[1]["target_gain"])
    assert (rho[~own] == 1).all() and (rho[own] < 1).all() and (rho >= np.exp(-0.05) - 1e-5).all()


@dataclasses.dataclass(frozen=True)
class Echo:
    """Answers with the level that it was told."""

    num_classes: int = 3

    def init(self, key, shape):
        return {}

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return expand(level, x) * jnp.ones_like(x)


def test_noise_labels_are_dropped_per_example_at_their_rate(batch_of_three):
    path, batch = LinearFlow(), batch_of_three(1000)
    denoiser = NetworkDenoiser({}, Echo(), path, X0())
    told = {}

    class Keep(Regression):
        def weighted(self, ctx, noised, prediction):
            told["raw"], told["t"] = prediction.raw[:, 0], noised.t
            return Regression.weighted(self, ctx, noised, prediction)

    objective = NoiseLabelDropout(Keep(), 0.2)
    ctx = Context(denoiser, path=path, key=jax.random.key(1), batch_size=1000)
    objective.loss(ctx, {}, {}, batch)
    dropped = np.asarray(told["raw"]) == -30.0
    assert abs(dropped.mean() - 0.2) < 0.05
    np.testing.assert_allclose(np.asarray(told["raw"])[~dropped], np.clip(path.log_snr(told["t"]), -20, 20)[~dropped], rtol=1e-5)
    first = dropped[5:8]
    objective.loss(ctx, {}, {}, {"x0": batch["x0"][5:8], "index": batch["index"][5:8]})
    np.testing.assert_array_equal(np.asarray(told["raw"]) == -30.0, first)


def test_blind_is_never_told_and_the_others_always():
    denoiser = NetworkDenoiser({}, DroppedLevels(Echo(), 0.3), LinearFlow(), X0())
    x, t = jnp.zeros((2, 3)), jnp.asarray(0.5)
    np.testing.assert_array_equal(blind(denoiser)(x, t).raw, -30.0)
    np.testing.assert_array_equal(denoiser(x, t).raw, 0.0)
    np.testing.assert_array_equal(blind(dataclasses.replace(denoiser, level="angle"))(x, t).raw, -1.0)
    assert blind(denoiser).network == DroppedLevels(Echo(), 1.0) and blind(denoiser).network.num_classes == 3
    with pytest.raises(ConfigError, match="blind: 'GaussianBands'"):
        blind(exact(LinearFlow()))


def test_a_wrapped_objective_says_what_the_inner_one_says():
    wrapped = NoiseLabelDropout(LearnedVariance(10), 0.1)
    assert wrapped.learned_variance and wrapped.time_law == LearnedVariance(10).time_law
    assert not hasattr(NoiseLabelDropout(Regression(), 0.1), "path") and not hasattr(NoiseLabelDropout(Regression()), "two_time")
    assert jax.tree.structure(wrapped) == jax.tree.structure(jax.tree.map(lambda v: v, wrapped))


REFUSED = (
    ({"target": "InputPerturbation", "gamma": -0.1}, "InputPerturbation.gamma: -0.1"),
    ({"target": "MixFlow", "slowing": 1.0}, "MixFlow.slowing: 1.0"),
    ({"target": "SelfForcing", "length": 0.5}, "SelfForcing.length: 0.5.*too little signal"),
    ({"target": "SelfForcing", "rate": 2.0}, "SelfForcing.rate: 2.0"),
    ({"target": "NoiseLabelDropout", "objective": {"target": "Regression"}, "rate": 1.0}, "NoiseLabelDropout.rate: 1.0"),
    ({"target": "NoiseLabelDropout", "objective": "Regression"}, "NoiseLabelDropout.objective"),
    ({"target": "Regression", "time_law": {"target": "BetaTime", "a": 0.0}}, "BetaTime.a: 0.0"),
)


@pytest.mark.parametrize(("spec", "words"), REFUSED, ids=str)
def test_refused_by_name(spec, words):
    with pytest.raises(ConfigError, match=words):
        build(spec, "score_lab.objectives", "config.objective", needs=("init", "loss"))
    good = {"target": "NoiseLabelDropout", "objective": {"target": "SelfForcing"}, "rate": 0.15}
    assert build(good, "score_lab.objectives", needs=("init", "loss")).objective == SelfForcing()
