"""What is particular to a family: beta tables, parity with a peer's numbers, parameters as leaves, bad parameters."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from path_families import ALL, OnlyTwo

from score_lab.build import ConfigError, build
from score_lab.paths import (
    EDM,
    VE,
    VP,
    Cosine,
    DDPMTable,
    GaussianPath,
    LinearFlow,
    SubVP,
    Trigonometric,
    cosine_betas,
    ddpm_table,
    linear_betas,
    scaled_linear_betas,
)
from score_lab.types import pytree_dataclass

PEERS = np.load(Path(__file__).parent.parent / "fixtures" / "paths.npz")


def bars(betas):
    return np.cumprod(1 - np.asarray(betas, np.longdouble))


# --- beta tables -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("T", [2, 7, 1000])
@pytest.mark.parametrize("table", ["linear", "scaled_linear", "cosine"])
def test_levels_of_a_table_are_hit_exactly(table, T, bits):
    """alpha^2 at t = (k + 1) / T is prod(1 - beta) to rounding, and time_of gives the level's time back."""
    k = np.arange(T)
    u = np.arange(T + 1) / T
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    written = {
        "linear": 1e-4 + (0.02 - 1e-4) * k / (T - 1),
        "scaled_linear": (np.sqrt(0.00085) + (np.sqrt(0.012) - np.sqrt(0.00085)) * k / (T - 1)) ** 2,
        "cosine": np.minimum(1 - f[1:] / f[:-1], 0.999),
    }[table]
    betas = {"linear": linear_betas, "scaled_linear": scaled_linear_betas, "cosine": cosine_betas}[table](T)
    np.testing.assert_allclose(betas, written, rtol=1e-9)
    with jax.enable_x64(bits == 64):
        path = ddpm_table(table, T)
        t = jnp.asarray((k + 1) / T, f"float{bits}")
        eps = np.finfo(f"float{bits}").eps
        alpha, sigma, back = jax.jit(lambda p, t: (p.alpha(t), p.sigma(t), p.time_of(p.log_snr(t))))(path, t)
        size = 1 + np.abs(np.log(bars(betas) / (1 - bars(betas))))  # a log-SNR of this size carries this many roundings
        assert (np.abs(np.asarray(alpha, np.float64) / np.sqrt(bars(betas)) - 1) <= 4 * eps * size).all()
        assert (np.abs(np.asarray(sigma, np.float64) / np.sqrt(1 - bars(betas)) - 1) <= 4 * eps * size).all()
        np.testing.assert_allclose(back, t, rtol=4 * eps)


def test_between_levels_log_snr_is_linear_and_kappa_below_the_first(x64):
    path, bar = ddpm_table(), bars(np.linspace(1e-4, 0.02, 1000))
    lam = np.log(bar / (1 - bar))
    for k, w in ((0, 0.25), (499, 0.5), (998, 0.9)):
        t = jnp.asarray((k + 1 + w) / 1000)
        np.testing.assert_allclose(path.log_snr(t), (1 - w) * lam[k] + w * lam[k + 1], rtol=1e-11)
        np.testing.assert_allclose(path.time_of(path.log_snr(t)), t, rtol=1e-12)
    for w in (1e-6, 0.3, 0.99):
        np.testing.assert_allclose(path.kappa(jnp.asarray(w / 1000)), w * np.exp(-lam[0] / 2), rtol=1e-12)


def test_zero_terminal_snr(x64):
    """Lin et al.'s rescaling: first level kept, last exactly without signal; 1 / kappa linear over the last interval."""
    path, root = ddpm_table(zero_terminal=True), np.sqrt(bars(np.linspace(1e-4, 0.02, 1000)))
    want = (root - root[-1]) * root[0] / (root[0] - root[-1])
    t = jnp.arange(1, 1001) / 1000
    np.testing.assert_allclose(path.alpha(t), want, rtol=1e-12, atol=0)
    assert path.alpha(jnp.asarray(1.0)) == 0 and path.sigma(jnp.asarray(1.0)) == 1
    inverse = 1 / path.kappa(jnp.array([0.999, 0.9995, 0.99975]))
    np.testing.assert_allclose(inverse, inverse[0] * jnp.array([1.0, 0.5, 0.25]), rtol=1e-9)
    np.testing.assert_allclose(path.time_of(path.log_snr(jnp.array([0.9991, 0.99999]))), [0.9991, 0.99999], rtol=1e-12)


