"""Makes one update of a run again, exactly, from the newest checkpoint before it, and looks at what in it is not finite.

    state at STEP - 1   =   the checkpoint, and the updates between them made again with their batches, keys and dispatches, each under the
                            configuration of its time where that was changed on the way (changes.py)
    then, at that state and that batch:   l_i and log_snr_i of every example,   g = grad of the mean of l_i,   || g || of every part

What went wrong first is the first of: a parameter that was not finite before the update; an example whose loss is not; an example whose own
gradient is not, found one by one; only the gradient of the sum (an overflow).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_lab.build import refuse
from score_lab.training.carried import carried
from score_lab.training.changes import record_at
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.feed import Feed, Start, train_stream
from score_lab.training.finetune import starting_leaves
from score_lab.training.nonfinite import examples_of
from score_lab.training.prepare import Plan, here, prepare
from score_lab.training.record import read_workdir
from score_lab.training.state import TrainState, abstract_state, keys_of
from score_lab.training.step import loss_of
from score_lab.training.workdir import record_of
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
      since: the changes of the configuration that the run has made since, or that do not hold for this update: entries of ``allowed``.
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
    since: list[dict[str, Any]]


def replay(workdir: str | Path, step: int) -> Replay:
    """The update of the run in ``workdir`` that made ``step`` of ``step - 1``.  Nothing is written.

    One that WORKDIR/nonfinite/STEP.json tells of is made again as it was then, even where the run has gone back since and made that step
    under another configuration.  A mesh that does not fit the devices that are here is left out (``prepare.here``).

    Raises ConfigError for a directory that is no workdir, a step outside the run, and data that are not those of the run.
    """
    workdir = Path(workdir)
    record, told = read_workdir(workdir), recorded(workdir, step)
    history = record.get("allowed", [])
    history, undone = (history, []) if told is None else (history[: told.get("changes", 0)], history[told.get("changes", 0) :])
    record = record_at(record, len(history))
    steps = record["config"]["training"]["steps"]
    if not 1 <= step <= steps:
        refuse("step", step, f"an int from 1 to {steps}, the steps of the run in {workdir}")
    start, plan, stream, state, batch = _before(workdir, record, step, min((entry["step"] for entry in undone), default=step))
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
        examples=examples_of(plan, step - 1, stream),
        norms=_norms(grads),
        parameters=parameters,
        gradients=gradients,
        culprits=culprits,
        culprit=culprit if culprits else None,
        since=[entry for entry in history if entry["step"] >= step] + undone,
    )


def recorded(workdir: str | Path, step: int) -> dict[str, Any] | None:
    """What WORKDIR/nonfinite/STEP.json says, or None where there is no such file."""
    file = Path(workdir) / "nonfinite" / f"{step}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _before(workdir: Path, record: dict[str, Any], step: int, common: int) -> tuple[int, Plan, Start, TrainState, PyTree]:
    """``(step of the checkpoint, plan of the update, start of its stream, the state at step - 1 on all devices, the global batch)``.

    Checkpoints after ``common`` are not of the run of ``record``, which has gone back since.
    """
    history = record.get("allowed", [])

    @functools.cache
    def plan_of(count: int) -> Plan:
        past = record_at(record, count)
        return prepare(here(past["config"])[0], workdir, past=past)

    def plan_at(done: int) -> Plan:
        """Of the update after ``done`` of them."""
        return plan_of(sum(entry["step"] <= done for entry in history))

    saved, state, host = _begin(plan_at(step - 1), min(step - 1, common))
    changed = sorted({entry["step"] for entry in history if saved < entry["step"] < step})
    for done, last in zip([saved, *changed], [*changed, step], strict=True):
        plan = plan_at(done)
        host = carried(host, plan.parts)
        state, batch, position = _made(plan, state, host, last, last == step)
        start = host["start"]
        host = {"step": last, "position": position, "start": dataclasses.asdict(start), "record": record_of(plan.parts, {})}
    return saved, plan, start, state, jax.tree.map(jnp.asarray, plan.layout.rows(batch))


def _made(plan: Plan, state: TrainState, host: dict[str, Any], last: int, stop: bool) -> tuple[TrainState, PyTree, Any]:
    """``(state, batch of the update that makes ``last``, position behind it)``: the state at ``last``, or with ``stop`` the one before.

    The dispatches are those of the run as far as they end in time, and then single steps.
    """
    counts, done = [], host["step"]
    for count in plan.counts(done):
        if done + count > last - stop:
            break
        counts.append(count)
        done += count
    counts += [1] * (last - done)
    stream = train_stream(plan.parts, plan.source, plan.layout, plan.seed, host["start"])
    if host["position"] is not None:
        stream.set_state(host["position"])
    dispatch, key = plan.layout.dispatch(plan.parts), keys_of(plan.seed)["train"]
    with Feed(stream, plan.layout, counts, host["step"], plan.parts.coupling, key, plan.options.prefetch) as feed:
        for number, item in enumerate(feed, 1):
            if number < len(counts) or not stop:
                state, _ = dispatch(state, item[0])
    return state, *item


def _begin(plan: Plan, step: int) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest checkpoint up to ``step`` that can be read, or what a run begins with."""
    if (plan.workdir / "checkpoints").is_dir():
        with Checkpoints(plan.workdir) as checkpoints:
            for saved in sorted((s for s in checkpoints.steps if s <= step), reverse=True):
                if checkpoints.damage(saved) is None:
                    state, host = checkpoints.restore(plan.layout.like(abstract_state(plan.parts)), saved)
                    return saved, plan.layout.put(state), host
    fresh = plan.layout.fresh(plan.parts, plan.seed, starting_leaves(plan.parts))
    return 0, fresh, {"step": 0, "position": None, "record": record_of(plan.parts, {})}


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
