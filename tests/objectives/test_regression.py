"""The regression against the textbook forms of what it covers, score matching against flow matching, and what a loss may depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.objectives import (
    Context,
    DiscreteTable,
    FUniform,
    Likelihood,
    LogitNormal,
    LogNormalSigma,
    MinibatchOT,
    MinSNR,
    Regression,
    Sigmoid,
    Simple,
    UniformLogSNR,
    UniformTime,
    VelocityUniform,
    X0Uniform,
    draw_noise,
)  # fmt: skip
from score_lab.paths import EDM, VP, LinearFlow, Trigonometric, ddpm_table
from score_lab.targets import X0, Eps, F, Score, V, Velocity

N = 12


def pieces(objective, denoiser, batch, key, n):
    """t, eps, x_t of the objective's own draws, and the prediction there."""
    path = denoiser.path
    t = objective.time_law.sample(key, batch["index"], n, path, denoiser.log_snr_range)
    eps = draw_noise(key, batch["index"], batch["x0"])
    a, s = path.alpha(t)[:, None], path.sigma(t)[:, None]
    x_t = a * batch["x0"] + s * eps
    return t, eps, x_t, denoiser(x_t, t, batch.get("cond"))


def mean(square):
    return jnp.mean(jnp.square(square), axis=1)


def snr(path, t):
    return jnp.exp(path.log_snr(t))


def edm(path, t, x0, eps, p):
    """Karras et al. 2022, eq. 7 and table 1, without our denoiser: c_skip, c_out around the raw output, lambda(sigma) ||D - x0||^2."""
    sigma, sd = path.sigma(t)[:, None], 0.6
    c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / jnp.sqrt(sigma**2 + sd**2)
    x = x0 + sigma * eps
    D = c_skip * x + c_out * p.raw
    return ((sigma**2 + sd**2) / (sigma * sd) ** 2)[:, 0] * mean(D - x0)


def v_min_snr(path, t, x0, eps, p):
    """Hang et al. 2023, eq. 7."""
    v = path.alpha(t)[:, None] * eps - path.sigma(t)[:, None] * x0
    return jnp.minimum(snr(path, t), 5) / (snr(path, t) + 1) * mean(p.raw - v)


TEXTBOOK = {
    "ddpm": (Regression(DiscreteTable(40), Simple()), ddpm_table(T=40), Eps(), lambda path, t, x0, eps, p: mean(p.raw - eps)),
    "flow matching": (Regression(), LinearFlow(), Velocity(), lambda path, t, x0, eps, p: mean(p.raw - (eps - x0))),
    "flow matching from F": (
        Regression(weighting=VelocityUniform()), LinearFlow(), F(0.6), lambda path, t, x0, eps, p: mean(p.eps - p.x0 - (eps - x0)),
    ),
    "edm": (Regression(LogNormalSigma()), EDM(), F(0.6), edm),
    "edm from x0": (
        Regression(LogNormalSigma(), FUniform(0.6)), EDM(), X0(),
        lambda path, t, x0, eps, p: (path.sigma(t) ** 2 + 0.36) / (path.sigma(t) * 0.6) ** 2 * mean(p.raw - x0),
    ),
    "v with min-SNR": (Regression(weighting=MinSNR(5.0)), VP(), V(), v_min_snr),
    "min-SNR from eps": (
        Regression(weighting=MinSNR(5.0)), VP(), Eps(), lambda path, t, x0, eps, p: jnp.minimum(snr(path, t), 5) * mean(p.x0 - x0),
    ),
    "likelihood": (
        Regression(weighting=Likelihood(), per_log_snr=True), VP(), Score(),
        lambda path, t, x0, eps, p: 0.5 * path.diffusion_squared(t) * mean(p.raw + eps / path.sigma(t)[:, None]),
    ),
    "x0": (Regression(weighting=X0Uniform()), Trigonometric(), V(), lambda path, t, x0, eps, p: mean(p.x0 - x0)),
    "sigmoid": (
        Regression(UniformLogSNR(-8.0, 8.0), Sigmoid(2.0), per_log_snr=True), LinearFlow(), V(),
        lambda path, t, x0, eps, p: 16.0 * np.exp(2.0) * mean(p.x0 - x0) / (1 + jnp.exp(2.0 - path.log_snr(t))),
    ),
}  # fmt: skip


