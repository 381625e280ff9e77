"""Gaussian bands against conditioning of the joint Gaussian of (x0, eps, x_t), written out with dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft, stats

from score_lab.analytic import DCT, GaussianBands, Identity, Matrix, pca
from score_lab.build import ConfigError
from score_lab.paths import EDM, VE, VP, LinearFlow, SubVP

SHAPE = (3, 4, 2)
D = 24
RNG = np.random.default_rng(0)
MEAN, STD = RNG.normal(size=SHAPE), RNG.uniform(0.1, 2.0, SHAPE)
STD[0, 0, 0] = 0.0
ROTATION = np.linalg.qr(RNG.normal(size=(D, D)))[0]


def dense(basis):
    """The matrix whose columns are the basis vectors of the flattened state."""
    return np.stack([np.asarray(basis.synthesise(jnp.asarray(e.reshape(1, *SHAPE)))).ravel() for e in np.eye(D)], 1)


@pytest.mark.parametrize("basis", [Identity(), DCT(), Matrix(ROTATION)], ids=["identity", "dct", "matrix"])
def test_posterior_is_the_conditional_mean(x64, basis):
    """E[z | x_t] = E z + Cov(z, x_t) Cov(x_t)^-1 (x_t - E x_t) for z = x0 and z = eps, scalar and per-example times, inside (0, 1)."""
    Q = dense(basis)
    assert np.abs(Q.T @ Q - np.eye(D)).max() < 1e-14
    C = Q @ np.diag(STD.ravel() ** 2) @ Q.T
    path = VP()
    denoise = GaussianBands(path, MEAN, STD, basis)
    t = np.array([0.03, 0.4, 0.9])
    x = jnp.asarray(RNG.normal(size=(3, *SHAPE)))
    got = jax.jit(lambda d, x, t: d(x, t))(denoise, x, jnp.asarray(t))
    for i in range(3):
        a, s = float(path.alpha(t[i])), float(path.sigma(t[i]))
        y = np.linalg.solve(a * a * C + s * s * np.eye(D), np.asarray(x[i]).ravel() - a * MEAN.ravel())
        np.testing.assert_allclose(np.asarray(got.x0[i]).ravel(), MEAN.ravel() + a * C @ y, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(np.asarray(got.eps[i]).ravel(), s * y, rtol=1e-11, atol=1e-12)
        one = denoise(x[i : i + 1], jnp.asarray(t[i]))
        np.testing.assert_allclose(one.x0[0], got.x0[i], rtol=1e-13, atol=1e-14)
        assert one.t.ndim == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_both_ends(x64, dtype):
    """alpha = 0: x0 is the mean and eps = x_t / sigma.  sigma = 0: x0 = x_t / alpha, constant bands stay at the mean; eps = 0."""
    denoise = GaussianBands(LinearFlow(), MEAN, STD)
    x = jnp.asarray(RNG.normal(size=(2, *SHAPE)), dtype)
    noise, data = denoise(x, jnp.ones((), dtype)), denoise(x, jnp.zeros((), dtype))
    np.testing.assert_array_equal(noise.x0, np.broadcast_to(MEAN.astype(dtype), x.shape))
    np.testing.assert_array_equal(noise.eps, x)
    np.testing.assert_allclose(data.x0, np.where(STD > 0, x, MEAN), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(data.eps, 0.0)
    assert noise.x0.dtype == data.eps.dtype == dtype


def test_tiny_and_huge_levels_neither_underflow_nor_overflow():
    """In float32, std 1e-30 at sigma = 0 keeps its gain 1; sigma = 1e30 squared would overflow."""
    denoise = GaussianBands(EDM(1e30), np.zeros(2), np.array([1e-30, 1.0]))
    np.testing.assert_allclose(denoise(jnp.full((1, 2), 1e-30), 0.0).x0, [[1e-30, 1e-30]], rtol=1e-6)
    far = denoise(jnp.array([[1e30, -2e30]]), 1.0)
    np.testing.assert_allclose(far.eps, [[1.0, -2.0]], rtol=1e-6)
    assert np.isfinite(far.x0).all()
    assert np.isfinite(jax.jacfwd(lambda t: denoise(jnp.ones((1, 2)), t).x0)(1e-3)).all()


@pytest.mark.parametrize("path", [VP(), SubVP(), VE(), LinearFlow()])
def test_consistent_and_moved_between_paths(x64, path):
    """alpha x0 + sigma eps = x_t, and equal log-SNR gives equal x0 on every path."""
    t = jnp.linspace(0.05, 0.9, 5)
    x = jnp.asarray(RNG.normal(size=(5, *SHAPE)))
    got = GaussianBands(path, MEAN, STD)(x, t)
    np.testing.assert_allclose(got.at(t), x, rtol=1e-12, atol=1e-12)
    u = EDM().time_of(path.log_snr(t))
    other = GaussianBands(path, MEAN, STD).on(EDM())(x / path.alpha(t)[:, None, None, None], u)
    np.testing.assert_allclose(other.x0, got.x0, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(other.eps, got.eps, rtol=1e-9, atol=1e-10)


def test_dct_is_scipys(x64):
    x = RNG.normal(size=(2, *SHAPE))
    np.testing.assert_allclose(DCT().analyse(jnp.asarray(x)), fft.dctn(x, axes=(1, 2), norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(DCT((1,)).analyse(jnp.asarray(x)), fft.dct(x, axis=1, norm="ortho"), atol=1e-13)


def test_density_and_samples(x64):
    """scipy's multivariate normal; a sample depends on (key, index) alone; moments of 20000 samples within 5 standard errors."""
    basis, std = Matrix(ROTATION), STD + 0.1
    C = ROTATION @ np.diag(std.ravel() ** 2) @ ROTATION.T
    denoise = GaussianBands(VP(), MEAN, std, basis)
    x = jnp.asarray(RNG.normal(size=(3, *SHAPE)))
    a, s = float(VP().alpha(0.3)), float(VP().sigma(0.3))
    law = stats.multivariate_normal(a * MEAN.ravel(), a * a * C + s * s * np.eye(D))
    np.testing.assert_allclose(denoise.log_density(x, 0.3), law.logpdf(np.asarray(x).reshape(3, -1)), rtol=1e-12)
    key = jax.random.key(1)
    drawn = denoise.sample(key, jnp.arange(20000))
    np.testing.assert_allclose(denoise.sample(key, jnp.array([17, 3])), drawn[jnp.array([17, 3])], rtol=1e-13)
    flat = np.asarray(drawn).reshape(20000, -1)
    assert np.abs((flat.mean(0) - MEAN.ravel()) / np.sqrt(np.diag(C) / 20000)).max() < 5
    bands = np.asarray(basis.analyse(jnp.asarray(flat - MEAN.ravel())))
    assert np.abs(bands.std(0) / std.ravel() - 1).max() < 5 / np.sqrt(2 * 20000)


