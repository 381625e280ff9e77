"""What one step is handed: ``denoise``, which calls, counts and records, and ``draw``, the keyed noise; and renoising between steps.

    draw j of step k of sample i  =  N(0, I) from fold_in(fold_in(key, i), 64 k + j + 1)
    renoise s -> r:  x_r = (alpha_r / alpha_s) x_s + c sqrt(sigma_r^2 - (alpha_r / alpha_s)^2 sigma_s^2) z,    r >= s
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from score_lab.denoiser import Denoiser, Prediction
from score_lab.linear import combine, select
from score_lab.paths.base import GaussianPath, normals
from score_lab.samplers.base import Recorder
from score_lab.samplers.steps import Steps
from score_lab.types import Array, Cond, Draw, PyTree, leaf, pytree_dataclass

__all__ = ["Calls", "NormalDraws", "draws_of", "renoise"]

_CALLS_PER_STEP = 64
"""Draws are keyed by ``step * 64 + call + 1``."""


@pytree_dataclass
class NormalDraws:
    """The default noise: ``draws(step, call, like)`` is normal, keyed by (key, global index, step, call).  Replaceable in a test."""

    keys: Array = leaf()

    @classmethod
    def of(cls, key: Array, index: Array) -> NormalDraws:
        """One key per global sample index."""
        return cls(jax.vmap(lambda i: jax.random.fold_in(key, i))(index))

    def __call__(self, step: Any, call: int, like: PyTree) -> PyTree:
        """Standard normals of the structure and shape of ``like`` (with its batch axis)."""
        count = jnp.asarray(step, jnp.uint32) * _CALLS_PER_STEP + jnp.uint32(call + 1)
        keys = jax.vmap(lambda k: jax.random.fold_in(k, count))(self.keys)
        return normals(keys, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), like))


def draws_of(noise: Callable, step: Array, like: PyTree) -> Draw:
    """The ``draw`` of one step: call 0, 1, ... of ``noise`` at ``step``, at most 64 of them."""
    calls = iter(range(_CALLS_PER_STEP))
    return lambda: noise(step, next(calls), like)


class Calls:
    """The ``denoise`` that a sampler's step is handed: the denoiser with its condition, counted and recorded.

    ``path``, ``step`` (0, 1, ...), ``steps`` (all rows of the grid) and ``before(j)`` are there for coefficients; what is computed from
    them alone costs nothing in the loop.
    """

    def __init__(
        self, denoiser: Denoiser, cond: Cond, step: Array, steps: Steps, s: Array, nfe: Array, recorder: Recorder | None, record: PyTree
    ):
        self.denoiser, self.cond, self.step, self.steps, self.s = denoiser, cond, step, steps, s
        self.nfe, self.recorder, self.record, self.made = nfe, recorder, record, 0

    @property
    def path(self) -> GaussianPath:
        """The path of the states."""
        return self.denoiser.path

    def before(self, j: int) -> tuple[Array, Array]:
        """``(t, there)``: where the step ``j`` before this one started, and whether there was one; the first step's start if not.
        Negative: the steps to come, and the last one's start."""
        k = self.step - j
        last = self.steps.t.shape[0] - 1
        return self.steps.t[jnp.clip(k, 0, last)], (k >= 0) & (k <= last)

    def __call__(
        self, x: PyTree, t: Array, *, s: Array | None = None, where: Array | None = None, otherwise: Prediction | None = None
    ) -> Prediction:
        """The prediction at ``(x, t)``.  With ``where``, a traced bool, the network runs only if it holds; else ``otherwise`` comes
        back."""
        s = self.s if s is None else s

        def call():
            p = self.denoiser(x, t, self.cond, s=s, step=self.step)
            return p, jnp.asarray(p.nfe, jnp.int32)

        if where is None:
            p, spent = call()
        else:
            p, spent = _either(where, call, otherwise, self.path)
        self.nfe = self.nfe + spent
        if self.recorder is not None:
            self.record = self.recorder.update(self.record, self.step, self.made, p, jnp.asarray(True) if where is None else where)
        self.made += 1
        return p


def _either(where: Array, call: Callable, otherwise: Prediction, path: GaussianPath) -> tuple[Prediction, Array]:
    """``call()`` or ``(otherwise, 0)``; the path, which is the same in both, does not pass through the branch.  ``call`` is traced once."""

    def taken():
        p, spent = call()
        return _on(p, None), spent

    traced, shapes = jax.make_jaxpr(taken, return_shape=True)()
    kept = (_on(otherwise, None), jnp.zeros((), jnp.int32))
    if jax.tree.structure(kept) != jax.tree.structure(shapes):
        raise TypeError("denoise(where=..., otherwise=p): p must be a prediction of the same denoiser")
    kept = jax.tree.map(lambda leaf, shape: jnp.broadcast_to(jnp.asarray(leaf, shape.dtype), shape.shape), kept, shapes)
    run, structure = jaxpr_as_fun(traced), jax.tree.structure(shapes)
    p, spent = jax.lax.cond(where, lambda: jax.tree.unflatten(structure, run()), lambda: kept)
    return _on(p, path), spent


def _on(p: Prediction, path: GaussianPath | None) -> Prediction:
    return dataclasses.replace(p, path=path, parts=tuple(_on(part, path) for part in p.parts))


def renoise(path: GaussianPath, x: PyTree, s: Array, r: Array, scale: Array, draw: Draw) -> PyTree:
    """``x`` raised from ``s`` to ``r >= s`` by the forward transition (see the module) with noise times ``scale``; untouched where r =
    s."""
    ratio = path.alpha(r) / path.alpha(s)
    std = jnp.sqrt(jnp.maximum(path.sigma(r) ** 2 - (ratio * path.sigma(s)) ** 2, 0.0))
    return select(r > s, combine((ratio, x), (scale * std, draw())), x)
