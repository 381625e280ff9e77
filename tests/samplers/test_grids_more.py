"""Grids of levels, tables, shifts, lists and spectra: the papers' formulas, exact ends, every step moves, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian, Mixture, paths
from scipy.stats import beta

from score_lab.build import ConfigError, build
from score_lab.paths import EDM, VE, VP, LinearFlow, Trigonometric, ddpm_table
from score_lab.samplers import (
    DDIM,
    IDDPM,
    NODES,
    BetaQuantiles,
    Churn,
    DynamicShift,
    Exponential,
    FlowTimesteps,
    Karras,
    LevelsOf,
    Nodes,
    PolyExponential,
    Quadratic,
    ResolutionShift,
    Shift,
    SpectrumAware,
    Stretch,
    TimestepList,
    Timesteps,
    UniformLogSNR,
    UniformTime,
    VPTime,
    ending,
    sample,
)

QUICK = ["VP", "VE", "LinearFlow", "DDPMTable"]
SLOW = ["SubVP", "EDM", "Cosine", "Trigonometric", "ZeroSNRTable"]
FLOW = LinearFlow()


def times(steps):
    return np.append(np.asarray(steps.t, np.float64), float(steps.s[-1]))


def kappa(grid, path):
    return np.asarray(path.kappa(jnp.asarray(times(grid.steps(path)), jnp.result_type(float))), np.float64)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_ends_are_exact_and_every_step_moves(name):
    """On every path, from one step to a thousand in float32: as many steps as asked for, down to t = 0 to the last bit."""
    path = paths()[name]
    spectrum = SpectrumAware(1000, tuple(1.0 / np.arange(1, 9) ** 2), sigma_max=50.0 if name == "VE" else None)
    for grid in (
        Exponential(1000), PolyExponential(1000, 0.7), BetaQuantiles(1000), BetaQuantiles(1000, of="kappa"), Quadratic(1000), VPTime(1000),
        Karras(1000, of="t"), Exponential(1000, of="t"), Shift(UniformLogSNR(1000, -7.0, 5.0), 0.7), spectrum, IDDPM(500),
        Timesteps(1000, T=1000), Exponential(1), BetaQuantiles(1), VPTime(1), Timesteps(1, T=1000), IDDPM(1), SpectrumAware(1),
    ):  # fmt: skip
        if name == "VE" and isinstance(grid, Shift):
            continue  # its t = 0 is a level too, and 0.7 of it is none
        steps = grid.steps(path)
        steps.check()
        inner = getattr(grid, "grid", grid)
        assert len(steps.t) == inner.num_steps and steps.t.dtype == jnp.float32
        assert float(steps.s[-1]) == 0.0 and float(steps.start) == float(steps.t[0])
        assert (np.diff(np.asarray(path.kappa(steps.t), np.float64)) < 0).all()


@pytest.mark.parametrize("path", [EDM(), FLOW], ids=["EDM", "LinearFlow"])
def test_formulas_in_kappa(path, x64):
    """Every formula of the module, written again; the last level is the path's t = 0, or without ``to_data`` the lowest level."""
    N, low, high = 12, 0.01, 40.0
    w = np.arange(N) / (N - 1)
    for grid, paper in (
        (Exponential(N, low, high), high * (low / high) ** w),
        (PolyExponential(N, 2.5, low, high), low * (high / low) ** ((1 - w) ** 2.5)),
        (BetaQuantiles(N, 0.6, 0.8, low, high, of="kappa"), low + beta.ppf(1 - w, 0.6, 0.8) * (high - low)),
        (VPTime(N, eps=0.01, sigma_min=low, sigma_max=high), None),
    ):
        ours = kappa(grid, path)
        assert ours[-1] == 0.0 and len(ours) == N + 1
        if paper is None:  # B(t) = ln(1 + kappa^2) is quadratic in t without a constant
            t = 1 + w * (0.01 - 1)
            paper = np.sqrt(np.expm1(t * np.polyval(np.polyfit([0.01, 1.0], np.log1p([low**2, high**2]) / [0.01, 1.0], 1), t)))
        np.testing.assert_allclose(ours[:-1], paper, rtol=1e-10)
    ours = kappa(Exponential(N - 1, low, high, to_data=False), path)
    np.testing.assert_allclose(ours, high * (low / high) ** w, rtol=1e-12)


