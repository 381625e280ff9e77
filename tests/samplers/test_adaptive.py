"""Adaptive solvers: against scipy's RK45, exact solutions at both ends of every path, k-diffusion's own steps; error, steps and evaluations
are each sample's own."""

import dataclasses
import json

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle.case import HERE, Bank
from samplers.exact import Gaussian, Mixture, mixture_numpy, paths
from samplers.fake import Counting, rows_fed, small
from scipy.integrate import solve_ivp

from score_lab.build import ConfigError
from score_lab.denoiser import Prediction
from score_lab.guidance import CFG
from score_lab.paths import EDM, VP, Cosine, LinearFlow
from score_lab.samplers import (
    DDIM,
    Churn,
    Dopri5,
    DPMAdaptive,
    Integrated,
    Kappa,
    Karras,
    Kvaerno5,
    LogSNR,
    StateRecorder,
    Steps,
    T,
    Times,
    Tsit5,
    UniformLogSNR,
    UniformTime,
    sample,
    sample_chunked,
)  # fmt: skip
from score_lab.samplers.first_step import first_step
from score_lab.samplers.loop import _arguments
from score_lab.samplers.program import lowered
from score_lab.targets import F
from score_lab.types import leaf, pytree_dataclass

KEY = jax.random.key(3)
SEEN = []
OTHERS = ("VP", "EDM", "Cosine", "ZeroSNRTable")


def watched(x, t):
    """``x``; the host sees it with its time."""
    jax.debug.callback(lambda x, t: SEEN.append((np.array(x), np.array(t))), x, t)
    return x


@pytree_dataclass
class Seen:
    """A denoiser whose calls are seen by the host."""

    denoiser: object = leaf()

    @property
    def path(self):
        return self.denoiser.path

    def on(self, path):
        return Seen(self.denoiser.on(path))

    def __call__(self, x_t, t, cond=None, **rest):
        return self.denoiser(watched(x_t, jnp.asarray(t, x_t.dtype)), t, cond, **rest)


@pytree_dataclass
class Relaxing:
    """A velocity that pulls the state to the sine of the time, NaN beyond a limit."""

    path: object = leaf()
    rate: float = 1e4
    limit: float = float("inf")

    def on(self, path):
        return dataclasses.replace(self, path=path)

    def __call__(self, x_t, t, cond=None, **rest):
        time = jnp.asarray(t).reshape(-1, 1)
        v = jnp.where(jnp.abs(x_t) <= self.limit, self.rate * (x_t - jnp.sin(time)) + jnp.cos(time), jnp.nan)
        return Prediction.of(x_t, t, self.path, x0=x_t - time * v, eps=x_t + (1 - time) * v)


def evaluated(run):
    """What ``run()`` evaluated, in order, and its result."""
    SEEN.clear()
    out = run()
    jax.block_until_ready(out.x)
    jax.effects_barrier()
    return list(SEEN), out


