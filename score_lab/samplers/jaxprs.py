"""Jaxprs taken apart: what of them is known before a loop, and what a ``cond`` computes of that.

``known`` is a set of variables.  An equation all of whose inputs are in it is *early*, and so are its results; the rest is late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

__all__ = ["early", "function", "inlined", "lifted", "needed", "opened", "sub_jaxpr"]


def early(eqns: Iterable[JaxprEqn], known: set[Var]) -> set[Var]:
    """The single numbers (no keys) that ``eqns`` compute of ``known`` alone; ``known`` grows by all that they do."""
    scalars = set()
    for eqn in eqns:
        if not eqn.effects and all(isinstance(v, Literal) or v in known for v in eqn.invars):
            known.update(eqn.outvars)
            scalars.update(v for v in eqn.outvars if v.aval.shape == () and isinstance(v.aval.dtype, np.dtype))
    return scalars


def needed(eqns: list[JaxprEqn], outvars: Iterable, given: set[Var]) -> tuple[list[JaxprEqn], set[Var]]:
    """The equations that ``outvars`` (and side effects) need where ``given`` is there already, and all variables that they read."""
    wanted, kept = {v for v in outvars if not isinstance(v, Literal)}, []
    for eqn in reversed(eqns):
        if eqn.effects or any(v in wanted and v not in given for v in eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, Literal))
    return kept[::-1], wanted


def sub_jaxpr(jaxpr: Jaxpr, invars: list[Var], outvars: list, eqns: list[JaxprEqn]) -> Jaxpr:
    """``invars -> outvars`` by some equations of ``jaxpr``."""
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    effects = {e for eqn in eqns for e in eqn.effects}
    return jaxpr.replace(invars=invars, outvars=outvars, eqns=eqns, effects=effects, debug_info=info)


def function(jaxpr: Jaxpr, invars: list[Var], outvars: list, eqns: list[JaxprEqn]) -> Callable:
    """The same as a function; the variables of constants are among ``invars``."""
    return jaxpr_as_fun(ClosedJaxpr(sub_jaxpr(jaxpr.replace(constvars=[]), invars, outvars, eqns), []))


def inlined(eqns: list[JaxprEqn], names: dict[Var, Var | Literal]) -> list[JaxprEqn]:
    """``eqns`` with variables of their own, reading those of ``names``, which grows by what they write."""
    out = []
    for eqn in eqns:
        new = [Var(v.aval) for v in eqn.outvars]
        out.append(eqn.replace(invars=[v if isinstance(v, Literal) else names.get(v, v) for v in eqn.invars], outvars=new))
        names.update(zip(eqn.outvars, new, strict=True))
    return out


def opened(closed: ClosedJaxpr) -> tuple[Jaxpr, list]:
    """``(jaxpr, consts)`` of ``closed``; where all that it does is to call one function under ``jit``, with that function's equations."""
    jaxpr, consts = closed.jaxpr, list(closed.consts)
    if len(jaxpr.eqns) != 1 or not isinstance(inside := jaxpr.eqns[0].params.get("jaxpr"), ClosedJaxpr):
        return jaxpr, consts
    eqn, inner = jaxpr.eqns[0], inside.jaxpr
    if eqn.primitive.name not in ("jit", "pjit"):
        return jaxpr, consts
    names: dict = dict(zip(inner.invars, eqn.invars, strict=True))
    eqns = inlined(inner.eqns, names)
    made = {v: w if isinstance(w, Literal) else names.get(w, w) for v, w in zip(eqn.outvars, inner.outvars, strict=True)}
    outvars = [v if isinstance(v, Literal) else made.get(v, v) for v in jaxpr.outvars]
    constvars = [*jaxpr.constvars, *inner.constvars]
    return sub_jaxpr(jaxpr.replace(constvars=constvars), list(jaxpr.invars), outvars, eqns), [*consts, *inside.consts]


def lifted(eqns: list[JaxprEqn], known: set[Var]) -> list[JaxprEqn]:
    """``eqns`` with the single numbers that branches of a ``cond`` compute of ``known`` alone computed before it, and handed to it."""
    known, out, told = set(known), [], 0
    for eqn in eqns:
        if eqn.primitive.name == "cond":
            early(out[told:], known)
            told = len(out)
            if not all(isinstance(v, Literal) or v in known for v in eqn.invars):
                before, eqn = _before(eqn, known)
                out += before
        out.append(eqn)
    return out


def _before(eqn: JaxprEqn, known: set[Var]) -> tuple[list[JaxprEqn], JaxprEqn]:
    """What of a ``cond``'s branches can be computed before it, and the ``cond`` that is left."""
    index, *operands = eqn.invars
    before, parts = [], []
    for branch in eqn.params["branches"]:
        jaxpr = branch.jaxpr
        inner = {v for v, o in zip(jaxpr.invars, operands, strict=True) if isinstance(o, Literal) or o in known}
        inside = lifted(jaxpr.eqns, inner)
        scalars = early(inside, set(inner))
        late, read = needed(inside, jaxpr.outvars, scalars)
        table = [v for e in inside for v in e.outvars if v in scalars and v in read]
        names = dict(zip(jaxpr.invars, operands, strict=True))
        before += inlined(needed([e for e in inside if not e.effects], table, set())[0], names)
        parts.append((branch, late, table, [names[v] for v in table]))
    extra = [v for *_, outer in parts for v in outer]
    if not extra:
        return [], eqn
    branches = []
    for k, (branch, late, _, _) in enumerate(parts):
        handed = [v for i, (_, _, mine, _) in enumerate(parts) for v in (mine if i == k else [Var(w.aval) for w in mine])]
        jaxpr = branch.jaxpr
        branches.append(ClosedJaxpr(sub_jaxpr(jaxpr, [*jaxpr.invars, *handed], list(jaxpr.outvars), late), branch.consts))
    return before, eqn.replace(invars=[index, *operands, *extra], params={**eqn.params, "branches": tuple(branches)})
