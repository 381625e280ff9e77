"""Bases that are orthonormal, and spectra that are those of the data, with errors that are theirs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.analytic import DCT, Haar, Hartley, Identity, Matrix
from score_lab.build import ConfigError
from score_lab.mismatch.band_maps import radial_bands, subbands
from score_lab.mismatch.spectrum import BASES, Spectrum, digest_of
from score_lab.paths import EDM, VP, LinearFlow

SHAPE = (8, 8, 1)


def gaussian(spectrum, n, seed=0):
    """Data of this spectrum, in numpy."""
    c = np.random.default_rng(seed).standard_normal((n, *spectrum.band.shape)) * np.sqrt(spectrum.variance)[spectrum.band]
    return (spectrum.mean + np.asarray(spectrum.basis.synthesise(jnp.asarray(c)), np.float64)).astype(np.float32)


@pytest.mark.parametrize("basis", [Haar(1), Haar(2), Haar(3), Hartley(), DCT(), Haar(1, (1,)), Hartley((2,))], ids=str)
def test_bases_are_orthonormal(basis, x64):
    x, y = np.random.default_rng(0).standard_normal((2, 3, 8, 16, 2))
    c, d = (np.asarray(basis.analyse(jnp.asarray(v))) for v in (x, y))
    np.testing.assert_allclose(np.asarray(basis.synthesise(jnp.asarray(c))), x, atol=1e-12)
    np.testing.assert_allclose((c * d).sum((1, 2, 3)), (x * y).sum((1, 2, 3)), rtol=1e-12)
    assert np.abs(c - x).max() > 0.1


def test_hartleys_radial_energies_are_the_ffts(x64):
    """Odd and even sides: over f and -f they are the same, 1e-12."""
    for shape in ((8, 8, 2), (5, 7, 1), (6, 9, 1)):
        x = np.random.default_rng(1).standard_normal((4, *shape))
        band = radial_bands(shape, wraps=True)
        found = Spectrum(np.ones(band.max() + 1), band, np.zeros(shape), Hartley())
        ours = np.asarray(found.energies(found.basis.analyse(jnp.asarray(x))))
        f = np.abs(np.fft.fftn(x, axes=(1, 2), norm="ortho")) ** 2
        theirs = np.stack([f[:, band == b].sum(axis=1) for b in range(band.max() + 1)], axis=1)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_haar_by_hand(x64):
    """One level of [[a, b], [c, d]]: the half sum and differences, and the subbands of every level in their corners."""
    a, b, c, d = 1.0, 2.0, 4.0, 8.0
    got = np.asarray(Haar().analyse(jnp.asarray([[[a], [b]], [[c], [d]]])[None]))[0, :, :, 0]
    np.testing.assert_allclose(got, 0.5 * np.array([[a + b + c + d, a - b + c - d], [a + b - c - d, a - b - c + d]]), rtol=1e-14)
    two = subbands((8, 8, 1), 2)[..., 0]
    assert np.bincount(two.ravel()).tolist() == [4, 4, 4, 4, 16, 16, 16]
    assert two[0, 0] == 0 and two[0, 2] == 1 and two[2, 0] == 2 and two[2, 2] == 3 and two[0, 4] == 4 and two[4, 0] == 5 and two[7, 7] == 6
    constant = np.asarray(Haar(2).analyse(jnp.ones((1, 8, 8, 1))))[0]
    np.testing.assert_allclose(np.square(constant[two == 0]).sum(), 64.0, rtol=1e-12)
    with pytest.raises(ConfigError, match="2\\^levels"):
        Haar(2).analyse(jnp.ones((1, 6, 8, 1)))


def test_radial_bands_by_hand():
    assert radial_bands((3, 3, 1))[..., 0].tolist() == [[0, 1, 2], [1, 1, 2], [2, 2, 3]]
    assert radial_bands((4, 4, 1), wraps=True)[..., 0].tolist() == [[0, 1, 2, 1], [1, 1, 2, 1], [2, 2, 3, 2], [1, 1, 2, 1]]


@pytest.mark.parametrize("basis", ["dct", "fft", "haar"])
def test_a_known_spectrum_comes_back(basis):
    shape = (8, 8, 2)
    band = subbands(shape) if basis == "haar" else radial_bands(shape, wraps=basis == "fft")
    variance, mean = 2.0 / (1.0 + np.arange(band.max() + 1)), np.random.default_rng(3).normal(size=shape)
    true = Spectrum(variance, band, mean, BASES[basis](None))
    got = Spectrum.of(gaussian(true, 4000), basis)
    np.testing.assert_array_equal(got.band, band)
    assert got.n == 4000 and (got.se > 0).all()
    assert (np.abs(got.variance - variance) < 4 * np.sqrt(2 / (4000 * got.count)) * variance).all()
    np.testing.assert_allclose(got.mean, mean, atol=5 * np.sqrt(2.0 / 4000))
    np.testing.assert_allclose(got.total, got.count @ got.variance / 128, rtol=1e-12)


def test_the_jackknife_is_calibrated():
    """z = (s_b^2 hat - s_b^2) / se over repetitions: mean 0, standard deviation 1 (20 blocks: Student's t of 19 degrees has 1.06)."""
    true = Spectrum.power_law((6, 6, 1), 2.0)
    z = []
    for seed in range(60):
        got = Spectrum.of(gaussian(true, 240, seed))
        z.append((got.variance - true.variance) / (got.se * got.variance))
    z = np.array(z)
    assert 0.85 < z.std() < 1.25 and abs(z.mean()) < 0.25  # 60 x 8 values: their sd is known to 3 %, skewed by 240 examples
    assert ((z.std(axis=0) > 0.7) & (z.std(axis=0) < 1.5)).all()


@pytest.mark.slow
def test_the_jackknife_is_calibrated_band_by_band():
    true = Spectrum.power_law((6, 6, 1), 2.0)
    z = []
    for seed in range(400):
        got = Spectrum.of(gaussian(true, 1000, seed))
        z.append((got.variance - true.variance) / (got.se * got.variance))
    spread = np.std(z, axis=0)
    assert (0.8 < spread).all() and (spread < 1.2).all()


def test_streamed_is_whole():
    x = gaussian(Spectrum.power_law(SHAPE), 500)
    whole, cuts = Spectrum.of(x, what="as is"), [0, 3, 3, 250, 261, 500]
    streamed = Spectrum.of((x[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)), what="as is")
    assert streamed.digest == whole.digest and streamed.n == whole.n == 500
    for name in ("variance", "se", "mean"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
    others = [Spectrum.of(x).digest, Spectrum.of(x, "haar", what="as is").digest, Spectrum.of(x[::-1], what="as is").digest]
    assert len({whole.digest, *others}) == 4
    streamed.check_data(whole.digest)
    with pytest.raises(ConfigError, match=others[0]):
        streamed.check_data(others[0])


def test_other_bands_are_another_digest():
    """Records are kept under it: bands by channel, or of one's own, are no record of the usual ones; it is what ``digest_of`` says."""
    x = gaussian(Spectrum.power_law((6, 6, 2)), 60)
    own = np.zeros((6, 6, 2), int)
    own[0] = 1
    kinds = [{}, {"per_channel": True}, {"band": "each"}, {"band": own}, {"band": 1 - own}, {"band": own, "per_channel": True}]
    found = [Spectrum.of(x, **kind).digest for kind in kinds]
    assert len(set(found)) == len(kinds) and found == [digest_of(x, **kind) for kind in kinds]
    points = x.reshape(60, -1)
    assert Spectrum.of(points, "pca", "each").digest == digest_of(points, "pca") != Spectrum.of(points, "pca").digest
    assert Spectrum.of(points, "pca").digest == digest_of(points, "pca", band="radial")


def test_per_channel_each_and_groups():
    x = gaussian(Spectrum.power_law((6, 6, 2)), 600) * np.array([1.0, 3.0], np.float32)
    joint, apart = Spectrum.of(x), Spectrum.of(x, per_channel=True)
    half = len(joint.variance)
    assert len(apart.variance) == 2 * half and (apart.band[..., 1] - apart.band[..., 0] == half).all()
    np.testing.assert_allclose(0.5 * (apart.variance[:half] + apart.variance[half:]), joint.variance, rtol=1e-5)
    np.testing.assert_allclose(apart.variance[half:] / apart.variance[:half], 9.0, rtol=0.6)
    each = Spectrum.of(x, "identity", "each")
    np.testing.assert_allclose(each.variance.reshape(6, 6, 2), x.var(axis=0, ddof=1), rtol=1e-4)
    assert each.se.min() > 0.02
    groups = Spectrum.of(x, band=np.arange(72).reshape(6, 6, 2) % 3)
    assert groups.count.tolist() == [24, 24, 24]


def test_pca_finds_the_covariances_eigenvalues():
    x = np.random.default_rng(0).standard_normal((300, 6)) @ np.random.default_rng(1).standard_normal((6, 6)) + 2.0
    got = Spectrum.of(x, "pca", "each")
    np.testing.assert_allclose(got.variance, np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got.mean, x.mean(axis=0), rtol=1e-4)
    grouped = Spectrum.of(np.random.default_rng(0).standard_normal((100, 40)), "pca")
    assert len(grouped.variance) == 16 and (np.diff(grouped.variance) < 0).all() and grouped.count.sum() == 40


@pytest.mark.parametrize("basis", ["dct", "fft", "haar", "identity", "pca", Haar(2), DCT((1,))], ids=str)
def test_saved_is_loaded(basis, tmp_path):
    x = gaussian(Spectrum.power_law((4, 4, 1)), 60)
    kept = Spectrum.of(x, basis, what="centred") if basis != DCT((1,)) else Spectrum.of(x, basis, "each", what="centred")
    kept.save(tmp_path / "in" / "spectrum.npz")
    got = Spectrum.load(tmp_path / "in" / "spectrum.npz")
    for f in dataclasses.fields(Spectrum):
        if f.name != "basis":
            np.testing.assert_array_equal(getattr(got, f.name), getattr(kept, f.name))
    np.testing.assert_array_equal(got.basis.analyse(jnp.asarray(x)), kept.basis.analyse(jnp.asarray(x)))
    assert type(got.basis) is type(kept.basis)


def test_nominal_variances_angles_and_the_surrogate(x64):
    """V at both ends, cos^2 phi = the surrogate's Wiener gain, and its data have the spectrum."""
    true = Spectrum.power_law((4, 4, 1), 1.5, 0.6)
    for path in (VP(), EDM(), LinearFlow()):
        t = np.array([1.0, 0.5, 0.01, 0.0])
        a, s = (np.asarray(f(jnp.asarray(t)))[:, None] for f in (path.alpha, path.sigma))
        np.testing.assert_allclose(true.V(path, t), a**2 * true.variance + s**2, rtol=1e-13)
        np.testing.assert_allclose(np.cos(true.phi(path, t)) ** 2 * true.V(path, t), a**2 * true.variance, atol=1e-13)
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 1)))
        p = true.surrogate(path)(x, 0.5)
        gain = np.asarray(true.basis.analyse(p.x0)) / np.asarray(true.basis.analyse(x))
        phi = true.phi(path, np.array([0.5]))[0][true.band]
        np.testing.assert_allclose(gain[0] * float(path.alpha(0.5)), np.cos(phi) ** 2, rtol=1e-10)
    got = Spectrum.of(np.asarray(true.surrogate(VP()).sample(jax.random.key(0), jnp.arange(3000))))
    assert (np.abs(got.variance / true.variance - 1) < 5 * np.sqrt(2 / (3000 * true.count))).all()
    np.testing.assert_allclose(true.total, 0.6, rtol=1e-12)
    white = Spectrum.white(0.3, (5,), 1.0)
    assert white.total == 0.3 and white.d == 5 and white.mean.tolist() == [1.0] * 5 and white.count.tolist() == [5]