@pytest.mark.usefixtures("x64")
def test_the_same_as_scipys_rk45():
    """On the linear flow in T: the same ODE, tolerance, pair and first step, one sample alone and in a batch: the last state to
    10 tolerances of scipy's, dense output to 30 of the exact solution (a quartic between steps), evaluations to two steps."""
    tol, times = 1e-6, np.array([0.95, 0.7, 0.4, 0.1])
    x_T = np.random.default_rng(1).standard_normal((3, 2))

    def slope(t, y):
        x0, eps = mixture_numpy(y[None], 1 - t, t)
        return (eps - x0)[0]

    run = sample(
        Mixture(LinearFlow()), Dopri5(tol, tol, variable=T()), Times(tuple(times)), x_T=jnp.asarray(x_T), recorder=StateRecorder(3)
    )
    states = np.concatenate([run.record.x_t[:, 0], np.asarray(run.x)[None]])
    for i in range(3):
        theirs = solve_ivp(slope, (times[0], times[-1]), x_T[i], method="RK45", rtol=tol, atol=tol)
        np.testing.assert_allclose(states[-1, i], theirs.y[:, -1], rtol=10 * tol, atol=10 * tol)
        assert abs(int(run.nfe[i]) - theirs.nfev) <= 12
        exact = solve_ivp(slope, (times[0], times[-1]), x_T[i], method="DOP853", rtol=1e-12, atol=1e-12, t_eval=times)
        np.testing.assert_allclose(states[:, i], exact.y.T, rtol=30 * tol, atol=30 * tol)
    assert run.record.made.sum() == 3  # the recorder's calls are apart: one for each of the grid's steps


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["LinearFlow", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def test_both_ends_of_a_path_are_finite(name):
    """Gaussian data: x_s = x_t sqrt(V_s / V_t), from t = 1 (alpha = 0 on flow, Cosine, the zero-SNR table) to data (sigma = 0)."""
    path, s = paths()[name], 0.5
    x_T = np.random.default_rng(0).standard_normal((4, 1)) * float(path.prior_std(1.0))
    run = sample(Gaussian(path, s), Tsit5(1e-7, 1e-7), UniformTime(3), x_T=jnp.asarray(x_T), recorder=StateRecorder(4))
    t = np.asarray([*run.record.t[:, 0], 0.0])
    V = np.asarray(path.alpha(t)) ** 2 * s**2 + np.asarray(path.sigma(t)) ** 2
    exact = x_T * np.sqrt(V / V[0])[:, None, None]
    states = np.concatenate([run.record.x_t[:, 0], np.asarray(run.x)[None]])
    scale = np.asarray(path.norm(t))[:, None, None]  # the solver's own state is x / norm
    np.testing.assert_allclose(states / scale, exact / scale, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_variables_and_the_implicit_solver():
    """Between finite levels all variables solve the same ODE; Kvaerno5 too, and its evaluations are all counted."""
    path, grid, x_T = VP(), UniformLogSNR(2, -4.0, 4.0, to_data=False), jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    truth = np.asarray(sample(Mixture(path), Dopri5(1e-10, 1e-10), grid, x_T=x_T).x)
    for solver in (Dopri5(1e-6, 1e-6, variable=LogSNR()), Dopri5(1e-6, 1e-6, variable=Kappa()), Kvaerno5(1e-6, 1e-6)):
        found = sample(Mixture(path), solver, grid, x_T=x_T).x
        np.testing.assert_allclose(found, truth, atol=1e-4 if solver.variable == Kappa() else 1e-5)


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(Dopri5(1e-4, 1e-4), marks=pytest.mark.slow), DPMAdaptive(3), Tsit5(1e-3, 1e-3), Kvaerno5(1e-2, 1e-2)],
    ids=["Dopri5", "DPMAdaptive", "Tsit5", "Kvaerno5"],
)
def test_nfe_is_what_was_evaluated(sampler):
    """One sample, so that nothing is masked: the host sees nfe evaluations, and none past the grid's ends."""
    grid = UniformLogSNR(2, -6.0, 6.0)
    seen, run = evaluated(lambda: sample(Seen(Mixture(LinearFlow())), sampler, grid, (1, 2), KEY))
    assert np.isfinite(run.x).all() and len(seen) == int(run.nfe[0]) > 12
    levels = np.array([LinearFlow().log_snr(t.ravel()[0]) for _, t in seen])
    assert levels.min() >= -6.001 and levels.max() <= 20.001


@pytest.mark.parametrize(
    "sampler",
    [DPMAdaptive(3), *(pytest.param(s, marks=pytest.mark.slow) for s in (Dopri5(1e-3, 1e-3), Tsit5(1e-3, 1e-3)))],
    ids=["DPMAdaptive", "Dopri5", "Tsit5"],
)
def test_guided_evaluations_are_what_the_host_saw(sampler):
    """One sample, so that nothing is masked: guidance's two rows a call, each of which the network was fed."""
    denoiser, runs = CFG(small(LinearFlow(), F(0.7), Counting()), 2.0), []
    grid, cond = UniformLogSNR(2, -6.0, 6.0), {"label": jnp.ones(1)}
    rows = rows_fed(lambda: runs.append(sample(denoiser, sampler, grid, (1, 2), KEY, cond=cond)) or runs[-1])
    assert rows == int(runs[-1].nfe[0]) > 24 and rows % 2 == 0


