"""Grids: exact ends, every step moves in float32 up to a thousand steps on every path, the paper's formula, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import paths

from score_lab.build import ConfigError, build
from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import Churn, Karras, Times, UniformLogSNR, UniformTime

PATHS = ["VP", "SubVP", "VE", "EDM", "Cosine", "LinearFlow", "Trigonometric", "DDPMTable", "ZeroSNRTable"]


def levels(steps):
    return np.append(np.asarray(steps.t, np.float64), float(steps.s[-1]))


@pytest.mark.parametrize("name", PATHS)
def test_ends_are_exact_and_every_step_moves(name):
    """No duplicated last sigma, no dead step: every step changes t, alpha or sigma, in float32."""
    path = paths()[name]
    low, high = (float(v) for v in path.log_snr(jnp.array([1.0, 0.0])))
    for grid in (UniformTime(1000), UniformLogSNR(1000), Karras(1000), Karras(1000, rho=1.0), UniformTime(1), Karras(1), UniformLogSNR(2)):
        steps = grid.steps(path)
        steps.check()
        t = levels(steps)
        assert len(t) == grid.num_steps + 1 and steps.t.dtype == jnp.float32
        assert t[-1] == 0.0 and float(steps.start) == t[0]
        if isinstance(grid, UniformTime) or np.isfinite(low) and isinstance(grid, UniformLogSNR):
            assert t[0] == 1.0
        kappa = np.asarray(path.kappa(steps.t), np.float64)
        assert (np.diff(kappa) < 0).all()
        assert float(path.kappa(steps.s[-1])) < kappa[-1]
        if isinstance(grid, Karras):
            assert t[0] == 1.0 if np.exp(-0.5 * low) <= 80 else abs(kappa[0] / 80 - 1) < 2e-5


@pytest.mark.parametrize("name", PATHS)
def test_equal_steps_are_equal(name, x64):
    path = paths()[name]
    np.testing.assert_allclose(np.diff(levels(UniformTime(9).steps(path))), -1 / 9, rtol=1e-12)
    lam = np.asarray(path.log_snr(jnp.asarray(levels(UniformLogSNR(9, -5.0, 3.0, to_data=False).steps(path)))))
    np.testing.assert_allclose(lam, np.linspace(-5, 3, 10), atol=1e-9)


@pytest.mark.parametrize("path", [EDM(), VP(), LinearFlow()], ids=["EDM", "VP", "LinearFlow"])
def test_karras_is_the_paper_s(path, x64):
    """Karras et al. 2022, eq. 5, and 0 behind it; N + 1 nodes where there is no step to data."""
    N, rho = 18, 7.0
    i = np.arange(N)
    paper = (40.0 ** (1 / rho) + i / (N - 1) * (0.01 ** (1 / rho) - 40.0 ** (1 / rho))) ** rho
    kappa = np.asarray(path.kappa(Karras(N, rho, 0.01, 40.0).steps(path).t))
    np.testing.assert_allclose(kappa, paper, rtol=1e-9)
    steps = Karras(N - 1, rho, 0.01, 40.0, to_data=False).steps(path)
    np.testing.assert_allclose(path.kappa(jnp.append(steps.t, steps.s[-1])), paper, rtol=1e-9)


def test_a_path_that_ends_in_noise_ends_at_its_own_level():
    """VE's t = 0 is sigma_min, not data: the grid ends there, without a step more."""
    for grid in (Karras(6), UniformLogSNR(6), UniformTime(6)):
        steps = grid.steps(VE())
        assert len(steps.t) == 6 and float(VE().sigma(steps.s[-1])) == pytest.approx(0.01, rel=1e-6)
    kappa = np.asarray(VE().kappa(Karras(6, sigma_min=0.1).steps(VE()).t))
    assert kappa[-1] == pytest.approx(0.1, rel=1e-5)  # and from a level above it there is one


def test_times_in_any_coordinate():
    path = LinearFlow()
    for values, of in (((1.0, 0.5, 0.0), "t"), ((-np.inf, 0.0, np.inf), "log_snr"), ((np.inf, 1.0, 0.0), "kappa")):
        np.testing.assert_array_equal(levels(Times(values, of).steps(path)), [1.0, 0.5, 0.0])


