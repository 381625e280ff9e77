"""Rows and the one solve, against the papers' formulas written out one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError, build
from score_lab.paths import EDM, VE, VP, Cosine, LinearFlow, SubVP, Trigonometric, ddpm_table
from score_lab.targets import X0, Eps, F, Score, V, Velocity, condition_number, convert, loses_signal, solve

SIGMA_DATA = 0.7
TARGETS = {"x0": X0(), "eps": Eps(), "score": Score(), "v": V(), "velocity": Velocity(), "F": F(SIGMA_DATA)}
PATHS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "cosine": Cosine(1.0), "flow": LinearFlow(), "trig": Trigonometric()}
PATHS |= {"ddpm": ddpm_table(), "ddpm_zero": ddpm_table("linear", 50, zero_terminal=True)}
T = np.array([1e-3, 0.05, 0.311, 0.517, 0.8, 0.957, 0.999])


def quantity(name, x0, eps, a, s, da, ds):
    """z of (x0, eps) by its definition."""
    if name == "F":  # Karras et al.'s F = (x0 - c_skip x) / c_out at noise level kappa on x / alpha
        k = s / a
        c_skip, c_out = SIGMA_DATA**2 / (k**2 + SIGMA_DATA**2), k * SIGMA_DATA / np.sqrt(k**2 + SIGMA_DATA**2)
        return (k**2 / (k**2 + SIGMA_DATA**2) * x0 - c_skip * k * eps) / c_out  # 1 - c_skip written without cancellation
    return {"x0": x0, "eps": eps, "score": -eps / s, "v": a * eps - s * x0, "velocity": da * x0 + ds * eps}[name]


def solved(name, y, x, a, s, da, ds):
    """(x0, eps) from y and x_t by the literature's formula for each parametrisation."""
    if name == "x0":
        return y, (x - a * y) / s
    if name == "eps":
        return (x - s * y) / a, y
    if name == "score":  # Tweedie
        return (x + s**2 * y) / a, -s * y
    if name == "v":
        return (a * x - s * y) / (a**2 + s**2), (s * x + a * y) / (a**2 + s**2)
    if name == "velocity":
        return (ds * x - s * y) / (a * ds - da * s), (a * y - da * x) / (a * ds - da * s)
    k = s / a
    x0 = SIGMA_DATA**2 / (k**2 + SIGMA_DATA**2) * x / a + k * SIGMA_DATA / np.sqrt(k**2 + SIGMA_DATA**2) * y
    return x0, k / (k**2 + SIGMA_DATA**2) * x / a - SIGMA_DATA / np.sqrt(k**2 + SIGMA_DATA**2) * y


@jax.jit
def levels(path, t):
    return path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t)


@jax.jit
def rows_of(path, t):
    return {name: target.row(path, t) for name, target in TARGETS.items()}


def setting(path, bits=64):
    """Levels, derivatives, x0 and eps at T (batch of times), as numpy float64 of what the precision gives."""
    t = jnp.asarray(T, f"float{bits}")
    a, s, da, ds = (np.asarray(v, np.float64)[:, None] for v in levels(path, t))
    x0, eps = np.random.default_rng(0).normal(size=(2, len(T), 5))
    return t, (a, s, da, ds), x0, eps, a * x0 + s * eps


@pytest.mark.parametrize("path", PATHS)
def test_all_thirty_conversions_are_the_closed_forms(x64, path):
    """y -> z for every ordered pair, on the given arrays (not only on consistent ones): the error is 1e-12 times the condition number."""
    t, coefficients, x0, eps, x = setting(PATHS[path])
    a, s = jnp.asarray(coefficients[0][:, 0]), jnp.asarray(coefficients[1][:, 0])
    rows = rows_of(PATHS[path], t)
    for source, row in rows.items():
        y = quantity(source, x0, eps, *coefficients)
        condition = np.asarray(condition_number(row, a, s))[:, None]
        want_x0, want_eps = solved(source, y, x, *coefficients)
        for name, wanted in rows.items():
            got = convert(jnp.asarray(y), jnp.asarray(x), row, wanted, a, s)
            want = quantity(name, want_x0, want_eps, *coefficients)
            size = np.abs(quantity(name, np.abs(x0) + 1, -np.abs(eps) - 1, *coefficients)) + np.abs(want)
            assert (np.abs(got - want) <= 1e-12 * condition * size).all(), (source, name)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("path", PATHS)
