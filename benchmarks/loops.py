"""What a solver's loop still does at every step, with a free network: where a solver that misses its bound loses its time.

    columns      numbers a step that were computed before the loop, for all steps at once (score_lab.samplers.hoist)
    scalars      equations of the loop's jaxpr whose results are single numbers: what was not taken out of the loop (reading a column
                 is not counted)
    states       equations whose results are arrays with the batch in front
    branches     ``cond``s among them
    kernels      instructions of the compiled loop body that run as a kernel or a branch of their own, the real cost on a CPU
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from benchmarks.options import Options
from benchmarks.samplers import SHAPE, free_denoiser
from score_lab.samplers import UniformLogSNR, sample

STEPS = 37
"""A length that no other loop has."""
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant"}
"""Instructions that no kernel runs for."""


def _inner(value: Any) -> list[Jaxpr]:
    values = value if isinstance(value, tuple | list) else [value]
    return [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in values if isinstance(v, ClosedJaxpr | Jaxpr)]


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All equations, those of inner jaxprs in place of the equation that holds them (a ``cond`` also counts itself)."""
    for eqn in jaxpr.eqns:
        inner = [j for value in eqn.params.values() for j in _inner(value)]
        if not inner or eqn.primitive.name == "cond":
            yield eqn
        for j in inner:
            yield from _equations(j)


def loop_of(jaxpr: Jaxpr) -> Any:
    """The scan of ``STEPS`` steps."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan" and eqn.params["length"] == STEPS:
            return eqn
        for value in eqn.params.values():
            for j in _inner(value):
                if (found := loop_of(j)) is not None:
                    return found
    return None


def kernels(text: str) -> int:
    """Instructions of the sampling loop's body in optimised HLO that are more than bookkeeping."""
    body = re.search(rf"while\(.*?body=%?([\w.\-]+).*?known_trip_count\":\{{\"n\":\"{STEPS}\"", text)
    lines = re.search(rf"^%?{re.escape(body.group(1))} .*?^}}", text, re.M | re.S).group(0).splitlines()[1:-1]
    return sum(re.search(r"= (?:\(.*?\)|\S+) ([\w\-]+)\(", row).group(1) not in FREE for row in lines)


def _rows(loop: Any, body: Any) -> list[Any]:
    """The body's arguments that are one row of an array each: the last of them, after constants and carry."""
    pairs = list(zip(loop.invars, body.invars, strict=True))
    count = next((k for k, (whole, row) in enumerate(reversed(pairs)) if whole.aval.shape != (STEPS, *row.aval.shape)), len(pairs))
    return body.invars[len(pairs) - count :]


def profile(sampler: Any) -> dict[str, Any]:
    """The counts of the module's head, and the commonest scalar equations that are left."""
    denoiser = free_denoiser()
    steps = UniformLogSNR(STEPS).steps(denoiser.path)
    sampler = sampler.specialise() if hasattr(sampler, "specialise") else sampler
    run = jax.jit(lambda d, rows, key: sample(d, sampler, rows, SHAPE, key))
    loop = loop_of(jax.make_jaxpr(run)(denoiser, steps, jax.random.key(0)).jaxpr)
    body = loop.params["jaxpr"].jaxpr
    equations = list(_equations(body))
    tables = _rows(loop, body)[4:]  # after k, t, s, r
    scalars = [e for e in equations if all(v.aval.shape == () for v in e.outvars) and e.primitive.name != "squeeze"]
    return {
        "columns": sum(v.aval.shape[0] for v in tables),
        "scalars": len(scalars),
        "states": sum(any(v.aval.shape[:1] == SHAPE[:1] for v in e.outvars) for e in equations),
        "branches": sum(e.primitive.name == "cond" for e in equations),
        "kernels": kernels(run.lower(denoiser, steps, jax.random.key(0)).compile().as_text()),
        "left": Counter(e.primitive.name for e in scalars).most_common(4),
    }


def measure(options: Options) -> Iterator[str]:
    """One row per solver."""
    names = ("columns", "scalars", "states", "branches", "kernels")
    yield f"{'':44s}" + "".join(f"{n:>9s}" for n in names) + "   scalar equations left"
    for name, sampler in options.fixed_step().items():
        found = profile(sampler)
        left = ", ".join(f"{count} {primitive}" for primitive, count in found["left"])
        yield f"{name:44s}" + "".join(f"{found[n]:9d}" for n in names) + f"   {left}"
