"""Makes one update of a run again, exactly, from the newest checkpoint before it, and looks at what in it is not finite.

    state at STEP - 1   =   the checkpoint, and the updates between them made again with their batches, keys and dispatches
    then, at that state and that batch:   l_i and log_snr_i of every example,   g = grad of the mean of l_i,   || g || of every part

What went wrong first is the first of: a parameter that was not finite before the update; an example whose loss is not; an example whose own
gradient is not, found one by one; only the gradient of the sum (an overflow).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_lab.build import refuse
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.feed import Feed, train_stream
from score_lab.training.finetune import starting_leaves
from score_lab.training.nonfinite import examples_of
from score_lab.training.prepare import Plan, prepare
from score_lab.training.record import read_workdir
from score_lab.training.state import TrainState, abstract_state, keys_of
from score_lab.training.step import loss_of
from score_lab.types import Array, PyTree

__all__ = ["Replay", "replay"]


@dataclasses.dataclass(frozen=True)
class Replay:
    """An update made again.

    Attributes:
      step: the update that made ``step`` of ``step - 1``.
      start: the step of the checkpoint from which it was reached, 0 for the parameters that a run begins with.
      state: before the update, on one device.
      loss, grad_norm: of the update, before clipping.
      losses: of every example of the global batch, (batch,).
      examples: what is known of them (``nonfinite.examples_of``).
      norms: of the gradient, by top-level part of the network, and of the objective.
      parameters, gradients: the names of the leaves that are not finite before the update, and of the gradient's.
      culprits: the places in the batch of the examples whose loss, or else whose own gradient, is not finite.
      culprit: "loss", "gradient" or None, which of the two.
    """

    step: int
    start: int
    state: TrainState
    loss: float
    grad_norm: float
    losses: np.ndarray
    examples: dict[str, list[Any]]
    norms: dict[str, float]
    parameters: list[str]
    gradients: list[str]
    culprits: list[int]
    culprit: str | None


def replay(workdir: str | Path, step: int) -> Replay:
    """The update of the run in ``workdir`` that made ``step`` of ``step - 1``.  Nothing is written.

    Raises ConfigError for a directory that is no workdir, a step outside the run, and data that are not those of the run.
    """
    workdir = Path(workdir)
    plan = prepare(read_workdir(workdir)["config"], workdir)
    if not 1 <= step <= plan.options.steps:
        refuse("step", step, f"an int from 1 to {plan.options.steps}, the steps of the run in {workdir}")
    start, state, batch = _before(plan, step)
    params = plan.layout.local(state)
    value, grads, losses = _measured(plan, params, batch)
    parameters, gradients = _not_finite(params.params), _not_finite(grads)
    culprits, culprit = np.flatnonzero(~np.isfinite(losses)).tolist(), "loss"
    if not culprits and gradients and not parameters:
        culprits, culprit = np.flatnonzero(~_finite_gradients(plan, params, batch)).tolist(), "gradient"
    return Replay(
        step=step,
        start=start,
        state=params,
        loss=value,
        grad_norm=float(optax.tree.norm(grads)),
        losses=losses,
        examples=examples_of(plan, step - 1),
        norms=_norms(grads),
        parameters=parameters,
        gradients=gradients,
        culprits=culprits,
        culprit=culprit if culprits else None,
    )


def recorded(workdir: str | Path, step: int) -> dict[str, Any] | None:
    """What WORKDIR/nonfinite/STEP.json says, or None where there is no such file."""
    file = Path(workdir) / "nonfinite" / f"{step}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _before(plan: Plan, step: int) -> tuple[int, TrainState, PyTree]:
    """``(step of the checkpoint, the state at step - 1, the global batch of the update)``, the state on all devices."""
    start, state, host = _begin(plan, step - 1)
    stream = train_stream(plan.parts, plan.source, plan.layout, plan.seed)
    if host["position"] is not None:
        stream.set_state(host["position"])
    counts, done = [], start
    for count in plan.counts(start):  # the dispatches of the run as far as they end before the update, single steps from there
        if done + count > step - 1:
            break
        counts.append(count)
        done += count
    counts += [1] * (step - done)
    dispatch = plan.layout.dispatch(plan.parts)
    with Feed(stream, plan.layout, counts, start, plan.parts.coupling, keys_of(plan.seed)["train"], plan.options.prefetch) as feed:
        for number, (batches, _) in enumerate(feed, 1):
            if number < len(counts):
                state, _ = dispatch(state, batches)
    return start, state, jax.tree.map(jnp.asarray, plan.layout.rows(batches))


def _begin(plan: Plan, step: int) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest checkpoint up to ``step`` that can be read, or what a run begins with."""
    if plan.record is not None:
        with Checkpoints(plan.workdir) as checkpoints:
            for saved in sorted((s for s in checkpoints.steps if s <= step), reverse=True):
                if checkpoints.damage(saved) is None:
                    state, host = checkpoints.restore(plan.layout.like(abstract_state(plan.parts)), saved)
                    return saved, plan.layout.put(state), host
    return 0, plan.layout.fresh(plan.parts, plan.seed, starting_leaves(plan.parts)), {"position": None}


def _measured(plan: Plan, state: TrainState, batch: PyTree) -> tuple[float, PyTree, np.ndarray]:
    """``(mean loss, its gradient, loss of every example)`` of the global batch on one device, a microbatch of one device at a time."""
    size = plan.layout.local_size // (len(plan.layout.devices) * plan.layout.accumulate)

    @jax.jit
    def one(params: PyTree, rows: PyTree) -> tuple[PyTree, Array]:
        return jax.grad(lambda p: _summed(plan, p, state, rows), has_aux=True)(params)

    grads, losses = None, []
    for first in range(0, plan.layout.local_size, size):
        more, loss = one(state.params, jax.tree.map(lambda x, k=first: x[k : k + size], batch))
        grads = more if grads is None else jax.tree.map(jnp.add, grads, more)
        losses.append(np.asarray(loss))
    losses = np.concatenate(losses)
    return float(np.mean(losses)), grads, losses


def _finite_gradients(plan: Plan, state: TrainState, batch: PyTree) -> np.ndarray:
    """Whether the gradient of every example alone is finite, (batch,)."""

    @jax.jit
    def one(params: PyTree, rows: PyTree) -> Array:
        grads, _ = jax.grad(lambda p: _summed(plan, p, state, rows), has_aux=True)(params)
        return jnp.isfinite(optax.tree.norm(grads))

    return np.array([bool(one(state.params, jax.tree.map(lambda x, k=k: x[k : k + 1], batch))) for k in range(plan.layout.local_size)])


def _summed(plan: Plan, params: PyTree, state: TrainState, rows: PyTree) -> tuple[Array, Array]:
    """This share of the mean loss, and the loss of every example of ``rows``."""
    loss = loss_of(plan.parts, params, state, rows)[0]
    return jnp.sum(loss) / plan.parts.batch_size, loss


def _norms(grads: PyTree) -> dict[str, float]:
    """The norm of every top-level part of the network's gradient, and of the objective's where it trains something."""
    network = grads["network"]
    parts = {f"network.{name}": part for name, part in network.items()} if isinstance(network, dict) else {"network": network}
    if jax.tree.leaves(grads["objective"]):
        parts["objective"] = grads["objective"]
    return {name: float(optax.tree.norm(part)) for name, part in parts.items()}


def _not_finite(tree: PyTree) -> list[str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, x in leaves if not bool(jnp.isfinite(x).all())]
