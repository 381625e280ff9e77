"""Array aliases, the data classes that are pytrees, and the one-method protocols: the vocabulary of the house.

Conventions (no synonyms anywhere):

* ``t`` in [0, 1]: **0 is data, 1 is noise** (some flow papers reverse it). ``s < t`` is the next time of a sampler.
* ``x_t = alpha(t) x0 + sigma(t) eps``; ``log_snr = 2 ln(alpha / sigma)``; ``kappa = sigma / alpha``.
* ``score = -eps / sigma``; ``velocity = alpha' x0 + sigma' eps``; ``v = alpha eps - sigma x0`` and never "velocity".
* Arrays are ``(batch, *shape)``, images ``(batch, height, width, channels)`` in [-1, 1] unless a name says otherwise.
* ``t`` is a scalar or ``(batch,)``.  ``cond`` is None or a dict of arrays with a leading batch axis; ``cond["label"]`` is an
  int array in which **-1 means "no label"** (what label dropout and classifier-free guidance feed).
* ``key`` is a typed JAX key.  Randomness is keyed by the *global* index of an example or a sample, never by its place in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from score_lab.build import refuse

__all__ = [
    "Array", "Batch", "Cond", "Float", "Int", "Key", "Network", "PyTree", "Shaped", "Time", "check_pytree", "leaf", "pytree_dataclass",
    "static",
]  # fmt: skip

Time = Float[ArrayLike, "*batch"]
"""A scalar (a Python float too) or one time per example."""

Cond = Mapping[str, Array | np.ndarray] | None
"""What a network is conditioned on: ``{"label": int (batch,)}``, later text; None for an unconditional network."""

Batch = Mapping[str, Any]
"""``x0`` (batch, *shape), ``cond``, ``index`` (batch,) the position in the *global* batch, optionally ``noise`` (batch, *shape)."""

_T = TypeVar("_T")
_LEAF = ("float", "Array", "PyTree")


def _is_leaf(field: dataclasses.Field) -> bool:
    """Leaves are what ``metadata["leaf"]`` says, else the fields annotated with floats, arrays or pytrees."""
    if "leaf" in field.metadata:
        return field.metadata["leaf"]
    name = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    return any(word in name for word in _LEAF) and "tuple" not in name and "Callable" not in name


def leaf(**kwargs) -> Any:
    """A data class field that is a leaf (or a subtree) whatever its annotation: another part, parameters, a path."""
    return dataclasses.field(metadata={"leaf": True}, **kwargs)


def static(**kwargs) -> Any:
    """A data class field that is part of the compiled program whatever its annotation; it must be hashable."""
    return dataclasses.field(metadata={"leaf": False}, **kwargs)


def pytree_dataclass(cls: type[_T]) -> type[_T]:
    """``@dataclass(frozen=True)`` registered as a pytree: floats, arrays and pytrees are leaves, everything else is static.

    So another ``beta_max`` or guidance scale does not recompile, and a learned path can be differentiated.  A field is a leaf if its
    annotation names ``float``, ``Array`` or ``PyTree`` or it was made by ``leaf()``; ``static()`` says the opposite.  Such a class must not
    check anything in ``__post_init__``: unflattening sees tracers.  It may have ``check(self)``, which ``build`` calls on the host.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    leaves = tuple(f.name for f in fields if _is_leaf(f))
    rest = tuple(f.name for f in fields if not _is_leaf(f))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in leaves)

    def flatten(part: _T) -> tuple[tuple, tuple]:
        return tuple(getattr(part, name) for name in leaves), tuple(getattr(part, name) for name in rest)

    def flatten_with_keys(part: _T) -> tuple[tuple, tuple]:
        children, fixed = flatten(part)
        return tuple(zip(keys, children, strict=True)), fixed

    def unflatten(fixed: tuple, children: tuple) -> _T:
        return cls(**dict(zip(leaves, children, strict=True)), **dict(zip(rest, fixed, strict=True)))

    # not register_dataclass: to it all classes with as many leaves and equal static fields are one, and jit runs the program of another
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def check_pytree(part: Any, field: str) -> None:
    """Refuses an object whose class is not registered with jax: it lacks the decorator ``@pytree_dataclass``."""
    if jax.tree_util.all_leaves([part]) and not isinstance(part, jax.Array | np.ndarray | jax.core.Tracer):
        refuse(field, type(part).__name__, "a class decorated with @pytree_dataclass (of score_lab.types), which this one lacks")


@runtime_checkable
class Network(Protocol):
    """What ``networks/`` provides and a denoiser calls.  A frozen, hashable description; the parameters live outside it.

    ``level`` (batch,) is a function of log_snr that is finite at both ends; ``level_s`` the same at the second time of a two-time
    objective.  ``key`` is None (no dropout) or one key per example, (batch,).  ``apply`` returns ``y`` of ``x``'s shape, or
    ``(y, aux)`` with a dict of arrays beside it.
    """

    def init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree:
        """Parameters (a nested dict of float32 arrays) for examples of ``shape`` (no batch axis)."""

    def apply(self, params: PyTree, x: Array, level: Array, cond: Cond = None, *, level_s=None, key=None):
        """The raw output ``y``, or ``(y, aux)``."""


Draw = Callable[[], Any]
"""The next standard normal, of the state's structure."""
