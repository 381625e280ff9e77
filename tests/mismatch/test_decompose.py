"""The decomposition against the exact band oracle: a misspecified denoiser of known gain and noise, every part and the interaction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.analytic import Misspecified, TwoSpectra
from score_lab.build import ConfigError
from score_lab.denoiser import Prediction
from score_lab.guidance import CFG
from score_lab.mismatch.cube import PARTS, decompose, fitted_order, richardson, truncation
from score_lab.mismatch.gain_and_noise import local_error
from score_lab.mismatch.inversion import on_host
from score_lab.mismatch.oracle import variance_ratios
from score_lab.mismatch.spectrum import Spectrum
from score_lab.paths import VP, LinearFlow
from score_lab.report.mismatch.decomposition_page import TRUNCATION, Part, rows_of, words_of
from score_lab.samplers import DDIM, EulerMaruyama, Heun, UniformLogSNR
from score_lab.types import leaf, pytree_dataclass

N, N_MAX, KEY = 8, 64, jax.random.key(1)
PATH = VP()
SPECTRUM = Spectrum(np.array([1.5, 0.3]), np.arange(8).reshape(2, 4, 1) % 2, np.full((2, 4, 1), 0.3))


def grid(k):
    return UniformLogSNR(k, -4.0, 5.0, to_data=False)


def examples(n):
    return np.asarray(SPECTRUM.surrogate(PATH).sample(jax.random.key(5), jnp.arange(n)))


def oracle(denoiser, sampler, k, R_0=1.0):
    return variance_ratios(sampler, grid(k), PATH, SPECTRUM, R_0, denoiser=denoiser)[-1]


def limit(denoiser, sampler):
    return richardson(oracle(denoiser, sampler, N_MAX // 2), oracle(denoiser, sampler, N_MAX), N_MAX // 2, N_MAX, sampler.order)


@pytest.mark.parametrize("sampler", [DDIM(), pytest.param(Heun(), marks=pytest.mark.slow)], ids=str)
def test_every_part_is_the_oracles(x64, sampler):
    """Gaussian data, a denoiser for 0.9 of the standard deviation, guided by one for 1.4 of it, started from the prior."""
    exact = SPECTRUM.surrogate(PATH)
    plain = dataclasses.replace(exact, std=0.9 * exact.std)
    guided = CFG(TwoSpectra(plain, dataclasses.replace(exact, std=1.4 * exact.std)), 1.5)
    n = 256
    cond = {"label": np.zeros(n, np.int32)}
    x0 = examples(n)
    found = decompose(guided, sampler, grid, x0, SPECTRUM, KEY, N=N, N_max=N_MAX, plain=plain, exact=exact, cond=cond)
    expected = {
        "prior": oracle(plain, sampler, N, "prior") - oracle(plain, sampler, N),
        "discretisation": oracle(plain, sampler, N) - limit(plain, sampler),
        "model": limit(plain, sampler) - limit(exact, sampler),
        "guidance": variance_ratios(sampler, grid(N), PATH, SPECTRUM, denoiser=guided, label=0)[-1] - oracle(plain, sampler, N),
    }
    for name, value in expected.items():
        part = found.parts[name]
        half = 0.5 * (part.high - part.low)[:-1]
        assert (np.abs(part.value[:-1] - value) <= half + 1e-9).all(), (name, part.value, value)
        big = np.abs(value) > 0.05
        assert (half[big] <= 0.2 * np.abs(value[big])).all(), (name, half, value)
    assert np.abs(found.parts["interaction"].value).max() < 0.02
    assert found.parts["draws"].low[-1] < 0 < found.parts["draws"].high[-1]
    np.testing.assert_allclose(sum(found.parts[name].value for name in PARTS), found.whole.value, atol=1e-12)
    assert len(found.rows()) == (1 + len(PARTS)) * 3 and found.exact


def misspecified(k, eta, tau, R_0=1.0):
    """ln R_b of DDIM after k steps with D = (1 + eta) D* + e, E e^2 = tau^2, e independent: v' = m^2 v + c^2 tau^2 in closed form,
    c = alpha' - sigma' alpha / sigma, m = sigma' / sigma + c (1 + eta) alpha s^2 / V (the same law as (4.6) and (4.7))."""
    steps = grid(k).steps(PATH)
    alpha, sigma, _ = on_host(PATH, np.append(np.asarray(steps.t), np.asarray(steps.s)[-1]))
    s2 = SPECTRUM.variance
    V = alpha[:, None] ** 2 * s2 + sigma[:, None] ** 2
    v = R_0 * V[0]
    for i in range(k):
        c = alpha[i + 1] - sigma[i + 1] * alpha[i] / sigma[i]
        m = sigma[i + 1] / sigma[i] + c * (1 + eta) * alpha[i] * s2 / V[i]
        v = m**2 * v + c**2 * tau**2
    return np.log(v / V[-1])


