"""A run, top to bottom: everything is checked, then compiled, then repeated until the steps are done.

    for batches in feed:   state, figures = dispatch(state, batches);   every so often: metrics, held-out loss, callbacks, checkpoint

The host waits for the devices only where something is reported.  At one step the order is metrics, held-out loss, callbacks, checkpoint, so
that a checkpoint holds all that was reported up to it; a run resumed from it repeats the rest bit by bit.  Samplers and pictures are
unknown here: they come as callbacks.  What ends a run before its time is a RunStopped: one line, and nothing lost that was saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import Signals
from typing import Any

import jax

from score_lab.build import refuse
from score_lab.training.carried import carried
from score_lab.training.changes import FINGERPRINT, history_of
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.disk import Disk
from score_lab.training.feed import BEGINNING, Feed, Start, train_stream
from score_lab.training.finetune import starting_leaves, starts_from
from score_lab.training.heldout import make_heldout
from score_lab.training.leftovers import quiet
from score_lab.training.lock import Lock
from score_lab.training.memory import keep_buffers
from score_lab.training.metrics import Metrics, say
from score_lab.training.newest import newest
from score_lab.training.options import plain
from score_lab.training.parallel import Layout
from score_lab.training.parts import Parts
from score_lab.training.prepare import Callback, Plan, prepare
from score_lab.training.record import library_versions, write_workdir
from score_lab.training.reports import Reports, denoiser_of
from score_lab.training.signals import StopRequest
from score_lab.training.snapshots import Snapshots
from score_lab.training.state import TrainState, abstract_state, keys_of
from score_lab.training.tracing import Traced
from score_lab.training.workdir import record_in, record_of

__all__ = ["Trained", "train"]

LONG = 10.0
"""Seconds after which a process that waits for others says so; JAX ends one 30 seconds after the last word of one that has gone."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run ended with.

    Attributes:
      layout: where the state lies.
      state: the last state, after ``step`` updates.
      metrics: the last value of everything that was reported.
      stopped: the name of the signal that ended it before its time, or None; the same in all processes.
    """

    parts: Parts
    layout: Layout
    state: TrainState
    step: int
    metrics: dict[str, float]
    stopped: str | None

    @property
    def denoiser(self) -> Any:
        """The denoiser of the first average (of the parameters themselves where none is kept)."""
        return denoiser_of(self.parts, self.layout, self.state)


def train(
    config: Any,
    workdir: str | Path,
    callbacks: Sequence[Callback] = (),
    checks: Sequence[Callable[[Parts], None]] = (),
    allow: Sequence[str] = (),
) -> Trained:
    """Trains what ``config`` describes in ``workdir``, or goes on with the run that is there.

    Args:
      config: a ConfigDict or dict (options.py).
      workdir: made if need be.
      callbacks: ``(every, fn(denoiser, step) -> dict of metrics or None)``; bytes among them are a PNG for TensorBoard.
      checks: called with the parts before anything is compiled or written; they may raise ConfigError.
      allow: keys and sections of the configuration, "optimizer" or "data.batch_size,data.num_train", in which it may differ from the one
        that the run in ``workdir`` had so far (changes.py).

    From then on the process keeps the buffers that it frees (memory.py).

    Raises ConfigError for a user's error, also where another run is writing the workdir, before anything is compiled or written; Unreadable
    where the newest checkpoint is not known to be damaged and cannot be read; NonFiniteLoss, PipelineFailed or DiskFull, as
    configured, and NotWritten for what a run cannot go on with (stops.py).
    """
    plan = prepare(plain(config), Path(workdir), callbacks, allow)
    for check in checks:
        check(plan.parts)
    if plan.lead:
        say(f"{plan.workdir}: {_described(plan)}; compiling the first steps")
    keep_buffers()
    disk = Disk(plan.workdir, plan.options.disk_full == "go_on", plan.lead)
    with Disk(plan.workdir, go_on=False).writing("what a run begins or ends with", last=True), quiet(), contextlib.ExitStack() as stack:
        state, run = _open(plan, stack, disk)
        step, reports, traced = run.step, run.reports, plan.options.profile if plan.lead else 0
        dispatch = plan.layout.dispatch(plan.parts)
        dispatch = stack.enter_context(Traced(dispatch, plan.workdir / "profile", traced, plan.options.steps - step))
        stopping = False
        for count, (batches, position) in zip(run.counts, run.feed, strict=True):
            reports.throttle()
            state, figures = dispatch(state, batches)
            step += count
            reports.add(figures, step)
            reports.report(step, state)
            run.snapshot(plan, step, state)
            stopping = run.stop.agreed() and step < plan.options.steps  # what is done is done, whoever asks then
            if stopping or plan.due(plan.options.checkpoint_every, step) or step == plan.options.steps:
                with _waiting(plan.workdir, plan.layout.processes, f"checkpoint {step}"):
                    run.checkpoint(plan, step, state, position, last=stopping or step == plan.options.steps)
            run.settle(now=False)
            if stopping:
                break
        stopped = run.stop.named() if stopping else None
    _farewell(plan, step, stopped)
    return Trained(plan.parts, plan.layout, state, step, reports.last, stopped.name if stopped else None)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run that is under way holds: ``step`` updates are done, ``counts`` are those of each dispatch that is left.  ``start`` is
    where its stream begins, ``allowed`` what was changed on the way (changes.py)."""

    step: int
    counts: Sequence[int]
    feed: Feed
    reports: Reports
    checkpoints: Checkpoints
    snapshots: Snapshots | None
    stop: StopRequest
    disk: Disk
    start: Start
    allowed: list[dict[str, Any]]

    def snapshot(self, plan: Plan, step: int, state: TrainState) -> None:
        """Stores the profiles where that is due."""
        if plan.snapshots(step):
            with self.disk.writing("the snapshot before"):
                self.snapshots.wait()
            with self.disk.writing(f"the snapshot of step {step}"):
                self.snapshots.save(step, state.ema[len(plan.options.ema) :])

    def checkpoint(self, plan: Plan, step: int, state: TrainState, position: Any, last: bool) -> None:
        """Saves everything that a run needs to go on from ``step``; returns at once, but after the ``last`` when all is on the disk."""
        pending = self.reports.drain()
        if self.snapshots:
            with self.disk.writing("the snapshot before"):
                self.snapshots.wait()  # a run that goes on from this checkpoint has all of them before it
        self.settle(now=True)
        host = {"step": step, "position": position, "pending": pending, "watch": self.reports.state}
        host |= {"start": dataclasses.asdict(self.start), "record": record_of(plan.parts, library_versions(), self.allowed)}
        with self.disk.writing(f"checkpoint {step}", last):
            (plan.workdir / "config.json").stat()  # without it nobody can go on: Orbax would make a workdir anew that somebody has moved
            self.checkpoints.save(step, state, host, self.reports.last if plan.evaluates(step) else {})
            if last:
                self.checkpoints.wait()

    def settle(self, now: bool) -> None:
        """Has the disk told of a checkpoint that could not be written, at once where that is known, or after a wait for it (``now``)."""
        if now or self.checkpoints.failed:
            with self.disk.writing(f"checkpoint {self.checkpoints.saving}"):
                self.checkpoints.settle()