@pytest.mark.parametrize(
    ("sampler", "jacobian"), [(Kvaerno5(1e-4, 1e-4, iterations=3), 3), (Kvaerno5(1e-1, 1e-1, iterations=2), 3), (Tsit5(1e-5, 1e-5), 0)]
)
def test_refused_attempts_are_counted(monkeypatch, sampler, jacobian):
    """A first step that is all of the way is refused, and so are others, from where they began: the slope there is known, and the
    implicit solver's Jacobian, 1 + 2 calls at one time, is taken once a step."""
    from score_lab.samplers import adaptive

    monkeypatch.setattr(adaptive, "first_length", lambda h0, d1, difference, most, order: most)
    sampler = dataclasses.replace(sampler, max_steps=1001)  # a program of its own, which no other test finds
    seen, run = evaluated(lambda: sample(Seen(Mixture(LinearFlow())), sampler, UniformLogSNR(2, -5.9, 6.1), (1, 2), KEY))
    assert len(seen) == int(run.nfe[0])
    times, attempts, calls = np.array([t.ravel()[0] for _, t in seen]), int(run.num_steps[0]), sampler.calls
    assert (times == times.max()).sum() == 1 + jacobian
    if jacobian:
        taken, rest = divmod(len(seen) - 2 - calls * attempts, jacobian)
        assert rest == 0 and 1 < taken < attempts
    else:
        ends, starts = times[1 + calls :: calls], times[2 + calls :: calls]
        assert len(ends) == attempts and (starts > ends[:-1]).sum() > 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("sampler", "solver"),
    [(Dopri5(1e-5, 1e-5), diffrax.Dopri5()), pytest.param(Tsit5(1e-5, 1e-5), diffrax.Tsit5(), marks=pytest.mark.slow)],
)
def test_the_same_as_diffrax(sampler, solver):
    """diffrax's own solve from the same first step: as many attempts, the same dense output, to rounding."""
    path, times = LinearFlow(), np.array([0.95, 0.7, 0.4, 0.1])
    x_T, part = jnp.asarray(np.random.default_rng(2).standard_normal((2, 2))), dataclasses.replace(sampler, variable=T())
    run = sample(Mixture(path), part, Times(tuple(times)), x_T=x_T, recorder=StateRecorder(3))
    for i, x in enumerate(x_T):

        def slope(t, y, _=None):
            return Mixture(path)(y[None], t).velocity[0]

        theirs = diffrax.diffeqsolve(
            diffrax.ODETerm(slope), solver, times[0], times[-1],
            first_step(slope, jnp.asarray(times[0]), jnp.asarray(times[-1]), x, sampler.rtol, sampler.atol, 5), x,
            stepsize_controller=diffrax.PIDController(sampler.rtol, sampler.atol), saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
        )  # fmt: skip
        assert int(run.num_steps[i]) == int(theirs.stats["num_steps"]) > 4
        np.testing.assert_allclose(run.record.x_t[:, 0, i], theirs.ys[:-1], rtol=0, atol=1e-11)
        np.testing.assert_allclose(run.x[i], theirs.ys[-1], rtol=0, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_the_implicit_solver_follows_what_is_stiff():
    """dx/dt = lambda (x - sin t) + cos t from 0.9 down to 0.1, which x = sin t solves: of lambda = 1e4 an explicit pair needs a step for
    every 3.3 / lambda (its stability), the implicit one as many as the sine asks for."""
    x_T, found = jnp.full((1, 2), np.sin(0.9) + 0.1), {}
    for sampler in (Kvaerno5(1e-6, 1e-6, variable=T()), Dopri5(1e-6, 1e-6, variable=T())):
        run = sample(Relaxing(LinearFlow()), sampler, Times((0.9, 0.1)), x_T=x_T)
        np.testing.assert_allclose(run.x, np.sin(0.1), atol=1e-5)
        found[type(sampler).__name__] = int(run.num_steps[0])
    assert found["Kvaerno5"] < 100 < 2000 < found["Dopri5"]


@pytest.mark.parametrize("sampler", [Dopri5(1e-4, 1e-4), Kvaerno5(1e-4, 1e-4), DPMAdaptive(3, 1e-4, 1e-4)])
def test_the_denoise_step_is_that_of_the_last_state(sampler):
    """A network trained up to log-SNR 3: on to data, x is x0 where a grid that ends at 3 ends, for at most one call more; the program of
    the run holds the network once."""
    path, limit = VP(), 3.0
    net, x_T = small(path, F(0.7), log_snr_range=(-6.0, limit)), jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)), jnp.float32)
    there = sample(net, sampler, UniformLogSNR(2, -6.0, limit, to_data=False), x_T=x_T)
    wanted = net(there.x, path.time_of(jnp.float32(limit))).x0
    held = times_held(net, sampler, UniformLogSNR(2, -6.0, 2.0), x_T)
    run = sample(net, sampler, UniformLogSNR(2, -6.0, 2.0), x_T=x_T)
    np.testing.assert_allclose(run.x, wanted, atol=2e-3)
    assert (np.abs(np.asarray(run.nfe) - np.asarray(there.nfe)) <= 1 + 2 * sampler.calls).all() and held == 1


