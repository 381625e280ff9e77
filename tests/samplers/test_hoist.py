"""The scan that does its scalar arithmetic beforehand: the same values as a plain scan, side effects where they were, errors that say the
place."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.fake import Small, small

from score_lab.paths import VP
from score_lab.samplers import RK4, Times, sample
from score_lab.samplers.hoist import scan_steps, table_of
from score_lab.targets import F

ROWS = (jnp.arange(5, dtype=jnp.int32), jnp.linspace(1.0, 0.1, 5))


def plain(body, carry, rows):
    return jax.lax.scan(lambda c, r: (body(c, r), None), carry, rows)[0]


def body(carry, row):
    """Scalars of every kind: of rows, of constants, of the carry, in a loop and in a branch; randomness keyed by the row."""
    x, total = carry
    k, t = row
    table = jnp.array([3.0, 1.0, 4.0, 1.0, 5.0])
    c = jnp.exp(-t) * jnp.take(table, k, mode="clip") + jax.lax.fori_loop(0, 7, lambda i, v: 0.5 * (v + t / v), jnp.ones(()))
    z = jax.random.normal(jax.random.fold_in(jax.random.key(0), k), x.shape)
    x = jax.lax.cond(t > 0.5, lambda: c * x + z, lambda: x - jnp.log(t) * jnp.cos(total))
    return x, total + c * jnp.sin(total)


def test_it_is_the_plain_scan():
    carry = (jnp.ones((3, 2)), jnp.zeros(()) + 0.3)
    for a, b in zip(jax.jit(lambda c: scan_steps(body, c, ROWS))(carry), jax.jit(lambda c: plain(body, c, ROWS))(carry), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


def test_gradients_pass_through_it():
    def last(f, w):
        return f(lambda c, r: jnp.tanh(c * w * jnp.exp(-r[1] * w)), jnp.ones(4), ROWS).sum()

    a, b = (jax.grad(lambda w, f=f: last(f, w))(0.7) for f in (scan_steps, plain))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_loop_holds_no_scalar_arithmetic_of_the_row():
    def costly(carry, row):
        c = row[1]
        for _ in range(30):
            c = jnp.sin(c) + jnp.tanh(c)
        return carry * c

    assert left(costly, jnp.ones((3, 2))) == ["mul"]


def left(body, carry):
    """The primitives in the loop, but for the reading of numbers from the table."""
    jaxpr = jax.make_jaxpr(lambda c: scan_steps(body, c, ROWS))(carry)
    inner = next(e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan").params["jaxpr"]
    return [e.primitive.name for e in inner.jaxpr.eqns if e.primitive.name not in ("slice", "squeeze")]


def test_side_effects_stay_in_the_loop():
    seen = []

    def body(carry, row):
        jax.debug.callback(lambda k: seen.append(int(k)), row[0], ordered=True)
        return carry + row[1]

    jax.jit(lambda c: scan_steps(body, c, ROWS))(jnp.zeros((2, 2)))
    jax.effects_barrier()
    assert seen == [0, 1, 2, 3, 4]


def test_a_step_that_returns_something_else_is_named():
    with pytest.raises(TypeError, match=r"record\)\[1\] is float32\[2\], not int32\[2\]"):
        scan_steps(lambda c, r: (c[0], c[1].astype(jnp.int32)), (jnp.zeros(3), jnp.zeros(2)), ROWS)
    with pytest.raises(TypeError, match="must return what it was given"):
        scan_steps(lambda c, r: (c, c), jnp.zeros(3), ROWS)


def test_the_branches_of_a_cond_hold_no_scalar_arithmetic_of_the_row():
    """Nor does a branch inside a branch; what depends on the carry stays, and side effects happen where they are asked for."""
    seen = []

    def costly(carry, row):
        k, t = row

        def inner(x):
            jax.debug.callback(lambda i: seen.append(int(i)), k)
            return jax.lax.cond(x.sum() > 0, lambda: jnp.exp(jnp.sin(t)) * x, lambda: jnp.cos(t) * jnp.sin(x.sum()) + x)

        return jax.lax.cond(t > 0.5, inner, lambda x: x * jnp.tanh(t) ** 2, carry)

    start = jnp.ones((3, 2))
    jaxpr = jax.make_jaxpr(lambda c: scan_steps(costly, c, ROWS))(start)
    loop = str(next(e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"))
    assert not any(f" {name} " in loop for name in ("exp", "cos", "tanh", "integer_pow", "square")) and loop.count(" sin ") == 1
    ours, theirs = (jax.jit(lambda c, f=f: f(costly, c, ROWS))(start) for f in (scan_steps, plain))
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)
    jax.effects_barrier()
    assert sorted(seen) == sorted(2 * [k for k in range(5) if ROWS[1][k] > 0.5])


def test_a_table_made_apart_is_the_one_made_inside():
    """By a function of all that it reads, under jit, so that both are traced once: the same values as the plain scan."""
    traces = []

    @jax.jit
    def step(scale, carry, row):
        traces.append(row)
        return body(carry, (row[0], scale * row[1]))

    carry, fixed = (jnp.ones((3, 2)), jnp.zeros(()) + 0.3), (jnp.float32(0.9),)
    table = jax.jit(lambda *fixed: table_of(step, carry, ROWS, fixed))(*fixed)
    assert all(len(v) == 5 for v in table.values())
    ours = jax.jit(lambda c, table, *fixed: scan_steps(step, c, ROWS, fixed, table))(carry, table, *fixed)
    assert len(traces) == 1
    for a, b in zip(ours, plain(lambda c, r: body(c, (r[0], fixed[0] * r[1])), carry, ROWS), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


def test_what_a_first_call_traces_and_compiles(caplog, monkeypatch):
    """The levels that are checked, the numbers of the steps, the loop: three programs and no more; the network of four calls is traced
    once.  The seed that nobody gave is ``jax.random.key(0)``."""
    traced, apply = [], Small.apply
    monkeypatch.setattr(Small, "apply", lambda self, *args, **rest: traced.append(1) or apply(self, *args, **rest))
    denoiser, grid = small(VP(), F(0.7)), Times((0.9, 0.5, 0.2))
    steps, key = grid.steps(denoiser.path), jax.random.key(0)
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)  # of all threads: two programs are compiled side by side
    try:
        with caplog.at_level(logging.WARNING):
            first = sample(denoiser, RK4(), steps, (3, 2))
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [r.getMessage().split()[4] for r in caplog.records if r.getMessage().startswith("Finished XLA compilation of")]
    assert sorted(compiled) == ["jit(_levels)", "jit(_sample)", "jit(_table)"]
    assert len(traced) == 1
    np.testing.assert_array_equal(sample(denoiser, RK4(), steps, (3, 2), key).x, first.x)
