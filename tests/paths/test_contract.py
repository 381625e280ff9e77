"""One contract, every family, also at extreme parameters: levels, log-SNR, inverse, derivatives, both ends, both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from path_families import ALL, CLOSED, ENDS, complex_step, grid

DERIVATIVES = ("alpha_dot", "sigma_dot", "log_snr_dot", "drift", "diffusion_squared")
QUANTITIES = ("alpha", "sigma", "log_snr", *DERIVATIVES, "diffusion", "kappa", "norm")


@jax.jit
def everything(path, t):
    """All quantities, the inverse, and autodiff's derivatives of alpha, sigma and log_snr."""
    out = {name: getattr(path, name)(t) for name in QUANTITIES}
    out["back"] = path.time_of(out["log_snr"])
    for name in ("alpha", "sigma", "log_snr"):
        out[f"auto_{name}"] = jax.jvp(getattr(path, name), (t,), (jnp.ones_like(t),))[1]
    return out


_SEEN = {}


def evaluated(name, bits):
    """(t, quantities) of a family in float64 or float32, ends first and last; computed once."""
    if (name, bits) not in _SEEN:
        with jax.enable_x64(bits == 64):
            t = np.concatenate([[0.0], grid(1e-9 if bits == 64 else 1e-6), [1.0]]).astype(f"float{bits}")
            t = np.unique(t)
            out = everything(ALL[name], jnp.asarray(t))
            assert all(v.dtype == t.dtype and v.shape == t.shape for v in out.values()), {k: v.dtype for k, v in out.items()}
            _SEEN[name, bits] = t.astype(np.float64), {k: np.array(v, np.float64) for k, v in out.items()}
    return _SEEN[name, bits]


families = pytest.mark.parametrize("name", ALL)
both = pytest.mark.parametrize("bits", [64, 32])


@families
@both
def test_levels_are_finite_nonnegative_and_never_both_zero(name, bits):
    _, q = evaluated(name, bits)
    for level in (q["alpha"], q["sigma"]):
        assert np.isfinite(level).all() and (level >= 0).all()
    assert (q["norm"] > 0).all()
    np.testing.assert_allclose(q["norm"], np.hypot(q["alpha"], q["sigma"]), rtol=4 * np.finfo(f"float{bits}").eps)