def times_held(net, sampler, grid, x_T) -> int:
    """How many tanh, of which the network has one, a run's program holds."""
    return lowered(*_arguments(net, sampler, grid, None, None, x_T, None, None, None, None)).as_text().count("stablehlo.tanh")


def test_nothing_but_the_denoise_step():
    """A grid that starts where the network ends: one call, x0 of the state that was given, as DDIM's."""
    net, x_T = small(LinearFlow(), F(0.7), log_snr_range=(-6.0, 0.0)), jnp.array([[0.3, -0.2]])
    for sampler in (Tsit5(), Kvaerno5()):
        run = sample(net, sampler, Times((0.5, 0.0)), x_T=x_T)
        np.testing.assert_allclose(run.x, sample(net, DDIM(), Times((0.5, 0.0)), x_T=x_T).x, rtol=1e-5)
        assert int(run.nfe[0]) == 1 and int(run.num_steps[0]) == 0


@pytest.mark.usefixtures("x64")
def test_a_step_into_what_is_not_a_number_is_refused_and_tried_shorter():
    """A velocity that is NaN where |x| > 2, where steps of an explicit pair on a stiff problem end at times; one that is NaN everywhere
    ends at once."""
    x_T = jnp.full((1, 2), np.sin(0.9) + 0.1)
    run = sample(Relaxing(LinearFlow(), 1e3, 2.0), Dopri5(1e-3, 1e-3, variable=T()), Times((0.9, 0.1)), x_T=x_T)
    np.testing.assert_allclose(run.x, np.sin(0.1), atol=2e-3)
    assert int(run.num_steps[0]) > 100
    run = sample(Relaxing(LinearFlow(), 1e3, 0.0), Dopri5(1e-3, 1e-3, variable=T()), Times((0.9, 0.1)), x_T=x_T)
    assert np.isnan(run.x).all() and int(run.num_steps[0]) < 100


def test_inside_another_program():
    """``jax.jit`` around a run that closes over all it needs, whose program has no options of its own."""
    net, x = small(LinearFlow(), F(0.7)), jnp.ones((2, 2))
    for sampler in (Tsit5(1e-2, 1e-2), DDIM()):
        run = lambda sampler=sampler: sample(net, sampler, Times((0.9, 0.5, 0.1)), x_T=x, key=KEY).x  # noqa: E731
        np.testing.assert_allclose(jax.jit(run)(), run(), rtol=1e-4, atol=1e-5)


