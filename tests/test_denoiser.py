"""The network as a denoiser: one network on any path, read through the row it was trained on, told a level that is finite everywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.denoiser import NetworkDenoiser, Prediction, check_levels, trained_range
from score_lab.paths import EDM, VE, VP, Cosine, LinearFlow, SubVP, Trigonometric, ddpm_table, move
from score_lab.targets import X0, Eps, F, Score, V, Velocity
from score_lab.types import pytree_dataclass

SIGMA_DATA = 0.6
RNG = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A smooth function of everything that a network is told, so that a wrong level, scale or label changes the output."""

    dtype: str | None = None
    aux: bool = False

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        column = level[:, None]
        y = jnp.tanh(params["w"].astype(x.dtype) * x + jnp.sin(column)) + 0.1 * column * x
        y = y if level_s is None else y + jnp.cos(level_s)[:, None]
        y = y if cond is None else y + cond["label"][:, None]
        y = y if key is None else y + jax.vmap(lambda k: jax.random.uniform(k))(key)[:, None]
        y = y if self.dtype is None else y.astype(self.dtype)
        return (y, {"spread": y[:, :1]}) if self.aux else y


PARAMS = {"w": jnp.float32(0.8)}
TARGETS = {"x0": X0(), "eps": Eps(), "score": Score(), "v": V(), "velocity": Velocity(), "F": F(SIGMA_DATA)}
PATHS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "cosine": Cosine(1.0), "flow": LinearFlow(), "trig": Trigonometric()}
PATHS |= {"ddpm": ddpm_table("cosine", 20)}


def made(path="vp", target="F", **kwargs):
    path = PATHS.get(path, path) if isinstance(path, str) else path
    kwargs = {"network": Toy()} | kwargs
    return NetworkDenoiser(params=PARAMS, path=path, target=TARGETS[target], sigma_data=SIGMA_DATA, **kwargs)


@jax.jit
def predict(denoiser, x, t):
    return denoiser(x, t)


@jax.jit
def both_ways(a, b, x, t_a):
    """Every target trained on a, at t_a and on b at equal log-SNR with the state moved: (t_b, log-SNRs, own, other)."""
    t_b = b.time_of(a.log_snr(t_a))
    x_b = move(x, t_a, a, t_b, b)
    own = {name: made(a, name)(x, t_a) for name in TARGETS}
    other = {name: made(a, name).on(b)(x_b, t_b) for name in TARGETS}
    return (a.log_snr(t_a), b.log_snr(t_b)), own, other


def reached(a, b, t_a):
    """Which of the levels of a at t_a the path b has, its ends among them."""
    wanted, (low, high) = np.asarray(a.log_snr(t_a)), np.asarray(b.log_snr(jnp.array([1.0, 0.0], t_a.dtype)))
    return (wanted >= low) & (wanted <= high)


# --- one network, any path -------------------------------------------------------------------------------------------------------

QUICK = [("vp", "flow"), ("flow", "trig"), ("edm", "vp"), ("ddpm", "cosine"), ("ve", "subvp")]
REST = [(a, b) for a in PATHS for b in PATHS if a != b and (a, b) not in QUICK]


@pytest.mark.parametrize(("trained", "sampled"), QUICK + [pytest.param(*pair, marks=pytest.mark.slow) for pair in REST])
def test_the_same_predictions_on_every_path_at_equal_log_snr(x64, trained, sampled):
    """Every target trained on a: x0 and eps agree on b, the state moved by ``move``, inside and at the ends that both paths reach.

    1e-8 in float64: a time is found to 1e-12 of log-SNR, times the condition of the row.
    """
    a, b = PATHS[trained], PATHS[sampled]
    t_a = jnp.array([0.0, 0.013, 0.29, 0.637, 0.91, 1.0])
    x = jnp.asarray(RNG.normal(size=(6, 3))) * a.norm(t_a)[:, None]
    levels, own, other = both_ways(a, b, x, t_a)
    wanted, got = (np.asarray(v) for v in levels)
    with np.errstate(invalid="ignore"):
        shared = (wanted == got) | (np.abs(wanted - got) < 1e-6)
    assert shared[1:-1].sum() >= 2 and shared[reached(a, b, t_a)].all()
    for name in TARGETS:
        for field in ("x0", "eps", "raw"):
            assert np.isfinite(getattr(other[name], field)).all(), (name, field)
            u, v = (np.asarray(getattr(p[name], field))[shared] for p in (own, other))
            np.testing.assert_allclose(v, u, rtol=1e-8, atol=1e-8 * np.abs(u).max(), err_msg=f"{name} {field}")


