"""A run, top to bottom: everything is checked, then compiled, then repeated until the steps are done.

    for batches in feed:   state, figures = dispatch(state, batches);   every so often: metrics, held-out loss, callbacks, checkpoint

The host waits for the devices only where something is reported.  At one step the order is metrics, held-out loss, callbacks, checkpoint, so
that a checkpoint holds all that was reported up to it; a run resumed from it repeats the rest bit by bit.  Samplers and pictures are
unknown here: they come as callbacks.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from score_lab.build import refuse
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.feed import Feed, train_stream
from score_lab.training.heldout import make_heldout
from score_lab.training.lock import Lock
from score_lab.training.memory import keep_buffers
from score_lab.training.metrics import Metrics, say
from score_lab.training.options import plain
from score_lab.training.parallel import make_dispatch
from score_lab.training.parts import Parts
from score_lab.training.prepare import Callback, Plan, prepare
from score_lab.training.record import library_versions, write_workdir
from score_lab.training.reports import NonFiniteLoss, Reports, denoiser_of
from score_lab.training.signals import StopRequest
from score_lab.training.snapshots import Snapshots
from score_lab.training.state import TrainState, abstract_state, init_state, keys_of
from score_lab.training.tracing import Traced
from score_lab.training.workdir import check_workdir, record_of

__all__ = ["NonFiniteLoss", "Trained", "train"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run ended with.

    Attributes:
      state: the last state, after ``step`` updates.
      metrics: the last value of everything that was reported.
      stopped: the name of the signal that ended it before its time, or None.
    """

    parts: Parts
    state: TrainState
    step: int
    metrics: dict[str, float]
    stopped: str | None

    @property
    def denoiser(self) -> Any:
        """The denoiser of the first average (of the parameters themselves where none is kept)."""
        return denoiser_of(self.parts, self.state)


def train(config: Any, workdir: str | Path, callbacks: Sequence[Callback] = (), checks: Sequence[Callable[[Parts], None]] = ()) -> Trained:
    """Trains what ``config`` describes in ``workdir``, or goes on with the run that is there.

    Args:
      config: a ConfigDict or dict (options.py).
      workdir: made if need be.
      callbacks: ``(every, fn(denoiser, step) -> dict of metrics or None)``.
      checks: called with the parts before anything is compiled or written; they may raise ConfigError.

    From then on the process keeps the buffers that it frees (memory.py).

    Raises ConfigError for a user's error, also where another run is writing the workdir, before anything is compiled or written, and
    NonFiniteLoss when the loss or the gradient is infinite or NaN.
    """
    plan = prepare(plain(config), Path(workdir), callbacks)
    for check in checks:
        check(plan.parts)
    keep_buffers()
    with contextlib.ExitStack() as stack:
        state, run = _open(plan, stack)
        step, reports, snapshots = run.step, run.reports, run.snapshots
        traced = plan.options.profile if plan.lead else 0
        dispatch = stack.enter_context(Traced(make_dispatch(plan.parts), plan.workdir / "profile", traced, plan.options.steps - step))
        stopping = False
        for count, (batches, position) in zip(run.counts, run.feed, strict=True):
            reports.throttle()
            state, figures = dispatch(state, batches)
            step += count
            reports.add(figures, step)
            reports.report(step, state)
            if plan.snapshots(step):
                snapshots.save(step, state.ema[len(plan.options.ema) :])
            stopping = run.stop.agreed(meeting=plan.due(plan.options.log_every, step))
            if stopping or plan.due(plan.options.checkpoint_every, step) or step == plan.options.steps:
                pending = reports.drain()
                if snapshots:
                    snapshots.wait()  # a run that goes on from this checkpoint has all of them before it
                host = {"step": step, "position": position, "pending": pending, "record": record_of(plan.parts, library_versions())}
                run.checkpoints.save(step, state, host, reports.last if plan.evaluates(step) else {})
            if stopping:
                break
        run.checkpoints.wait()
    _farewell(plan, step, run.stop)
    stopped = run.stop.signal.name if stopping and run.stop.signal else None
    return Trained(plan.parts, state, step, reports.last, stopped)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run that is under way holds: ``step`` updates are done, ``counts`` are those of each dispatch that is left."""

    step: int
    counts: Sequence[int]
    feed: Feed
    reports: Reports
    checkpoints: Checkpoints
    snapshots: Snapshots | None
    stop: StopRequest


def _open(plan: Plan, stack: contextlib.ExitStack) -> tuple[TrainState, _Run]:
    """Locks the workdir, writes its record where it has none, and opens on ``stack`` what the loop writes to and reads from, where the run
    begins or goes on.  The state is apart: every dispatch gives its memory to the next one."""
    keys = keys_of(plan.seed)
    if plan.lead:
        stack.enter_context(Lock(plan.workdir))
        if (check_workdir(plan.workdir, plan.parts.config) is None) != (plan.record is None):
            refuse("workdir", str(plan.workdir), "one that no other run has just written: the same command again goes on with it")
    if plan.lead and plan.record is None:
        write_workdir(plan.workdir, record_of(plan.parts, library_versions()))
    checkpoints = stack.enter_context(Checkpoints(plan.workdir, plan.options.keep))
    state, host = _begin(plan, checkpoints)
    step = host["step"]
    snapshots = stack.enter_context(Snapshots(plan.workdir, write=True)) if plan.options.profiles else None
    if snapshots:
        snapshots.drop_after(step)
    heldout = make_heldout(plan.parts, plan.source, plan.layout, keys["heldout"]) if plan.options.eval_every else None
    metrics = stack.enter_context(Metrics(plan.workdir, step)) if plan.lead else None
    reports = Reports(plan, metrics, heldout, step, host["pending"])
    stream = train_stream(plan.parts, plan.source, plan.layout, plan.seed)
    if host["position"] is not None:
        stream.set_state(host["position"])
    counts = plan.counts(step)
    feed = stack.enter_context(Feed(stream, plan.layout, counts, step, plan.parts.coupling, keys["train"], plan.options.prefetch))
    return state, _Run(step, counts, feed, reports, checkpoints, snapshots, stack.enter_context(StopRequest()))


def _begin(plan: Plan, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
    """The state to start from, on all devices, and the host's part of it: fresh, or that of the newest checkpoint."""
    if plan.record is None:
        return jax.device_put(init_state(plan.parts, plan.seed), plan.layout.replicated), {"step": 0, "position": None, "pending": []}
    like = abstract_state(plan.parts)
    _, (state, host), damaged = checkpoints.newest(lambda step: checkpoints.restore(like, step))
    if damaged:
        checkpoints.put_aside(damaged)
    if plan.lead:
        for step, why in damaged.items():
            say(f"{plan.workdir}: checkpoint {step} is damaged ({why}): passed over, and kept as checkpoints/{step}.damaged")
        say(f"{plan.workdir}: goes on from step {host['step']}")
        write_workdir(plan.workdir, record_of(plan.parts, plan.record["versions"]))
    return jax.device_put(state, plan.layout.replicated), host


def _farewell(plan: Plan, step: int, stop: StopRequest) -> None:
    if not plan.lead:
        return
    if step < plan.options.steps:
        why = f" by {stop.signal.name}" if stop.signal else ""
        say(f"stopped{why} at step {step}, which is saved: the same command goes on from there")
    else:
        say(f"{plan.workdir}: {step} steps done; score_lab.load({str(plan.workdir)!r}).denoiser is the result")