def test_refusals(tmp_path):
    x = np.zeros((50, 4), np.float32)
    for options, word in (
        ({"basis": "wavelet"}, "dct, fft, haar"), ({"basis": "dct"}, "images"), ({"band": np.zeros(3, int)}, "shape of one state"),
        ({"basis": "identity", "band": "octaves"}, "radial, each"), ({"basis": "pca", "per_channel": True}, "through all channels"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            Spectrum.of(x, **({"basis": "identity"} | options))
    for data, options, word in (
        (x[:39], {}, "at least 40"), (iter([x[:20], x[:19]]), {}, "at least 40"), (iter([]), {}, "at least 40"),
        (x + np.nan, {}, "finite"), (iter([x]), {"basis": "pca"}, "an array of data"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            Spectrum.of(data, **({"basis": "identity"} | options))
    with pytest.raises(ConfigError, match="none empty"):
        Spectrum(np.ones(3), np.array([0, 2, 2]), 0.0)
    with pytest.raises(ConfigError, match=">= 0"):
        Spectrum(np.array([1.0, -1.0]), np.array([0, 1]), 0.0)
    with pytest.raises(ConfigError, match="npz"):
        Spectrum.white(1.0, (2,)).save(tmp_path / "spectrum.dat")
    with pytest.raises(ConfigError, match="Reversed"):
        dataclasses.replace(Spectrum.white(1.0, (2,)), basis=Reversed()).save(tmp_path / "s.npz")
    assert isinstance(Spectrum.white(1.0, (2,)).basis, Identity) and isinstance(BASES["pca"](x), Matrix)


class Reversed:
    def analyse(self, x):
        return x[:, ::-1]

    def synthesise(self, c):
        return c[:, ::-1]
