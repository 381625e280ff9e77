"""The mixture against Bayes' rule spelled out with scipy's densities, one component at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from score_lab.analytic import GaussianMixture
from score_lab.build import ConfigError
from score_lab.paths import VE, VP, Cosine, LinearFlow, ddpm_table

RNG = np.random.default_rng(0)
W, V = np.array([0.5, 0.3, 0.2]), np.array([0.09, 0.16, 0.0625])
M = np.array([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]])
DIAGONAL = np.stack([V, 2 * V], 1)
LABELS = np.array([0, 1, 1])


def bayes(x, a, s, variances, keep=(0, 1, 2)):
    """(E x0, E eps, ln p) of one state, from normal densities of each component."""
    keep = list(keep)
    v = np.broadcast_to(variances.reshape(3, -1), (3, 2))[keep]
    w, m = W[keep] / W[keep].sum(), M[keep]
    var = a * a * v + s * s
    logs = np.log(w) + stats.norm.logpdf(x[None], a * m, np.sqrt(var)).sum(1)
    r = np.exp(logs - special.logsumexp(logs))[:, None]
    return (r * (m + a * v / var * (x - a * m))).sum(0), (r * s / var * (x - a * m)).sum(0), special.logsumexp(logs)


CASES = [(VP(), V), (VE(), DIAGONAL), (LinearFlow(), V), (Cosine(-3.0), DIAGONAL), (ddpm_table("cosine", 20), V)]


@pytest.mark.parametrize(("path", "variances"), CASES, ids=lambda p: type(p).__name__)
def test_posterior_and_density_are_bayes(x64, path, variances):
    """Both ends included, scalar and per-example times agree, and the score is the gradient of the log density."""
    t = np.array([0.0, 1e-3, 0.2, 0.5, 0.8, 1.0])
    denoise = GaussianMixture(path, W, M, variances)
    norm = np.asarray(path.norm(jnp.asarray(t)))
    x = jnp.asarray(RNG.normal(size=(6, 2)) * norm[:, None])
    got, density, gradient = jax.jit(
        lambda d, x, t: (d(x, t), d.log_density(x, t), jax.grad(lambda y: d.log_density(y, t).sum())(x))
    )(denoise, x, jnp.asarray(t))
    for i in range(6):
        a, s = float(path.alpha(t[i])), float(path.sigma(t[i]))
        x0, eps, log_p = bayes(np.asarray(x[i]), a, s, variances)
        np.testing.assert_allclose(got.x0[i], x0, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got.eps[i], eps, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(density[i], log_p, rtol=1e-12)
        if s > 0:
            np.testing.assert_allclose(gradient[i], -eps / s, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.at(jnp.asarray(t)), x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(denoise(x, 0.5).x0[3], got.x0[3], rtol=1e-13)


def test_labels_select_components(x64):
    """A class has its components' law, -1 has everyone's, and each example its own; no label means all."""
    denoise = GaussianMixture(VP(), W, M, V, jnp.asarray(LABELS))
    x = jnp.asarray(RNG.normal(size=(4, 2)))
    cond = {"label": jnp.array([0, 1, -1, 1])}
    got, density = denoise(x, 0.3, cond), denoise.log_density(x, 0.3, cond)
    a, s = float(VP().alpha(0.3)), float(VP().sigma(0.3))
    for i, keep in enumerate([(0,), (1, 2), (0, 1, 2), (1, 2)]):
        x0, eps, log_p = bayes(np.asarray(x[i]), a, s, V, keep)
        np.testing.assert_allclose(got.x0[i], x0, rtol=1e-12)
        np.testing.assert_allclose(got.eps[i], eps, rtol=1e-12)
        np.testing.assert_allclose(density[i], log_p, rtol=1e-12)
    np.testing.assert_allclose(denoise(x, 0.3).x0[2], got.x0[2], rtol=1e-13)
    with pytest.raises(ConfigError, match="without labels"):
        GaussianMixture(VP(), W, M, V)(x, 0.3, cond)


def test_images_are_states_too(x64):
    """(K, h, w, c) means give what the flattened problem gives."""
    means, variances, x = RNG.normal(size=(2, 3, 2, 1)), RNG.uniform(0.1, 1, (2, 3, 2, 1)), RNG.normal(size=(5, 3, 2, 1))
    image = GaussianMixture(VP(), np.ones(2), means, variances)(jnp.asarray(x), 0.4)
    flat = GaussianMixture(VP(), np.ones(2), means.reshape(2, -1), variances.reshape(2, -1))(jnp.asarray(x.reshape(5, -1)), 0.4)
    np.testing.assert_allclose(np.asarray(image.x0).reshape(5, -1), flat.x0, rtol=1e-13)
    assert image.eps.shape == x.shape


def test_samples_follow_the_mixture(x64):
    """Keyed by index; class frequencies and moments within 5 standard errors; the label chooses the component."""
    denoise = GaussianMixture(VP(), 10 * W, M, DIAGONAL, jnp.asarray(LABELS))
    n, key = 20000, jax.random.key(3)
    drawn = np.asarray(denoise.sample(key, jnp.arange(n)))
    np.testing.assert_array_equal(denoise.sample(key, jnp.array([9, 4])), drawn[[9, 4]])
    mean = (W[:, None] * M).sum(0)
    var = (W[:, None] * (DIAGONAL + M**2)).sum(0) - mean**2
    assert np.abs((drawn.mean(0) - mean) / np.sqrt(var / n)).max() < 5
    assert np.abs(drawn.var(0) / var - 1).max() < 5 * np.sqrt(3 / n)
    first = np.asarray(denoise.sample(key, jnp.arange(n), {"label": jnp.zeros(n, int)}))
    assert np.abs((first.mean(0) - M[0]) / np.sqrt(DIAGONAL[0] / n)).max() < 5
    assert np.abs(first.var(0) / DIAGONAL[0] - 1).max() < 5 * np.sqrt(2 / n)


def test_float32_far_from_every_component():
    """Where every density underflows, the nearest component is chosen: finite, no NaN."""
    denoise = GaussianMixture(LinearFlow(), W, M, V)
    for t in (0.0, 1e-6, 1.0):
        got = denoise(jnp.array([[200.0, 0.0], [-1e4, 3e4]]), t)
        assert np.isfinite(got.x0).all() and np.isfinite(got.eps).all()
        assert got.x0.dtype == jnp.float32


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("means.shape", (W[:2], M, V, None)),
        ("variances.shape", (W, M, V[:2], None)),
        ("variances", (W, M, -V, None)),
        ("weights", (W - 0.3, M, V, None)),
        ("means", (W, M * np.nan, V, None)),
        ("labels.shape", (W, M, V, LABELS[:2])),
    ],
)
def test_refusals(field, broken):
    with pytest.raises(ConfigError, match=f"GaussianMixture.{field}"):
        GaussianMixture(VP(), *broken).check()