SLOW = {"flow matching from F", "edm from x0", "min-SNR from eps", "x0"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in TEXTBOOK])
def test_named_objectives_are_their_textbook_forms(x64, make, evaluate, batch_of_three, name):
    objective, path, target, form = TEXTBOOK[name]
    denoiser, batch, key = make(path, target, sigma_data=0.6), batch_of_three(N), jax.random.key(11)
    loss, metrics, gradient = evaluate(objective, denoiser, batch, key)

    def textbook(params):
        d = dataclasses.replace(denoiser, params=params)
        t, eps, _, p = pieces(objective, d, batch, key, N)
        expected = form(path, t, batch["x0"], eps, p)
        return expected.sum(), (expected, mean(p.eps - eps), mean(p.x0 - batch["x0"]))

    slope, (expected, on_eps, on_x0) = jax.jit(jax.grad(textbook, has_aux=True))(denoiser.params)
    assert loss.dtype == jnp.float64 and loss.shape == (N,)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    np.testing.assert_allclose(metrics["eps_loss"], on_eps, rtol=1e-10)
    np.testing.assert_allclose(metrics["x0_loss"], on_x0, rtol=1e-10)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("target", [X0(), Eps(), F(0.6)], ids=["x0", "eps", "F"])
def test_score_matching_is_flow_matching(x64, make, batch_of_three, target):
    """Same (x0, eps, log-SNR) and parameters: ``g^2 ||score_hat - score||^2`` on VP, ``||velocity_hat - velocity||^2`` on the flow."""
    vp, flow, x0 = VP(), LinearFlow(), batch_of_three(N)["x0"]
    eps = jax.random.normal(jax.random.key(8), x0.shape)
    log_snr = jnp.linspace(-8.0, 9.0, N)

    def losses(params):
        def at(path):
            t = path.time_of(log_snr)
            x_t = path.alpha(t)[:, None] * x0 + path.sigma(t)[:, None] * eps
            return t, dataclasses.replace(make(path, target, sigma_data=0.6), params=params)(x_t, t)

        (t, p), (r, q) = at(vp), at(flow)
        dsm = vp.diffusion_squared(t) * mean(p.score + eps / vp.sigma(t)[:, None])
        fm = mean(q.velocity - (eps - x0))
        both = jnp.stack([dsm * vp.sigma(t) ** 2 / vp.diffusion_squared(t), fm * flow.alpha(r) ** 2])  # both in the eps row
        return both, both

    jacobian, (dsm, fm) = jax.jit(jax.jacrev(losses, has_aux=True))(make(vp, target).params)
    np.testing.assert_allclose(dsm, fm, rtol=1e-12)
    for leaf in jax.tree.leaves(jacobian):  # the gradient of every example
        np.testing.assert_allclose(leaf[0], leaf[1], rtol=1e-11, atol=1e-12 * float(jnp.abs(leaf[0]).max()) + 1e-300)


@pytest.mark.parametrize(
    ("target", "weighting"),
    [
        pytest.param(X0(), None, id="x0"),
        pytest.param(F(0.6), Likelihood(), id="F"),
        pytest.param(Eps(), Likelihood(), id="eps", marks=pytest.mark.slow),
    ],
)
def test_one_regression_is_the_same_on_every_path(x64, make, evaluate, batch_of_three, target, weighting):
    objective = Regression(UniformLogSNR(-8.0, 8.0), weighting, per_log_snr=weighting is not None)
    batch = batch_of_three(N)
    (vp, _, d_vp), (flow, _, d_flow) = (evaluate(objective, make(path, target, sigma_data=0.6), batch) for path in (VP(), LinearFlow()))
    np.testing.assert_allclose(vp, flow, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(d_vp), jax.tree.leaves(d_flow), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * float(jnp.abs(a).max()) + 1e-300)