def test_A9_parts_sum_to_the_whole_and_are_those_of_a_known_gain_and_noise(x64):
    """Gain 1.1 and noise of deviation 0.3: every part, and the interaction, against exact second moments; the prior is (4.8)."""
    n, eta, tau = 4096, 0.1, 0.3
    exact = SPECTRUM.surrogate(PATH)
    wrong = Misspecified(exact, 0.3, eta, tau)
    found = decompose(wrong, DDIM(), grid, examples(n), SPECTRUM, KEY, N=N, N_max=N_MAX, exact=exact, chunk=n)
    for name in ("whole", *PARTS):
        assert np.isfinite((found.whole if name == "whole" else found.parts[name]).se).all(), name
    np.testing.assert_allclose(sum(found.parts[name].value for name in PARTS), found.whole.value, atol=1e-12)

    def at(k, eta=eta, tau=tau, R_0=1.0):
        return misspecified(k, eta, tau, R_0)

    def far(**wrongness):
        return richardson(at(N_MAX // 2, **wrongness), at(N_MAX, **wrongness), N_MAX // 2, N_MAX, 1)

    start = grid(N).steps(PATH).start
    alpha, sigma, _ = on_host(PATH, np.asarray([float(start)]))
    R_0 = (1.0 + (0.3 * alpha) ** 2) / (alpha**2 * SPECTRUM.variance + sigma**2)  # (4.8) on VP, with the square of its mean leak
    expected = {
        "prior": at(N, R_0=R_0) - at(N), "discretisation": at(N) - far(), "model": far() - far(eta=0.0, tau=0.0),
        "draws": far(eta=0.0, tau=0.0), "guidance": 0.0 * R_0,
    }  # fmt: skip
    expected["interaction"] = at(N, R_0=R_0) - sum(expected.values())
    for name, value in expected.items():
        part = found.parts[name]
        half = 0.5 * (part.high - part.low)[:-1]
        assert (np.abs(part.value[:-1] - value) <= half + 1e-9).all(), (name, part.value, value, half)
        big = np.abs(value) > 0.05
        assert (half[big] <= 0.2 * np.abs(value[big])).all(), (name, half, value)
    assert (np.abs(expected["model"]) > 0.05).all() and (np.abs(expected["discretisation"]) > 0.05).any()
    np.testing.assert_allclose(oracle(exact, DDIM(), N), at(N, 0.0, 0.0), atol=1e-10)  # the recursion is the oracle's where both reach


def guided_law(k, start, s2, eta, tau, scale, wider, R_0=1.0):
    """ln R of DDIM (bands, total) with D = (1 + eta) D_w + e: D_w = w D_s + (1 - w) D_wider s, v' = m^2 v + c^2 tau^2 in closed form."""
    steps = UniformLogSNR(k, start, 3.0, to_data=False).steps(PATH)
    alpha, sigma, _ = on_host(PATH, np.append(np.asarray(steps.t), np.asarray(steps.s)[-1]))
    alpha, sigma = alpha[:, None], sigma[:, None]
    V, U = (alpha**2 * v + sigma**2 for v in (s2, wider**2 * s2))
    gain = alpha * (scale * s2 / V + (1 - scale) * wider**2 * s2 / U)
    v = R_0 * V[0]
    for i in range(k):
        c = alpha[i + 1] - sigma[i + 1] * alpha[i] / sigma[i]
        v = (sigma[i + 1] / sigma[i] + c * (1 + eta) * gain[i]) ** 2 * v + c**2 * tau**2
    return np.log(np.append(v / V[-1], v.sum() / V[-1].sum()))  # as many coefficients in either band


@pytest.mark.parametrize(("n", "share"), [(4000, 1.0), pytest.param(16_000, 0.5, marks=pytest.mark.slow)])
def test_every_part_and_the_interaction_to_a_fifth_of_their_size(x64, n, share):
    """A wrong prior, few steps, gain 1.2, noise of deviation 1, guidance of scale 3: five parts, none under 0.06 in either band or in
    total, each held by its interval, whose half-width is at most a fifth of the part (``share`` of a fifth with more trajectories)."""
    s2, eta, tau, scale, wider, start = np.array([4.0, 0.05]), 0.2, 1.0, 3.0, np.sqrt(3.0), -1.0
    spectrum = Spectrum(s2, np.arange(128).reshape(8, 16, 1) % 2, np.full((8, 16, 1), 0.3))
    exact = spectrum.surrogate(PATH)
    plain = Misspecified(TwoSpectra(exact, dataclasses.replace(exact, std=wider * exact.std)), 0.3, eta, tau)
    x0 = np.asarray(exact.sample(jax.random.key(5), jnp.arange(n)))
    found = decompose(
        CFG(plain, scale), DDIM(), lambda k: UniformLogSNR(k, start, 3.0, to_data=False), x0, spectrum, KEY, N=4, N_max=16, plain=plain,
        exact=exact, cond={"label": np.zeros(n, np.int32)}, chunk=4000,
    )  # fmt: skip

    def at(k, eta=eta, tau=tau, w=1.0, R_0=1.0):
        return guided_law(k, start, s2, eta, tau, w, wider, R_0)

    def far(**wrongness):
        return richardson(at(8, **wrongness), at(16, **wrongness), 8, 16, 1)

    alpha, sigma, _ = on_host(PATH, np.asarray([float(UniformLogSNR(4, start, 3.0).steps(PATH).start)]))
    R_0 = (1.0 + (0.3 * alpha) ** 2) / (alpha**2 * s2 + sigma**2)
    truth = {
        "prior": at(4, R_0=R_0) - at(4), "discretisation": at(4) - far(), "model": far() - far(eta=0.0, tau=0.0),
        "guidance": at(4, w=scale) - at(4), "interaction": at(4, w=scale, R_0=R_0) - at(4, w=scale) - at(4, R_0=R_0) + at(4),
    }  # fmt: skip
    for name, value in truth.items():
        part = found.parts[name]
        half = 0.5 * (part.high - part.low)
        assert (np.abs(value) > 0.06).all(), (name, value)
        assert (np.abs(part.value - value) <= half).all(), (name, part.value, value, half)
        assert (half <= 0.2 * share * np.abs(value)).all(), (name, half / np.abs(value))
    draws = found.parts["draws"]
    ideal = far(eta=0.0, tau=0.0)  # what the extrapolation leaves of the exact denoiser's own steps
    assert (draws.low <= ideal).all() and (ideal <= draws.high).all()
    np.testing.assert_allclose(found.whole.value, sum(found.parts[name].value for name in PARTS), atol=1e-12)
    four = UniformLogSNR(4, start, 3.0, to_data=False)
    np.testing.assert_allclose(variance_ratios(DDIM(), four, PATH, spectrum)[-1], at(4, 0.0, 0.0)[:-1], atol=1e-10)


def test_truncation_is_what_the_last_level_leaves_and_unguided_parts_telescope(x64):
    """ln (V / (alpha^2 s^2)) at log-SNR 5, 0 at data, infinite for a band that has nothing; no interaction without guidance, to the bit."""
    t = float(grid(4).steps(PATH).s[-1])
    alpha, sigma, _ = on_host(PATH, np.asarray([t]))
    bands = np.log(SPECTRUM.V(PATH, np.asarray([t]))[0] / (alpha**2 * SPECTRUM.variance))
    np.testing.assert_allclose(truncation(SPECTRUM, PATH, t)[:-1], bands, rtol=1e-9)
    np.testing.assert_allclose(truncation(SPECTRUM, PATH, t)[-1], np.log1p(np.exp(-5.0) / 0.9), rtol=1e-9)
    assert (truncation(SPECTRUM, PATH, 0.0) == 0).all() and sigma > 0
    assert np.isinf(truncation(dataclasses.replace(SPECTRUM, variance=np.array([1.0, 0.0])), PATH, t)[1])
    found = decompose(SPECTRUM.surrogate(PATH), DDIM(), grid, examples(40), SPECTRUM, KEY, N=2, N_max=8)
    np.testing.assert_array_equal(found.truncation, truncation(SPECTRUM, PATH, t))
    assert (found.parts["interaction"].value == 0).all() and (found.parts["interaction"].se == 0).all()
    said = words_of(Part("DDIM", 2.0, found))
    assert any("not guided" in line for line in said) and any("truncation" in line for line in said)
    row = [r for r in rows_of(Part("DDIM", 2.0, found)) if r["part"] == TRUNCATION]
    assert [r["band"] for r in row] == [0, 1, "total"] and row[0]["value"] == found.truncation[0]


def test_without_an_exact_denoiser_the_order_is_measured(x64):
    """ln R of DDIM is first order in 1 / N, on the cells of the cube themselves."""
    found = decompose(SPECTRUM.surrogate(PATH), DDIM(), grid, examples(64), SPECTRUM, KEY, N=N, N_max=N_MAX)
    values = {k: found.cube["plain", "true", k][:, 0] for k in found.cube.steps}
    np.testing.assert_allclose(fitted_order(values), 1.0, atol=0.05)
    assert not found.exact and np.abs(found.parts["guidance"].value).max() == 0.0


@pytree_dataclass
class Wrong:
    """Gain 1 + eta and, as a function of the state that does not correlate with it, noise of standard deviation tau."""

    denoiser: object = leaf()
    eta: float = 0.1
    tau: float = 0.2

    @property
    def path(self):
        return self.denoiser.path

    def on(self, path):
        return Wrong(self.denoiser.on(path), self.eta, self.tau)

    def __call__(self, x_t, t, cond=None, **options):
        p, mean = self.denoiser(x_t, t, cond, **options), jnp.asarray(0.3, x_t.dtype)
        noise = self.tau * jnp.sqrt(2.0) * jnp.cos(1e4 * x_t)
        return Prediction.of(x_t, t, self.path, x0=mean + (1.0 + self.eta) * (p.x0 - mean) + noise, eps=p.eps)


@pytest.mark.slow
def test_gain_and_noise_of_one_level(x64):
    """Over 32 repetitions: the intervals hold the truth at all levels as often as they say, and the estimates lean to neither side."""
    exact = SPECTRUM.surrogate(PATH)
    t = np.asarray(PATH.time_of(jnp.asarray([-1.0, 1.0, 3.0])))
    mmse = SPECTRUM.variance * np.sin(SPECTRUM.phi(PATH, t)) ** 2
    held, z = [], []
    for k in range(32):
        x0 = np.asarray(exact.sample(jax.random.key(100 + k), jnp.arange(2000)))
        found = local_error(Wrong(exact), exact, x0, t, SPECTRUM, jax.random.key(k))
        for b in range(2):
            gain, noise, ratio = found.gain[b], found.noise[b], 0.2**2 / mmse[:, b]
            assert gain.se.max() < 0.02 and (noise.se < 0.1 * ratio).all()
            for curve, truth in ((gain, 1.1), (noise, ratio)):
                held.append(((curve.low < truth) & (truth < curve.high)).all())
                z.append((curve.value - truth) / curve.se)
        np.testing.assert_allclose(found.mmse, mmse, rtol=0.1)
    share = np.reshape(held, (32, 4)).mean(axis=0)  # of 95 %: all three levels at once
    assert share.mean() >= 0.91 and share.min() >= 0.84, share
    z = np.reshape(z, (32, 4, 3))
    assert np.abs(z).max() <= 4 and np.abs(z.mean(axis=0)).max() <= 3 / np.sqrt(32), z.mean(axis=0)


@pytest.mark.slow
def test_a_stochastic_sampler_on_the_flow(x64):
    """Runs of other numbers of steps draw other noise: the interval holds the oracle's discretisation."""
    path, sampler = LinearFlow(), EulerMaruyama()
    exact = SPECTRUM.surrogate(path)
    found = decompose(exact, sampler, grid, examples(400), SPECTRUM, KEY, N=8, N_max=32, exact=exact).parts["discretisation"]
    at = {k: variance_ratios(sampler, grid(k), path, SPECTRUM)[-1] for k in (8, 16, 32)}
    value = at[8] - richardson(at[16], at[32], 16, 32, sampler.order)
    assert (found.low[:-1] < value).all() and (value < found.high[:-1]).all(), (found, value)
    assert np.abs(value).max() > 0.05


def test_bad_input_is_one_line():
    denoiser, x0 = SPECTRUM.surrogate(PATH), examples(40)
    with pytest.raises(ConfigError, match="N_max"):
        decompose(denoiser, DDIM(), grid, x0, SPECTRUM, KEY, N=8, N_max=16)
    with pytest.raises(ConfigError, match="x0"):
        decompose(denoiser, DDIM(), grid, x0[:5], SPECTRUM, KEY, N=4, N_max=16)
    with pytest.raises(ConfigError, match="one start and one end"):
        decompose(denoiser, DDIM(), lambda k: UniformLogSNR(k, -4.0, 1.0 * k, to_data=False), x0, SPECTRUM, KEY, N=2, N_max=8)
