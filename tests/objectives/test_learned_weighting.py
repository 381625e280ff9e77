"""The learned weighting: e^u is the mean loss of a level, the network's gradient is divided by it, and at the start nothing is changed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.denoiser import NetworkDenoiser
from score_lab.objectives import Context, FUniform, LearnedVariance, LearnedWeighting, NoiseLabelDropout, Regression, UniformLogSNR
from score_lab.objectives.learned_weighting import cosines
from score_lab.paths import Cosine, LinearFlow
from score_lab.targets import Eps, V

LAW = UniformLogSNR(-15.0, 15.0)


class Nothing:
    """A network that says 0."""

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return jnp.zeros_like(x)


def test_the_best_u_is_the_mean_loss_of_every_level_in_closed_form(x64):
    """v of a denoiser that says 0, x0 of mean square s^2, eps of mean square 1, and every level drawn twice with x0 eps = +-q: the mean of
    the two losses is alpha^2 + s^2 sigma^2, under EDM's weighting times (1 + 4 SNR) / (4 + 4 SNR), for sigma_data = 2.
    """
    s, q, n = 3.0, 0.4, 256
    path, everywhere = Cosine(), UniformLogSNR(-20.0, 20.0)
    denoiser = NetworkDenoiser({}, Nothing(), path, V(), sigma_data=1.0)
    x0 = jnp.tile(s * jnp.sqrt(2.0) * jnp.asarray([[1.0, 0.0]]), (2 * n, 1))
    side = jnp.sqrt(2.0) * jnp.asarray([[q, np.sqrt(1 - q**2)], [-q, np.sqrt(1 - q**2)]])
    batch = {"x0": x0, "noise": jnp.repeat(side, n, axis=0), "index": jnp.tile(jnp.arange(n), 2)}
    ctx = Context(denoiser, path=path, key=jax.random.key(0), batch_size=n)
    for weighting in (None, FUniform(2.0)):
        objective = LearnedWeighting(Regression(everywhere, weighting))
        own, state = objective.init(jax.random.key(0), None)
        own = {**own, "u": own["u"].astype(jnp.float64)}

        def mean(u, objective=objective, own=own, state=state):
            return jnp.mean(objective.loss(ctx, {**own, "u": u}, state, batch)[0])

        @jax.jit
        def newton(u, mean=mean):
            return u - jnp.linalg.solve(jax.hessian(mean)(u), jax.grad(mean)(u))

        u = own["u"]
        for _ in range(20):
            u = newton(u)
        assert float(jnp.max(jnp.abs(jax.grad(mean)(u)))) < 1e-10
        level = jnp.linspace(-19.0, 19.0, 77)
        snr = np.exp(np.asarray(level))
        expected = (snr + s**2) / (1 + snr)
        if weighting is not None:
            expected = expected * (1 + 4 * snr) / (4 + 4 * snr)
        found = jnp.exp(objective.log_loss({**own, "u": u}, level))
        np.testing.assert_allclose(found, expected, rtol=2e-3)
        assert expected.max() / expected.min() > 2


def gradients(objective, denoiser, batch, own):
    """``(losses, metrics, d losses / d network, d losses / d own)``, an example a row."""
    path = LinearFlow()

    def losses(network, own):
        ctx = Context(dataclasses.replace(denoiser, params=network), path=path, key=jax.random.key(2), batch_size=len(batch["index"]))
        loss, metrics, _ = objective.loss(ctx, own, {}, batch)
        return loss, (loss, metrics)

    return jax.jit(lambda network, own: jax.jacrev(losses, (0, 1), has_aux=True)(network, own))(denoiser.params, own)


def test_the_networks_gradient_is_divided_by_e_to_the_u_and_is_the_plain_one_at_the_start(x64, make, batch_of_three):
    denoiser, batch = make(LinearFlow(), Eps(), sigma_data=1.0), batch_of_three(6)
    inner = Regression(LAW)
    (plain, _), (loss, _) = gradients(inner, denoiser, batch, {})
    objective = LearnedWeighting(inner, count=5)
    own, _ = objective.init(jax.random.key(0), None)
    own = {**own, "u": own["u"].astype(jnp.float64)}

    (first, by_u), (start, metrics) = gradients(objective, denoiser, batch, own)
    jax.tree.map(np.testing.assert_array_equal, first, plain)
    np.testing.assert_array_equal(start, loss)

    moved = {**own, "u": jnp.asarray([0.3, -0.2, 0.5, 0.1, -0.4])}
    t = LAW.sample(jax.random.key(2), batch["index"], 6, LinearFlow(), denoiser.log_snr_range)
    features = np.asarray(cosines(LinearFlow().log_snr(t), 5))
    u = features @ np.asarray(moved["u"])
    assert np.ptp(u) > 0.3
    (network, by_u), (found, metrics) = gradients(objective, denoiser, batch, moved)
    np.testing.assert_allclose(found, loss * np.exp(-u) + u, rtol=1e-12)
    np.testing.assert_allclose(metrics["unweighted_loss"], loss, rtol=1e-12)
    assert {"eps_loss", "x0_loss"} < set(metrics)
    divided = jax.tree.map(lambda g: g * np.exp(-u).reshape(-1, *[1] * (g.ndim - 1)), plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), network, divided)
    np.testing.assert_allclose(by_u["u"], (1 - loss * np.exp(-u))[:, None] * features, rtol=1e-11)


def test_features_are_orthonormal_over_uniform_levels_and_stay_beyond_them(x64):
    levels = (np.arange(4000) + 0.5) / 100 - 20
    f = np.asarray(cosines(jnp.asarray(levels), 32))
    np.testing.assert_allclose(f.T @ f / len(f), np.eye(32), atol=1e-12)
    np.testing.assert_array_equal(cosines(jnp.asarray([-40.0, 40.0]), 6), cosines(jnp.asarray([-20.0, 20.0]), 6))


def test_it_says_what_the_inner_objective_says():
    wrapped = LearnedWeighting(NoiseLabelDropout(LearnedVariance(10), 0.1))
    assert wrapped.learned_variance and wrapped.time_law == LearnedVariance(10).time_law
    assert not hasattr(wrapped, "path") and not hasattr(LearnedWeighting(Regression()), "two_time")
    own, state = wrapped.init(jax.random.key(0), None)
    assert own["inner"] == {} and state == {} and own["u"].shape == (32,) and not np.any(own["u"])


class Learning(Regression):
    """On a path of its own."""

    def path(self, params):
        return LinearFlow()


REFUSED = (
    ({"target": "LearnedWeighting", "objective": "Regression"}, "LearnedWeighting.objective: 'Regression' is refused"),
    ({"target": "LearnedWeighting", "objective": {"target": "Regression"}, "count": 0}, "LearnedWeighting.count: 0"),
    ({"target": "LearnedWeighting", "objective": Learning()}, "LearnedWeighting.objective: 'Learning'.* path that is not learned"),
    ({"target": "LearnedWeighting", "objective": {"target": "Regression", "label_dropout": 2.0}}, "objective.label_dropout: 2.0"),
)


@pytest.mark.parametrize(("spec", "words"), REFUSED, ids=str)
def test_refused_by_name(spec, words):
    with pytest.raises(ConfigError, match=words):
        build(spec, "score_lab.objectives", "config.objective", needs=("init", "loss"))
