"""What the recorder keeps of real runs: closed form (4.1), skipped calls, churn, guidance, trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.denoiser import Prediction
from score_lab.guidance import CFG
from score_lab.linear import combine
from score_lab.mismatch import NormRecorder, Recorders
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.samplers import DDIM, Churn, Euler, Heun, Kappa, Karras, UniformLogSNR, UniformTime, sample
from score_lab.types import leaf, pytree_dataclass


@pytree_dataclass
class Gaussian:
    """Posterior mean for N(mean, s^2 I) data; the label shifts it, so that guidance has something to do."""

    path: object = leaf()
    s: float = 0.5
    mean: float = 0.0

    def __call__(self, x_t, t, cond=None, *, s=None, step=None, key=None):
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        gain = alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2)
        x0 = jax.tree.map(lambda x: self.mean + gain * (x - alpha * self.mean), x_t)
        if cond is not None:
            x0 = combine((1.0, x0), (1.0 * cond["label"], jax.tree.map(jnp.ones_like, x0)))
        return Prediction.of(x_t, t, self.path, x0=x0)

    def on(self, path):
        return Gaussian(path, self.s, self.mean)


@pytest.mark.parametrize("path", [VP(), EDM(), LinearFlow()], ids=lambda p: type(p).__name__)
def test_ddim_on_an_exact_denoiser_reads_the_product_of_cosines(path, x64):
    """(4.1): R_k = R_0 prod cos^2(phi_j - phi_{j+1}), phi = arctan(kappa / s), to 1e-12; the mean is removed."""
    s, mean = 0.5, 0.7
    grid = UniformLogSNR(12, start=-7.0, end=6.0, to_data=False)
    steps = grid.steps(path)
    alpha, sigma = (np.asarray(f(steps.t)) for f in (path.alpha, path.sigma))
    V = alpha**2 * s**2 + sigma**2
    mu = np.array([mean])
    # about alpha mu the exact denoiser is linear, so a state that starts at mean + c sqrt(V) stays on that ray
    x_T = jnp.asarray(alpha[0] * mean + 1.3 * np.sqrt(V[0])).reshape(1, 1)
    out = sample(Gaussian(path, s, mean), DDIM(), grid, x_T=x_T, recorder=NormRecorder(jnp.asarray(mu)))
    record = out.record.kept()
    phi = np.arctan2(sigma, s * alpha)
    want = 1.3**2 * np.concatenate([[1.0], np.cumprod(np.cos(np.diff(phi)) ** 2)])
    np.testing.assert_allclose(record.square[:, 0] / V, want, rtol=1e-12)
    np.testing.assert_allclose(record.fed[:, 0], np.asarray(path.log_snr(steps.t)), rtol=1e-12)
    assert record.d == 1 and len(record.t) == int(out.nfe) == 12


def test_heuns_skipped_call_is_masked_and_the_second_ones_are_at_s():
    path = EDM()
    out = sample(Gaussian(path), Heun(Kappa()), Karras(5, sigma_max=40.0), (3, 2), jax.random.key(0), recorder=NormRecorder())
    made, t = np.asarray(out.record.made), np.asarray(out.record.t)
    assert made.tolist() == [True] * 9 + [False] and int(out.nfe) == 9
    assert np.isnan(np.asarray(out.record.square)[9]).all() and np.isnan(t[9])
    np.testing.assert_allclose(t[1:8:2], t[2:9:2])  # the corrector looks where the next step starts
    assert len(out.record.kept().t) == 9


def test_churn_records_the_raised_levels_that_the_network_saw():
    path, inner = EDM(), Karras(6, sigma_max=40.0)
    grid = Churn(inner, s_churn=2.0)
    out = sample(Gaussian(path), Euler(Kappa()), grid, (4, 2), jax.random.key(0), recorder=NormRecorder())
    np.testing.assert_allclose(out.record.t, grid.steps(path).t, rtol=1e-6)
    assert (np.asarray(out.record.t) > np.asarray(inner.steps(path).t)).all()


def test_a_guided_call_is_one_row_of_the_plain_states():
    path = LinearFlow()
    cond = {"label": jnp.array([1, 0, 2])}
    run = lambda d: sample(d, Euler(), UniformTime(4), (3, 2), jax.random.key(1), cond=cond, recorder=NormRecorder())  # noqa: E731
    guided, plain = run(CFG(Gaussian(path), scale=2.0)), run(Gaussian(path))
    assert int(guided.nfe) == 8 and guided.record.square.shape == (4, 3)
    np.testing.assert_allclose(guided.record.square[0], plain.record.square[0], rtol=1e-6)  # the first state is the prior's
    assert not np.allclose(guided.record.square[1:], plain.record.square[1:])


def test_array_means_trees_and_several_recorders():
    path = LinearFlow()
    x_T = {"a": jnp.ones((2, 3)), "b": 2 * jnp.ones((2, 2, 2))}
    mean = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.ones((2, 2))}
    both = Recorders((NormRecorder(mean), NormRecorder()))
    grid = UniformTime(2, start=0.0)  # log-SNR 0 is t = 1/2 there
    about_mean, about_zero = sample(Gaussian(path), Euler(), grid, x_T=x_T, recorder=both).record
    want = 0.25 + 0 + 0.25 + 4 * 1.5**2
    np.testing.assert_allclose(about_mean.square[0], [want, want], rtol=1e-6)
    np.testing.assert_allclose(about_zero.square[0], [19.0, 19.0], rtol=1e-6)
    assert int(about_mean.d) == 7


def test_a_time_per_example_is_refused():
    recorder, x = NormRecorder(), jnp.ones((2, 2))
    bad = Prediction.of(x, jnp.array([0.5, 0.4]), LinearFlow(), x0=x)
    with pytest.raises(ConfigError, match="one time"):
        recorder.update(recorder.init(1, 1, x, jnp.arange(len(x))), jnp.int32(0), 0, bad, jnp.asarray(True))