def test_betas_may_be_given():
    np.testing.assert_array_equal(ddpm_table(tuple(linear_betas(50))).log_snrs, ddpm_table("linear", 50).log_snrs)


# --- parity with the peers' numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [LinearFlow(), Trigonometric(), VP()], ids=lambda p: type(p).__name__)
def test_parity_with_flow_matching(x64, path):
    """flow_matching 1.0.10's CondOT, cosine and VP schedulers, whose time runs the other way: t = 1 - theirs."""
    name = type(path).__name__
    t = jnp.asarray(1 - PEERS[f"{name}/t"])
    for ours, theirs, sign in (("alpha", "alpha", 1), ("sigma", "sigma", 1), ("alpha_dot", "d_alpha", -1), ("sigma_dot", "d_sigma", -1)):
        np.testing.assert_allclose(sign * getattr(path, ours)(t), PEERS[f"{name}/{theirs}"], rtol=1e-9, atol=1e-15, err_msg=ours)


def test_parity_with_diffusers(x64):
    """diffusers 0.42.1's linear alphas_cumprod in float64."""
    t = jnp.arange(1, 1001) / 1000
    np.testing.assert_allclose(jnp.square(ddpm_table().alpha(t)), PEERS["linear_table/alphas_cumprod"], rtol=1e-12)


# --- parameters are leaves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [(VP(), VP(0.2, 15.0)), (VE(), VE(0.02, 10.0)), (EDM(), EDM(3.0)), (Cosine(), Cosine(2.0)), (ddpm_table(), ddpm_table("cosine"))],
)
def test_another_parameter_does_not_recompile(one, other):
    traced = []

    @jax.jit
    def level(path, t):
        traced.append(1)
        return path.alpha(t) + path.sigma(t)

    a, b = level(one, 0.3), level(other, 0.3)
    assert len(traced) == 1 and not np.allclose(a, b)


def test_levels_are_differentiable_in_parameters(x64):
    """d alpha / d beta_max = -alpha t^2 / 4, reverse mode; d sigma / d sigma_max of EDM = t."""
    t = 0.7
    gradient = jax.grad(lambda p: p.alpha(t))(VP())
    np.testing.assert_allclose(gradient.beta_max, -float(VP().alpha(t)) * t**2 / 4, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda p: p.sigma(t))(EDM()).sigma_max, t)


@pytest.mark.parametrize("path", [VP(), SubVP(), Cosine(1.0), VE(), EDM(), OnlyTwo(), ddpm_table()], ids=lambda p: type(p).__name__)
def test_time_of_is_differentiable(x64, path):
    """dt / dlog_snr = 1 / log_snr', forward and reverse; and in the parameters: the implicit function theorem, by central differences."""
    t = jnp.asarray(0.4173)
    lam = path.log_snr(t)
    slope = 1 / path.log_snr_dot(t)
    np.testing.assert_allclose(jax.grad(path.time_of)(lam), slope, rtol=1e-8)
    np.testing.assert_allclose(jax.jvp(path.time_of, (lam,), (jnp.ones(()),))[1], slope, rtol=1e-8)
    leaves, tree = jax.tree.flatten(path)
    if not isinstance(path, DDPMTable):
        gradient = jax.tree.leaves(jax.grad(lambda p: p.time_of(lam))(path))
        for i, value in enumerate(leaves):
            h = 1e-5 * max(1.0, abs(value))
            up, down = (tree.unflatten([*leaves[:i], value + s * h, *leaves[i + 1 :]]).time_of(lam) for s in (1, -1))
            np.testing.assert_allclose(gradient[i], (up - down) / (2 * h), rtol=1e-5, atol=1e-10)


# --- refusals --------------------------------------------------------------------------------------------------------------------


def family(alpha, sigma, **more):
    return pytree_dataclass(type("Broken", (GaussianPath,), {"alpha": lambda s, t: alpha(t), "sigma": lambda s, t: sigma(t), **more}))()


def _python_branch(t):
    return 1 - t if t > 0.5 else 1 - t**2


