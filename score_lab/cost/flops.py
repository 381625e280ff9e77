"""Floating-point operations of a function: its products of matrices and its convolutions, two per multiply-add, counted in its jaxpr.

    (m, k) x (k, n), batched b times:      2 b m n k
    convolution:                           2 (entries of the result) (taps of the kernel) (channels in / groups)

A ``scan`` counts its body times its length, a ``cond`` its dearest branch.  A ``while`` counts its body once: how often it runs is not in
the program.  Taps that fall on padding are counted, zeros that a transposed convolution would put between pixels are not: so the two
gradients of a convolution cost what it costs, and the figure is what peers call a model's FLOPs.  Elementwise work is left out (per cents
of a network), what rematerialisation computes twice is in.

XLA's own figure (``score_lab.cost.program.xla_flops``) differs: it leaves the padding out, adds one for every elementwise result, counts
the body of *every* loop once, and is per device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

__all__ = ["flops_of"]


def flops_of(function: Callable, *args: Any) -> int:
    """The operations of ``function(*args)``; the arguments may be ``jax.ShapeDtypeStruct``s.  It is traced, not run."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(map(_equation, jaxpr.eqns))


def _equation(eqn: JaxprEqn) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        return _product(eqn)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    inner = [_count(jaxpr) for jaxpr in _jaxprs(eqn)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (eqn.params["length"] if name == "scan" else 1)


def _jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs that an equation runs."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item.jaxpr if isinstance(item, ClosedJaxpr) else item


def _product(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    taps = kernel[spec[1]] * math.prod(kernel[axis] for axis in spec[2:])  # channels in over groups, and the window
    return 2 * eqn.outvars[0].aval.size * taps // math.prod(eqn.params["lhs_dilation"])
