"""What every path can do with states: noising, the prior, and moving a state to another path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from path_families import ALL
from scipy import stats

from score_lab.paths import EDM, VE, VP, Cosine, LinearFlow, SubVP, Trigonometric, ddpm_table, move, normals

RNG = np.random.default_rng(0)
PRIOR = [(VP(), 1.0), (SubVP(), -np.expm1(-10.05)), (VE(0.01, 50.0), 50.0), (EDM(80.0), 80.0), (Cosine(), 1.0), (LinearFlow(), 1.0)]
PRIOR += [(Trigonometric(), 1.0), (ddpm_table(), 1.0)]
named = {"ids": lambda p: type(p).__name__}


@pytest.mark.parametrize(("path", "std"), PRIOR, **named)
def test_prior_has_the_std_of_the_path(path, std):
    """Pitfall: a prior of N(0, I) whatever the path.  The std at t = 1, of the formula and of samples; VE and EDM also at other times."""
    np.testing.assert_allclose(path.prior_std(), std, rtol=1e-6)
    x = np.asarray(path.prior_sample(jax.random.key(0), jnp.arange(4000), (3,)))
    assert abs(x.std() / std - 1) < 5 / np.sqrt(2 * 12000) and abs(x.mean() / std) < 5 / np.sqrt(12000)
    if isinstance(path, (VE, EDM)):
        later = np.asarray(path.prior_sample(jax.random.key(0), jnp.arange(4000), (3,), t=0.5))
        np.testing.assert_allclose(later, x * float(path.sigma(0.5)) / std, rtol=1e-5)


def test_prior_sample_depends_on_key_and_index_alone():
    key = jax.random.key(3)
    whole = EDM().prior_sample(key, jnp.arange(7), (2, 2, 1))
    np.testing.assert_array_equal(EDM().prior_sample(key, jnp.array([5, 2]), (2, 2, 1)), whole[jnp.array([5, 2])])
    assert len(np.unique(whole)) == whole.size
    assert not np.array_equal(EDM().prior_sample(jax.random.key(4), jnp.arange(7), (2, 2, 1)), whole)


def test_normals_of_a_pytree_are_keyed_per_leaf():
    keys = jax.random.split(jax.random.key(0), 5)
    like = {"a": jax.ShapeDtypeStruct((500,), jnp.float32), "b": jax.ShapeDtypeStruct((500,), jnp.float32)}
    z = normals(keys, like)
    assert z["a"].shape == z["b"].shape == (5, 500)
    assert abs(np.corrcoef(z["a"].ravel(), z["b"].ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(normals(keys[2:3], like)["b"][0], z["b"][2])


@pytest.mark.parametrize(("path", "std"), PRIOR, **named)
def test_prior_logp_is_the_normal_density(x64, path, std):
    """Pitfall: sigma^2 taken for the std, 5.9 bits per dimension off on VE."""
    x = std * RNG.normal(size=(4, 3, 2))
    want = stats.norm.logpdf(x, scale=float(path.prior_std())).sum((1, 2))
    np.testing.assert_allclose(path.prior_logp(jnp.asarray(x)), want, rtol=1e-12)
    np.testing.assert_allclose(path.prior_std(), std, rtol=1e-12)


def test_noising():
    """x_t = alpha x0 + sigma eps on a pytree, times per example; marginal's mean and std."""
    path, t = VP(), jnp.array([0.2, 0.9])
    x0 = {"a": jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32), "b": jnp.ones((2, 2, 2))}
    eps = jax.tree.map(lambda x: x + 1.0, x0)
    got, (mean, std) = path.add_noise(x0, eps, t), path.marginal(x0, t)
    for name in x0:
        for i in range(2):
            a, s = float(path.alpha(t[i])), float(path.sigma(t[i]))
            np.testing.assert_allclose(got[name][i], a * x0[name][i] + s * eps[name][i], rtol=1e-6)
            np.testing.assert_allclose(mean[name][i], a * x0[name][i], rtol=1e-6)
    np.testing.assert_allclose(std, path.sigma(t))


@pytest.mark.parametrize("a", [VP(), LinearFlow(), EDM()], **named)
@pytest.mark.parametrize("b", [SubVP(), VE(), Cosine(2.0), EDM()], **named)
def test_move_is_the_ratio_of_alphas_inside(x64, a, b):
    t_a = jnp.array([0.2, 0.5, 0.6])
    t_b = b.time_of(a.log_snr(t_a))
    x = jnp.asarray(RNG.normal(size=(3, 4)))
    np.testing.assert_allclose(move(x, t_a, a, t_b, b), x * (b.alpha(t_b) / a.alpha(t_a))[:, None], rtol=1e-9)
    np.testing.assert_allclose(move(move(x, t_a, a, t_b, b), t_b, b, t_a, a), x, rtol=1e-13)


def test_move_is_finite_at_both_ends():
    """Pitfall: alpha_B / alpha_A is 0 / 0 at pure noise.  There the state is noise of sigma_A and becomes noise of sigma_B."""
    x = jnp.ones((2, 3))
    silent = [LinearFlow(), Trigonometric(), Cosine(), ddpm_table(zero_terminal=True)]
    for a in silent:
        for b in silent:
            for end, level in ((1.0, "sigma"), (0.0, "alpha")):
                want = float(getattr(b, level)(end)) / float(getattr(a, level)(end))
                np.testing.assert_allclose(move(x, end, a, end, b), want * x, rtol=1e-6)


def test_kappa_and_its_time(x64):
    for name, path in ALL.items():
        t = jnp.array([0.3, 0.8])
        np.testing.assert_allclose(path.time_of_kappa(path.kappa(t)), t, rtol=1e-8, err_msg=name)
