"""The empirical denoiser against a softmax over all points in one piece of float64 numpy, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from score_lab.analytic import Empirical
from score_lab.build import ConfigError
from score_lab.paths import VE, VP, LinearFlow

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(37, 2, 3))
LABELS = np.arange(37) % 3


def brute(x, a, s, keep=slice(None)):
    y = POINTS[keep].reshape(-1, 6)
    logits = -((x.reshape(1, 6) - a * y) ** 2).sum(1) / (2 * s * s)
    x0 = special.softmax(logits) @ y
    return x0.reshape(2, 3), ((x.reshape(6) - a * x0) / s).reshape(2, 3)


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 1000])
def test_any_chunk_is_the_softmax_over_all_points(x64, chunk):
    """Levels from where one point has all the weight to where all have the same; unequal last chunks; times per example."""
    t = np.array([1e-3, 0.05, 0.4, 0.99])
    path = LinearFlow()
    x = jnp.asarray((1 - t)[:, None, None] * POINTS[:4] + t[:, None, None] * RNG.normal(size=(4, 2, 3)))
    got = jax.jit(lambda d, x, t: d(x, t))(Empirical(path, POINTS, chunk=chunk), x, jnp.asarray(t))
    for i in range(4):
        x0, eps = brute(np.asarray(x[i]), 1 - t[i], t[i])
        np.testing.assert_allclose(got.x0[i], x0, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got.eps[i], eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_both_ends(x64, dtype):
    """sigma = 0: the nearest point, eps 0.  alpha = 0: the mean, eps = x_t.  sigma^2 below the smallest float: still the nearest point."""
    denoise = Empirical(LinearFlow(), POINTS, chunk=5)
    x = jnp.asarray(POINTS[[3, 30]] + 1e-3, dtype)
    data, noise, almost = (denoise(x, jnp.asarray(t, dtype)) for t in (0.0, 1.0, 1e-30))
    np.testing.assert_allclose(data.x0, POINTS[[3, 30]], rtol=1e-6)
    np.testing.assert_array_equal(data.eps, 0.0)
    np.testing.assert_allclose(almost.x0, POINTS[[3, 30]], rtol=1e-6)
    np.testing.assert_allclose(noise.x0, np.broadcast_to(POINTS.mean(0), x.shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(noise.eps, x)
    assert data.x0.dtype == dtype


def test_two_points_at_one_distance_share(x64):
    denoise = Empirical(VE(), np.array([[-1.0], [1.0], [5.0]]), chunk=1).on(LinearFlow())
    np.testing.assert_array_equal(denoise(jnp.zeros((1, 1)), 0.0).x0, [[0.0]])


def test_labels_select_points(x64):
    denoise = Empirical(VP(), POINTS, jnp.asarray(LABELS), chunk=4)
    x = jnp.asarray(RNG.normal(size=(3, 2, 3)))
    got = denoise(x, 0.2, {"label": jnp.array([2, -1, 0])})
    a, s = float(VP().alpha(0.2)), float(VP().sigma(0.2))
    for i, keep in enumerate([LABELS == 2, slice(None), LABELS == 0]):
        np.testing.assert_allclose(got.x0[i], brute(np.asarray(x[i]), a, s, keep)[0], rtol=1e-12)
    assert np.isnan(denoise(x, 0.2, {"label": jnp.array([7, 7, 7])}).x0).all()
    with pytest.raises(ConfigError, match="without labels"):
        Empirical(VP(), POINTS)(x, 0.2, {"label": jnp.array([0, 0, 0])})


def test_memory_is_bounded_by_the_chunk():
    """The compiled program's temporaries do not grow from 4096 to 16384 points at one chunk size, but for the copy of the points."""

    def temporaries(n):
        denoise = Empirical(VP(), jnp.zeros((n, 8)), chunk=256)
        compiled = jax.jit(lambda d, x: d(x, 0.5).x0).lower(denoise, jnp.zeros((64, 8))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    pairwise = (16384 - 4096) * 64 * 4  # bytes of the (batch, points) distances that must not exist
    assert temporaries(16384) - temporaries(4096) < 0.6 * pairwise


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("points", {"points": np.zeros((0, 2))}),
        ("points", {"points": np.array([[np.inf]])}),
        ("labels.shape", {"points": POINTS, "labels": LABELS[:4]}),
        ("chunk", {"points": POINTS, "chunk": 0}),
    ],
)
def test_refusals(field, broken):
    with pytest.raises(ConfigError, match=f"Empirical.{field}"):
        Empirical(VP(), **broken).check()