def _open(plan: Plan, stack: contextlib.ExitStack, disk: Disk) -> tuple[TrainState, _Run]:
    """Locks the workdir, writes its record where it has none, and opens on ``stack`` what the loop writes to and reads from, where the run
    begins or goes on.  The state is apart: every dispatch gives its memory to the next one."""
    keys = keys_of(plan.seed)
    if plan.lead:
        stack.enter_context(Lock(plan.workdir))
        if record_in(plan.workdir) != plan.record:
            refuse("workdir", str(plan.workdir), "one that no other run has just written: the same command again goes on with it")
    if plan.lead and plan.record is None:
        write_workdir(plan.workdir, record_of(plan.parts, library_versions()))
    checkpoints = stack.enter_context(Checkpoints(plan.workdir, plan.options.keep))
    state, host = _begin(plan, checkpoints)
    step, start, allowed = (host[name] for name in ("step", "start", "allowed"))
    snapshots = stack.enter_context(Snapshots(plan.workdir, write=True)) if plan.options.profiles else None
    if snapshots:
        snapshots.drop_after(step)
    heldout = make_heldout(plan.parts, plan.source, plan.layout, keys["heldout"]) if plan.options.eval_every else None
    metrics = stack.enter_context(Metrics(plan.workdir, step)) if plan.lead else None
    reports = Reports(plan, metrics, heldout, disk, host)
    stream = train_stream(plan.parts, plan.source, plan.layout, plan.seed, start)
    if host["position"] is not None:
        stream.set_state(host["position"])
    counts = plan.counts(step)
    feed = stack.enter_context(Feed(stream, plan.layout, counts, step, plan.parts.coupling, keys["train"], plan.options.prefetch))
    stop = stack.enter_context(StopRequest())
    return state, _Run(step, counts, feed, reports, checkpoints, snapshots, stop, disk, start, allowed)


