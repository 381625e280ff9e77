"""The framework's train step beside a bare hand-written JAX step of the same network: dit8, 8x8x1, about 2.8 M parameters, batch 64.

Bare: uniform t, one draw of noise, the flow's mean square error on the raw output, Adam, one EMA, ``jit`` with donation, ten steps in a
``lax.scan``.  Framework: what ``experiments.train`` runs, ten steps per dispatch too, on the devices there are, with its keys per example,
metrics and gradient norm.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.options import Options
from benchmarks.pairs import heading, interleaved, line
from configs.digits import get_config
from score_lab.data import batches
from score_lab.training.memory import keep_buffers
from score_lab.training.options import plain
from score_lab.training.parallel import layout_of
from score_lab.training.parts import Parts, build_parts
from score_lab.training.state import init_state

STEPS = 10
DECAY = 0.999


def dit8_parts(batch_size: int = 64) -> tuple[Parts, list[dict]]:
    """The parts of the digits configuration with the dit8 network, and ten batches."""
    from score_lab.build import build

    config = get_config("flow")
    config.data.batch_size = batch_size
    config.network.update({"width": 192, "depth": 4, "heads": 6})
    config.training.update({"ema": (DECAY,)})
    config.objective.label_dropout = 0.0
    source = build({"target": "Digits", "size": 8}, "score_lab.data", "config.data")
    stream = iter(batches(source, "train", batch_size, 0))
    return build_parts(plain(config), source.spec, 0.75), [next(stream) for _ in range(STEPS)]


def bare_step(parts: Parts):
    """Ten hand-written steps in one jitted call, with donation."""
    network, optimizer = parts.network, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(parts.schedule))

    def loss_of(params, x0, label, key):
        key_t, key_eps = jax.random.split(key)
        t = jax.random.uniform(key_t, (x0.shape[0],))
        eps = jax.random.normal(key_eps, x0.shape)
        a, s = (1 - t)[:, None, None, None], t[:, None, None, None]
        x_t = a * x0 + s * eps
        root = jnp.sqrt((0.75 * a) ** 2 + s**2)
        level = jnp.clip(2 * (jnp.log1p(-t) - jnp.log(t)), -20, 20)
        y = network.apply(params, x_t / root, level, {"label": label})
        return jnp.mean((y - (s / 0.75 * x0 - 0.75 * a * eps) / root) ** 2)

    def one(carry, batch):
        params, ema, opt_state, key = carry
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_of)(params, batch["x0"], batch["cond"]["label"], now)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda e, p: e + (1 - DECAY) * (p - e), ema, params)
        return (params, ema, opt_state, key), loss

    run = jax.jit(lambda carry, stacked: jax.lax.scan(one, carry, stacked), donate_argnums=0)
    params = network.init(jax.random.key(0), parts.spec.shape)
    return run, (params, jax.tree.map(jnp.copy, params), optimizer.init(params), jax.random.key(1))


def measure(options: Options) -> Iterator[str]:
    """One row: framework / bare, seconds for ten steps."""
    keep_buffers()  # as train does
    parts, host = dit8_parts()
    layout = layout_of(parts.batch_size)
    dispatch = layout.dispatch(parts)
    run, carry = bare_step(parts)
    state = jax.device_put(init_state(parts, 0), layout.replicated)
    hold = {"state": state, "carry": carry}

    def framework() -> None:
        hold["state"], metrics = dispatch(hold["state"], layout.place(host))
        jax.block_until_ready((hold["state"], metrics))

    def bare() -> None:
        stacked = jax.tree.map(lambda *x: np.stack(x), *host)
        hold["carry"], losses = run(hold["carry"], stacked)
        jax.block_until_ready((hold["carry"], losses))

    yield heading()
    yield line(interleaved(f"train step, dit8, batch 64, {STEPS} steps", framework, bare, options.pairs, bound=1.05))