def test_both_ends_are_among_the_levels_that_two_paths_share(x64):
    """Of the quick pairs: each end is reached by some, pure data and pure noise by one, and an end at a finite level by another."""
    ends = [reached(PATHS[a], PATHS[b], jnp.array([0.0, 1.0])).tolist() for a, b in QUICK]
    assert [True, True] in ends and sum(data for data, _ in ends) >= 2 and sum(noise for _, noise in ends) >= 2, ends


@pytest.mark.parametrize(("trained", "sampled"), [("flow", "vp"), ("edm", "cosine")])
def test_in_float32_too(trained, sampled):
    """1e-4 of the largest value inside; at both ends everything that a prediction says is finite."""
    a, b = PATHS[trained], PATHS[sampled]
    t = jnp.array([0.0, 0.1, 0.3, 0.6, 0.9, 1.0])
    x = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32) * a.norm(t)[:, None]
    levels, own, other = both_ways(a, b, x, t)
    wanted, got = (np.asarray(v) for v in levels)
    with np.errstate(invalid="ignore"):
        shared = (wanted == got) | (np.abs(wanted - got) < 1e-4)
    assert shared.sum() >= 3 and shared[reached(a, b, t)].all()
    for name in TARGETS:
        for field in ("x0", "eps"):
            u, v = (np.asarray(getattr(p[name], field))[shared] for p in (own, other))
            np.testing.assert_allclose(v, u, atol=1e-4 * np.abs(u).max(), err_msg=f"{name} {field}")
        for p in (own[name], other[name]):
            for v in (p.x0, p.eps, p.score, p.v, p.velocity, p.at(0.0), p.at(1.0)):
                assert np.isfinite(v).all(), name


def test_the_row_is_that_of_the_path_it_was_trained_on(x64):
    """A velocity network trained on the flow (y = eps - x0) means eps - x0 on VP as well, not VP's alpha' x0 + sigma' eps."""
    denoiser, t = made("flow", "velocity").on(VP()), jnp.asarray(0.4)
    x = jnp.asarray(RNG.normal(size=(2, 3)))
    got = denoiser(x, t)
    np.testing.assert_allclose(got.raw, got.eps - got.x0, rtol=1e-9)
    np.testing.assert_allclose(got.velocity, VP().alpha_dot(t) * got.x0 + VP().sigma_dot(t) * got.eps, rtol=1e-12)
    again = denoiser.on(EDM()).on(VP())(x, t)
    np.testing.assert_array_equal(again.x0, got.x0)
    assert denoiser.on(EDM()).trained_on == LinearFlow()


# --- one call --------------------------------------------------------------------------------------------------------------------


def test_a_call_is_the_networks_formula(x64):
    """x0 = c_skip x + c_out F(c_in x, log_snr), EDM's formula written out at sigma = 2."""
    denoiser, sigma = made("edm", "F"), 2.0
    x, t = jnp.asarray(RNG.normal(size=(2, 3))), jnp.asarray(2.0 / 80)
    v = sigma**2 + SIGMA_DATA**2
    fed = np.tanh(0.8 * x / np.sqrt(v) + np.sin(-2 * np.log(sigma))) + 0.1 * -2 * np.log(sigma) * x / np.sqrt(v)
    got = denoiser(x, t)
    np.testing.assert_allclose(got.raw, fed, rtol=1e-6)
    np.testing.assert_allclose(got.x0, SIGMA_DATA**2 / v * x + sigma * SIGMA_DATA / np.sqrt(v) * got.raw, rtol=1e-12)
    np.testing.assert_allclose(got.fed, -2 * np.log(sigma), rtol=1e-12)


