"""What a sampler of one's own must be, told in one line that names the class: looked at on the host, and only where it costs nothing.

``check_sampler`` reads attributes before every run; ``check_step`` traces one step abstractly, and only after a run could not be traced.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.denoiser import Prediction
from score_lab.types import PyTree, check_pytree

__all__ = ["check_numbers", "check_sampler", "check_step"]

FACTS = ("order", "calls", "memory", "stochastic")
CONTRACT = "step(self, denoise, x, t, s, draw, carry) -> (x_s, carry, prediction), with x_s as x and carry as init(x, steps, path) gave it"


def check_numbers(part: Any, *fields: str, positive: bool = False) -> None:
    """Refuses a field that is not >= 0 (``positive``: > 0), NaN too, and an infinite one unless its default is."""
    for field in fields:
        value, default = getattr(part, field), getattr(type(part), field, None)
        infinite = value == float("inf") and default != float("inf")
        if infinite or not (value > 0 if positive else value >= 0):
            refuse(f"{type(part).__name__}.{field}", value, ("> 0" if positive else ">= 0") + (" and finite" if infinite else ""))


def check_sampler(sampler: Any) -> None:
    """Refuses what is no registered data class, or lacks one of the facts or methods of a sampler."""
    name = type(sampler).__name__
    if isinstance(sampler, type):
        refuse("sampler", sampler.__name__, f"an object: {sampler.__name__}(...)")
    methods = ("integrate",) if hasattr(sampler, "integrate") else ("init", "step")
    for lacking in (n for n in (*FACTS, *methods) if not hasattr(sampler, n)):
        refuse("sampler", name, f"a class with {', '.join(FACTS)} and {' and '.join(methods)}: {name} has no {lacking}")
    check_pytree(sampler, "sampler")


def check_step(sampler: Any, step: Any, x: PyTree, carry: PyTree) -> None:
    """Refuses, naming the class, a ``step`` that does not return what the loop hands on; an error of the step's own comes as it is.

    Args:
      step: ``step(x, carry) -> whatever the sampler's step returns``.
      x, carry: shapes of the states and of what ``init`` returns.
    """
    name = type(sampler).__name__
    try:
        inspect.signature(sampler.step).bind(*range(6))
    except TypeError as error:
        refuse(f"{name}.step", str(error), CONTRACT)
    returned = []

    def traced(x, carry):
        returned.append(step(x, carry))
        return ()

    jax.eval_shape(traced, x, carry)
    found = returned[0]
    if not isinstance(found, tuple) or len(found) != 3:
        other = "one array" if isinstance(found, jax.Array) else type(found).__name__
        what = f"a tuple of {len(found)}" if isinstance(found, tuple) else other
        refuse(f"{name}.step returns", what, CONTRACT)
    if not isinstance(found[2], Prediction):
        refuse(f"{name}.step returns as prediction", type(found[2]).__name__, f"{CONTRACT}; prediction is what denoise(x, t) gave")
    for what, new, old in (("x_s", found[0], x), ("carry", found[1], carry)):
        if _shapes(new) != _shapes(old):
            refuse(f"{name}.step returns as {what}", _shapes(new)[1], f"{CONTRACT}, which is {_shapes(old)[1]}")


def _shapes(tree: PyTree) -> tuple[Any, str]:
    """The structure with the shapes, and both in words."""
    return (jax.tree.structure(tree), [jnp.shape(v) for v in jax.tree.leaves(tree)]), str(jax.tree.map(jnp.shape, tree))
