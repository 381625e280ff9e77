"""diffusers' own steps are the right ones where their defect has nothing to act on; what they reproduce is held by the records."""

import jax
import numpy as np
import pytest
from samplers.exact import Mixture

from score_lab.build import ConfigError
from score_lab.paths import EDM, LinearFlow
from score_lab.samplers import DDIM, Euler, Heun, Kappa, T, Times, UniformTime, sample
from score_lab.samplers.as_released import READINGS, LateChurn, LateChurnFlow
from score_lab.samplers.as_released_noise import DDPMReleased, PredictorCorrector, SASolverReleased

pytestmark = pytest.mark.usefixtures("x64")
X_T = np.random.default_rng(0).standard_normal((4, 2))


@pytest.mark.parametrize("reading", READINGS)
def test_without_churn_it_is_euler(reading):
    path, grid = EDM(20.0), Times((20.0, 3.0, 0.5, 0.0), of="kappa")
    runs = [sample(Mixture(path), sampler, grid, x_T=20 * X_T).x for sampler in (LateChurn(reading=reading), Euler(Kappa()))]
    np.testing.assert_allclose(*runs, rtol=1e-12)


def test_without_churn_it_is_heun():
    runs = [sample(Mixture(LinearFlow()), sampler, UniformTime(4), x_T=X_T).x for sampler in (LateChurnFlow(), Heun(T()))]
    np.testing.assert_allclose(*runs, rtol=1e-12)


def test_without_corrections_of_any_size_it_is_ddim():
    """azula's predictor-corrector at delta = 0, whose corrections put x together again as it was."""
    key, solvers = jax.random.key(0), (PredictorCorrector(delta=0.0), DDIM())
    runs = [sample(Mixture(LinearFlow()), solver, UniformTime(4), x_T=X_T, key=key).x for solver in solvers]
    np.testing.assert_allclose(*runs, rtol=1e-12)


def test_an_interval_without_levels_does_not_churn():
    path, grid = EDM(20.0), Times((20.0, 3.0, 0.5, 0.0), of="kappa")
    key = jax.random.key(1)
    still, churned = (sample(Mixture(path), LateChurn(0.4, low, low + 1), grid, x_T=20 * X_T, key=key).x for low in (5.0, 2.5))
    np.testing.assert_allclose(still, sample(Mixture(path), Euler(Kappa()), grid, x_T=20 * X_T).x, rtol=1e-12)
    assert np.abs(np.asarray(churned - still)).max() > 1e-3


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (LateChurn(-1.0), r"LateChurn.gamma: -1.0 is refused; allowed: >= 0"),
        (LateChurnFlow(s_noise=-1.0), r"LateChurnFlow.s_noise: -1.0 is refused"),
        (SASolverReleased(predictor=4), r"SASolverReleased.predictor: 4 is refused; allowed: 1, 2 or 3"),
        (SASolverReleased(corrector=0), r"SASolverReleased.corrector: 0 is refused; allowed: 1, 2, 3 or 4"),
        (SASolverReleased(tau=-1.0), r"SASolverReleased.tau: -1.0 is refused"),
        (PredictorCorrector(0), r"PredictorCorrector.corrections: 0 is refused; allowed: at least 1"),
        (PredictorCorrector(delta=2.0), r"PredictorCorrector.delta: 2.0 is refused; allowed: 0 <= delta <= 1"),
        (DDPMReleased("none"), r"DDPM.variance: 'none' is refused"),
        (LateChurn(reading="w"), r"LateChurn.reading: .*eps, x0, v, F"),
    ],
)
def test_refused(part, message):
    with pytest.raises(ConfigError, match=message):
        part.check()
