"""Impulse responses of a run: which samplers have them, what is drawn in their place, and what is kept of them.

    rows of one batch   0: nothing is drawn,   1: the start,   2 + r: draw r alone is 1,   the last: every draw at once
    affine              c_last - c_0 = sum_r w_r (c_r - c_0),   w_r what the last row draws
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.denoiser import Denoiser, Prediction
from score_lab.linear import expand
from score_lab.mismatch.spectrum import by_band
from score_lab.samplers import Langevin, Steps
from score_lab.samplers.calls import Calls
from score_lab.samplers.record import nominal, put
from score_lab.types import Array, Cond, leaf, pytree_dataclass

__all__ = ["Impulses", "Responses", "check_affine", "draws_per_step", "last_moments"]


def check_affine(field: str, sampler: Any) -> None:
    """ConfigError, in the name of ``field``, for the samplers that are known not to be affine, also inside a wrapper."""
    name = type(sampler).__name__
    if hasattr(sampler, "integrate"):
        refuse(field, name, "a sampler of fixed steps, affine in the denoiser: an adaptive one chooses its levels by the state")
    if isinstance(sampler, Langevin):
        refuse(field, name, "a sampler that is affine in the denoiser: a Langevin step depends on the norms of state and noise")
    for f in dataclasses.fields(sampler) if dataclasses.is_dataclass(sampler) and not isinstance(sampler, type) else ():
        if hasattr(part := getattr(sampler, f.name), "step") or hasattr(part, "integrate"):
            check_affine(field, part)


def draws_per_step(sampler: Any, denoiser: Denoiser, steps: Steps, shape: tuple[int, ...], cond: Cond = None) -> int:
    """How many normals of states of ``shape`` one step draws, the renoising one too: counted by tracing it."""
    asked = itertools.count()

    def draw():
        next(asked)
        return jnp.zeros((1, *shape))

    def step(x, k, t, s):
        denoise = Calls(denoiser, cond, k, steps, s, jnp.zeros((), jnp.int32), None, ())
        return sampler.step(denoise, x, t, s, draw, sampler.init(x, steps, denoiser.path))[0]

    if sampler.stochastic:
        real = jnp.result_type(float)
        jax.eval_shape(step, *(jax.ShapeDtypeStruct(m, d) for m, d in (((1, *shape), real), ((), jnp.int32), ((), real), ((), real))))
    return next(asked) + int(steps.renoises)


@pytree_dataclass
class Impulses:
    """Row r + 2 draws ``unit`` at (step[r], call[r]), the last row ``every[step, call]``; the others nothing."""

    step: Array = leaf()
    call: Array = leaf()
    unit: Array = leaf()
    every: Array = leaf()

    @classmethod
    def of(cls, rows: list[tuple[int, int]], num_steps: int, unit: np.ndarray, every: np.ndarray) -> Impulses:
        """Of the (step, call) of every row; ``unit`` (*shape), ``every`` (len(rows), *shape)."""
        step, call = (np.array([r[k] for r in rows], np.int64) for k in (0, 1))
        table = np.zeros((num_steps + 1, 1 + max(call, default=0), *unit.shape))
        table[step, call] = every
        return cls(*(jnp.asarray(v) for v in (step, call, unit, table)))

    def __call__(self, step: Any, call: int, like: Array) -> Array:
        """The draw (len(rows) + 3, *shape), as ``sample``'s ``noise`` is asked for it."""
        hit = ((self.step == jnp.asarray(step, self.step.dtype)) & (self.call == call)).astype(like.dtype)
        zero = jnp.zeros((2, *self.unit.shape), like.dtype)
        return jnp.concatenate([zero, expand(hit, like) * self.unit[None], self.every[step, call][None]])


@pytree_dataclass
class Responses:
    """A ``Recorder`` of second moments by band, summed over the rows that are impulses, and of how well they add up to the last row."""

    basis: Any = leaf()
    membership: Array = leaf()
    mean: Array = leaf()
    weight: Array = leaf()

    def init(self, num_steps: int, calls: int, x: Array, index: Array) -> dict[str, Array]:
        """Zeros; nothing made."""
        bands = self.membership.shape[1]
        shapes = dict.fromkeys(("state", "x0", "eps", "cross"), (bands,)) | dict.fromkeys(("t", "fed", "error"), ())
        empty = {name: jnp.zeros((num_steps, calls, *shape), x.dtype) for name, shape in (shapes | {"leak": self.mean.shape}).items()}
        return empty | {"made": jnp.zeros((num_steps, calls), bool)}

    def update(self, record: dict[str, Array], step: Array, call: int, prediction: Prediction, made: Array) -> dict[str, Array]:
        """One call, where it was ``made``.  Raises ConfigError for a time per example."""
        p, (t, _, fed) = prediction, nominal("oracle.sampler", prediction)
        seen = self.second_moments(p.x_t, p.path.alpha(t))
        c, (a, a_error), (e, e_error) = self._responses(p.x_t)[0], self._responses(p.x0), self._responses(p.eps)
        seen |= {"x0": self._by_band(a * a), "eps": self._by_band(e * e), "cross": self._by_band(c * e)}
        seen["error"] = jnp.maximum(seen["error"], jnp.maximum(a_error, e_error))
        return put(record, step, call, made, seen | {"t": t, "fed": jnp.reshape(fed, -1)[0]})

    def second_moments(self, x: Array, alpha: Array) -> dict[str, Array]:
        """Of states x (M + 3, *shape) at a level ``alpha``: "state" (B,), "leak" (*shape) of the first row, "error" ()."""
        c, error = self._responses(x)
        return {"state": self._by_band(c * c), "leak": self.basis.analyse(x[:1] - alpha * self.mean[None])[0], "error": error}

    def _responses(self, x: Array) -> tuple[Array, Array]:
        """Coefficients of the responses, (M, *shape), and by how much of their size they fail to add up to the last row."""
        c = self.basis.analyse(x)
        h, last = c[1:-1] - c[:1], c[-1] - c[0]
        parts = self.weight * h
        size = jnp.max(jnp.sum(jnp.abs(parts), axis=0)) + 1e-3 * jnp.max(jnp.abs(c[0]))
        return h, jnp.max(jnp.abs(last - parts.sum(axis=0))) / jnp.where(size > 0, size, 1.0)

    def _by_band(self, products: Array) -> Array:
        return by_band(products.sum(axis=0)[None], self.membership)[0] / self.membership.sum(axis=0)

    def result(self, record: dict[str, Array]) -> dict[str, Array]:
        """The record itself."""
        return record


@jax.jit
def last_moments(seen: Responses, x: Array, alpha: Array) -> dict[str, Array]:
    """``seen.second_moments`` of the last states, which no call sees."""
    return seen.second_moments(x, alpha)