def test_formulas_in_time(x64):
    i = np.arange(9) / 8
    np.testing.assert_allclose(times(Quadratic(8).steps(FLOW)), (1 - i) ** 2, atol=1e-15)
    np.testing.assert_allclose(times(BetaQuantiles(9, sigma_min=0.02, of="t").steps(FLOW))[:-1], 0.02 + beta.ppf(1 - i, 0.6, 0.6) * 0.98)
    np.testing.assert_allclose(times(Exponential(9, 0.02, 1.0, of="t").steps(VP()))[:-1], 0.02**i, rtol=1e-12)
    np.testing.assert_allclose(times(Karras(9, 3.0, 0.02, 1.0, of="t").steps(VP()))[:-1], (1 + i * (0.02 ** (1 / 3) - 1)) ** 3, rtol=1e-12)
    vp = np.asarray(VP().kappa(jnp.linspace(1, 1e-3, 9)))
    np.testing.assert_allclose(kappa(VPTime(9), FLOW)[:-1], vp, rtol=1e-11)  # beta 0.1 to 20 is our VP path


def test_timesteps(x64):
    """Against the rules as Lin et al. 2024, table 2, print them, for T = 1000 and 10 steps; and DDIM's quadratic one."""
    table = ddpm_table("linear")

    def k(*args, **kw):
        return times(Timesteps(*args, **kw).steps(table)) * 1000 - 1

    hundred = np.arange(9, -1, -1) * 100
    for found, wanted in (
        (k(10, "leading"), [*hundred, -1]),
        (k(10, "leading", 1), [*(hundred + 1), -1]),
        (k(10, "leading", 1, "first"), [*(hundred + 1), 0]),
        (k(10), [*(hundred + 99), -1]),
        (k(10, "linspace"), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0, -1]),
        (k(10, "linspace", spare=True), [999, 899, 799, 699, 599, 500, 400, 300, 200, 100, -1]),
        (k(10, "linspace", end="first", spare=True), [999, 899, 799, 699, 599, 500, 400, 300, 200, 100, 0]),
        (k(3), [999, 666, 332, -1]),
        (k(5, "quadratic"), [800, 450, 200, 50, 0, -1]),
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    low = 2 * -4.0
    started = k(10, "linspace", start=low)
    assert table.log_snrs[int(round(started[0]))] >= low > table.log_snrs[int(round(started[0])) + 1]
    # between levels diffusers' Euler interpolates kappa: 999 / 7 is no whole number
    fractional = kappa(Timesteps(8, "linspace", whole=False), table)[:-1]
    np.testing.assert_allclose(fractional, np.interp(np.linspace(999, 0, 8), np.arange(1000), np.exp(-0.5 * table.log_snrs)), rtol=1e-12)
    own = times(TimestepList((999, 850, 24, 3)).steps(table))
    np.testing.assert_allclose(own * 1000 - 1, [999, 850, 24, 3, -1], atol=1e-9)
    np.testing.assert_allclose(times(TimestepList((7, 3), "first", 8).steps(FLOW)), [1, 0.5, 0.125])
    np.testing.assert_allclose(times(Timesteps(4, T=8).steps(FLOW)), [1, 0.75, 0.5, 0.25, 0])


