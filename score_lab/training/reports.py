"""What is reported on the way, and when: means since the last line, held-out loss, callbacks, spikes, and updates that are not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from score_lab.training.disk import Disk
from score_lab.training.levels import COUNTS, SUMS, histograms, loss_by_level
from score_lab.training.metrics import Metrics, mean_of, progress_line, say
from score_lab.training.nonfinite import bad_figure, write_down
from score_lab.training.parallel import Layout, in_flight
from score_lab.training.parts import Parts
from score_lab.training.prepare import Plan
from score_lab.training.skip import SKIPPED
from score_lab.training.speed import speed_of
from score_lab.training.spikes import Spikes
from score_lab.training.state import TrainState, abstract_state
from score_lab.training.stops import NonFiniteLoss

__all__ = ["SPIKES", "Reports", "denoiser_of"]

SPIKES = "spikes"
"""Among the figures of a step: 1 where it was a spike."""
MOST_NAMED = 3
"""Spikes that one line of the terminal names."""


def denoiser_of(parts: Parts, layout: Layout, state: TrainState) -> Any:
    """The first average's denoiser on one device, in buffers of its own, which outlive the state's."""
    return parts.denoiser(layout.local(state.ema[0] if state.ema else state.params))


class Reports:
    """The figures of the steps since the last line (on the devices until they are needed), and everything that is made of them.

    Args:
      metrics: where lines are written; None in a process that is not the first.
      heldout: the evaluation, or None for never.
      disk: what is done where there is no space.
      host: where the run begins: ``step``, ``pending`` (the figures since the last line before it), ``watch`` (``state``), ``start`` of
        its stream and ``allowed``, what was changed on the way.
    """

    def __init__(self, plan: Plan, metrics: Metrics | None, heldout: Callable | None, disk: Disk, host: Mapping[str, Any]):
        self.plan, self.metrics, self.heldout, self.disk = plan, metrics, heldout, disk
        self.last: dict[str, float] = {}
        step, watch = host["step"], host.get("watch") or {}
        self._start, self._changes = host["start"], len(host["allowed"])
        self._steps = [dict(figures) for figures in host["pending"]]
        self._in_a_row = watch.get("in_a_row", 0)
        self._spikes = Spikes(plan.options.spike_window, plan.options.spike_threshold, watch.get("spikes"))
        self._fetched = step
        self._flying: list[dict[str, jax.Array]] = []
        self._limit = in_flight(plan.layout)
        self._speed = speed_of(plan) if plan.options.mfu else None
        if self._speed and plan.lead:
            say(self._speed.line(plan.layout.devices[0].device_kind))
        if (count := plan.snapshots_after(step)) and plan.lead:
            size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract_state(plan.parts).ema[len(plan.options.ema) :]))
            every = f", one every {plan.snapshot_every} steps" if plan.snapshot_every else ", at the end"
            say(f"{plan.workdir}: {count} snapshot{'s' if count > 1 else ''} of {size / 2**20:.3f} MiB will be written{every}")
        self._begun = time.perf_counter()
        self._clock: tuple[float, int] | None = None

    def throttle(self) -> None:
        """Waits until the devices are no more than a few dispatches behind the host."""
        if len(self._flying) >= self._limit:
            jax.block_until_ready(self._flying[-self._limit])

    def add(self, figures: dict[str, jax.Array], step: int) -> None:
        """Takes the figures, (K,) each, of the dispatch that ended at ``step``.  The clock starts behind the first, which was compiled."""
        self._flying.append(figures)
        if self._clock is None:
            jax.block_until_ready(figures)
            self._clock = (time.perf_counter(), step)

    @property
    def state(self) -> dict[str, Any]:
        """What a run that goes on must know to find what this one finds: updates skipped in a row, and the windows of spikes."""
        return {"in_a_row": self._in_a_row, "spikes": self._spikes.state}

    def report(self, step: int, state: TrainState) -> None:
        """Whatever is due after ``step``: a line of means, the held-out loss, the callbacks.  Raises NonFiniteLoss."""
        plan, options = self.plan, self.plan.options
        values: dict[str, float] = {}
        pictures: dict[str, Any] = {}
        images: dict[str, bytes] = {}
        if plan.due(options.log_every, step):
            values, pictures = self._means(self.drain())
            self._steps = []
            values |= self._time(step)
        evaluates = self.heldout is not None and plan.evaluates(step)
        due = [function for every, function in plan.callbacks if plan.due(every, step)]
        if not (values or evaluates or due):
            return
        self.drain()
        paused = time.perf_counter()
        if evaluates:
            values |= self.heldout(state)
        for function in due:
            with self.disk.writing(f"what {getattr(function, '__name__', 'a callback')} makes of step {step}"):
                made = function(denoiser_of(plan.parts, plan.layout, state), step) or {}
                images |= {name: value for name, value in made.items() if isinstance(value, bytes)}
                values |= {name: value for name, value in made.items() if not isinstance(value, bytes)}
        if values or images:
            self._write(step, values, pictures, images)
        began, first = self._clock
        self._clock = began + time.perf_counter() - paused, first

    def drain(self) -> list[dict[str, Any]]:
        """The figures of every step since the last line, fetched and looked at.  Raises NonFiniteLoss."""
        finite = []
        for figures in jax.device_get(self._flying):
            names = list(figures)
            for row in zip(*(figures[name].tolist() for name in names), strict=True):
                self._fetched += 1
                self._steps.append(dict(zip(names, row, strict=True)))
                if self._check(self._steps[-1]):
                    finite.append((self._fetched, self._steps[-1]))
        self._flying = []
        self._look(finite)
        return self._steps

    def _means(self, steps: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, Any]]:
        """What a line says of ``steps``, and the histograms: means of the updates that were made; counts of those that were not."""
        made, edges = [step for step in steps if not step.get(SKIPPED)], self.plan.options.loss_edges
        apart = (SUMS, COUNTS, SKIPPED, SPIKES)
        values = mean_of([{name: x for name, x in step.items() if name not in apart} for step in made]) if made else {}
        pictures: dict[str, Any] = {}
        if edges and made and SUMS in made[-1]:
            values |= loss_by_level(made, edges)
            pictures = histograms(made, edges)
        counted = {name: float(sum(step.get(name, 0.0) for step in steps)) for name in (SKIPPED, SPIKES) if any(name in s for s in steps)}
        return values | counted, pictures

    def _look(self, steps: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Marks the spikes among ``steps`` and says so, in one line."""
        spikes = self._spikes.found(steps)
        if self.plan.options.spike_threshold:
            for step, figures in steps:
                figures[SPIKES] = float(step in spikes)
        if spikes and self.plan.lead:
            named = "; ".join(f"step {step}, {what}" for step, what in list(spikes.items())[:MOST_NAMED])
            more = f" and {len(spikes) - MOST_NAMED} more" if len(spikes) > MOST_NAMED else ""
            say(f"spike: {named}{more}")

    def _check(self, figures: Mapping[str, Any]) -> bool:
        """Whether the update was finite; else it is written down, and NonFiniteLoss raised where the run is not to go on."""
        bad = bad_figure(figures)
        if bad is None:
            self._in_a_row = 0
            return True
        options, step, workdir = self.plan.options, self._fetched, self.plan.workdir
        self._in_a_row += 1
        if self.plan.lead:
            with self.disk.writing(f"nonfinite/{step}.json"):
                write_down(self.plan, step, figures, self._start, self._changes)
        what, again = f"{bad} is {figures[bad]} at step {step}", f"python -m experiments.replay --workdir {workdir} --step {step}"
        if options.nonfinite == "skip" and self._in_a_row <= options.nonfinite_limit:
            if self.plan.lead:
                say(f"{what}: left out, {self._in_a_row} in a row; see why: {again}")
            return False
        row = f", and {self._in_a_row - 1} before it, more than config.training.nonfinite_limit" if options.nonfinite == "skip" else ""
        raise NonFiniteLoss(
            f"{what}{row}: stopped; the checkpoints in {workdir} are from before; "
            f"see why: {again}; "
            f"try a lower config.optimizer.learning_rate, a longer config.optimizer.warmup, config.optimizer.clip=1.0, or "
            f"config.network.dtype=float32, in another workdir, or what --allow lets change in this one; "
            f"or leave such updates out here: config.training.nonfinite=skip"
        )

    def _time(self, step: int) -> dict[str, float]:
        """Seconds since this process began to train, and since the last line images per second, with what ``mfu`` asks for.

        The clock of the latter, ``(when it began, after which step)``, begins anew.  It stands still for held-out losses, callbacks and
        lines at whatever step (``report``), and runs on while a checkpoint is begun.
        """
        began, first = self._clock
        now = time.perf_counter()
        self._clock = now, step
        figures = {"seconds": now - self._begun}
        if step > first:
            figures["images_per_second"] = (step - first) * self.plan.parts.batch_size / (now - began)
            figures |= self._speed.figures(figures["images_per_second"]) if self._speed else {}
        return figures

    def _write(self, step: int, values: dict[str, float], pictures: Mapping[str, Any], images: Mapping[str, bytes]) -> None:
        """The values as a line of each kind."""
        self.last |= values
        if self.metrics is not None:
            rate = self.last.get("images_per_second", 0.0)
            left = (self.plan.options.steps - step) * self.plan.parts.batch_size / rate if rate else math.inf
            with self.disk.writing(f"the line of step {step} in metrics.jsonl and events"):
                self.metrics.write(step, values, pictures, images)
            if values:
                say(progress_line(step, self.plan.options.steps, values | {"images_per_second": rate}, left))