def _begin(plan: Plan, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
    """The state to start from, on all devices, and the host's part of it: fresh, or that of the newest checkpoint."""
    if plan.record is None:
        if plan.lead and plan.parts.origin is not None:
            say(f"{plan.workdir}: {starts_from(plan.parts.origin)}")
        state = plan.layout.fresh(plan.parts, plan.seed, starting_leaves(plan.parts))
        return state, {"step": 0, "position": None, "pending": [], "start": BEGINNING, "allowed": []}
    like = plan.layout.like(abstract_state(plan.parts))
    found, (state, host), damaged = newest(checkpoints, lambda step: checkpoints.restore(like, step))
    if damaged:
        checkpoints.put_aside(damaged)
    checkpoints.seal_again(found)
    host = carried(host, plan.parts)
    allowed = history_of(plan.record, plan.changes, host["step"])
    if plan.lead:
        for step, why in damaged.items():
            say(f"{plan.workdir}: checkpoint {step} is damaged ({why}): passed over, and kept as checkpoints/{step}.damaged")
        say(f"{plan.workdir}: goes on from step {host['step']}")
        for line in _changed(plan, host):
            say(line)
        write_workdir(plan.workdir, record_of(plan.parts, plan.record["versions"], allowed))
    return plan.layout.put(state), host | {"allowed": allowed}


def _changed(plan: Plan, host: dict[str, Any]) -> list[str]:
    """A line for each change that was allowed, and what follows from it."""
    lines = [change.line(host["step"]) for change in plan.changes]
    if any(change.field == FINGERPRINT for change in plan.changes):
        lines += [f"sigma_data stays {plan.parts.sigma_data:.6g}, which the network was trained with so far"]
    if host["start"].batch == host["step"]:
        lines += [f"the data are read on from example {host['start'].example} of their order, {plan.parts.batch_size} for an update"]
    return lines


def _described(plan: Plan) -> str:
    """What is trained, and where: ``DiT, 1.31 M parameters, batch 128, 1 device (cpu) by pmap``."""
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract_state(plan.parts).params))
    return f"{type(plan.parts.network).__name__}, {count / 1e6:.3g} M parameters, batch {plan.parts.batch_size}, {plan.layout.words}"


@contextlib.contextmanager
def _waiting(workdir: Path, processes: int, what: str) -> Iterator[None]:
    """Around what several processes do together: one that is not done with it after LONG seconds says so, before JAX ends it, in many
    lines of its own, where it waits for one that has gone."""
    gone = "if one of them has gone, JAX ends this one too, and the same commands go on from the newest checkpoint"
    line = f"{workdir}: {what} has waited {LONG:g} seconds for the disk or for the other processes: {gone}"
    timer = threading.Timer(LONG, say, [line])
    timer.daemon = True
    if processes > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _farewell(plan: Plan, step: int, stopped: Signals | None) -> None:
    if not plan.lead:
        return
    if step < plan.options.steps:
        say(f"stopped by {stopped.name} at step {step}, which is saved: the same command goes on from there")
    else:
        say(f"{plan.workdir}: {step} steps done; score_lab.load({str(plan.workdir)!r}).denoiser is the result")
