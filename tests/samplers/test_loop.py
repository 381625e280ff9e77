"""The loop: what it counts, what it recompiles, what it refuses, and states of several arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.exact import Gaussian, Mixture
from samplers.fake import CALLS, Counting, rows_fed, small

from score_lab.analytic import GaussianBands, GaussianMixture
from score_lab.build import ConfigError
from score_lab.denoiser import NetworkDenoiser
from score_lab.guidance import CFG, ClipX0
from score_lab.networks import MLP
from score_lab.paths import EDM, VE, VP, LinearFlow
from score_lab.samplers import (
    DDIM,
    DDPM,
    Churn,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Kappa,
    Karras,
    StateRecorder,
    Steps,
    T,
    Times,
    UniformLogSNR,
    UniformTime,
    sample,
)
from score_lab.samplers.program import programs
from score_lab.targets import F
from score_lab.types import pytree_dataclass

GRID = UniformTime(4)
COND = {"label": jnp.array([0, 1, 2])}
BANDS = GaussianBands(VP(), np.ones(4), np.ones(4))
EVERY = [DDIM(), DDPM(), Heun(), Heun(T(), at_data=True), EulerMaruyama(), DPMSolverPP2M()]


@pytest.mark.parametrize("sampler", EVERY, ids=str)
def test_nfe_is_what_the_network_did(sampler):
    """Counted by a host callback in the network, with churn where it is allowed."""
    denoiser = small(LinearFlow(), F(0.7), Counting())
    runs = []
    grid = GRID if sampler.memory else Churn(Karras(4), s_churn=1.0)
    rows = rows_fed(lambda: runs.append(sample(denoiser, sampler, grid, (3, 2), jax.random.key(0))) or runs[-1])
    expected = {"Heun": 7 if not getattr(sampler, "at_data", False) else 8}.get(type(sampler).__name__, 4)
    assert rows == 3 * int(runs[-1].nfe) == 3 * expected
    assert sampler.calls * 4 >= expected


def test_nfe_of_guidance():
    """Two passes in one call, of twice the rows; none more at scale 1; one outside the interval; Heun's skipped call is not counted."""
    inner = small(LinearFlow(), F(0.7), Counting())
    t = np.asarray(GRID.steps(LinearFlow()).t)
    inside = sum(-2.0 <= float(LinearFlow().log_snr(v)) <= 2.0 for v in jnp.asarray(t))
    assert 0 < inside < 4
    part = CFG(inner, 3.0, -2.0, 2.0)
    for guided, both in ((CFG(inner, 3.0), 4), (CFG(inner, 1.0), 0), (ClipX0(CFG(inner, 1.0)), 0), (part, inside)):
        runs = []
        rows = rows_fed(lambda g=guided, r=runs: r.append(sample(g, DDIM(), GRID, (3, 2), cond=COND)) or r[-1])
        assert rows == 3 * int(runs[-1].nfe) == 3 * (4 + both)
        assert sorted(CALLS) == [3] * (4 - both) + [6] * both  # four calls, whatever is guided
    runs = []
    rows = rows_fed(lambda: runs.append(sample(CFG(inner, 2.0), Heun(), GRID, (3, 2), cond=COND)) or runs[-1])
    assert rows == 3 * int(runs[-1].nfe) == 3 * 12  # its first step, from pure noise, is Euler too
    assert CALLS == [6] * 6


def test_scale_1_is_the_unguided_sample():
    inner = small(LinearFlow(), F(0.7))
    a, b = (sample(d, DDIM(), GRID, (3, 2), jax.random.key(1), cond=COND).x for d in (CFG(inner, 1.0), inner))
    np.testing.assert_array_equal(a, b)
    c = sample(CFG(inner, 1.0 + 1e-6), DDIM(), GRID, (3, 2), jax.random.key(1), cond=COND).x
    np.testing.assert_allclose(a, c, atol=1e-4)