@pytree_dataclass
class OneStep:
    """An integrator of the three facts only: an Euler step from each level to the next; the denoise step is left to ``sample``."""

    order = 1
    calls = 1
    memory = 0
    stochastic = False
    returns: object = Integrated

    def integrate(self, denoise, x_T, steps, draw):
        times, _ = denoise.times()
        states = [x_T]
        for t, s in zip(times[:-1], times[1:], strict=True):
            states.append(denoise(states[-1], t).at(s))
        count = jnp.full(x_T.shape[:1], len(states) - 1, jnp.int32)
        made = jnp.stack(states, 1), count, count
        return made if self.returns is tuple else Integrated(*made)


def test_an_integrator_without_a_denoise_step():
    """DDIM's states, and the step to data made and counted; what is no Integrated is refused by name."""
    net, grid = small(VP(), F(0.7), log_snr_range=(-6.0, 5.0)), UniformLogSNR(3, -6.0, 5.0)
    run, ddim = (sample(net, sampler, grid, (3, 2), KEY) for sampler in (OneStep(), DDIM()))
    np.testing.assert_allclose(run.x, ddim.x, rtol=1e-4, atol=1e-5)
    assert set(np.asarray(run.nfe)) == {int(ddim.nfe) + 1}  # its last step goes to the level where it is
    with pytest.raises(ConfigError, match="OneStep.integrate returns: 'tuple' is refused; allowed: Integrated"):
        sample(net, OneStep(tuple), grid, (3, 2), KEY)


@pytest.mark.slow
def test_guidance_is_counted_by_level():
    """Guidance between two levels spends two evaluations there and one elsewhere; a sample's nfe is its own."""
    labels = {"label": jnp.array([0, 1, 2])}
    bare = small(VP(), F(0.7))
    runs = [sample(CFG(bare, 2.0, **span), Tsit5(), UniformTime(3), (3, 2), KEY, cond=labels) for span in ({}, {"low": 30.0, "high": 31.0})]
    twice, once = (np.asarray(r.nfe) for r in runs)
    attempts = [np.asarray(r.num_steps) for r in runs]
    np.testing.assert_array_equal(twice, 2 * (2 + 6 * attempts[0]))
    np.testing.assert_array_equal(once, 2 + 6 * attempts[1])
    part = sample(CFG(bare, 2.0, low=-2.0, high=2.0), Tsit5(), UniformTime(3), (3, 2), KEY, cond=labels)
    calls = 2 + 6 * np.asarray(part.num_steps)
    assert (part.nfe > calls).all() and (part.nfe < 2 * calls).all()