def test_shifts(x64):
    """SD3's formula, Flux's mu, LTX's stretch, and log-SNR moved by -2 ln shift on any path."""
    t = np.linspace(1, 0, 9)
    three = times(Shift(UniformTime(8), 3.0).steps(FLOW))
    np.testing.assert_allclose(three, 3 * t / (1 + 2 * t), rtol=1e-12, atol=1e-300)
    assert three[0] == 1.0 and three[-1] == 0.0
    np.testing.assert_allclose(times(ResolutionShift(UniformTime(8), 9 * 64**2, 64**2).steps(FLOW)), three, rtol=1e-12)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    flux = np.exp(mu) / (np.exp(mu) + (1 / t[:-1] - 1))
    np.testing.assert_allclose(times(DynamicShift(UniformTime(8), 1024).steps(FLOW))[:-1], flux, rtol=1e-12)
    linear = mu / (mu + (1 / t[:-1] - 1))
    np.testing.assert_allclose(times(DynamicShift(UniformTime(8), 1024, linear=True).steps(FLOW))[:-1], linear, rtol=1e-12)
    for path in (EDM(), Trigonometric()):
        inner, outer = UniformLogSNR(6, -5.0, 4.0), Shift(UniformLogSNR(6, -5.0, 4.0), 1.7)
        np.testing.assert_allclose(kappa(outer, path), 1.7 * kappa(inner, path), rtol=1e-12)
    ltx = times(Stretch(FlowTimesteps(5, 2.0), 0.1).steps(FLOW))
    plain = times(FlowTimesteps(5, 2.0).steps(FLOW))
    np.testing.assert_allclose((1 - ltx[:-1]) / (1 - plain[:-1]).clip(1e-300), 0.9 / (1 - plain[-2]) * (plain[:-1] < 1), rtol=1e-12)
    assert ltx[0] == 1.0 and ltx[-1] == 0.0 and ltx[-2] == pytest.approx(0.1, rel=1e-12)
    # diffusers' lowest level is shifted twice: 0.001 -> 0.0029940 -> 0.0089286
    last = [float(FlowTimesteps(5, 3.0, as_released=flag).steps(FLOW).t[-1]) for flag in (False, True)]
    np.testing.assert_allclose(last, [3e-3 / 1.002, 9e-3 / 1.008], rtol=1e-9)


def test_published_lists(x64):
    """The list itself at its own number of steps; ln kappa linear in between; the last level or data at the end."""
    for name, nodes in NODES.items():
        n = len(nodes) - 1
        np.testing.assert_allclose(kappa(Nodes(n, name), FLOW), [*nodes[:-1], 0.0], rtol=1e-12)
        np.testing.assert_allclose(kappa(Nodes(n, name, to_data=False), FLOW), nodes, rtol=1e-12)
        twice = kappa(Nodes(2 * n, name, to_data=False), FLOW)
        np.testing.assert_allclose(twice[1::2] ** 2, np.multiply(nodes[1:], nodes[:-1]), rtol=1e-12)
        assert len(kappa(Nodes(5, name), FLOW)) == 6
    table = ddpm_table("scaled_linear")  # Stable Diffusion's, whose last level is the lists' first
    for name in ("ays_sd15", "ays_sdxl", "gits_sd15"):
        assert times(Nodes(10, name).steps(table))[0] == pytest.approx(1.0, abs=1e-8)
    # NVIDIA's own timesteps for Stable Diffusion 1.5 are these levels on that table
    steps = times(Nodes(10, "ays_sd15").steps(table))[:-1] * 1000 - 1
    np.testing.assert_allclose(steps, [999, 850, 736, 645, 545, 455, 343, 233, 124, 24], atol=1.2)


def test_levels_of_another_path(x64):
    """A table's timesteps on EDM and VP's times on a flow have equal levels there; renoising rows come along."""
    table = ddpm_table("linear")
    wide = EDM(200.0)
    np.testing.assert_allclose(kappa(LevelsOf(Timesteps(10), table), wide), kappa(Timesteps(10), table), rtol=1e-12)
    churned = LevelsOf(Churn(Karras(6), s_churn=2.0), EDM()).steps(FLOW)
    churned.check()
    direct = Churn(Karras(6), s_churn=2.0).steps(FLOW)
    assert churned.renoises
    for a, b in ((churned.t, direct.t), (churned.s, direct.s), (churned.r, direct.r)):
        # on EDM churn stops at sigma_max = 80, which is the flow's grid's first level too: only there they differ
        np.testing.assert_allclose(a[1:], b[1:], rtol=1e-11)


