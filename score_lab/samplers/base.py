"""The one loop: a denoiser, a sampler and a grid of steps, in a single compiled ``jax.lax.scan``.

A sampler is a frozen data class with

    init(x, steps, path) -> carry                                    history, or () for one-step methods
    step(denoise, x, t, s, draw, carry) -> (x_s, carry, prediction)     one step t -> s, s < t
    order, calls, memory, stochastic                                 declared: order of convergence, most network calls per step,
                                                                     steps of history, whether it draws

``denoise(x, t, s=s)`` calls the network, counts it and shows it to the recorder; ``denoise.path`` is there to read alpha and sigma from.  ``draw()`` is the next
standard normal, keyed by (key, global sample index, step, call): a sample depends on its key and its index, never on its batch-mates.

Shapes: the state is any pytree with a leading batch axis; t and s are scalars.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.denoiser import Denoiser, Prediction, check_levels
from score_lab.linear import batch_of, combine
from score_lab.paths.base import GaussianPath, normals
from score_lab.samplers.grids import Steps
from score_lab.types import Array, Cond, Draw, PyTree, leaf, pytree_dataclass, static

__all__ = ["Calls", "NormalDraws", "Recorder", "Sampler", "Samples", "renoise", "sample"]

_CALLS_PER_STEP = 64
"""Draws are keyed by ``step * 64 + call``."""


class Sampler(Protocol):
    """See the module: ``init`` and ``step`` are pure functions of an explicit carry."""

    order: int
    calls: int
    memory: int
    stochastic: bool

    def init(self, x: PyTree, steps: Steps, path: GaussianPath) -> PyTree:
        """The carry before the first step."""

    def step(self, denoise: Calls, x: PyTree, t: Array, s: Array, draw: Draw, carry: PyTree) -> tuple[PyTree, PyTree, Prediction]:
        """``(x_s, carry, prediction)``."""


class Recorder(Protocol):
    """Sees every network call inside the scan and keeps what it wants in arrays of fixed size."""

    def init(self, num_steps: int, calls: int, x: PyTree) -> PyTree:
        """The empty record for ``num_steps`` steps of at most ``calls`` network calls each."""

    def update(self, record: PyTree, step: Array, call: int, prediction: Prediction, made: Array) -> PyTree:
        """The record after one call; ``made`` is False where the call was skipped (a last Euler step of Heun)."""

    def result(self, record: PyTree) -> Any:
        """What ``sample`` returns as ``Samples.record``."""


@pytree_dataclass
class Samples:
    """``x``: the last states; ``nfe``: network evaluations spent per returned sample, counted at the network; ``record``: the recorder's result."""

    x: PyTree = leaf()
    nfe: Array = leaf()
    record: Any = leaf(default=None)


@pytree_dataclass
class NormalDraws:
    """The default noise: ``draws(step, call, like)`` is normal, keyed by (key, global index, step, call).  Replaceable in a test."""

    keys: Array = leaf()

    @classmethod
    def of(cls, key: Array, index: Array) -> NormalDraws:
        """One key per global sample index."""
        return cls(jax.vmap(lambda i: jax.random.fold_in(key, i))(index))

    def __call__(self, step: Array, call: int, like: PyTree) -> PyTree:
        """Standard normals of the structure and shape of ``like`` (with its batch axis)."""
        count = jnp.asarray(step, jnp.uint32) * _CALLS_PER_STEP + jnp.uint32(call + 1)
        keys = jax.vmap(lambda k: jax.random.fold_in(k, count))(self.keys)
        return normals(keys, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like))


class Calls:
    """The ``denoise`` that a sampler's step is handed: the denoiser with its condition, counted and recorded."""

    def __init__(self, denoiser: Denoiser, cond: Cond, step: Array, s: Array, nfe: Array, recorder: Recorder | None, record: PyTree):
        self.denoiser, self.cond, self.step, self.s = denoiser, cond, step, s
        self.nfe, self.recorder, self.record, self.made = nfe, recorder, record, 0

    @property
    def path(self) -> GaussianPath:
        """The path of the states."""
        return self.denoiser.path

    def __call__(self, x: PyTree, t: Array, *, s: Array | None = None, where: Array | None = None, otherwise: Prediction | None = None) -> Prediction:
        """The prediction at ``(x, t)``.  With ``where``, a traced bool, the network runs only if it holds; else ``otherwise`` comes back."""
        s = self.s if s is None else s

        def call():
            p = self.denoiser(x, t, self.cond, s=s, step=self.step)
            return p, jnp.asarray(p.nfe, jnp.int32)

        if where is None:
            p, spent = call()
        else:
            p, spent = _either(where, call, otherwise)
        self.nfe = self.nfe + spent
        if self.recorder is not None:
            self.record = self.recorder.update(self.record, self.step, self.made, p, jnp.asarray(True) if where is None else where)
        self.made += 1
        return p


def _either(where: Array, call, otherwise: Prediction) -> tuple[Prediction, Array]:
    shapes = jax.eval_shape(call)
    kept = (otherwise, jnp.zeros((), jnp.int32))
    if jax.tree.structure(kept) != jax.tree.structure(shapes):
        raise TypeError("denoise(where=..., otherwise=p): p must be a prediction of the same denoiser")
    kept = jax.tree.map(lambda leaf, shape: jnp.broadcast_to(jnp.asarray(leaf, shape.dtype), shape.shape), kept, shapes)
    return jax.lax.cond(where, lambda: jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), call(), shapes), lambda: kept)