@dataclasses.dataclass(frozen=True)
class Zero:
    """The posterior mean of N(0, sigma_data^2) data in the F row: 0."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        return jnp.zeros_like(x)


@pytest.mark.parametrize(
    ("path", "weighting"),
    [
        pytest.param(VP(), X0Uniform(), id="vp"),
        pytest.param(LinearFlow(), Likelihood(), id="flow"),
        pytest.param(EDM(2.0), Simple(), id="edm", marks=pytest.mark.slow),
    ],
)
def test_the_optimal_denoiser_of_gaussian_data_has_the_analytic_loss(make, evaluate, drawn, path, weighting):
    n, c, ends = 20_000, 0.6, (-4.0, 4.0)
    batch = {"x0": c * jax.random.normal(jax.random.key(1), (n, 3)), "index": jnp.arange(n)}
    objective = Regression(UniformTime(), weighting, per_log_snr=isinstance(weighting, Likelihood))
    denoiser = make(path, F(c), network=Zero(), sigma_data=c, log_snr_range=ends)
    loss, metrics, _ = evaluate(objective, denoiser, batch)
    t = drawn(objective, denoiser, batch)[0].t
    alpha, sigma = (np.asarray(f(t), np.float64) for f in (path.alpha, path.sigma))
    mmse = (c * sigma) ** 2 / ((alpha * c) ** 2 + sigma**2)  # E (x0 - E[x0 | x_t])^2
    on_eps = mmse * (alpha / sigma) ** 2
    expected = {X0Uniform: mmse, Simple: on_eps, Likelihood: None}[type(weighting)]
    if expected is None:  # 1/2 int dlog_snr E||eps_hat - eps||^2, whatever the law: by quadrature
        grid = np.linspace(*ends, 4001)
        k2 = np.exp(-grid)
        assert float(loss.mean()) == pytest.approx(0.5 * np.trapezoid(c**2 / (c**2 + k2), grid), abs=4 * float(loss.std()) / n**0.5)
        return
    for got, wanted in ((loss, expected), (metrics["x0_loss"], mmse), (metrics["eps_loss"], on_eps)):
        assert float(got.mean()) == pytest.approx(wanted.mean(), abs=4 * float(np.std(np.asarray(got) - wanted)) / n**0.5)


def test_an_examples_loss_depends_on_its_global_index_alone(make, evaluate, drawn, batch_of_three):
    whole = batch_of_three(N, cond={"label": jnp.arange(N, dtype=jnp.int32) % 3})
    halves = [jax.tree.map(lambda v, at=at: v[at], whole) for at in (slice(0, N // 2), slice(N // 2, N))]
    objective, denoiser = Regression(LogitNormal(), label_dropout=0.5), make(VP(), F(0.5))
    loss, metrics, gradient = evaluate(objective, denoiser, whole)
    parts = [evaluate(objective, denoiser, half, n=N) for half in halves]
    np.testing.assert_allclose(loss, jnp.concatenate([p[0] for p in parts]), rtol=2e-6)
    np.testing.assert_allclose(metrics["x0_loss"], jnp.concatenate([p[1]["x0_loss"] for p in parts]), rtol=2e-6)
    for g, a, b in zip(*(jax.tree.leaves(v) for v in (gradient, parts[0][2], parts[1][2])), strict=True):
        np.testing.assert_allclose(g, a + b, rtol=1e-5, atol=1e-5)
    draws, halved = drawn(objective, denoiser, whole)[0], [drawn(objective, denoiser, half, n=N)[0] for half in halves]
    for name in ("t", "eps", "cond"):  # what is drawn, to the bit
        for a, *b in zip(*(jax.tree.leaves(getattr(v, name)) for v in (draws, *halved)), strict=True):
            np.testing.assert_array_equal(a, jnp.concatenate(b))


def test_labels_are_dropped_per_example_at_their_rate(make):
    n, rate = 4000, 0.15
    labels = jnp.arange(n, dtype=jnp.int32) % 3
    batch = {"x0": jnp.zeros((n, 1)), "index": jnp.arange(n), "cond": {"label": labels, "other": jnp.ones(n)}}
    ctx = Context(denoiser=make(VP(), F(0.5)), path=VP(), key=jax.random.key(4), batch_size=n)
    cond = jax.jit(lambda batch: Regression(label_dropout=rate).corrupt(ctx, batch).cond)(batch)
    dropped = np.asarray(cond["label"] == -1)
    assert abs(dropped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_array_equal(np.asarray(cond["label"])[~dropped], np.asarray(labels)[~dropped])
    np.testing.assert_array_equal(cond["other"], 1.0)
    assert Regression().corrupt(ctx, batch).cond is batch["cond"]
    unlabelled = {k: v for k, v in batch.items() if k != "cond"}
    with pytest.raises(ConfigError, match="objective.label_dropout: 0.15 is refused; allowed: 0 for data without labels"):
        Regression(label_dropout=rate).corrupt(ctx, unlabelled)


def test_paired_noise_is_used(make, batch_of_three):
    batch = batch_of_three(N)
    ctx = Context(denoiser=make(LinearFlow(), Velocity()), path=LinearFlow(), key=jax.random.key(4), batch_size=N)
    corrupt = jax.jit(lambda batch: Regression().corrupt(ctx, batch))
    alone, paired = corrupt(batch), corrupt(batch | MinibatchOT()(ctx.key, np.asarray(batch["x0"])))
    np.testing.assert_array_equal(np.sort(alone.eps, axis=0), np.sort(paired.eps, axis=0))
    assert float(jnp.abs(alone.eps - paired.eps).max()) > 0
    np.testing.assert_allclose(paired.x_t, (1 - paired.t)[:, None] * batch["x0"] + paired.t[:, None] * paired.eps, rtol=1e-6)


def test_a_state_may_be_a_pytree(make, evaluate, drawn, batch_of_three):
    n, objective = N, Regression(weighting=MinSNR(5.0))
    x0 = {"a": batch_of_three(n)["x0"], "b": jax.random.normal(jax.random.key(2), (n, 5, 3))}
    denoiser = make(VP(), V())
    loss, metrics, _ = evaluate(objective, denoiser, {"x0": x0, "index": jnp.arange(n)})
    noised, p = drawn(objective, denoiser, {"x0": x0, "index": jnp.arange(n)})
    flat = {k: np.asarray(v).reshape(n, -1) for k, v in noised.eps.items()}
    assert abs(np.corrcoef(flat["a"].ravel(), flat["b"][:, :3].ravel())[0, 1]) < 0.5  # each leaf has noise of its own
    errors = np.concatenate([np.asarray(p.x0[k] - x0[k]).reshape(n, -1) for k in x0], axis=1)
    np.testing.assert_allclose(metrics["x0_loss"], np.square(errors).mean(1), rtol=1e-5)
    weight = np.minimum(np.exp(np.asarray(VP().log_snr(noised.t))), 5.0)
    np.testing.assert_allclose(loss, weight * np.square(errors).mean(1), rtol=1e-3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"label_dropout": 1.0}, "objective.label_dropout: 1.0"),
        ({"label_dropout": -0.1}, "objective.label_dropout: -0.1"),
        ({"time_law": None}, "objective.time_law: None"),
        ({"weighting": {"target": "UniformTime"}}, "objective.weighting: UniformTime"),
        ({"weighting": {"target": "Likelihood"}}, "per_log_snr: False is refused"),
        ({"weigting": {"target": "Simple"}}, "did you mean 'weighting'"),
        ({"time_law": {"target": "LogNormalSigma", "P_men": 1.0}}, "did you mean 'P_mean'"),
        ({"per_log_snr": 0.5}, "per_log_snr"),
    ],
)
def test_impossible_regressions_are_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        build({"target": "Regression"} | spec, "score_lab.objectives", "objective")