def test_round_trips(path, bits):
    """y -> z -> y to 8 eps32 times the two condition numbers (1e-12 times them in float64), in units of the row's length."""
    with jax.enable_x64(bits == 64):
        t, coefficients, x0, eps, x = setting(PATHS[path], bits)
        dtype = f"float{bits}"
        a, s = (jnp.asarray(c[:, 0], dtype) for c in coefficients[:2])
        rows = rows_of(PATHS[path], t)
        x = jnp.asarray(x, dtype)
        for source in TARGETS:
            y = jnp.asarray(quantity(source, x0, eps, *coefficients), dtype)
            unit = np.hypot(*(np.asarray(r) for r in rows[source]))[:, None] * (1 + np.abs(x0) + np.abs(eps))
            for name in TARGETS:
                back = convert(convert(y, x, rows[source], rows[name], a, s), x, rows[name], rows[source], a, s)
                condition = np.asarray(condition_number(rows[source], a, s) + condition_number(rows[name], a, s))[:, None]
                bound = (8 * np.finfo(np.float32).eps if bits == 32 else 1e-12) * condition * unit
                assert (np.abs(back - y) <= bound).all(), (source, name, (np.abs(back - y) / bound).max())
                assert back.dtype == dtype


@pytest.mark.parametrize("path", ["vp", "edm", "flow"])
def test_the_first_coefficient_squared_is_the_reweighting(x64, path):
    """||z - z'||^2 = p^2 ||y - y'||^2 for any two outputs at one x_t."""
    t, coefficients, x0, eps, x = setting(PATHS[path])
    a, s = jnp.asarray(coefficients[0][:, 0]), jnp.asarray(coefficients[1][:, 0])
    rows = rows_of(PATHS[path], t)
    for source in rows.values():
        for other in rows.values():
            p, _ = solve(source, other, a, s)
            y, error = jnp.asarray(x0), jnp.asarray(eps)
            z, moved = (convert(u, jnp.asarray(x), source, other, a, s) for u in (y, y + error))
            np.testing.assert_allclose(moved - z, p[:, None] * error, rtol=1e-8, atol=1e-9 * np.abs(z).max())


def test_f_is_edms_preconditioning(x64):
    """On the EDM path x0 = c_skip x + c_out F with the paper's c_skip, c_out, at sigma from 1e-4 to 80 and at both ends."""
    path, t = EDM(80.0), jnp.asarray(np.concatenate([[0.0], np.geomspace(1e-4, 80, 9) / 80]))
    sigma = np.asarray(path.sigma(t))
    p, q = solve(F(0.5).row(path, t), X0().row(path, t), path.alpha(t), path.sigma(t))
    np.testing.assert_allclose(p, sigma * 0.5 / np.sqrt(sigma**2 + 0.25), rtol=1e-14)
    np.testing.assert_allclose(q, 0.25 / (sigma**2 + 0.25), rtol=1e-14)