@pytest.mark.parametrize("path", ["vp", "ddpm"])
def test_scalar_and_per_example_times_agree(path):
    denoiser, x = made(path), jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    one, each = predict(denoiser, x, jnp.asarray(0.3)), predict(denoiser, x, jnp.full(3, 0.3))
    for field in ("x0", "eps", "raw", "score", "velocity", "v"):
        np.testing.assert_allclose(getattr(one, field), getattr(each, field), rtol=1e-5, atol=1e-5, err_msg=field)
    assert one.fed.shape == () and each.fed.shape == (3,)
    mixed = predict(denoiser, x, jnp.array([0.1, 0.3, 0.9]))
    np.testing.assert_allclose(mixed.x0[1], one.x0[1], rtol=1e-5)


def test_labels_dropout_keys_and_the_second_time_reach_the_network():
    x, t = jnp.ones((2, 3)), jnp.asarray(0.5)
    base = made()(x, t).raw
    np.testing.assert_allclose(made()(x, t, {"label": jnp.array([3, -1])}).raw - base, [[3] * 3, [-1] * 3], atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2)
    noise = jax.vmap(lambda k: jax.random.uniform(k))(keys)
    np.testing.assert_allclose(made()(x, t, key=keys).raw - base, np.broadcast_to(noise[:, None], (2, 3)), atol=1e-5)
    np.testing.assert_array_equal(made()(x, t, s=0.2).raw, base)  # not told: not two-time
    two = made(two_time=True)(x, t, s=0.2).raw - base
    np.testing.assert_allclose(two, np.full((2, 3), np.cos(VP().log_snr(0.2))), atol=1e-5)
    each = made(two_time=True)(x, t, s=jnp.array([0.2, 0.4])).raw - base
    np.testing.assert_allclose(each[:, 0], np.cos(VP().log_snr(jnp.array([0.2, 0.4]))), atol=1e-5)


def test_auxiliary_output():
    got = made(network=Toy(aux=True))(jnp.ones((2, 3)), 0.5)
    np.testing.assert_array_equal(got.aux["spread"], got.raw[:, :1])
    assert got.nfe == 1 and got.parts == ()


def test_bfloat16_network_keeps_a_float32_prediction():
    """x0 and eps are float32 and consistent with x_t to float32, whatever the network's precision."""
    x, t = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), jnp.array([0.1, 0.4, 0.7, 0.95])
    got = made(network=Toy(dtype="bfloat16"))(x, t)
    assert got.raw.dtype == jnp.bfloat16 and got.x0.dtype == got.eps.dtype == jnp.float32
    np.testing.assert_allclose(got.at(t), x, rtol=1e-5, atol=1e-5)


def test_a_float64_path_keeps_float32_states(x64):
    got = made()(jnp.ones((2, 3), jnp.float32), jnp.asarray(0.3))
    assert got.t.dtype == jnp.float64 and got.x0.dtype == got.velocity.dtype == jnp.float32


def test_passes_through_jit_without_recompiling():
    """Another parameter of the path, other weights: the same program."""
    traced = []

    @jax.jit
    def x0(denoiser, x):
        traced.append(1)
        return denoiser(x, 0.3).x0

    x = jnp.ones((2, 3))
    first = x0(made(VP()), x)
    second = x0(dataclasses.replace(made(VP(0.1, 10.0)), params={"w": jnp.float32(0.3)}), x)
    assert len(traced) == 1 and not np.allclose(first, second)


# --- levels ----------------------------------------------------------------------------------------------------------------------


def test_the_level_is_finite_at_both_ends():
    """log_snr clipped to +-20; the angle from 0 to pi / 2; a scalar time becomes one level per example."""
    ends = jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(made("flow").level_of(ends), [20.0, -20.0])
    np.testing.assert_allclose(made("flow", level="angle").level_of(ends), [0.0, np.pi / 2], atol=1e-7)
    t = jnp.array([0.2, 0.5])
    np.testing.assert_allclose(made("flow", level="angle").level_of(t), np.arctan(t / (1 - t) / SIGMA_DATA), rtol=1e-6)
    assert made("flow").level_of(0.5, 7).shape == (7,)


def test_fed_is_a_log_snr_also_where_the_network_is_told_the_angle():
    t = jnp.array([0.0, 0.3, 1.0])
    x = jnp.ones((3, 2))
    np.testing.assert_allclose(made("flow", level="angle")(x, t).fed, LinearFlow().log_snr(t))
    np.testing.assert_allclose(made("flow")(x, t).fed, jnp.clip(LinearFlow().log_snr(t), -20, 20))