def test_fit_in_principal_axes(x64):
    """Fitted in PCA's basis, bands carry the eigenvalues of the covariance: the posterior is that of the full covariance."""
    x0 = RNG.normal(size=(50, D)) @ RNG.normal(size=(D, D))
    denoise = GaussianBands.fit(VP(), x0, pca(x0))
    C = np.cov(x0.T, bias=True)
    np.testing.assert_allclose(denoise.std**2, np.sort(np.linalg.eigvalsh(C))[::-1], rtol=1e-9, atol=1e-9)
    a, s = float(VP().alpha(0.5)), float(VP().sigma(0.5))
    want = x0.mean(0) + a * C @ np.linalg.solve(a * a * C + s * s * np.eye(D), x0[0] - a * x0.mean(0))
    np.testing.assert_allclose(denoise(jnp.asarray(x0[:1]), 0.5).x0[0], want, rtol=1e-9)


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("std.shape", lambda: GaussianBands(VP(), np.zeros(3), np.ones(2))),
        ("mean, std", lambda: GaussianBands(VP(), np.zeros(3), -np.ones(3))),
        ("mean, std", lambda: GaussianBands(VP(), np.full(3, np.nan), np.ones(3))),
        ("Matrix.Q", lambda: GaussianBands(VP(), np.zeros(3), np.ones(3), Matrix(np.ones((3, 3))))),
        ("Matrix.Q.shape", lambda: GaussianBands(VP(), np.zeros(3), np.ones(3), Matrix(np.ones((3, 2))))),
        ("VP.beta_min", lambda: GaussianBands(VP(-1.0), np.zeros(3), np.ones(3))),
    ],
)
def test_refusals(field, broken):
    with pytest.raises(ConfigError, match=field):
        broken().check()