def renoise(path: GaussianPath, x: PyTree, s: Array, r: Array, scale: Array, draw: Draw) -> PyTree:
    """``x_r = (alpha_r / alpha_s) x_s + scale sqrt(sigma_r^2 - (alpha_r / alpha_s)^2 sigma_s^2) z``, r >= s: the forward transition, no network call."""
    ratio = path.alpha(r) / path.alpha(s)
    std = jnp.sqrt(jnp.maximum(path.sigma(r) ** 2 - (ratio * path.sigma(s)) ** 2, 0.0))
    moved = combine((ratio, x), (scale * std, draw()))
    return jax.tree.map(lambda a, b: jnp.where(r > s, a, b), moved, x)


def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    grid: Any,
    shape: tuple[int, ...] | None = None,
    key: Array | None = None,
    *,
    x_T: PyTree | None = None,
    index: Array | None = None,
    cond: Cond = None,
    recorder: Recorder | None = None,
    noise: Any = None,
) -> Samples:
    """Draws samples: one compiled scan over the grid's steps.

    Args:
      denoiser: any denoiser; its path is the one that is sampled.
      grid: a grid of ``samplers.grids`` (anything with ``steps(path)``) or ``Steps``.
      shape: ``(n, *shape)`` of the samples, which start from the path's prior at the grid's first level; or give ``x_T`` (SDEdit, encodings).
      key: a typed key; sample i depends on (key, index[i]) alone.
      x_T: states at the grid's first level, in place of ``shape``.
      index: (n,) global sample indices, 0..n-1 by default.
      cond: what the network is conditioned on, with a leading axis of n.
      recorder: sees every network call.
      noise: ``(step, call, like) -> standard normals`` in place of the keyed draws.

    Another key, grid value, path value or guidance scale recompiles nothing; another sampler, shape or number of steps does.

    Raises ConfigError, before anything is compiled, for levels outside the trained range, an ``x_T`` of the wrong shape, a grid that does not descend.
    """
    path = denoiser.path
    steps = grid if isinstance(grid, Steps) else grid.steps(path)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((steps, path)))
    if not traced:
        _check(denoiser, sampler, steps, path)
        denoiser, sampler = _specialise(denoiser), _specialise(sampler)
    if key is None:
        key = jax.random.key(0)
    n = _count(shape, x_T, cond)
    index = jnp.arange(n, dtype=jnp.int32) if index is None else jnp.asarray(index)
    if index.shape != (n,):
        refuse("sample.index", index.shape, f"one global index per sample, shape ({n},)")
    tail = None if x_T is not None else tuple(int(m) for m in shape[1:])
    return _sample(denoiser, sampler, steps, x_T, key, index, cond, recorder, noise, tail)


def _specialise(part: Any) -> Any:
    """An equivalent cheaper part for the values at hand, where it offers one (guidance at scale 1, DDIM at eta 0)."""
    return part.specialise() if hasattr(part, "specialise") else part


def _count(shape, x_T, cond) -> int:
    if (shape is None) == (x_T is None):
        raise ConfigError("sample: give either shape=(n, *shape) or x_T=states, not both and not neither")
    n = int(shape[0]) if x_T is None else batch_of(x_T)
    if n < 1:
        refuse("sample.shape", shape, "at least one sample")
    for name, value in (cond or {}).items():
        if np.shape(value)[:1] != (n,):
            refuse(f"sample.cond[{name!r}]", np.shape(value), f"a leading axis of {n}, the number of samples")
    return n


def _check(denoiser: Denoiser, sampler: Sampler, steps: Steps, path: GaussianPath) -> None:
    steps.check()
    if steps.renoises and sampler.memory:
        refuse("grid", "a grid that renoises (churn, Restart)", f"a grid that does not: {type(sampler).__name__} remembers {sampler.memory} earlier step(s)")
    if hasattr(sampler, "check_steps"):
        sampler.check_steps(steps, path)
    check_levels(denoiser, np.asarray(path.log_snr(steps.t), np.float64))


@partial(jax.jit, static_argnames=("tail",))
def _sample(denoiser, sampler, steps, x_T, key, index, cond, recorder, noise, tail) -> Samples:
    path = denoiser.path
    if x_T is None:
        x_T = path.prior_sample(key, index, tail, steps.start)
    if noise is None:
        noise = NormalDraws.of(key, index)
    num_steps = steps.t.shape[0]
    record = recorder.init(num_steps, sampler.calls, x_T) if recorder is not None else ()

    def draws(step, x):
        counter = iter(range(_CALLS_PER_STEP))
        return lambda: noise(step, next(counter), x)

    def body(carry, row):
        x, history, nfe, record = carry
        k, t, s, r = row
        calls, draw = Calls(denoiser, cond, k, s, nfe, recorder, record), draws(k, x)
        x_s, history, _ = sampler.step(calls, x, t, s, draw, history)
        if steps.renoises:
            x_s = renoise(path, x_s, s, r, steps.noise_scale, draw)
        x_s = jax.tree.map(lambda new, old: new.astype(old.dtype), x_s, x)
        return (x_s, history, calls.nfe, calls.record), None

    if steps.renoises:
        x_T = renoise(path, x_T, steps.start, steps.t[0], steps.noise_scale, draws(jnp.uint32(num_steps), x_T))
    carry = (x_T, sampler.init(x_T, steps, path), jnp.zeros((), jnp.int32), record)
    rows = (jnp.arange(num_steps, dtype=jnp.int32), steps.t, steps.s, steps.r)
    (x, _, nfe, record), _ = jax.lax.scan(body, carry, rows)
    return Samples(x=x, nfe=nfe, record=recorder.result(record) if recorder is not None else None)