def test_sample_compiles_once():
    """Another seed, path value, guidance scale, eta, multiplier, grid value, interval: nothing is compiled; between scale 1 and another,
    once."""

    def run(key=0, beta=20.0, scale=2.0, eta=0.5, rho=7.0, **cfg):
        denoiser = CFG(small(VP(0.1, beta), F(0.7)), scale, **cfg)
        return sample(denoiser, DDIM(eta), Karras(5, rho=rho, sigma_max=20.0), (3, 2), jax.random.key(key), cond=COND)

    run()
    size = programs()
    scales = [{"scale": v} for v in (4.0, 4, np.float32(3.0), jnp.float32(2.5))]
    for change in ({"key": 1}, {"beta": 15.0}, *scales, {"eta": 0.7}, {"eta": 1}, {"rho": 5.0}, {"rescale": 0.5}):
        run(**change)
        assert programs() == size, change
    run(scale=1.0)
    assert programs() == size + 1
    run(scale=1.0, key=3)
    run(scale=3.0, key=3)
    assert programs() == size + 1
    run(low=-3.0)
    run(low=-2.0, high=5.0)
    assert programs() == size + 2
    for multiplier in (1.0, 0.5):
        sample(small(VP(), F(0.7)), EulerMaruyama(multiplier), GRID, (3, 2), jax.random.key(0))
    for s_churn in (0.0, 2.0, 30.0):
        sample(small(VP(), F(0.7)), Heun(), Churn(Karras(5, sigma_max=20.0), s_churn, s_noise=1.0 + s_churn), (3, 2))
    assert programs() == size + 4


def test_under_jit_and_grad():
    """``sample`` may be traced: no host checks, the same numbers, and gradients through it."""
    x_T = jnp.ones((3, 2))
    steps = GRID.steps(LinearFlow())

    def loss(s):
        return jnp.sum(sample(Gaussian(LinearFlow(), s), Heun(T()), steps, x_T=x_T).x ** 2)

    value, slope = jax.jit(jax.value_and_grad(loss))(0.5)
    np.testing.assert_allclose(value, loss(0.5), rtol=1e-5)
    np.testing.assert_allclose(slope, (loss(0.501) - loss(0.499)) / 0.002, rtol=1e-2)


def test_under_jit_with_a_grid():
    """A grid makes its rows on the host inside ``jax.jit`` too, and what is wrong is refused there; a traced path has none: one line."""
    key, denoiser = jax.random.key(0), Gaussian(LinearFlow(), 0.5)
    inside = jax.jit(lambda key: sample(denoiser, Heun(T()), GRID, (3, 2), key).x)(key)
    np.testing.assert_allclose(inside, sample(denoiser, Heun(T()), GRID, (3, 2), key).x, rtol=1e-5)
    bounded = small(LinearFlow(), F(0.7), log_snr_range=(-5.0, 5.0))
    with pytest.raises(ConfigError, match="grid: log-SNR from -inf to .* leaves the range"):
        jax.jit(lambda key: sample(bounded, Heun(T()), GRID, (3, 2), key).x)(key)
    traced = Gaussian(VP(), 0.5)
    with pytest.raises(ConfigError, match=r"^grid: 'UniformTime' is refused; allowed: grid.steps\(path\), made outside"):
        jax.jit(lambda d: sample(d, Heun(T()), GRID, (3, 2), key).x)(traced)


@pytest.mark.parametrize("sampler", [Euler(T()), DPMSolverPP2M(), EulerMaruyama()], ids=str)
def test_a_state_of_several_arrays(sampler):
    """A dict of two arrays is sampled like the two side by side (an exact Gaussian denoiser acts on every coordinate alone)."""
    shape = {"position": (5, 3), "feature": (5, 2, 2)}
    run = sample(Gaussian(LinearFlow()), sampler, GRID, shape, jax.random.key(2), recorder=StateRecorder(5))
    assert jax.tree.map(jnp.shape, run.x) == shape
    x_T = jax.tree.map(lambda v: v[0, 0], run.record.x_t)
    assert not np.isin(np.asarray(x_T["feature"]), np.asarray(x_T["position"])).any()  # each array has its own draws
    if not sampler.stochastic:
        flat = jnp.concatenate([x_T["position"], x_T["feature"].reshape(5, 4)], axis=1)
        joined = sample(Gaussian(LinearFlow()), sampler, GRID, x_T=flat).x
        np.testing.assert_allclose(joined, jnp.concatenate([run.x["position"], run.x["feature"].reshape(5, 4)], axis=1), rtol=1e-5)


