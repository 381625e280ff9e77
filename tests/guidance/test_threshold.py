"""Clipping and dynamic thresholding of x0: the definition in numpy, per sample, consistent in eps, finite at both ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian
from samplers.fake import small

from score_lab.build import ConfigError
from score_lab.guidance import ClipX0, DynamicThreshold
from score_lab.paths import LinearFlow
from score_lab.samplers import DDIM, Heun, T, UniformTime, sample
from score_lab.targets import F

PATH = LinearFlow()
X = jnp.asarray(np.random.default_rng(3).standard_normal((4, 3, 5)) * np.array([0.2, 1.0, 3.0, 9.0])[:, None, None], jnp.float32)


def consistent(p):
    """x_t = alpha x0 + sigma eps still holds."""
    np.testing.assert_allclose(p.at(p.t), p.x_t, rtol=1e-4, atol=1e-4)


def test_clip():
    inner = Gaussian(PATH, 2.0)
    p, q = inner(X, jnp.float32(0.4)), ClipX0(inner, -1.0, 0.5)(X, jnp.float32(0.4))
    np.testing.assert_array_equal(q.x0, np.clip(p.x0, -1.0, 0.5))
    assert (np.asarray(p.x0) > 0.5).any()
    consistent(q)


def test_dynamic_threshold():
    """Saharia et al. 2022, section 2.3: q = max(bound, quantile of |x0|) of each sample; below the bound nothing changes."""
    inner = Gaussian(PATH, 2.0)
    p, q = inner(X, jnp.float32(0.4)), DynamicThreshold(inner, 0.8, 1.5)(X, jnp.float32(0.4))
    x0 = np.asarray(p.x0, np.float64)
    s = np.maximum(np.quantile(np.abs(x0).reshape(4, -1), 0.8, axis=1), 1.5)[:, None, None]
    np.testing.assert_allclose(q.x0, np.clip(x0, -s, s) / s * 1.5, rtol=1e-5)
    np.testing.assert_allclose(q.x0[0], p.x0[0], rtol=1e-6)
    assert np.abs(np.asarray(q.x0)).max() <= 1.5 * (1 + 1e-6)
    alone = DynamicThreshold(inner, 0.8, 1.5)(X[3:], jnp.float32(0.4))
    np.testing.assert_array_equal(alone.x0[0], q.x0[3])  # not of its batch-mates
    consistent(q)
    capped = DynamicThreshold(inner, 0.8, 1.0, 1.2, keep_eps=True)(X, jnp.float32(0.4))
    s = np.clip(np.quantile(np.abs(x0).reshape(4, -1), 0.8, axis=1), 1.0, 1.2)[:, None, None]
    np.testing.assert_allclose(capped.x0, np.clip(x0, -s, s) / s, rtol=1e-5)
    np.testing.assert_array_equal(capped.eps, p.eps)


@pytest.mark.parametrize("wrapper", [ClipX0, DynamicThreshold])
def test_in_a_sampler_from_end_to_end(wrapper):
    """The last step to data returns the last x0, so the samples are inside; nothing that was known of the prediction is lost."""
    inner = small(PATH, F(0.7))
    for sampler in (DDIM(), Heun(T())):
        x = sample(wrapper(inner), sampler, UniformTime(4), (3, 2)).x
        assert np.isfinite(x).all()
    assert np.abs(np.asarray(sample(wrapper(inner), DDIM(), UniformTime(4), (3, 2)).x)).max() <= 1 + 1e-6
    p, q = inner(jnp.ones((2, 2)), jnp.float32(0.5)), wrapper(inner)(jnp.ones((2, 2)), jnp.float32(0.5))
    np.testing.assert_array_equal(p.raw, q.raw)
    np.testing.assert_array_equal(p.fed, q.fed)
    both = wrapper(Gaussian(PATH, 5.0))({"a": X, "b": X[:, 0]}, jnp.float32(0.3))
    assert all(np.abs(np.asarray(v)).max() <= 1 + 1e-6 for v in both.x0.values())


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (lambda d: ClipX0(d, 1.0, -1.0), r"ClipX0.low, high: \(1.0, -1.0\) is refused; allowed: low < high"),
        (lambda d: DynamicThreshold(d, 0.0), r"DynamicThreshold.quantile: 0.0 is refused"),
        (lambda d: DynamicThreshold(d, 0.9, -1.0), r"DynamicThreshold.bound: -1.0 is refused"),
        (lambda d: DynamicThreshold(d, 0.9, 1.0, 0.5), r"DynamicThreshold.largest: 0.5 is refused; allowed: at least bound, 1"),
    ],
)
def test_refused(wrapper, message):
    with pytest.raises(ConfigError, match=message):
        sample(wrapper(small(PATH, F(0.7))), DDIM(), UniformTime(3), (2, 2))


def test_eps_may_be_kept():
    """``keep_eps``: x0 clipped, eps as the inner denoiser predicted it."""
    x = jnp.full((1, 1), 5.0)
    inner = Gaussian(LinearFlow(), 2.0)(x, 0.3)
    p = ClipX0(Gaussian(LinearFlow(), 2.0), keep_eps=True)(x, 0.3)
    assert float(p.x0[0, 0]) == 1.0 < float(inner.x0[0, 0])
    assert float(p.eps[0, 0]) == float(inner.eps[0, 0])