def test_churn_raises_only_where_it_is_active():
    """gamma = min(s_churn / N, sqrt 2 - 1); outside [s_tmin, s_tmax], with s_churn = 0 and at the path's end nothing moves, to the last
    bit."""
    path, plain = EDM(), Karras(10).steps(EDM())
    for other in (EDM(), VP(), LinearFlow()):
        still, off = Karras(100).steps(other), Churn(Karras(100), s_churn=0.0).steps(other)
        np.testing.assert_array_equal(off.t, still.t)
        np.testing.assert_array_equal(off.r, still.s)
    on = Churn(Karras(10), s_churn=2.0, s_tmin=0.05, s_tmax=50.0).steps(path)
    kappa = np.asarray(path.kappa(plain.t))
    factor = np.where((kappa >= 0.05) & (kappa <= 50), 1.2, 1.0)
    np.testing.assert_allclose(np.asarray(path.kappa(on.t)) / kappa, factor, rtol=1e-5)
    np.testing.assert_array_equal(on.r[:-1], on.t[1:])
    assert float(on.r[-1]) == 0.0
    most = Churn(Karras(10), s_churn=1000.0).steps(path)
    np.testing.assert_allclose((np.asarray(path.kappa(most.t)) / kappa)[1:], np.sqrt(2), rtol=1e-5)
    assert float(most.t[0]) == 1.0
    on.check()


@pytest.mark.parametrize(
    ("grid", "path", "message"),
    [
        (UniformTime(0), VP(), r"UniformTime.num_steps: 0 is refused; allowed: a whole number of steps, at least 1"),
        (UniformTime(2.5), VP(), r"UniformTime.num_steps: 2.5"),
        (Karras(-1), VP(), r"Karras.num_steps: -1"),
        (UniformLogSNR(1), LinearFlow(), r"UniformLogSNR.num_steps: 1 is refused; .*at least 2"),
        (UniformTime(4, start=-11.0), VP(), r"UniformTime.start, end: -11.0 is refused; allowed: a log-SNR of VP, from -10.05"),
        (UniformTime(4, end=30.0), VE(), r"UniformTime.start, end: 30.0 is refused; allowed: a log-SNR of VE, from -7.8\d* to 9.2"),
        (UniformTime(4, start=3.0, end=-3.0), VP(), r"grid step 0 .*repeated or reversed"),
        (UniformLogSNR(4, start=3.0, end=3.0, to_data=False), VP(), r"repeated or reversed"),
        (UniformLogSNR(4, start=-np.inf), LinearFlow(), r"UniformLogSNR.start, end: .*finite log-SNRs"),
        (Karras(4, sigma_max=100.0), EDM(), r"Karras.sigma_min, sigma_max: \(0.002, 100.0\) is refused; .*\[0, 80\]"),
        (Karras(4, sigma_min=2.0, sigma_max=1.0), EDM(), r"Karras.sigma_min, sigma_max"),
        (Karras(4, rho=0.0), EDM(), r"Karras.rho: 0.0 is refused; allowed: > 0"),
        (Times((0.0, 0.5, 1.0)), VP(), r"grid step 0 .*repeated or reversed"),
        (Times((1.0, 0.5, 0.5)), VP(), r"grid step 1 .*repeated or reversed"),
        (Times((1.0, float("nan"))), VP(), r"grid step 0"),
        (Times((0.5,)), VP(), r"Times.values: \(0.5,\) is refused; allowed: at least 2 values"),
        (Times((1.0, 0.0), of="logsnr"), VP(), r"Times.of: 'logsnr' .*did you mean 'log_snr'"),
        (Times((1.0, -1.0), of="kappa"), EDM(), r"Times.values: .*kappa >= 0"),
        (Times((100.0, 1.0), of="kappa"), EDM(), r"Times.values: .*a log-SNR of EDM"),
        (Churn(Karras(4), s_churn=-1.0), EDM(), r"Churn.s_churn, s_noise: \(-1.0, 1.0\)"),
        (Churn(Churn(Karras(4))), EDM(), r"Churn.grid: 'Churn' is refused; allowed: a grid that does not renoise already"),
    ],
    ids=str,
)
def test_refused(grid, path, message):
    with pytest.raises(ConfigError, match=message) as error:
        grid.steps(path).check()
    assert "\n" not in str(error.value)


def test_built_from_a_config():
    grid = build({"target": "Churn", "s_churn": 3, "grid": {"target": "Karras", "num_steps": 5}}, "score_lab.samplers", "sampling.grid")
    assert grid.steps(EDM()).renoises and grid.s_churn == 3.0
    with pytest.raises(ConfigError, match=r"sampling.grid.num_step: 5 is refused.*did you mean 'num_steps'"):
        build({"target": "Karras", "num_step": 5}, "score_lab.samplers", "sampling.grid")