@pytest.mark.parametrize("level", ["log_snr", "angle"])
def test_clip_feeds_the_nearest_trained_level(level):
    """Trained on log-SNR -5 to 7: beyond, with ``clip`` the network is told what it would be told at those, and without it is not."""
    denoiser = made("flow", level=level, log_snr_range=(-5.0, 7.0), clip=True)
    edges = LinearFlow().time_of(jnp.array([7.0, -5.0]))
    free = made("flow", level=level)
    t = jnp.array([0.0, 0.5, 1.0])
    want = free.level_of(jnp.array([edges[0], 0.5, edges[1]]))
    np.testing.assert_allclose(denoiser.level_of(t), want, rtol=1e-5)
    np.testing.assert_allclose(denoiser(jnp.ones((3, 2)), t).fed, [7.0, 0.0, -5.0], rtol=1e-5, atol=1e-6)
    assert free.level_of(t)[0] != want[0]
    assert denoiser.on(VP()).clip and not denoiser.on(VP(), clip=False).clip and free.on(VP(), clip=True).clip


@jax.jit
def slopes(denoiser, x, t):
    return jax.jvp(lambda u: denoiser(x, u).x0, (t,), (jnp.ones_like(t),))[1]


def test_forward_mode_through_time():
    """d prediction / dt by jvp equals central differences, at inner times; with the angle it is finite at both ends."""
    x = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    for level in ("log_snr", "angle"):
        with jax.enable_x64(True):
            denoiser, wide, t = made("trig", "F", level=level), x.astype(jnp.float64), jnp.full(2, 0.37)
            up, down = (predict(denoiser, wide, t + h).x0 for h in (1e-5, -1e-5))
            np.testing.assert_allclose(slopes(denoiser, wide, t), (up - down) / 2e-5, rtol=1e-6, atol=1e-6)
    for path, target in (("trig", "velocity"), ("flow", "F"), ("cosine", "v")):
        slope = slopes(made(path, target, level="angle"), x, jnp.array([0.0, 1.0]))
        assert np.isfinite(slope).all(), (path, target)
    clipped = jax.jvp(made("flow").level_of, (jnp.array([0.0, 0.5, 1.0]),), (jnp.ones(3),))[1]
    np.testing.assert_allclose(clipped, [0.0, -8.0, 0.0], rtol=1e-5)  # log_snr' = -2 / (t (1 - t))


# --- predictions -----------------------------------------------------------------------------------------------------------------


def test_prediction_of_is_consistent(x64):
    """From x0, from eps, from a raw output: the same pair; the derived quantities by their definitions; ``at`` puts it together."""
    path, t = VP(), jnp.array([0.2, 0.7])
    x0, eps = jnp.asarray(RNG.normal(size=(2, 3))), jnp.asarray(RNG.normal(size=(2, 3)))
    x = path.add_noise(x0, eps, t)
    a, s, da, ds = (f(t)[:, None] for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot))
    ways = [Prediction.of(x, t, path, x0=x0), Prediction.of(x, t, path, eps=eps), Prediction.of(x, t, path, x0=x0, eps=eps)]
    ways += [Prediction.of(x, t, path, raw=a * eps - s * x0, target=V())]
    ways += [Prediction.of(x, t, path, raw=da * x0 + ds * eps, target=Velocity())]
    for p in ways:
        want = {"x0": x0, "eps": eps, "score": -eps / s, "velocity": da * x0 + ds * eps, "v": a * eps - s * x0}
        for name, value in want.items():
            np.testing.assert_allclose(getattr(p, name), value, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(p.at(0.5), path.alpha(0.5) * x0 + path.sigma(0.5) * eps, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(p.fed, path.log_snr(t))
    with pytest.raises(ValueError, match="needs x0, eps, or raw with its target"):
        Prediction.of(x, t, path, raw=x)


def test_prediction_at_the_ends_of_vp():
    """sigma' is infinite and eps 0 at t = 0: score and velocity lose that part together, v and at(s) are what they are."""
    x = jnp.ones((2, 3))
    p = Prediction.of(x, 0.0, VP(), x0=x, eps=jnp.zeros_like(x))
    np.testing.assert_allclose(p.velocity, -0.05 * x, rtol=1e-6)
    np.testing.assert_array_equal(p.score, 0.0)
    np.testing.assert_array_equal(p.at(0.0), x)


def test_prediction_is_a_pytree_for_states_of_any_structure():
    x = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 4, 4, 1))}
    p = jax.jit(lambda x: Prediction.of(x, jnp.array([0.2, 0.6]), LinearFlow(), x0=jax.tree.map(jnp.zeros_like, x)))(x)
    np.testing.assert_allclose(p.eps["b"][:, 0, 0, 0], [1 / 0.2, 1 / 0.6], rtol=1e-6)
    np.testing.assert_allclose(p.velocity["a"][:, 0], [1 / 0.2, 1 / 0.6], rtol=1e-6)


