"""A network of one hidden layer, and the call of an objective on it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from score_lab.denoiser import NetworkDenoiser
from score_lab.linear import expand
from score_lab.objectives import Context


@dataclasses.dataclass(frozen=True)
class SmallNet:
    """``y = W2 tanh(W1 x + level w + b_label)``, with a variance head if asked; a pytree state is mapped leaf by leaf."""

    width: int = 8
    variance: bool = False

    def init(self, key, shape):
        a, b, c, d, e = jax.random.split(key, 5)
        n = shape[-1]
        draw = jax.random.normal
        return {
            "w1": draw(a, (n, self.width)), "level": 0.1 * draw(b, (self.width,)), "label": draw(c, (4, self.width)),
            "w2": draw(d, (self.width, n)), "variance": draw(e, (self.width, n)),
        }  # fmt: skip

    def apply(self, params, x, level, cond=None, *, level_s=None, key=None):
        p = jax.tree.map(lambda v: v.astype(level.dtype), params)
        label = None if cond is None else p["label"][cond["label"] + 1]

        def hidden(v):
            h = v.astype(level.dtype) @ p["w1"] + expand(level, v) * p["level"].reshape((1,) * (v.ndim - 1) + (-1,))
            return jnp.tanh(h if label is None else h + label.reshape((v.shape[0],) + (1,) * (v.ndim - 2) + (-1,)))

        y = jax.tree.map(lambda v: (hidden(v) @ p["w2"]).astype(v.dtype), x)
        return (y, {"variance": jax.tree.map(lambda v: jnp.tanh(hidden(v) @ p["variance"]), x)}) if self.variance else y


@pytest.fixture
def make():
    """``make(path, target, **fields) -> denoiser`` over SmallNet on vectors of three."""

    def build(path, target, network=None, **fields):
        network = network or SmallNet()
        return NetworkDenoiser(network.init(jax.random.key(7), (3,)), network, path, target, **fields)

    return build


@pytest.fixture
def small_net():
    return SmallNet


@pytest.fixture
def evaluate():
    """``evaluate(objective, denoiser, batch, key=, n=) -> (loss, metrics, gradient)``, compiled."""

    def run(objective, denoiser, batch, key=None, n=None):
        gradient, (loss, metrics) = _slope(denoiser.params, objective, denoiser, batch, _key(key), n or len(batch["index"]))
        return loss, metrics, gradient

    return run


@pytest.fixture
def drawn():
    """``drawn(regression, denoiser, batch, key=, n=) -> (noised, prediction)``, compiled."""

    def run(regression, denoiser, batch, key=None, n=None):
        return _drawn(regression, denoiser, batch, _key(key), n or len(batch["index"]))

    return run


def _key(key):
    return jax.random.key(0) if key is None else key


@functools.partial(jax.jit, static_argnums=4)
def _drawn(regression, denoiser, batch, key, n):
    noised = regression.corrupt(Context(denoiser=denoiser, path=denoiser.path, key=key, batch_size=n), batch)
    return noised, denoiser(noised.x_t, noised.t, noised.cond)


@functools.partial(jax.jit, static_argnums=5)
@functools.partial(jax.grad, has_aux=True)
def _slope(params, objective, denoiser, batch, key, n):
    denoiser = dataclasses.replace(denoiser, params=params)
    loss, metrics, _ = objective.loss(Context(denoiser=denoiser, path=denoiser.path, key=key, batch_size=n), {}, {}, batch)
    return loss.sum(), (loss, metrics)


@pytest.fixture
def batch_of_three():
    """``batch(n, **more)``: n vectors of three, index 0 .. n - 1, of the default precision."""

    def build(n, **more):
        x0 = 0.7 * jax.random.normal(jax.random.key(3), (n, 3), jnp.result_type(float))
        return {"x0": x0, "index": jnp.arange(n, dtype=jnp.int32), **more}

    return build
