"""Weights of multistep formulas: Lagrange polynomials through past nodes, integrated against a weight.

    w_j = int_0^1 omega(tau) l_j(tau) dtau = sum_i a_ji mu_i,    l_j(tau) = prod_{i != j} (tau - r_i) / (r_j - r_i) = sum_i a_ji tau^i

with tau = 0 where the step starts, tau = 1 where it ends, and moments mu_i = int_0^1 omega tau^i dtau: 1 / (i + 1) for Adams-Bashforth and
i! phi_{i+1} for an exponential weight,

    phi_k(x) = int_0^1 e^{(1 - tau) x} tau^{k-1} / (k-1)! dtau,    phi_{k+1} = (phi_k - 1 / k!) / x    (Hochbruck & Ostermann 2010, eq. 2.7)

All of it is scalar arithmetic in nodes relative to the step, so it costs nothing in the loop (see ``hoist``) and no digits in float32:
powers of absolute times, which cancel, never appear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from score_lab.build import refuse
from score_lab.types import Array

__all__ = ["capped", "check_order", "extrapolation", "nodes_there", "phi", "weights"]

_TAYLOR, _TERMS = 2.0, 26


def phi(n: int, x: Array) -> list:
    """``phi_1(x), ..., phi_n(x)`` for any finite x: Taylor's series of phi_n and the recurrence downwards near 0, upwards elsewhere."""
    near = jnp.abs(x) < _TAYLOR
    a, b = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    low = 0.0
    for j in reversed(range(_TERMS)):
        low = low * a + 1.0 / math.factorial(n + j)
    series, high = [low], [jnp.expm1(b) / b]
    for k in reversed(range(1, n)):
        series.append(a * series[-1] + 1.0 / math.factorial(k))
    for k in range(1, n):
        high.append((high[-1] - 1.0 / math.factorial(k)) / b)
    return [jnp.where(near, u, v) for u, v in zip(reversed(series), high, strict=True)]


def weights(nodes: Sequence, moments: Sequence) -> list:
    """``w_j`` for distinct ``nodes`` r_j and as many ``moments`` mu_i (see the module); exact for polynomials below that degree."""
    out = []
    for j, r_j in enumerate(nodes):
        poly, scale = [1.0], 1.0  # coefficients of prod (tau - r_i), lowest first
        for i, r_i in enumerate(nodes):
            if i != j:
                up, down = [0.0, *poly], [r_i * c for c in poly] + [0.0]
                poly, scale = [u - d for u, d in zip(up, down, strict=True)], scale * (r_j - r_i)
        out.append(sum(c * m for c, m in zip(poly, moments, strict=True)) / scale)
    return out


def nodes_there(denoise, j: int, order: int, node: Callable, final_orders: tuple = ()) -> tuple[Array, list]:
    """For the step ``j`` before this one: its order, and the nodes ``u(t_{k-j-1}), ...`` before its own, ``order - 1`` of them.

    The order is at most ``order``, 1 + the number of earlier steps without a gap whose nodes are finite (the start is 1, 2, ..., order),
    and, of the last ``len(final_orders)`` steps, what ``final_orders`` says.
    """
    p, gap, us = jnp.ones((), jnp.int32), jnp.asarray(False), []
    for i in range(1, order):
        t, there = denoise.before(j + i)
        u = node(t)
        gap |= ~(there & jnp.isfinite(u))
        p = p + jnp.where(gap, 0, 1)
        us.append(u)
    k, num_steps = denoise.step - j, denoise.steps.t.shape[0]
    for i, cap in enumerate(final_orders):
        p = jnp.where(k == num_steps - len(final_orders) + i, jnp.minimum(p, cap), p)
    return p, us


def extrapolation(p: Array, u_t: Array, u_s: Array, past: Sequence, moments: Sequence) -> list:
    """The weights of ``f_j - f_0``, j = 1, 2, ..., in the formula of order ``p`` (traced, 1 to 1 + len(past)); 0 where it is not used.

    ``moments`` mu_0, mu_1, ... in tau = (u - u_t) / (u_s - u_t).
    """
    h = u_s - u_t
    r = [jnp.where(i < p, (jnp.where(i < p, u, u_t) - u_t) / h, -float(i)) for i, u in enumerate(past, 1)]
    total = [0.0] * len(past)
    for n in range(2, len(past) + 2):
        w = weights([0.0, *r[: n - 1]], moments[:n])
        total = [v + jnp.where(p == n, w[i + 1], 0.0) if i + 1 < n else v for i, v in enumerate(total)]
    return total


def capped(order: int, caps: Sequence[int]) -> int:
    """The order of a method of ``order`` whose last steps are of the orders ``caps``: ``min(order, min(caps) + 1)``.

    A step of order p errs by O(h^{p+1}), which the steps after it carry on with a factor that is bounded in h: as many of them as grows
    with 1 / h make O(h^p) together, a number that does not grow O(h^{p+1}).
    """
    return min([order, *(p + 1 for p in caps)])


def check_order(name: str, order: int, largest: int, steps=None) -> None:
    """ConfigError unless ``k`` = ``order`` is a whole number from 1 to ``largest`` and the grid has at least that many steps."""
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= largest:
        refuse(f"{name}.k", order, f"a whole number from 1 to {largest}")
    if steps is not None and steps.t.shape[0] < order:
        allowed = f"at least {order} for {name} of order {order}, which starts with orders 1, 2, ..., {order}"
        refuse("grid.num_steps", steps.t.shape[0], allowed)