# --- refusals --------------------------------------------------------------------------------------------------------------------


@pytree_dataclass
class TheState:
    """A target that is the state itself: nothing can be told from it."""

    def row(self, path, t):
        return path.alpha(t), path.sigma(t)


def test_conversions_without_digits_are_refused_by_name():
    """2 / |det| of rows of length 1: 2 exp(-log_snr / 2) of eps at low levels; infinite of the state itself, at every level."""
    made("flow", "eps", log_snr_range=(-20.0, np.inf)).check()
    with pytest.raises(ConfigError, match=r"target: 'Eps at log-SNR -60 of LinearFlow.*allowed: .*a higher log_snr_min"):
        made("flow", "eps", log_snr_range=(-60.0, np.inf)).check()
    with pytest.raises(ConfigError, match=r"target: 'TheState at log-SNR .*condition number inf"):
        dataclasses.replace(made(), target=TheState()).check()



@pytest.mark.parametrize("target", ["eps", "score"])
@pytest.mark.parametrize("path", ["flow", "trig", "cosine"])
def test_a_target_without_signal_is_refused_by_name(target, path):
    """On zero terminal SNR without a lowest level; a finite one is accepted, and so is every other target."""
    name = type(TARGETS[target]).__name__
    with pytest.raises(ConfigError, match=f"'{name}' says nothing of x0 at t = 1 of {type(PATHS[path]).__name__}.*log_snr_min") as error:
        made(path, target).check()
    assert "\n" not in str(error.value)
    made(path, target, log_snr_range=(-10.0, np.inf)).check()
    made(path, target).on(VP()).path.check()
    with pytest.raises(ConfigError, match="says nothing"):  # what it was trained on counts, not where it is sampled
        made(path, target).on(VP()).check()
    for other in ("x0", "v", "velocity", "F"):
        made(path, other).check()


def test_level_names():
    with pytest.raises(ConfigError, match="denoiser.level: 'angel' is refused.*did you mean 'angle'"):
        made(level="angel").check()


def test_trained_range():
    assert trained_range(LinearFlow(), V()) == (-np.inf, np.inf)
    assert trained_range(LinearFlow(), Eps()) == (-10.0, np.inf)
    assert trained_range(LinearFlow(), F(), -7.0) == (-7.0, np.inf)
    low, high = trained_range(VE(0.01, 50.0), Eps())
    np.testing.assert_allclose([low, high], [-2 * np.log(50), -2 * np.log(0.01)], rtol=1e-6)
    assert trained_range(VE(0.01, 50.0), Eps(), -100.0)[0] == low
    with pytest.raises(ConfigError, match="denoiser.log_snr_min: 12.0 is refused; allowed: below 9.21.*VE at t = 0"):
        trained_range(VE(0.01, 50.0), Eps(), 12.0)


def test_levels_outside_the_trained_range_name_both_ranges():
    denoiser = made("ve", log_snr_range=(-7.5, 9.0))
    check_levels(denoiser, np.array([-7.5, 0.0, 9.0]))
    check_levels(denoiser, np.array([]))
    message = r"grid: log-SNR from -9 to 3 leaves the range \[-7.5, 9\] .*trained on; "
    message += r"allowed: a grid inside it, clip=True .*extrapolate=True the true one"
    with pytest.raises(ConfigError, match=message):
        check_levels(denoiser, np.array([-9.0, 3.0]))
    with pytest.raises(ConfigError, match="config.grid: log-SNR from -1 to inf leaves"):
        check_levels(denoiser, np.array([-1.0, np.inf]), "config.grid")
    check_levels(dataclasses.replace(denoiser, clip=True), np.array([-9.0, np.inf]))
    check_levels(made("flow"), np.array([-np.inf, np.inf]))
