"""Weightings: their closed forms on eps, x0 and v, and what they become at both ends of every path in every row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.objectives import Context, FUniform, MinSNR, Regression, Sigmoid, Simple, VelocityUniform, VUniform, X0Uniform
from score_lab.objectives.weightings import log_row_factor, row_of
from score_lab.paths import EDM, VE, VP, Cosine, LinearFlow, SubVP, Trigonometric, ddpm_table
from score_lab.targets import X0, Eps, F, Score, V, Velocity

PATHS = {
    "flow": LinearFlow(), "vp": VP(), "sub_vp": SubVP(), "edm": EDM(), "ve": VE(), "cosine": Cosine(0.5), "trigonometric": Trigonometric(),
    "table": ddpm_table(T=20), "zero_terminal": ddpm_table(T=20, zero_terminal=True),
}  # fmt: skip
FAST_PATHS = [p if p in ("flow", "vp", "ve", "zero_terminal") else pytest.param(p, marks=pytest.mark.slow) for p in PATHS]
TARGETS = {"x0": X0(), "eps": Eps(), "score": Score(), "v": V(), "velocity": Velocity(), "F": F(0.6)}
WEIGHTINGS = {
    "simple": Simple(), "x0": X0Uniform(), "v": VUniform(), "velocity": VelocityUniform(), "F": FUniform(0.6), "min_snr": MinSNR(5.0),
    "sigmoid": Sigmoid(2.0),
}  # fmt: skip


def test_the_weights_on_x0_and_eps_are_the_papers(x64):
    log_snr = jnp.linspace(-12, 12, 49)
    snr = np.exp(np.asarray(log_snr))
    kappa = snr**-0.5
    on_eps = {
        "simple": 1, "x0": 1 / snr, "v": (snr + 1) / snr, "velocity": (1 + kappa) ** 2, "min_snr": np.minimum(snr, 5) / snr,
        "sigmoid": 1 / (1 + snr * np.exp(-2)),
        "F": (kappa**2 + 0.36) / (kappa * 0.6) ** 2 / snr,  # EDM's weight is one on x0
    }  # fmt: skip
    for name, w in on_eps.items():
        np.testing.assert_allclose(np.exp(WEIGHTINGS[name].log_weight(log_snr)), np.broadcast_to(w, snr.shape), rtol=1e-12, err_msg=name)


def reference(target, path, t, log_snr):
    """``2 ln |alpha / det|`` of each row in closed form, numpy float64, at a level of its own."""
    k2, norm = np.exp(-log_snr), np.asarray(path.norm(t))
    alpha, sigma = norm / np.sqrt(1 + k2), norm / np.sqrt(1 + 1 / k2)
    return {
        "x0": -2 * np.log(sigma / alpha), "eps": 0 * k2, "score": 2 * np.log(sigma), "v": 2 * np.log(alpha) - 4 * np.log(norm),
        "F": -np.log1p(k2 / 0.36),
        "velocity": 2 * np.log(alpha) - 2 * np.log(np.abs(path.alpha_dot(t) * sigma - path.sigma_dot(t) * alpha)),
    }[target]  # fmt: skip


@jax.jit
def factors(path, t):
    """``log_row_factor`` of every target, (targets, len(t))."""
    rows = [(lambda at, target=target: target.row(path, at)) for target in TARGETS.values()]
    return jnp.stack([log_row_factor(row_of(row, path, t), path, t) for row in rows])


def totals(path, t, log_snr):
    """``ln w + 2 ln |alpha / det|`` of every target (rows) and weighting (columns), numpy (6, 7, len(t))."""
    weights = np.stack([w.log_weight(jnp.clip(log_snr, -40.0, 40.0)) for w in WEIGHTINGS.values()])
    return np.asarray(factors(path, t))[:, None] + weights[None]


@pytest.mark.parametrize("path", FAST_PATHS)
def test_inside_the_path_the_factor_is_the_closed_form(x64, path):
    path = PATHS[path]
    t = jnp.asarray([0.03, 0.31, 0.72, 0.97])
    for target, got in zip(TARGETS, factors(path, t), strict=True):
        np.testing.assert_allclose(got, reference(target, path, t, np.asarray(path.log_snr(t))), rtol=1e-11, atol=1e-11, err_msg=target)


@pytest.mark.parametrize("path", FAST_PATHS)
def test_the_ends_are_the_limits(x64, path):
    path = PATHS[path]
    for end, sign in ((1.0, -1.0), (0.0, 1.0)):
        t = jnp.asarray([end, end])
        log_snr = path.log_snr(t)
        at_end = totals(path, t, log_snr)[..., 0]
        assert np.isfinite(at_end).all()
        if abs(float(log_snr[0])) < 40:  # a path that ends at a finite level: there it is the formula itself
            factor = np.stack([reference(a, path, t, np.asarray(log_snr)) for a in TARGETS])
            weight = np.stack([w.log_weight(log_snr) for w in WEIGHTINGS.values()])
            np.testing.assert_allclose(at_end, (factor[:, None] + weight)[..., 0], rtol=1e-9, atol=1e-9)
            continue
        near = sign * jnp.asarray([30.0, 36.0])  # float64 times resolve both
        inside = totals(path, path.time_of(near), near)
        slope = (inside[..., 1] - inside[..., 0]) / 6.0  # per unit of log_snr, outwards: 0 where the limit is finite
        finite = np.abs(slope) < 1e-5
        assert finite.any() and not finite.all()
        np.testing.assert_allclose(at_end[finite], inside[..., 1][finite], atol=1e-4)
        asymptote = inside[..., 1] + 4.0 * slope  # elsewhere the asymptote, read at +-40
        np.testing.assert_allclose(at_end[~finite], asymptote[~finite], atol=0.02)


class At:
    """A time law that is no law: the times are given."""

    bounded = True

    def __init__(self, times):
        self.times = times

    def sample(self, key, index, n, path, log_snr_range):
        return self.times[index]

    def log_density(self, log_snr, path, log_snr_range):
        return jnp.zeros_like(log_snr)


FAST = {("flow", "eps"), ("zero_terminal", "velocity")}


@pytest.mark.parametrize(
    ("path", "target"), [pytest.param(p, t, marks=[] if (p, t) in FAST else pytest.mark.slow) for p in PATHS for t in TARGETS]
)
def test_losses_and_gradients_are_finite_at_both_ends_in_float32(make, batch_of_three, path, target):
    times = jnp.asarray([0.0, 1.0, 1e-12, 1.0 - 6e-8, 0.5])
    denoiser, batch = make(PATHS[path], TARGETS[target]), batch_of_three(5)

    @jax.jit
    def everything(params, batch):
        def one(weighting, p):
            ctx = Context(denoiser=dataclasses.replace(denoiser, params=p), path=denoiser.path, key=jax.random.key(0), batch_size=5)
            loss, metrics, _ = Regression(At(times), weighting).loss(ctx, {}, {}, batch)
            return loss.sum(), (loss, metrics)

        return [jax.grad(one, argnums=1, has_aux=True)(w, params) for w in [None, *WEIGHTINGS.values()]]

    for gradient, (loss, metrics) in everything(denoiser.params, batch):
        assert all(bool(jnp.isfinite(v).all()) for v in jax.tree.leaves((gradient, loss, metrics)))
        assert bool((loss > 0).all()) or target == "score"  # sigma^2 on the score is 0 at the data


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"target": "MinSNR", "gamma": 0}, "gamma: 0.0"),
        ({"target": "FUniform", "sigma_data": -1.0}, "sigma_data: -1.0"),
        ({"target": "MinSnr"}, "MinSNR"),
    ],
)
def test_impossible_weightings_are_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        build(spec, "score_lab.objectives", "objective.weighting")