def image_spectrum() -> np.ndarray:
    """Standard deviations of the 2-D Fourier modes of 32 x 32 pictures with a 1 / f amplitude, root mean square 0.5."""
    f = np.fft.fftfreq(32)
    f = np.sqrt(f[:, None] ** 2 + f[None] ** 2)
    f[0, 0] = 1 / 32
    return (0.5 / f / np.sqrt((f**-2.0).mean())).ravel()


def lost(grid, s) -> float:
    """Mean over bands of -ln R after DDIM: the sum of -2 ln cos(phi_k - phi_{k+1})."""
    phi = np.arctan2(kappa(grid, EDM())[:, None], s)
    return float(-2 * np.log(np.cos(np.diff(phi, axis=0))).sum(0).mean())


def test_spectrum_aware(x64):
    """One band: equal steps in phi.  1 / f pictures: half the variance that Karras' grid loses, and that is what DDIM does lose."""
    one = kappa(SpectrumAware(12, (0.25,)), FLOW)[:-1]
    phi = np.arctan(one / 0.5)
    np.testing.assert_allclose(np.diff(phi), (phi[-1] - phi[0]) / 11, rtol=1e-9)
    np.testing.assert_allclose(one[[0, -1]], [80.0, 0.002], rtol=1e-12)
    s = image_spectrum()
    for n, ours, karras in ((13, 0.229, 0.508), (35, 0.080, 0.180)):  # numbers of an independent script
        assert lost(SpectrumAware(n, s**2), s) == pytest.approx(ours, abs=6e-4)
        assert lost(Karras(n), s) == pytest.approx(karras, abs=6e-4)
        assert lost(SpectrumAware(n, s**2), s) < min(lost(Karras(n, rho), s) for rho in (1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0))
    bands, count = np.unique(s, return_counts=True)
    grouped = SpectrumAware(9, bands**2, count.astype(float))
    np.testing.assert_allclose(kappa(grouped, FLOW), kappa(SpectrumAware(9, s**2), FLOW), rtol=1e-10)
    x, grid = jnp.sqrt(0.04 + 80.0**2) * jnp.ones((1, 1)), SpectrumAware(7, (0.04, 1.0))
    end = sample(Gaussian(EDM(), 0.2), DDIM(), grid, x_T=x).x
    assert -2 * np.log(float(end[0, 0]) / 0.2) == pytest.approx(lost(grid, np.array([0.2])), rel=1e-9)


def test_a_grid_that_stops_at_a_level_says_so_in_its_last_row():
    """Without a step to data the last s is the lowest level; on VE, whose t = 0 is sigma_min, there is no step more."""
    for grid in (Exponential(5, 0.1, 10.0, False), PolyExponential(5, 2.0, 0.1, 10.0, False), Nodes(5, (10.0, 1.0, 0.1), False)):
        assert kappa(grid, FLOW)[-1] == pytest.approx(0.1, rel=1e-5) and len(times(grid.steps(FLOW))) == 6
        assert ending(grid.steps(FLOW), FLOW) == "kappa = 0.1"
    last = Exponential(5).steps(VE())
    assert len(last.t) == 5 and float(last.s[-1]) == 0.0
    assert ending(last, VE()) == "kappa = 0.01, the end of VE"
    assert ending(Exponential(5, 0.1, 10.0).steps(FLOW), FLOW) == "data, by a last step from kappa = 0.1"


TABLE = ddpm_table("linear", 100)


