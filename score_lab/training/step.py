"""One update, as a pure function ``step(state, batch) -> (state, metrics)``.

    g   = grad of (1/G) sum_i l_i,      i over the global batch of G: all microbatches of all devices
    g  <- Optax's update (clipping first),      params <- params + g
    ema_d <- ema_d + (1 - d_k)(params - ema_d),      d_k = min(d, (1 + k)/(10 + k)) with ``ema_warmup``, else d;
                                                     (1 - 1/(k + 1))^(gamma + 1) of a power-function profile (profiles.py)

``batch`` has leaves (A, m, ...): A microbatches of the m examples that this device holds of each.  Randomness is keyed by (key of the run,
step, global index of the example), so that neither A nor the number of devices changes what is drawn: the update is that of the whole
batch, up to the order of sums.  What an objective carries untrained is averaged over microbatches and devices, leaf by leaf (whole numbers,
which all of them must agree on, are taken as they are).  With ``nonfinite = "skip"`` an update that is not finite changes the step alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_lab.build import refuse
from score_lab.objectives.base import Context
from score_lab.training.groups import hold
from score_lab.training.levels import binned, levels_of
from score_lab.training.parts import Parts
from score_lab.training.profiles import exponent, rate
from score_lab.training.schedule_free import evaluated
from score_lab.training.skip import keep_finite, updates_made
from score_lab.training.state import TrainState
from score_lab.types import Array, PyTree

__all__ = ["averaged", "averages", "gradient_of", "loss_of", "make_step"]


def make_step(parts: Parts, axis: str | None = None, unroll: bool = False, gradient: Callable | None = None) -> Callable:
    """The update for ``parts``.

    Args:
      axis: name of the mapped device axis over which gradients are summed; None for a step that is not mapped.
      unroll: unrolls the loop over microbatches (convolutions on CPU need it).
      gradient: ``(state, batch) -> (grads, metrics, objective state)`` of the global batch where that is made otherwise (mesh.py).

    Returns ``step(state, batch) -> (state, metrics)``; metrics are scalars: ``loss``, ``grad_norm``, ``learning_rate``, the objective's
    own, ``update_norm`` where it is asked for, ``skipped`` where updates may be; beside them the loss by level (levels.py), (bins,) each.
    """
    skip = parts.options.nonfinite == "skip"
    gradient = gradient or _over(axis, gradient_of(parts, unroll))

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
        grads, metrics, objective = gradient(state, batch)
        made = updates_made(state) if skip else state.step
        with jax.named_scope("grad_norm"):  # clipping takes the same one
            metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": parts.schedule(made)}
        with jax.named_scope("optimizer"):
            updates, opt_state = parts.optimizer.update(grads, state.opt_state, state.params)
        if parts.options.update_norm:
            with jax.named_scope("update_norm"):
                metrics["update_norm"] = optax.tree.norm(updates)
        params = optax.apply_updates(state.params, updates)
        options = parts.options
        gammas = tuple(map(exponent, options.profiles))
        ema = averages(state.ema, evaluated(opt_state, params), state.step, options.ema, options.ema_warmup, gammas)
        after = TrainState(step=state.step + 1, key=state.key, params=params, ema=ema, opt_state=opt_state, objective=objective)
        return keep_finite(after, state, metrics) if skip else (after, metrics)

    return step


def averages(
    ema: tuple, params: PyTree, step: Array, decays: tuple[float, ...], warmup: bool, gammas: tuple[float, ...] = ()
) -> tuple:
    """Every average after the update number ``step`` (from 0), in its own precision: those of ``decays``, then those of ``gammas``."""
    rates = [1.0 - (jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else jnp.asarray(decay)) for decay in decays]
    rates += [rate(gamma, 1.0 + step) for gamma in gammas]

    def one(average: PyTree, r: Array) -> PyTree:
        return jax.tree.map(lambda a, p: a + r.astype(a.dtype) * (p - a), average, params)

    return tuple(one(average, r) for average, r in zip(ema, rates, strict=True))


def loss_of(
    parts: Parts, params: PyTree, state: TrainState, batch: PyTree, shared: Callable | None = None
) -> tuple[Array, dict[str, Array], PyTree, Context]:
    """``(loss (batch,), metrics, state of the objective, what it was handed)`` of the examples ``batch`` in the update after ``state``;
    ``shared``: what the parameters go through before the network and the objective read them.
    """
    params = hold(parts.config["optimizer"], params)
    params = params if shared is None else shared(params)
    ctx = _context(parts, params, state)
    batch = parts.augmented(ctx.key, batch)
    loss, metrics, objective = parts.objective.loss(ctx, params["objective"], state.objective, batch)
    size = batch["index"].shape[0]
    if loss.shape != (size,):
        refuse("objective.loss(...)[0].shape", loss.shape, f"({size},): one number per example of the batch")
    return loss, metrics, objective, ctx


def _over(axis: str | None, gradient: Callable) -> Callable:
    """``gradient`` (of gradient_of) of all devices of the mapped ``axis``."""

    def total(state: TrainState, batch: PyTree) -> tuple[PyTree, dict[str, Array], PyTree]:
        if axis is None:
            return gradient(state, batch, 1)
        grads, metrics, objective = gradient(state, batch, jax.lax.axis_size(axis))
        with jax.named_scope("gradient"):
            grads = jax.lax.psum(grads, axis)
        with jax.named_scope("metrics"):
            metrics = jax.lax.psum(metrics, axis)
        return grads, metrics, averaged(objective, axis)

    return total


def averaged(objective: PyTree, axis: str | tuple[str, ...]) -> PyTree:
    """The mean over the devices of an ``axis`` of what an objective carries; whole numbers are everywhere the same."""
    return jax.tree.map(lambda x: jax.lax.pmean(x, axis) if _averaged(x) else x, objective)


def gradient_of(parts: Parts, unroll: bool, shared: Callable | None = None) -> Callable:
    """``(state, batch, devices) -> (grads, metrics, objective state)``: this device's share of the mean over the global batch.

    ``shared``: see loss_of; the gradient is that of what went into it.
    """

    def share_of(params: PyTree, state: TrainState, micro: PyTree, shares: int) -> tuple[Array, tuple[dict, PyTree]]:
        loss, metrics, objective, ctx = loss_of(parts, params, state, micro, shared)
        metrics = {k: jnp.mean(v) / shares for k, v in (metrics | {"loss": loss}).items()}
        levels = levels_of(parts.objective, ctx, micro["index"]) if parts.options.loss_edges else None
        if levels is not None:
            metrics |= binned(jax.lax.stop_gradient(loss), jax.lax.stop_gradient(levels), parts.options.loss_edges)
        return jnp.sum(loss) / parts.batch_size, (metrics, objective)

    grad_of = jax.grad(share_of, has_aux=True)

    def gradient(state: TrainState, batch: PyTree, devices: int) -> tuple[PyTree, dict[str, Array], PyTree]:
        count = batch["index"].shape[0]
        if count == 1:
            grads, (metrics, objective) = grad_of(state.params, state, jax.tree.map(lambda x: x[0], batch), devices)
            return grads, metrics, objective

        def add(grads: PyTree, micro: PyTree) -> tuple[PyTree, Any]:
            more, rest = grad_of(state.params, state, micro, count * devices)
            return jax.tree.map(jnp.add, grads, more), rest

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        grads, (metrics, objective) = jax.lax.scan(add, zeros, batch, unroll=count if unroll else 1)
        objective = jax.tree.map(lambda x: jnp.mean(x, axis=0) if _averaged(x) else x[-1], objective)
        return grads, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics), objective

    return gradient


def _context(parts: Parts, params: PyTree, state: TrainState) -> Context:
    """What the objective is handed: the denoiser that is trained, its first average, and this step's key."""
    return Context(
        denoiser=parts.denoiser(params),
        ema=parts.denoiser(state.ema[0]) if state.ema else None,
        path=parts.path_of(params),
        step=state.step,
        key=jax.random.fold_in(state.key, state.step),
        batch_size=parts.batch_size,
    )


def _averaged(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)