def test_the_prior_has_the_std_of_the_path():
    """Not N(0, I) whatever the path: VE starts at sigma_max, VP at 1, a grid that starts lower at its own level."""
    n = 4000
    for path, grid, std in ((VE(), GRID, 50.0), (VP(), GRID, 1.0), (EDM(), UniformLogSNR(3, start=0.0), 1.0)):
        x = sample(Gaussian(path), DDIM(), grid, (n, 2), jax.random.key(0), recorder=StateRecorder(n)).record.x_t[0, 0]
        assert abs(float(jnp.std(x)) / std - 1) < 5 / np.sqrt(4 * n), type(path).__name__


TRAINED = {"log_snr_range": (-6.0, 8.0)}


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"grid.*\[-6, 8\] that the network was trained on", {"grid": UniformTime(4)}),
        (r"grid.*\[-6, 8\]", {"grid": UniformLogSNR(4, start=-7.0, end=2.0)}),
        (r"log-SNR from -5 to 8.5 leaves", {"grid": Times((-5.0, 8.5, 9.0), of="log_snr")}),
        (r"grid.*renoises.*DPMSolverPP2M remembers 1", {"sampler": DPMSolverPP2M(), "grid": Churn(Karras(4, sigma_max=10.0))}),
        (r"DDIM.eta: 1.5 is refused", {"sampler": DDIM(1.5)}),
        (r"DDPM.variance: 'beta_tild' is refused.*did you mean 'beta_tilde'", {"sampler": DDPM("beta_tild")}),
        (r"EulerMaruyama.increment: 'exat'", {"sampler": EulerMaruyama(increment="exat")}),
        (r"EulerMaruyama.multiplier: -1", {"sampler": EulerMaruyama(-1.0)}),
        (r"either shape=\(n, \*shape\) or x_T", {"shape": None}),
        (r"sample.shape: \(0, 2\)", {"shape": (0, 2)}),
        (r"sample.shape: \(3.5, 2\)", {"shape": (3.5, 2)}),
        (r"sample.shape:.*one leading axis", {"shape": {"a": (3, 2), "b": (4, 2)}}),
        (r"sample.x_T:.*one leading axis", {"shape": None, "x_T": {"a": np.ones((3, 2)), "b": np.ones((4, 2))}}),
        (r"sample.index: \(2,\)", {"index": [0, 1]}),
        (r"sample.cond\['label'\]: \(2,\)", {"cond": {"label": jnp.zeros(2, int)}}),
        (r"grid step 1 .*repeated or reversed", {"grid": Times((0.9, 0.5, 0.5, 0.2))}),
        (r"grid step 0 .*times in \[0, 1\]", {"grid": Times((1.1, 0.5))}),
        (r"UniformTime.num_steps: 0", {"grid": UniformTime(0)}),
    ],
)
def test_refused_before_anything_is_compiled(message, arguments):
    fields = TRAINED if "trained" in message or "[-6" in message or "leaves" in message else {}
    rest = {"sampler": DDIM(), "grid": GRID, "shape": (3, 2), **arguments}
    size = programs()
    with pytest.raises(ConfigError, match=message) as error:
        sample(small(LinearFlow(), F(0.7), **fields), **rest)
    assert "\n" not in str(error.value) and programs() == size


def test_learned_variance_needs_a_network_that_has_it():
    with pytest.raises(ConfigError, match=r"DDPM.variance: 'learned' is refused; .*no variance output"):
        sample(small(LinearFlow(), F(0.7)), DDPM("learned"), GRID, (3, 2))


def test_levels_outside_the_trained_range_may_be_clipped():
    denoiser = small(LinearFlow(), F(0.7), log_snr_range=(-6.0, 8.0), clip=True)
    assert np.isfinite(sample(denoiser, Heun(), GRID, (3, 2)).x).all()
    inside = UniformLogSNR(4, -6.0, 8.0)
    assert np.isfinite(sample(small(LinearFlow(), F(0.7), log_snr_range=(-6.0, 8.0)), Heun(), inside, (3, 2)).x).all()


