"""A scan whose body's scalar arithmetic is done once for all steps, before the loop.

    for k in 0..N-1:  carry, _ = body(carry, row_k)       ->       c = vmap(scalars)(row);  for k:  carry = rest(carry, row_k, c_k)

The body of a sampler is a few operations on states and very many on scalars that depend on the step alone: alpha, sigma, their
derivatives, the target's row, noise levels.  Inside a loop every one of them costs a kernel; before it, all steps together cost one.
``body`` is traced once; an equation of its jaxpr that reads only rows and constants is *early* (also inside the branches of a ``cond``),
and the early scalars that the rest needs become columns of a table, one per dtype, of which the loop reads a row at a time.  Arrays are
never tabulated, so the memory is a few numbers a step; whatever the body does stays as it was written, whoever wrote it. """

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var

from score_lab.samplers.jaxprs import early, function, lifted, needed, opened
from score_lab.types import PyTree

__all__ = ["Parts", "columns", "scan_steps", "table_of", "taken_apart"]


def scan_steps(body: Callable, carry: PyTree, rows: PyTree, fixed: tuple = (), table: dict | None = None) -> PyTree:
    """The last carry of ``carry = body(*fixed, carry, row)`` over the leading axis of ``rows``; the same values as a plain
    ``jax.lax.scan``.  ``table``: what ``table_of`` the same arguments gave, or None to make it here."""
    parts = taken_apart(body, carry, rows, fixed)
    step = function(parts.jaxpr, [*parts.jaxpr.constvars, *parts.jaxpr.invars, *parts.table], list(parts.jaxpr.outvars), parts.late)
    made = parts.made(rows) if table is None else table

    def one(carry, at):
        row, numbers = at
        return step(*parts.consts, *carry, *row, *parts.read(numbers)), None

    last, _ = jax.lax.scan(one, jax.tree.leaves(carry), (jax.tree.leaves(rows), made))
    return jax.tree.unflatten(parts.out, last)


def table_of(body: Callable, carry: PyTree, rows: PyTree, fixed: tuple = ()) -> dict:
    """The numbers that the loop of ``scan_steps`` reads, one row a step, by dtype; of ``carry`` only the shapes matter."""
    return taken_apart(body, carry, rows, fixed).made(rows)


def _same(carry: PyTree, out: PyTree) -> None:
    """TypeError, with the place, where a step does not return the structure, shapes and types that it was given."""
    if jax.tree.structure(carry) != jax.tree.structure(out):
        raise TypeError(f"a step must return what it was given: {jax.tree.structure(carry)}, not {jax.tree.structure(out)}")
    for (place, old), new in zip(jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(out), strict=True):
        if (jax.numpy.shape(old), jax.numpy.result_type(old)) != (new.shape, new.dtype):
            name = "(x, history, nfe, record)" + jax.tree_util.keystr(place)
            raise TypeError(f"a step must return what it was given: {name} is {jax.typeof(old)}, not {new.dtype}{list(new.shape)}")


@dataclasses.dataclass(frozen=True)
class Parts:
    """A body taken apart: its jaxpr with the values of its constants, the structure of what it returns, the equations that stay in the
    loop (``late``), the early scalars that they read (``table``), and the equations that make those (``before``)."""

    jaxpr: Jaxpr
    consts: list
    out: Any
    late: list[JaxprEqn]
    table: list[Var]
    before: list[JaxprEqn]

    def made(self, rows: PyTree) -> dict:
        """The values of ``table`` in all rows, one array a dtype, a row for each step."""
        found = columns(self.jaxpr, self.consts, self.before, self.table, rows)
        names = self._dtypes()
        return {name: jnp.stack([c for c, own in zip(found, names, strict=True) if own == name], axis=-1) for name in dict.fromkeys(names)}

    def read(self, numbers: dict) -> list:
        """The values of ``table`` from one row of ``made``."""
        names = self._dtypes()
        return [numbers[name][names[:i].count(name)] for i, name in enumerate(names)]

    def _dtypes(self) -> list[str]:
        return [str(v.aval.dtype) for v in self.table]


def taken_apart(body: Callable, carry: PyTree, rows: PyTree, fixed: tuple = ()) -> Parts:
    """The parts of ``body``, traced on the shapes of a carry and of one row; TypeError where it does not return what it was given."""
    row = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), rows)
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), carry)
    found, out = jax.make_jaxpr(partial(body, *fixed), return_shape=True)(shapes, row)
    _same(carry, out)
    jaxpr, consts = opened(found)
    n = len(jax.tree.leaves(carry))
    eqns = lifted(jaxpr.eqns, {*jaxpr.constvars, *jaxpr.invars[n:]})
    scalars = early(eqns, {*jaxpr.constvars, *jaxpr.invars[n:]})
    late, read = needed(eqns, jaxpr.outvars, scalars)
    table = [v for eqn in eqns for v in eqn.outvars if v in scalars and v in read]
    return Parts(jaxpr, consts, jax.tree.structure(out), late, table, needed([e for e in eqns if not e.effects], table, set())[0])


def columns(jaxpr: Jaxpr, consts: list, before: list[JaxprEqn], table: list[Var], rows: PyTree) -> list:
    """The values of ``table`` in all rows.

    They are computed in a branch, always the same: what is fused with their stacking, XLA computes again for every column.
    """
    if not table:
        return []
    at = jax.tree.leaves(rows)
    make = function(jaxpr, [*jaxpr.constvars, *jaxpr.invars[-len(at) :]], table, before)
    some = next((v for v in at if jnp.issubdtype(v.dtype, jnp.floating)), None)
    all_rows = jax.vmap(make, in_axes=((None,) * len(consts) + (0,) * len(at)))
    if some is None:
        return all_rows(*consts, *at)
    none = [(v.aval.dtype, jnp.nan if jnp.issubdtype(v.aval.dtype, jnp.floating) else 0) for v in table]
    return jax.lax.cond(
        some[0] > -jnp.inf, lambda: list(all_rows(*consts, *at)), lambda: [jnp.full(some.shape, value, dtype) for dtype, value in none]
    )