@pytest.fixture
def x64_on_every_thread():
    """Callbacks run on threads that a context does not reach."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("x64_on_every_thread")
@pytest.mark.parametrize("name", ["dpm_adaptive_o2", "dpm_adaptive_o3", "dpm_adaptive_o3_eta1"])
def test_k_diffusions_adaptive_records(name):
    """Every evaluation, rejected attempts included, and the result, with one step size for the batch as there."""
    with np.load(HERE / "k_diffusion.npz") as f:
        record = {key.split("/")[1]: f[key] for key in f.files if key.startswith(name + "/")}
        bank = f["noise_bank"]
    config, path = json.loads(str(record["config"])), EDM()
    steps = Steps.of(path.time_of_kappa(jnp.array([config["sigma_max"], config["sigma_min"]])))
    sampler = DPMAdaptive(config["kw"]["order"], eta=config["kw"].get("eta", 0.0), together=True)
    noise = Bank(jnp.asarray(bank), jnp.arange(len(bank))[:, None])
    seen, run = evaluated(lambda: sample(Seen(Mixture(path)), sampler, steps, x_T=jnp.asarray(record["x_start"]), noise=noise))
    info = config["info"]
    assert set(np.asarray(run.nfe)) == {info["nfe"]} and set(np.asarray(run.num_steps)) == {info["steps"]} and len(seen) == info["nfe"]
    for (x, t), theirs, sigma in zip(seen, record["eval_x"], record["eval_sigma"], strict=True):
        np.testing.assert_allclose(x, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())
        np.testing.assert_allclose(path.kappa(t), sigma, rtol=1e-9)
    np.testing.assert_allclose(run.x, record["states"][-1], rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_dpm_adaptive_lands_on_the_grid_and_its_noise_has_the_right_variance():
    """States at the grid's levels; and on N(0, s^2) data ancestral noise leaves the marginal as it is (4 standard errors)."""
    path, s = VP(), 0.5
    grid = UniformLogSNR(4, -6.0, 6.0, to_data=False)
    run = sample(Gaussian(path, s), DPMAdaptive(3, 1e-4, 1e-4), grid, x_T=jnp.ones((2, 1)), recorder=StateRecorder(2))
    t = np.asarray([*run.record.t[:, 0], grid.steps(path).s[-1]])
    V = np.asarray(path.alpha(t)) ** 2 * s**2 + np.asarray(path.sigma(t)) ** 2
    states = np.concatenate([run.record.x_t[:, 0], np.asarray(run.x)[None]])
    np.testing.assert_allclose(states[:, 0, 0], np.sqrt(V / V[0]), rtol=1e-3)
    n = 20_000
    x_T = np.sqrt(V[0]) * np.random.default_rng(0).standard_normal((n, 1))
    ancestral, once = DPMAdaptive(2, 0.01, 0.01, eta=1.0), UniformLogSNR(1, -6.0, 6.0, to_data=False)
    run = sample(Gaussian(path, s), ancestral, once, key=KEY, x_T=jnp.asarray(x_T))
    assert abs(float(jnp.var(run.x)) / V[-1] - 1) < 4 * np.sqrt(2 / n) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [Dopri5(1e-4, 1e-4), DPMAdaptive(2, 1e-3, 1e-3, eta=0.5)])
def test_batch_chunk_and_devices_change_nothing(sampler):
    """To 10 tolerances; the counts of evaluations are the same to a step or two of rounding.  Labels travel with their samples."""
    net, grid, labels = small(LinearFlow(), F(0.7)), UniformLogSNR(3, -5.0, 5.0, to_data=False), np.arange(10) % 3
    whole = sample(net, sampler, grid, (10, 2), KEY, cond={"label": jnp.asarray(labels)})
    pick, tol = np.array([9, 2]), 10 * sampler.rtol
    part = sample(net, sampler, grid, (2, 2), KEY, index=pick, cond={"label": jnp.asarray(labels[pick])})
    np.testing.assert_allclose(part.x, np.asarray(whole.x)[pick], atol=tol)
    assert np.abs(np.asarray(part.nfe) - np.asarray(whole.nfe)[pick]).max() <= 12
    for rest in ({"chunk": 4}, {"chunk": 8, "devices": jax.local_devices()}):
        run = sample_chunked(net, sampler, grid, (10, 2), KEY, cond={"label": labels}, **rest)
        np.testing.assert_allclose(run.x, whole.x, atol=tol)
        assert run.nfe.shape == run.num_steps.shape == (10,) and len(set(run.nfe.tolist())) > 1