@pytest.mark.parametrize(
    ("denoiser", "states", "message"),
    [
        (small(VP(), F(0.7)), {"x_T": jnp.ones((3, 5))}, r"sample.x_T: \(3, 5\) is refused; .*that the denoiser takes: in Net"),
        (small(VP(), F(0.7)), {"shape": (3, 5)}, r"sample.shape: \(3, 5\) is refused; .*NetworkDenoiser"),
        (CFG(small(VP(), F(0.7)), 2.0), {"shape": (3, 5), "cond": COND}, r"sample.shape: \(3, 5\) is refused; .*NetworkDenoiser"),
        (GaussianMixture(VP(), np.ones(2), np.ones((2, 4)), np.ones(2)), {"shape": (3, 5)}, r"sample.shape: \(3, 5\) .*allowed: \(n, 4\)"),
        (BANDS, {"x_T": jnp.ones((3, 1))}, r"sample.x_T: \(3, 1\) .*\(n, 4\).*x0 and eps come back as \(3, 4\)"),
    ],
    ids=["x_T", "shape", "guided", "mixture", "broadcast"],
)
def test_states_that_the_denoiser_does_not_take_are_refused(denoiser, states, message):
    with pytest.raises(ConfigError, match=message) as refused:
        sample(denoiser, DDIM(), GRID, **states)
    assert "\n" not in str(refused.value)


def test_an_error_that_is_not_of_the_states_is_its_own():
    """A sampler's own TypeError comes through."""

    @pytree_dataclass
    class Broken(DDPM):
        def step(self, denoise, x, t, s, draw, carry):
            raise TypeError("of the sampler")

    with pytest.raises(TypeError, match="of the sampler"):
        sample(small(VP(), F(0.7)), Broken(), GRID, (3, 2))


def test_steps_that_do_not_fit_together_are_refused():
    good = GRID.steps(VP())
    for change, message in (({"start": jnp.asarray(0.3)}, "grid.start"), ({"t": good.t.at[2].set(0.4)}, "grid step 2 starts")):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(good, **change).check()
    with pytest.raises(ConfigError, match="at least 1 step"):
        Steps.of(jnp.ones(1)).check()


def test_state_keeps_its_precision(x64):
    """A float32 state stays float32 under float64 coefficients, through every kind of carry."""
    for sampler in (Heun(Kappa()), DPMSolverPP2M()):
        x = sample(Mixture(VP()), sampler, GRID, x_T=jnp.ones((2, 2), jnp.float32)).x
        assert x.dtype == jnp.float32


@pytest.mark.parametrize("label", [12, -2])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: CFG(d, 2.0)], ids=["bare", "guided"])
def test_a_label_that_the_network_does_not_have_is_refused_before_it_is_nan(label, wrap):
    network = MLP(width=8, depth=1, num_classes=10)
    denoiser = wrap(NetworkDenoiser(network.init(jax.random.key(0), (2,)), network, VP(), F(1.0)))
    cond = {"label": jnp.array([0, label, -1])}
    says = rf"cond\['label'\]: {label} is refused; allowed: 0 to 9, or -1 for no label$"
    with pytest.raises(ConfigError, match="^sample." + says):
        sample(denoiser, DDIM(), GRID, (3, 2), jax.random.key(0), cond=cond)
    with pytest.raises(ConfigError, match="^" + says):
        denoiser(jnp.ones((3, 2)), 0.5, cond)
    assert np.isnan(jax.jit(lambda c: denoiser(jnp.ones((3, 2)), 0.5, c).x0)(cond)[1]).all()  # traced: not another class
    with pytest.raises(ConfigError, match="float32.*whole numbers"):
        denoiser(jnp.ones((3, 2)), 0.5, {"label": jnp.ones(3)})


def test_a_label_that_an_exact_denoiser_does_not_have_is_refused():
    exact = GaussianMixture(VP(), np.ones(2), np.ones((2, 2)), np.ones(2), labels=np.array([0, 7]))
    with pytest.raises(ConfigError, match=r"sample.cond\['label'\]: 3 is refused; allowed: the labels of the denoiser"):
        sample(exact, DDIM(), GRID, (3, 2), jax.random.key(0), cond={"label": np.array([7, 3, 0])})
    assert np.isfinite(sample(exact, DDIM(), GRID, (3, 2), jax.random.key(0), cond={"label": np.array([7, -1, 0])}).x).all()