@families
@both
def test_log_snr_falls_strictly(name, bits):
    """In float64 at every point of the grid, near both ends too; in float32 wherever neighbours differ by more than rounding."""
    t, q = evaluated(name, bits)
    lam = q["log_snr"]
    assert not np.isnan(lam).any() and np.isfinite(lam[1:-1]).all()
    falls = np.diff(lam)
    if bits == 64:
        assert (falls < 0).all(), t[:-1][falls >= 0]
    else:
        rounding = 8 * np.finfo(np.float32).eps * (1 + np.abs(lam[1:-1]))
        assert (falls[1:-1] <= rounding[:-1]).all() and (lam[0] >= lam[1]) and (lam[-2] >= lam[-1])
        assert (np.diff(lam[:: len(lam) // 100]) < 0).all()
    inside = (q["alpha"] > 1e-30) & (q["sigma"] > 1e-30)
    defined = 2 * np.log(q["alpha"][inside] / q["sigma"][inside])
    np.testing.assert_allclose(lam[inside], defined, rtol=1e-11 if bits == 64 else 2e-5, atol=1e-11 if bits == 64 else 2e-5)


@families
def test_time_of_inverts_log_snr(name):
    """1e-12 relative for closed forms, 1e-9 for alpha and sigma alone, plus what rounding of log_snr itself makes of t (VE near 0)."""
    t, q = evaluated(name, 64)
    relative = 1e-9 if name == "only_two" else 1e-12
    with np.errstate(divide="ignore"):
        rounding = 4 * np.finfo(float).eps * np.nan_to_num(np.abs(q["log_snr"]), posinf=0) / np.abs(q["log_snr_dot"])
    error = np.abs(q["back"] - t)
    assert (error <= relative * t + rounding).all(), (t[error.argmax()], error.max())
    assert q["back"][0] == 0 or np.isfinite(q["log_snr"][0])
    assert 0 <= q["back"].min() and q["back"].max() <= 1


@families
def test_time_of_inverts_in_float32(name):
    t, q = evaluated(name, 32)
    with np.errstate(divide="ignore"):
        rounding = 16 * 1.2e-7 * (1 + np.nan_to_num(np.abs(q["log_snr"]), posinf=0)) / np.abs(q["log_snr_dot"])
    assert (np.abs(q["back"] - t) <= 2e-6 * t + rounding).all()
    assert 0 <= q["back"].min() and q["back"].max() <= 1


@families
def test_time_of_outside_the_range_is_the_nearest_end(x64, name):
    path = ALL[name]
    t = jax.jit(lambda p: p.time_of(jnp.array([jnp.inf, 1e6, -1e6, -jnp.inf])))(path)
    np.testing.assert_allclose(t, [0, 0, 1, 1], rtol=0, atol=1e-15)
    assert t.min() >= 0 and t.max() <= 1


@pytest.mark.parametrize("name", CLOSED)
@both
def test_levels_and_derivatives_are_the_papers(name, bits):
    """alpha, sigma, their derivatives, drift f = alpha' / alpha and g^2 = 2 sigma sigma' - 2 f sigma^2, against complex steps."""
    t, q = evaluated(name, bits)
    alpha, sigma, alpha_dot, sigma_dot = complex_step(CLOSED[name][1], t[1:-1])
    f = alpha_dot / alpha
    wanted = {
        "alpha": alpha, "sigma": sigma, "alpha_dot": alpha_dot, "sigma_dot": sigma_dot, "drift": f,
        "diffusion_squared": 2 * sigma * sigma_dot - 2 * f * sigma**2, "log_snr_dot": 2 * (f - sigma_dot / sigma), "kappa": sigma / alpha,
    }  # fmt: skip
    wanted["diffusion"] = np.sqrt(np.maximum(wanted["diffusion_squared"], 0))
    for key, want in wanted.items():
        rtol = (1e-11 if bits == 64 else 1e-4) * (np.sqrt(10) if key == "diffusion" else 1)
        slack = 1e-13 if bits == 64 else 1e-6
        if "diffusion" in key:  # the definition cancels: 2 sigma sigma' against 2 f sigma^2
            slack = (1e-15 if bits == 64 else 1e-6) * np.abs(2 * f * sigma**2)
            slack = slack if key == "diffusion_squared" else np.sqrt(slack)
        floor = 0 if bits == 64 else 1e-37
        keep = (np.abs(want) > floor) | (want == 0)
        error = np.abs(q[key][1:-1] - want)
        bad = keep & ~(error <= rtol * np.abs(want) + slack)
        assert not bad.any(), (key, t[1:-1][bad][:3], q[key][1:-1][bad][:3], want[bad][:3])


@families
@both
def test_derivatives_agree_with_autodiff_and_with_each_other(name, bits):
    """Closed forms (where a family has them) against jvp, f and g^2 against log_snr' = -g^2 / sigma^2, inside."""
    t, q = evaluated(name, bits)
    inside = slice(1, -1)
    tol = {"rtol": 1e-9 if bits == 64 else 1e-3, "atol": 1e-12 if bits == 64 else 1e-4}
    keep = (t > 2e-3) & (t < 1 - 2e-3)  # nearer to the ends autodiff of a table's levels is the one that loses digits
    for key in ("alpha", "sigma", "log_snr"):
        np.testing.assert_allclose(q[f"{key}_dot"][keep], q[f"auto_{key}"][keep], err_msg=key, **tol)
    keep = (q["sigma"] > 1e-15)[inside] & (q["alpha"] > 1e-30)[inside]
    g2 = -q["log_snr_dot"][inside] * q["sigma"][inside] ** 2
    np.testing.assert_allclose(q["diffusion_squared"][inside][keep], g2[keep], rtol=1e-7 if bits == 64 else 2e-3, atol=tol["atol"])
    np.testing.assert_allclose(q["diffusion"][inside] ** 2, q["diffusion_squared"][inside], rtol=1e-5, atol=tol["atol"])


@families
@both
def test_ends_are_one_sided_limits(name, bits):
    """No NaN anywhere; a finite value at an end is what points near it tend to; an infinite one is what they grow towards."""
    t, q = evaluated(name, bits)
    for key in DERIVATIVES:
        value = q[key]
        if key == "log_snr_dot" and np.isinf(q["log_snr"]).any():
            np.testing.assert_array_equal(value[np.isinf(q["log_snr"])], -np.inf)
        assert not np.isnan(value).any(), (key, t[np.isnan(value)])
        assert np.isfinite(value[1:-1]).all(), (key, t[1:-1][~np.isfinite(value[1:-1])])
        for end, near, far in ((0, 1, 20), (-1, -2, -21)):
            if np.isfinite(value[end]):
                scale = max(abs(value[end]), min(np.abs(value[1:-1]).max(), 1.0))
                assert abs(value[near] - value[end]) <= (1e-3 if bits == 64 else 2e-2) * scale, (key, end)
            else:
                assert np.sign(value[near]) == np.sign(value[end]) and abs(value[near]) > 3 * abs(value[far]), (key, end)


@pytest.mark.parametrize("name", ENDS)
@both
def test_ends_by_hand(name, bits):
    _, q = evaluated(name, bits)
    for end, wanted in zip((0, -1), ENDS[name], strict=True):
        if wanted is not None:
            got = [q[key][end] for key in ("alpha_dot", "sigma_dot", "drift", "diffusion_squared")]
            rtol, atol = (1e-9, 1e-12) if bits == 64 else (1e-5, 2e-5)
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, err_msg=f"end {end}")


@families
def test_exact_zeros(name):
    """Where a level vanishes it vanishes to the last bit, log_snr is infinite and kappa 0 or inf."""
    for bits in (64, 32):
        _, q = evaluated(name, bits)
        clean = not name.startswith("ve")
        silent = name.startswith(("cosine", "flow", "trig", "only", "ddpm_zero"))
        assert (q["sigma"][0] == 0) == clean and (q["log_snr"][0] == np.inf) == clean and (q["kappa"][0] == 0) == clean
        assert (q["alpha"][-1] == 0) == silent and (q["log_snr"][-1] == -np.inf) == silent and (q["kappa"][-1] == np.inf) == silent


def test_python_floats_and_batches_agree():
    """``t`` may be a Python float, a 0-d array or (batch,)."""
    for path in ALL.values():
        batch = np.asarray(path.alpha(jnp.array([0.25, 0.5]))), np.asarray(path.sigma(jnp.array([0.25, 0.5])))
        for t in (0.5, jnp.asarray(0.5), np.float32(0.5)):
            np.testing.assert_allclose([path.alpha(t), path.sigma(t)], [batch[0][1], batch[1][1]], rtol=1e-6)
            assert jnp.ndim(path.sigma(t)) == 0
