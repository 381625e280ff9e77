"""What is wrong with a sampler of one's own is one line that names its class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.analytic import GaussianBands
from score_lab.build import ConfigError, build
from score_lab.paths import VP, GaussianPath
from score_lab.samplers import DDIM, UniformTime, sample
from score_lab.samplers.contract import check_sampler
from score_lab.types import pytree_dataclass

BANDS = GaussianBands(VP(), np.ones(4), np.ones(4))


@pytree_dataclass
class Good:
    order = 1
    calls = 1
    memory = 0
    stochastic = False

    def init(self, x, steps, path):
        return (jnp.zeros_like(x),)

    def step(self, denoise, x, t, s, draw, carry):
        p = denoise(x, t)
        return p.at(s), carry, p


def drawn(sampler, n=5, denoiser=BANDS):
    return sample(denoiser, sampler, UniformTime(3), (n, 4), jax.random.key(0)).x


def stepping(returned):
    """A class ``Mine`` whose step returns ``returned(x_s, carry, p)``."""

    def step(self, denoise, x, t, s, draw, carry):
        return returned(*Good.step(self, denoise, x, t, s, draw, carry))

    return pytree_dataclass(type("Mine", (Good,), {"step": step, "__module__": __name__, "__annotations__": {}}))()


def test_one_that_keeps_the_contract_is_ddim():
    np.testing.assert_allclose(drawn(Good()), drawn(DDIM()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(drawn(stepping(lambda *three: three)), drawn(DDIM()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda x, c, p: (x, c), "Mine.step returns: 'a tuple of 2'"),
        (lambda x, c, p: x, "Mine.step returns: 'one array'"),
        (lambda x, c, p: None, "Mine.step returns: 'NoneType'"),
        (lambda x, c, p: (x[:, :2], c, p), r"Mine.step returns as x_s: '\(5, 2\)'"),
        (lambda x, c, p: (x, (), p), r"Mine.step returns as carry: '\(\)'"),
        (lambda x, c, p: (x, p, c), "Mine.step returns as prediction: 'tuple'"),
    ],
)
def test_a_step_that_returns_something_else(returned, says):
    with pytest.raises(ConfigError, match=f"^{says} is refused; allowed: step.self, denoise, x, t, s, draw, carry. -> .x_s, carry, predic"):
        drawn(stepping(returned))


def test_three_samples_are_no_three_results():
    """An array of three rows unpacks like three results."""
    with pytest.raises(ConfigError, match="Mine.step returns: 'one array'"):
        drawn(stepping(lambda x, c, p: x), n=3)


def test_a_step_of_another_signature():
    @pytree_dataclass
    class Short(Good):
        def step(self, denoise, x, t, s):
            return x

    with pytest.raises(ConfigError, match="^Short.step: 'too many positional arguments' is refused; allowed: step"):
        drawn(Short())


def test_an_error_of_the_step_itself_comes_as_it_is():
    @pytree_dataclass
    class Broken(Good):
        def step(self, denoise, x, t, s, draw, carry):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine"):
        drawn(Broken())


class Undecorated:
    eta: float = 0.0
    order, calls, memory, stochastic = 1, 1, 0, False
    init, step = Good.init, Good.step


class Bare(GaussianPath):
    def alpha(self, t):
        return 1 - t**2

    def sigma(self, t):
        return 1.0 * t


def test_a_class_without_the_decorator():
    says = "'Undecorated' is refused; allowed: a class decorated with @pytree_dataclass"
    with pytest.raises(ConfigError, match=says):
        drawn(Undecorated())
    with pytest.raises(ConfigError, match=says):
        drawn(dataclasses.dataclass(frozen=True)(type("Undecorated", (Undecorated,), {}))())
    with pytest.raises(ConfigError, match=r"^sampling.sampler.target: .*Undecorated' is refused; allowed: a data class: decorate Undec"):
        build({"target": f"{__name__}:Undecorated", "eta": 0.5}, field="sampling.sampler")
    with pytest.raises(ConfigError, match=r"^path: 'Bare' is refused; allowed: a class decorated with @pytree_dataclass"):
        Bare().check()
    with pytest.raises(ConfigError, match=r"^path: 'Bare' is refused"):
        drawn(DDIM(), denoiser=BANDS.on(Bare()))


def test_what_a_sampler_lacks_is_named():
    with pytest.raises(ConfigError, match="^sampler: 'Euclid' is refused; allowed: a class with order, .*: Euclid has no order$"):
        check_sampler(pytree_dataclass(type("Euclid", (), {"__annotations__": {}}))())
    with pytest.raises(ConfigError, match=r"^sampler: 'DDIM' is refused; allowed: an object: DDIM\(...\)"):
        check_sampler(DDIM)
