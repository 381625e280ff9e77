"""What is kept of a run for the mismatch: two numbers per network call and trajectory, nothing of the size of a picture.

    q_k^(j) = ||x_k^(j) - alpha_k mu||^2,    x_k the state that was handed to the network, mu the data mean

and the level that the network was fed.  A call that a sampler skipped (Heun's last) is masked.  The states are those of the path that is
sampled, whatever wraps the network (guidance, clipping) and however the grid came there (churn).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.denoiser import Prediction
from score_lab.linear import batch_of, expand, square_norm
from score_lab.samplers.record import nominal, put
from score_lab.types import Array, PyTree, leaf, pytree_dataclass

__all__ = ["NormRecorder", "NormRecord", "Recorders"]


@pytree_dataclass
class NormRecord:
    """One row per network call in the order of the calls, K = steps x calls per step.

    ``t`` (K,) the nominal time, ``square`` (K, n) the squared norms, ``fed`` (K, n) the level that the network was told, ``made`` (K,)
    False where the call was skipped (NaN there), ``d`` the number of values of one state.
    """

    t: Array = leaf()
    square: Array = leaf()
    fed: Array = leaf()
    made: Array = leaf()
    d: Array = leaf()

    def kept(self) -> NormRecord:
        """The calls that were made, as numpy arrays on the host: float64, ``d`` an int."""
        made = np.asarray(self.made)
        t, square, fed = (np.asarray(v, np.float64)[made] for v in (self.t, self.square, self.fed))
        return NormRecord(t=t, square=square, fed=fed, made=made[made], d=int(self.d))


@pytree_dataclass
class NormRecorder:
    """A ``Recorder`` of squared norms about ``alpha mean``; ``mean`` is a scalar or has the structure and shape of one state, (*shape)."""

    mean: Any = leaf(default=0.0)

    def init(self, num_steps: int, calls: int, x: PyTree, index: Array) -> PyTree:
        """An empty record: NaN everywhere, no call made."""
        n, real = batch_of(x), jnp.result_type(*jax.tree.leaves(x))
        empty = lambda *shape: jnp.full((num_steps, calls, *shape), jnp.nan, real)  # noqa: E731
        d = sum(int(np.prod(part.shape[1:])) for part in jax.tree.leaves(x))
        made = jnp.zeros((num_steps, calls), bool)
        return {"t": empty(), "square": empty(n), "fed": empty(n), "made": made, "d": jnp.asarray(d, jnp.int32)}

    def update(self, record: PyTree, step: Array, call: int, prediction: Prediction, made: Array) -> PyTree:
        """The norms of ``prediction.x_t`` written at (step, call), where ``made``.  Raises ConfigError for a time per example."""
        t, _, fed = nominal("NormRecorder", prediction)
        square = square_norm(_centred(prediction.x_t, prediction.path.alpha(t), self.mean))
        return put(record, step, call, made, {"t": t, "square": square, "fed": jnp.broadcast_to(fed, square.shape)})

    def result(self, record: PyTree) -> NormRecord:
        """The record with steps and calls flattened to rows."""
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in record.items() if name != "d"}
        return NormRecord(d=record["d"], **flat)


def _centred(x: PyTree, alpha: Array, mean: Any) -> PyTree:
    """``x - alpha mean`` leaf by leaf; a scalar mean serves every leaf."""

    def one(a: Array, m: Any) -> Array:
        m = jnp.asarray(m, a.dtype)
        return a - expand(alpha, a) * (m[None] if m.ndim else m)

    leaves = jax.tree.leaves(mean)
    scalar = len(leaves) == 1 and jnp.ndim(leaves[0]) == 0
    return jax.tree.map(lambda a: one(a, leaves[0]), x) if scalar else jax.tree.map(one, x, mean)


@pytree_dataclass
class Recorders:
    """Several recorders in one run: ``Samples.record`` is the tuple of their results."""

    parts: tuple = leaf()

    def init(self, num_steps: int, calls: int, x: PyTree, index: Array) -> PyTree:
        """One empty record each."""
        return tuple(part.init(num_steps, calls, x, index) for part in self.parts)

    def update(self, record: PyTree, step: Array, call: int, prediction: Prediction, made: Array) -> PyTree:
        """Every part sees the call."""
        return tuple(part.update(r, step, call, prediction, made) for part, r in zip(self.parts, record, strict=True))

    def result(self, record: PyTree) -> tuple:
        """The tuple of results."""
        return tuple(part.result(r) for part, r in zip(self.parts, record, strict=True))

    def merge(self, records: list[tuple]) -> tuple:
        """The results of all chunks of one run, part by part; every part has a ``merge``."""
        return tuple(part.merge([r[i] for r in records]) for i, part in enumerate(self.parts))

    def collect(self, result: tuple) -> tuple:
        """``Samples.record`` on the host, part by part; every part has a ``collect``."""
        return tuple(part.collect(r) for part, r in zip(self.parts, result, strict=True))
