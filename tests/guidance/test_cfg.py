"""Guidance: its closed form on two Gaussians, the interval, the rescaling, times of each example, null labels, and the refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian
from samplers.fake import small

from score_lab.build import ConfigError
from score_lab.guidance import CFG, ClipX0, unconditional
from score_lab.paths import EDM, VP, ddpm_table
from score_lab.samplers import DDIM, Euler, Kappa, Karras, UniformTime, sample
from score_lab.targets import F

X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)
COND = {"label": jnp.array([0, 1, 2, 0, 1, 2])}
T = jnp.float32(0.6)


def inner(path=None):
    return small(path or VP(), F(0.7))


def test_two_gaussians(x64):
    """(4.7) with s_c = 0.5, s_u = 1: omega = (1 - w) omega_u + w omega_c; w = 3 leaves 0.027 of the data's variance, w = 1 leaves 0.789."""
    k = np.append((80 ** (1 / 7) + np.arange(25) / 24 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0)
    for w, published in ((3.0, 0.027), (1.0, 0.789)):
        v = 0.25 + k[0] ** 2
        for a, b in zip(k[:-1], k[1:], strict=True):
            omega = (1 - w) / (1 + a * a) + w * 0.25 / (0.25 + a * a)
            v *= (omega + b / a * (1 - omega)) ** 2
        x_T = jnp.sqrt(jnp.full((1, 1), 0.25 + k[0] ** 2))
        x = sample(CFG(Gaussian(EDM(), 0.5, s_u=1.0), w), Euler(Kappa()), Karras(25), x_T=x_T, cond={"label": jnp.zeros(1, int)}).x
        np.testing.assert_allclose(float(x[0, 0]) ** 2, v, rtol=1e-12)
        np.testing.assert_allclose(v / 0.25, published, atol=5e-4)


def test_it_is_the_combination_of_its_parts():
    d = small(VP(), F(0.7), network=None)
    x = X[:, :2]
    p = CFG(d, 3.0)(x, T, COND)
    c, u = d(x, T, COND), d(x, T, {"label": jnp.full(6, -1)})
    np.testing.assert_allclose(p.x0, 3 * c.x0 - 2 * u.x0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(p.eps, 3 * c.eps - 2 * u.eps, rtol=1e-4, atol=1e-5)  # the same combination of eps
    for part, alone in zip(p.parts, (c, u), strict=True):
        np.testing.assert_allclose(part.x0, alone.x0, rtol=1e-6)
    assert int(p.nfe) == 2 and len(p.parts) == 2 and p.fed.shape == ()


def test_the_batch_of_two_passes_leaves_the_path_alone():
    """A beta table with as many levels as the doubled batch has rows is not split with it."""
    path = ddpm_table("linear", 12)
    p = jax.jit(lambda d: CFG(d, 2.0)(X[:, :2], T, COND))(inner(path))
    for q in (p, *p.parts):
        np.testing.assert_array_equal(q.path.log_snrs, path.log_snrs.astype(np.float32))
    run = sample(CFG(inner(path), 2.0), DDIM(), UniformTime(3), (6, 2), cond=COND)
    assert np.isfinite(run.x).all()


def test_times_of_each_example_and_the_interval():
    """Per-example t is guided where its own level is inside; a scalar t agrees with it; outside it is the conditional prediction."""
    path = VP()
    t = jnp.asarray([0.05, 0.3, 0.5, 0.7, 0.9, 1.0], jnp.float32)
    lam = np.asarray(path.log_snr(t))
    guided, x = CFG(inner(), 4.0, low=-5.0, high=2.0), X[:, :2]
    p, c, u = guided(x, t, COND), inner()(x, t, COND), inner()(x, t, unconditional(COND))
    w = np.where((lam >= -5) & (lam <= 2), 4.0, 1.0)[:, None]
    assert 0 < (w == 4).sum() < 6
    np.testing.assert_allclose(p.x0, w * c.x0 + (1 - w) * u.x0, rtol=1e-4, atol=1e-5)
    assert p.fed.shape == (6,)
    for i in range(6):
        one = guided(x[i : i + 1], t[i], {"label": COND["label"][i : i + 1]})
        np.testing.assert_allclose(one.x0[0], p.x0[i], rtol=1e-4, atol=1e-5)
        assert int(one.nfe) == (2 if w[i] == 4 else 1)


def test_the_form_without_an_interval_is_the_same():
    guided, x = CFG(inner(), 3.0, rescale=0.5), X[:, :2]
    quick = guided.specialise()
    assert quick.everywhere and not guided.everywhere and not CFG(inner(), 3.0, low=-1.0).specialise().everywhere
    a, b = guided(x, T, COND), quick(x, T, COND)
    np.testing.assert_allclose(a.x0, b.x0, rtol=1e-6)
    assert CFG(inner(), 1.0).specialise() is not None and not isinstance(CFG(inner(), 1.0).specialise(), CFG)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaling(phi):
    """Lin et al. 2024, eq. 15-16, sample by sample in numpy; with phi = 1 the guided x0 has the conditional one's std."""
    x = X[:, :2]
    d = inner()
    p = CFG(d, 5.0, rescale=phi)(x, T, COND)
    c, u = np.asarray(d(x, T, COND).x0, np.float64), np.asarray(d(x, T, unconditional(COND)).x0, np.float64)
    g = 5 * c - 4 * u
    expected = phi * g * (c.std(1) / g.std(1))[:, None] + (1 - phi) * g
    np.testing.assert_allclose(p.x0, expected, rtol=2e-4, atol=1e-5)
    # a constant prediction has no std to restore, and is left alone
    flat = CFG(Gaussian(VP(), 0.5), 3.0, rescale=phi)(jnp.full((2, 3), 0.4), T, {"label": jnp.zeros(2, int)})
    plain = CFG(Gaussian(VP(), 0.5), 3.0)(jnp.full((2, 3), 0.4), T, {"label": jnp.zeros(2, int)})
    np.testing.assert_allclose(flat.x0, plain.x0, rtol=1e-5)


def test_null_labels():
    cond = {"label": jnp.array([3, 0], jnp.int32), "text": jnp.ones((2, 5))}
    null = unconditional(cond)
    np.testing.assert_array_equal(null["label"], [-1, -1])
    np.testing.assert_array_equal(null["text"], np.zeros((2, 5)))
    assert null["label"].dtype == jnp.int32


def test_it_moves_with_its_denoiser():
    """On another path at equal log-SNR the guided prediction is the same, and a wrapper around guidance is a denoiser like any other."""
    a, x = CFG(inner(), 3.0), X[:, :2]
    b = ClipX0(a.on(EDM()), -0.5, 0.5)
    t = EDM().time_of(VP().log_snr(T))
    moved = x * EDM().norm(t) / VP().norm(T)
    np.testing.assert_allclose(b(moved, t, COND).x0, jnp.clip(a(x, T, COND).x0, -0.5, 0.5), rtol=1e-4, atol=1e-5)
    assert b.path == EDM()


@pytest.mark.parametrize(
    ("message", "change", "cond"),
    [
        (r"CFG.cond: None is refused; allowed: a condition: guidance needs labels", {}, None),
        (r"CFG.low, high: \(2.0, -2.0\)", {"low": 2.0, "high": -2.0}, COND),
        (r"CFG.rescale: 1.5 is refused", {"rescale": 1.5}, COND),
        (r"CFG.scale: inf is refused", {"scale": float("inf")}, COND),
    ],
)
def test_refused(message, change, cond):
    guided = dataclasses.replace(CFG(inner(), 2.0), **change)
    with pytest.raises(ConfigError, match=message) as error:
        sample(ClipX0(guided), DDIM(), UniformTime(3), (6, 2), cond=cond)
    assert "\n" not in str(error.value)