@pytest.mark.slow
def test_any_state_and_its_precision():
    """A state of several arrays, each float32 under a bfloat16 network, gives what its parts give alone where the error is shared."""

    @pytree_dataclass
    class Half:
        path: object = leaf()

        def on(self, path):
            return Half(path)

        def __call__(self, x_t, t, cond=None, **rest):
            p = Gaussian(self.path)(x_t, t)
            half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), p.x0)
            return type(p).of(x_t, t, self.path, x0=half, eps=p.eps)

    shape = {"a": (3, 2), "b": (3, 1, 2)}
    run = sample(Half(VP()), Tsit5(1e-3, 1e-3), UniformLogSNR(2, -5.0, 5.0), shape, KEY)
    assert jax.tree.map(lambda a: (a.shape, a.dtype.name), run.x) == jax.tree.map(
        lambda m: (m, "float32"), shape, is_leaf=lambda m: isinstance(m, tuple)
    )
    full = sample(Gaussian(VP()), Tsit5(1e-3, 1e-3), UniformLogSNR(2, -5.0, 5.0), shape, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.05), run.x, full.x)
    for tree in ({"a": (2, 2), "b": (2, 1)},):
        run = sample(Gaussian(VP()), DPMAdaptive(2), UniformLogSNR(2, -5.0, 5.0), tree, KEY)
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(run.x))


@pytest.mark.parametrize("sampler", [pytest.param(Dopri5(1e-4, 1e-4), marks=pytest.mark.slow), DPMAdaptive(3, 1e-3, 1e-3)])
def test_a_sample_that_does_not_arrive_is_nan_and_the_others_are_not(sampler):
    grid = UniformLogSNR(2, -6.0, 6.0, to_data=False)
    x_T = jnp.asarray(np.random.default_rng(0).standard_normal((24, 2)), jnp.float32)
    whole = sample(Mixture(LinearFlow()), sampler, grid, x_T=x_T)
    sampler = dataclasses.replace(sampler, max_steps=int(np.median(whole.num_steps)))
    cut = sample(Mixture(LinearFlow()), sampler, grid, x_T=x_T)
    late = np.asarray(whole.num_steps) > sampler.max_steps
    assert 0 < late.sum() < 24
    np.testing.assert_array_equal(np.isnan(cut.x).all(axis=1), late)
    np.testing.assert_allclose(np.asarray(cut.x)[~late], np.asarray(whole.x)[~late], atol=1e-3)
    assert (np.asarray(cut.num_steps)[late] == sampler.max_steps).all()


@pytest.mark.parametrize(
    ("message", "sampler", "grid", "path"),
    [
        ("Dopri5.rtol: 0.0 is refused", Dopri5(0.0), UniformTime(3), VP()),
        ("Tsit5.max_steps: 0 is refused", Tsit5(max_steps=0), UniformTime(3), VP()),
        ("Kvaerno5.iterations: 1 is refused", Kvaerno5(iterations=1), UniformTime(3), VP()),
        ("DPMAdaptive.order: 4 is refused; allowed: 2 or 3", DPMAdaptive(4), UniformTime(3), VP()),
        ("Dopri5.variable: 'LogSNR' is refused; allowed: Angle, or a grid", Dopri5(variable=LogSNR()), UniformTime(3), Cosine()),
        ("DPMAdaptive.variable: 'LogSNR'", DPMAdaptive(), UniformTime(3), LinearFlow()),
        ("grid: 'a grid that renoises", Tsit5(), Churn(Karras(4), 1.0), EDM()),
    ],
)
def test_refused(message, sampler, grid, path):
    with pytest.raises(ConfigError, match=message):
        sample(Gaussian(path), sampler, grid, (2, 2), KEY)
    with pytest.raises(ConfigError, match="a state of 300 dimensions"):
        sample(Gaussian(VP()), Kvaerno5(), UniformTime(3), (2, 300), KEY)


def test_the_trained_range_is_never_left():
    """A network trained from log-SNR -6 to 7 on a grid that goes on to data: adaptive levels end at 7, one denoise step follows."""
    net = small(LinearFlow(), F(0.7), log_snr_range=(-6.0, 7.0))
    seen, _ = evaluated(lambda: sample(Seen(net), Tsit5(1e-3, 1e-3), UniformLogSNR(2, -6.0, 5.0), (1, 2), KEY, cond=None))
    levels = [float(LinearFlow().log_snr(t.ravel()[0])) for _, t in seen]
    assert abs(max(levels) - 7.0) < 1e-3