@pytest.mark.parametrize(
    ("grid", "path", "message"),
    [
        (Exponential(0), FLOW, r"Exponential.num_steps: 0 is refused; allowed: a whole number of steps, at least 1"),
        (Exponential(4, of="log"), FLOW, r"Exponential.of: 'log' is refused; allowed: kappa, t"),
        (Exponential(4, sigma_max=100.0), EDM(), r"Exponential.sigma_min, sigma_max: \(0.002, 100.0\) is refused"),
        (Exponential(4, sigma_max=2.0, of="t"), FLOW, r"inside the path's t, \[0, 1\]"),
        (Exponential(4, sigma_max=np.inf), FLOW, r"Exponential.sigma_min, sigma_max: \(0.002, inf\) is refused"),
        (PolyExponential(4, rho=0.0), FLOW, r"PolyExponential.rho: 0.0 is refused; allowed: > 0"),
        (BetaQuantiles(4, a=-1.0), FLOW, r"BetaQuantiles.a: -1.0 is refused"),
        (VPTime(4, eps=0.0), FLOW, r"VPTime.eps: 0.0 is refused"),
        (VPTime(4, beta_min=5.0, beta_max=1.0), FLOW, r"VPTime.beta_min, beta_max"),
        (IDDPM(993), FLOW, r"IDDPM.num_steps: 993 is refused; allowed: at most the 992 levels"),
        (IDDPM(4, M=1), FLOW, r"IDDPM.M, C_1, C_2"),
        (Quadratic(0), FLOW, r"Quadratic.num_steps: 0"),
        (Quadratic(4, start=3.0, end=-3.0), VP(), r"repeated or reversed"),
        (Timesteps(0), TABLE, r"Timesteps.num_steps: 0"),
        (Timesteps(101), TABLE, r"Timesteps.num_steps: 101 is refused; allowed: at most 100, for the 100 levels"),
        (Timesteps(100, "linspace", spare=True), TABLE, r"Timesteps.num_steps: 100 is refused; allowed: at most 99"),
        (Timesteps(10, "trailling"), TABLE, r"Timesteps.spacing: 'trailling' .*did you mean 'trailing'"),
        (Timesteps(10, offset=1), TABLE, r"Timesteps.offset: 1 is refused; .* from 100 to 10, lie in 0 to 99"),
        (Timesteps(10, "leading", offset=-1), TABLE, r"Timesteps.offset: -1 is refused"),
        (Timesteps(10, end="zero"), TABLE, r"Timesteps.end: 'zero' is refused; allowed: data, first"),
        (Timesteps(10, "leading", end="first"), TABLE, r"grid step 9 .*repeated or reversed"),
        (Timesteps(50, "quadratic"), TABLE, r"repeated or reversed"),
        (Timesteps(10), FLOW, r"Timesteps.T: None is refused; allowed: a number of levels: LinearFlow is no table"),
        (Timesteps(10, T=50), TABLE, r"Timesteps.T: 50 is refused; allowed: 100, the table's"),
        (TimestepList((100, 50)), TABLE, r"TimestepList.values: 100 is refused; allowed: timesteps from 0 to 99"),
        (TimestepList((50, -1)), TABLE, r"TimestepList.values: -1 is refused"),
        (TimestepList((50, 60)), TABLE, r"repeated or reversed"),
        (TimestepList((50, 0), "first"), TABLE, r"repeated or reversed"),
        (TimestepList(()), TABLE, r"TimestepList.values: \(\) is refused; allowed: at least 1 timestep"),
        (TimestepList((5, 1)), FLOW, r"TimestepList.T: None is refused"),
        (Shift(UniformTime(4), 0.0), FLOW, r"Shift.shift: 0.0 is refused; allowed: > 0"),
        (Shift(UniformTime(4), -3.0), FLOW, r"Shift.shift: -3.0"),
        (Shift(UniformTime(4), float("nan")), FLOW, r"Shift.shift: nan"),
        (Shift(UniformTime(4), 3.0), VP(), r"Shift.shift: 3.0 is refused; allowed: one that keeps log-SNR -10.0\d* inside VP, -10.0"),
        (Shift(Churn(Karras(4))), FLOW, r"Shift.grid: 'Churn' is refused; allowed: a grid that does not renoise"),
        (ResolutionShift(UniformTime(4), -1.0), FLOW, r"ResolutionShift.size, base_size: \(-1.0, 256.0\)"),
        (DynamicShift(UniformTime(4), 0), FLOW, r"DynamicShift.tokens"),
        (DynamicShift(UniformTime(4), 20, base_shift=-9.0, linear=True), FLOW, r"DynamicShift \(the shift of mu\): -\d.* allowed: > 0"),
        (Stretch(UniformTime(4), 1.0), FLOW, r"Stretch.terminal: 1.0"),
        (Stretch(UniformTime(1)), FLOW, r"Stretch.grid: '1 step' is refused; allowed: at least 2 steps"),
        (FlowTimesteps(4, shift=0.0), FLOW, r"FlowTimesteps.shift: 0.0 is refused; allowed: > 0"),
        (FlowTimesteps(4, T=1), FLOW, r"FlowTimesteps.T: 1"),
        (Nodes(0), FLOW, r"Nodes.num_steps: 0"),
        (Nodes(4, "ays_sd"), FLOW, r"Nodes.nodes: 'ays_sd' .*did you mean 'ays_s"),
        (Nodes(4, (1.0, 2.0)), FLOW, r"Nodes.nodes: \(1.0, 2.0\) is refused; allowed: at least 2 descending levels"),
        (Nodes(4, (1.0, 0.1, 0.0)), FLOW, r"descending levels kappa > 0"),
        (Nodes(4, "ays_svd"), EDM(), r"Nodes.nodes: -13.1\d* is refused; allowed: a log-SNR of EDM"),
        (SpectrumAware(4, ()), FLOW, r"SpectrumAware.variances: \(\) is refused; allowed: at least one band's variance"),
        (SpectrumAware(4, (1.0, 0.0)), FLOW, r"SpectrumAware.variances"),
        (SpectrumAware(4, (1.0, 2.0), (1.0,)), FLOW, r"SpectrumAware.weights: \(1.0,\) is refused; allowed: 2 weights"),
        (SpectrumAware(4, (1.0,), (0.0,)), FLOW, r"SpectrumAware.weights"),
        (LevelsOf(UniformTime(4), VP()), VE(), r"LevelsOf.grid: .*a log-SNR of VE"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else "",
)  # fmt: skip
def test_refused(grid, path, message):
    with pytest.raises(ConfigError, match=message) as error:
        grid.steps(path).check()
    assert "\n" not in str(error.value)


def test_built_from_a_config_and_sampled_with():
    """Named in a configuration, nested, and handed to ``sample``."""
    spec = {"target": "Shift", "shift": 2, "grid": {"target": "FlowTimesteps", "num_steps": 5}}
    grid = build(spec, "score_lab.samplers", "sampling.grid")
    assert grid == Shift(FlowTimesteps(5), 2.0)
    nodes = build({"target": "Nodes", "num_steps": 5, "nodes": [8.0, 1.0, 0.1]}, "score_lab.samplers", "sampling.grid")
    assert nodes.nodes == (8.0, 1.0, 0.1)
    with pytest.raises(ConfigError, match=r"sampling.grid.grid.spacin: .*did you mean 'spacing'"):
        inner = {"target": "Timesteps", "num_steps": 5, "spacin": "leading"}
        build({"target": "Shift", "grid": inner}, "score_lab.samplers", "sampling.grid")
    x = jax.random.normal(jax.random.key(0), (3, 2))
    ends = [np.asarray(sample(Mixture(FLOW), DDIM(), g, x_T=x).x) for g in (grid, nodes, Shift(FlowTimesteps(5), 3.0))]
    assert all(np.isfinite(e).all() for e in ends) and np.abs(ends[0] - ends[2]).max() > 1e-3
