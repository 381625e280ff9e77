"""A scan whose body's scalar arithmetic is done once for all steps, before the loop.

    for k in 0..N-1:  carry, _ = body(carry, row_k)       ->       c = vmap(scalars)(row);  for k:  carry = rest(carry, row_k, c_k)

The body of a sampler is a few operations on states and very many on scalars that depend on the step alone: alpha, sigma, their
derivatives, the target's row, noise levels.  Inside a loop every one of them costs a kernel; before it, all steps together cost one.
``body`` is traced once; an equation of its jaxpr that reads only rows and constants is *early* (also inside the branches of a ``cond``),
and the early scalars that the rest needs become columns of a table, one per dtype, of which the loop reads a row at a time.  Arrays are
never tabulated, so the memory is a few numbers a step; whatever the body does stays as it was written, whoever wrote it. """

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var

from score_lab.samplers.jaxprs import early, function, lifted, needed
from score_lab.types import PyTree

__all__ = ["columns", "rest_of", "scan_steps", "tabulated", "traced"]


def scan_steps(body: Callable[[PyTree, PyTree], PyTree], carry: PyTree, rows: PyTree) -> PyTree:
    """The last carry of ``carry = body(carry, row)`` over the leading axis of ``rows``; the same values as a plain ``jax.lax.scan``."""
    jaxpr, consts, out = traced(body, carry, rows)
    n = len(jax.tree.leaves(carry))
    eqns = lifted(jaxpr.eqns, {*jaxpr.constvars, *jaxpr.invars[n:]})
    late, table, before = rest_of(jaxpr, eqns, n)
    step = function(jaxpr, [*jaxpr.constvars, *jaxpr.invars, *table], list(jaxpr.outvars), late)
    stacked, read = tabulated(columns(jaxpr, consts, before, table, rows, n))

    def one(carry, at):
        row, numbers = at
        return step(*consts, *carry, *row, *read(numbers)), None

    last, _ = jax.lax.scan(one, jax.tree.leaves(carry), (jax.tree.leaves(rows), stacked))
    return jax.tree.unflatten(out, last)


def traced(body: Callable, carry: PyTree, rows: PyTree) -> tuple[Jaxpr, list, Any]:
    """``(jaxpr, consts, structure)`` of ``body`` on a carry and one row; TypeError where it does not return what it was given."""
    row = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), rows)
    found, out = jax.make_jaxpr(body, return_shape=True)(carry, row)
    _same(carry, out)
    return found.jaxpr, found.consts, jax.tree.structure(out)


def _same(carry: PyTree, out: PyTree) -> None:
    """TypeError, with the place, where a step does not return the structure, shapes and types that it was given."""
    if jax.tree.structure(carry) != jax.tree.structure(out):
        raise TypeError(f"a step must return what it was given: {jax.tree.structure(carry)}, not {jax.tree.structure(out)}")
    for (place, old), new in zip(jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(out), strict=True):
        if (jax.numpy.shape(old), jax.numpy.result_type(old)) != (new.shape, new.dtype):
            name = "(x, history, nfe, record)" + jax.tree_util.keystr(place)
            raise TypeError(f"a step must return what it was given: {name} is {jax.typeof(old)}, not {new.dtype}{list(new.shape)}")


def rest_of(jaxpr: Jaxpr, eqns: list[JaxprEqn], num_carry: int) -> tuple[list[JaxprEqn], list[Var], list[JaxprEqn]]:
    """``eqns`` that stay in the loop, the early scalars that they read, and the equations that make those."""
    scalars = early(eqns, {*jaxpr.constvars, *jaxpr.invars[num_carry:]})
    late, read = needed(eqns, jaxpr.outvars, scalars)
    table = [v for eqn in eqns for v in eqn.outvars if v in scalars and v in read]
    return late, table, needed([eqn for eqn in eqns if not eqn.effects], table, set())[0]


def columns(jaxpr: Jaxpr, consts: list, before: list[JaxprEqn], table: list, rows: PyTree, num_carry: int) -> list:
    """The values of ``table`` in all rows.

    They are computed in a branch, always the same: what is fused with their stacking, XLA computes again for every column.
    """
    if not table:
        return []
    at = jax.tree.leaves(rows)
    make = function(jaxpr, [*jaxpr.constvars, *jaxpr.invars[num_carry:]], table, before)
    some = next((v for v in at if jnp.issubdtype(v.dtype, jnp.floating)), None)
    all_rows = jax.vmap(make, in_axes=((None,) * len(consts) + (0,) * len(at)))
    if some is None:
        return all_rows(*consts, *at)
    like = jax.eval_shape(all_rows, *consts, *at)
    none = lambda: [jnp.full(v.shape, jnp.nan if jnp.issubdtype(v.dtype, jnp.floating) else 0, v.dtype) for v in like]  # noqa: E731
    return jax.lax.cond(some[0] > -jnp.inf, lambda: list(all_rows(*consts, *at)), none)


def tabulated(found: list) -> tuple[dict, Callable[[dict], list]]:
    """Columns as one table per dtype, and what reads a row of the tables as the numbers in order."""
    names = [str(c.dtype) for c in found]
    tables = {name: jnp.stack([c for c in found if str(c.dtype) == name], axis=-1) for name in dict.fromkeys(names)}
    places = [names[:i].count(name) for i, name in enumerate(names)]
    return tables, lambda numbers: [numbers[name][i] for name, i in zip(names, places, strict=True)]
