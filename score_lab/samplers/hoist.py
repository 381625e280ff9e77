"""A scan whose body's scalar arithmetic is done once for all steps, before the loop.

    for k in 0..N-1:  carry, _ = body(carry, row_k)       ->       c = vmap(scalars)(row);  for k:  carry = rest(carry, row_k, c_k)

The body of a sampler is a few operations on states and very many on scalars that depend on the step alone: alpha, sigma, their
derivatives, the target's row, noise levels.  Inside a loop every one of them costs a kernel; before it, all steps together cost one.
``body`` is traced once; an equation of its jaxpr that reads only rows and constants is *early*, and the early scalars that the rest needs
become columns of a table, one per dtype, of which the loop reads a row at a time.  Arrays are never tabulated, so the memory is a few
numbers a step; whatever the body does stays as it was written, whoever wrote it. """

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from score_lab.types import PyTree

__all__ = ["scan_steps"]


def scan_steps(body: Callable[[PyTree, PyTree], PyTree], carry: PyTree, rows: PyTree) -> PyTree:
    """The last carry of ``carry = body(carry, row)`` over the leading axis of ``rows``; the same values as a plain ``jax.lax.scan``."""
    row = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), rows)
    traced, out = jax.make_jaxpr(body, return_shape=True)(carry, row)
    _same(carry, out)
    n = len(jax.tree.leaves(carry))
    early, rest, count = _split(traced.jaxpr, n)
    step = jaxpr_as_fun(ClosedJaxpr(rest, traced.consts))
    columns = jax.vmap(lambda *r: jaxpr_as_fun(ClosedJaxpr(early, traced.consts))(*r))(*jax.tree.leaves(rows)) if count else []
    names = [str(c.dtype) for c in columns]
    tables = {name: jnp.stack([c for c in columns if str(c.dtype) == name], axis=1) for name in names}
    places = [names[:i].count(name) for i, name in enumerate(names)]

    def one(carry, at):
        row, numbers = at
        return step(*carry, *row, *(numbers[name][i] for name, i in zip(names, places, strict=True))), None

    last, _ = jax.lax.scan(one, jax.tree.leaves(carry), (jax.tree.leaves(rows), tables))
    return jax.tree.unflatten(jax.tree.structure(out), last)


def _same(carry: PyTree, out: PyTree) -> None:
    """TypeError, with the place, where a step does not return the structure, shapes and types that it was given."""
    if jax.tree.structure(carry) != jax.tree.structure(out):
        raise TypeError(f"a step must return what it was given: {jax.tree.structure(carry)}, not {jax.tree.structure(out)}")
    for (place, old), new in zip(jax.tree_util.tree_leaves_with_path(carry), jax.tree.leaves(out), strict=True):
        if (jax.numpy.shape(old), jax.numpy.result_type(old)) != (new.shape, new.dtype):
            name = "(x, history, nfe, record)" + jax.tree_util.keystr(place)
            raise TypeError(f"a step must return what it was given: {name} is {jax.typeof(old)}, not {new.dtype}{list(new.shape)}")


def _split(jaxpr: Jaxpr, num_carry: int) -> tuple[Jaxpr, Jaxpr, int]:
    """``early(*row) -> scalars`` and ``rest(*carry, *row, *scalars) -> carry``, and how many scalars there are."""
    rows = jaxpr.invars[num_carry:]
    known = set(jaxpr.constvars) | set(rows)
    scalars: set[Var] = set()
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(isinstance(v, Literal) or v in known for v in eqn.invars):
            known.update(eqn.outvars)
            scalars.update(v for v in eqn.outvars if v.aval.shape == () and not jax.dtypes.issubdtype(v.aval.dtype, jax.dtypes.extended))
    late, needed = _needed(jaxpr.eqns, jaxpr.outvars, scalars)
    table = [v for eqn in jaxpr.eqns for v in eqn.outvars if v in scalars and v in needed]
    before, _ = _needed([eqn for eqn in jaxpr.eqns if not eqn.effects], table, set())
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    early = jaxpr.replace(invars=rows, outvars=table, eqns=before, effects=set(), debug_info=info)
    rest = jaxpr.replace(invars=[*jaxpr.invars, *table], eqns=late, debug_info=info)
    return early, rest, len(table)


def _needed(eqns: list[JaxprEqn], outvars: list, given: set[Var]) -> tuple[list[JaxprEqn], set[Var]]:
    """The equations that ``outvars`` (and side effects) need where ``given`` is there already, and all variables that they read."""
    needed, kept = {v for v in outvars if not isinstance(v, Literal)}, []
    for eqn in reversed(eqns):
        if eqn.effects or any(v in needed and v not in given for v in eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
    return kept[::-1], needed