@pytest.mark.parametrize("path", ["vp", "edm", "cosine", "flow", "ddpm_zero"])
def test_f_has_unit_variance_and_depends_on_log_snr_alone(x64, path):
    """E F^2 = 1 for data of std sigma_data, and the row equals the linear flow's at equal log-SNR, both ends included."""
    path = PATHS[path]
    t = jnp.asarray(np.concatenate([[0.0], T, [1.0]]))
    a, b = F(SIGMA_DATA).row(path, t)
    np.testing.assert_allclose(a**2 * SIGMA_DATA**2 + b**2, 1.0, rtol=1e-12)
    flow = F(SIGMA_DATA).row(LinearFlow(), LinearFlow().time_of(path.log_snr(t)))
    np.testing.assert_allclose((a, b), flow, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("path", PATHS)
def test_both_ends_are_finite(path, bits):
    """At t = 0 and 1, x0 and eps of every target are finite and, where det is not 0, consistent with x_t."""
    with jax.enable_x64(bits == 64):
        path = PATHS[path]
        t = jnp.asarray([0.0, 1.0], f"float{bits}")
        a, s = levels(path, t)[:2]
        one, zero = jnp.ones_like(a), jnp.zeros_like(a)
        x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 4)), t.dtype)
        for name, row in rows_of(path, t).items():
            x0, eps = convert(y, x, row, (one, zero), a, s), convert(y, x, row, (zero, one), a, s)
            assert np.isfinite(x0).all() and np.isfinite(eps).all(), name
            parts = np.asarray(a[:, None] * x0, np.float64), np.asarray(s[:, None] * eps, np.float64)
            rounding = 8 * np.finfo(t.dtype).eps * (1 + np.abs(parts[0]) + np.abs(parts[1]))
            assert (np.abs(parts[0] + parts[1] - x) <= rounding).all(), name
            if s[0] == 0:
                np.testing.assert_array_equal(x0[0], x[0] / a[0])
            if s[0] == 0 and name in ("x0", "score"):
                np.testing.assert_array_equal(eps[0], 0.0)


def test_degenerate_ends_by_hand():
    """eps at alpha = 0: x0 = 0, eps = x_t / sigma.  x0 at sigma = 0: eps = 0.  Condition numbers say inf there, 2 for v on a VP path."""
    half, one, zero = jnp.asarray(2.0), jnp.asarray(1.0), jnp.asarray(0.0)
    x, y = jnp.array([[3.0]]), jnp.array([[5.0]])
    for row in ((zero, one), (zero, -one / half)):
        assert convert(y, x, row, (one, zero), zero, half) == 0 and convert(y, x, row, (zero, one), zero, half) == 1.5
        assert condition_number(row, zero, half) == jnp.inf
    assert convert(y, x, (one, zero), (zero, one), half, zero) == 0 and convert(y, x, (one, zero), (one, zero), half, zero) == 1.5
    assert condition_number((one, zero), half, zero) == jnp.inf
    assert condition_number((zero, -jnp.asarray(jnp.inf)), half, zero) == 2.0  # score at sigma = 0: scaled before it is judged
    t = jnp.linspace(0.0, 1.0, 7)
    np.testing.assert_allclose(condition_number(V().row(Cosine(), t), Cosine().alpha(t), Cosine().sigma(t)), 2.0, rtol=1e-6)


SILENT = {"cosine", "flow", "trig", "ddpm_zero"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_who_loses_the_signal(target, path):
    """eps and score where the path ends without signal, and nobody else."""
    assert loses_signal(TARGETS[target], PATHS[path]) == (path in SILENT and target in ("eps", "score"))


def test_nearly_no_signal_counts_as_none():
    """VP with beta_max = 120 ends at alpha = 1e-13: eps would amplify errors as much.  beta_max = 20 ends at log-SNR -10."""
    assert loses_signal(Eps(), VP(0.1, 120.0)) and not loses_signal(V(), VP(0.1, 120.0)) and not loses_signal(Velocity(), VP(0.1, 120.0))


def test_bfloat16_output_keeps_float32():
    """y in bfloat16 and exactly representable: the same prediction, bit for bit, as from float32 y."""
    y, x = jnp.array([[0.5, -1.25]], jnp.bfloat16), jnp.array([[0.1234567, 2.3456789]])
    row, wanted = (jnp.asarray(0.3), jnp.asarray(-0.77)), (jnp.asarray(1.0), jnp.asarray(0.0))
    got = convert(y, x, row, wanted, jnp.asarray(0.8), jnp.asarray(0.6))
    np.testing.assert_array_equal(got, convert(y.astype(jnp.float32), x, row, wanted, jnp.asarray(0.8), jnp.asarray(0.6)))
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_sigma_data_must_be_positive(bad):
    with pytest.raises(ConfigError, match="config.target: F.sigma_data: .*allowed: > 0"):
        build({"target": "F", "sigma_data": bad}, "score_lab.targets", "config.target")