BROKEN = {
    "nan": (family(lambda t: jnp.sqrt(0.5 - t), lambda t: t), r"Broken.alpha\(t=0.5.*nan is refused; allowed: finite and >= 0"),
    "infinite": (family(lambda t: 1 - t, lambda t: t / (1 - t)), r"Broken.sigma\(t=1\): inf"),
    "negative": (family(lambda t: 1 - 2 * t, lambda t: t + 0.1), r"Broken.alpha\(t=0.50.*: -0"),
    "not monotone": (family(lambda t: 1 - 0.5 * t, lambda t: jnp.sin(3.0 * t)), "Broken.log_snr.*strictly decreasing"),
    "constant": (family(lambda t: jnp.ones_like(t), lambda t: jnp.ones_like(t)), "Broken.log_snr.*strictly decreasing"),
    "reversed": (family(lambda t: t, lambda t: 1 - t), "Broken.log_snr.*strictly decreasing in t: t = 0 is data and t = 1 is noise"),
    "flat near 0": (family(lambda t: jnp.ones_like(t), lambda t: 0.1 + jnp.maximum(t - 1e-3, 0)), "Broken.log_snr.*strictly decreasing"),
    "both zero": (family(lambda t: (1 - t) * (0.5 - t) ** 2, lambda t: t * (0.5 - t) ** 2), "at t=0.5: .*never both 0"),
    "shape": (family(lambda t: 1 - t, lambda t: jnp.mean(t)), r"Broken.sigma\(t\).shape: \(\) is refused; allowed: the shape of t"),
    "branch": (family(_python_branch, lambda t: t), "Broken: .*allowed: alpha"),
    "wrong inverse": (family(lambda t: 1 - t, lambda t: t, time_of=lambda s, x: jax.nn.sigmoid(-0.49 * x)), r"Broken.time_of\(log_snr\("),
    "inverse to ten digits": (
        family(lambda t: 1 - t, lambda t: t, time_of=lambda s, x: (1 + 1e-10) * jax.nn.sigmoid(-0.5 * x)), r"Broken.time_of\(log_snr\("
    ),
    "nan derivative": (family(lambda t: 1 - t, lambda t: t, drift=lambda s, t: 0.0 * t / t), r"Broken.drift\(t=0\): 'NaN'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_path_that_breaks_the_contract_is_refused(case):
    path, message = BROKEN[case]
    with pytest.raises(ConfigError, match=message) as error:
        path.check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"target": "VP", "beta_min": -1.0}, "config.path: VP.beta_min, beta_max: .*0 < beta_min <= beta_max"),
        ({"target": "VP", "beta_min": 30.0}, "0 < beta_min <= beta_max"),
        ({"target": "SubVP", "beta_max": float("nan")}, "SubVP.beta_min"),
        ({"target": "VE", "sigma_min": 0.0}, "VE.sigma_min, sigma_max: .*0 < sigma_min < sigma_max"),
        ({"target": "EDM", "sigma_max": 0.0}, "EDM.sigma_max: 0.0 is refused; allowed: > 0"),
        ({"target": "Cosine", "shift": float("inf")}, "config.path: Cosine"),
        ({"target": "ddpm_table", "betas": "linaer"}, "config.path: .*betas: 'linaer' .*did you mean 'linear'"),
        ({"target": "ddpm_table", "T": 1}, "T: 1 is refused"),
        ({"target": "ddpm_table", "betas": (0.1, 1.2)}, "at least 2 betas in"),
        ({"target": "ddpm_table", "betas": (0.1, 1.0, 0.1)}, "at least 2 betas in"),
        ({"target": "DDPMTable", "log_snrs": np.array([1.0, 2.0])}, "strictly decreasing"),
        ({"target": "DDPMTable", "log_snrs": np.array([1.0])}, "at least 2 levels"),
        ({"target": "LinearFlw"}, "did you mean 'LinearFlow'"),
    ],
)
def test_bad_parameters_are_refused_by_name(spec, message):
    with pytest.raises(ConfigError, match=message):
        build(spec, "score_lab.paths", "config.path")


QUICK = ("vp", "subvp_steep", "ve_wide", "edm", "cosine_low", "only_two", "ddpm", "ddpm_zero_short")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ALL])
def test_every_family_passes_its_own_check(name):
    ALL[name].check()
