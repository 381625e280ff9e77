"""What is reported on the way, and when: means since the last line, held-out loss, callbacks, and the stop at a loss that is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from score_lab.training.metrics import Metrics, mean_of, progress_line, say
from score_lab.training.parallel import in_flight
from score_lab.training.parts import Parts
from score_lab.training.prepare import Plan
from score_lab.training.speed import speed_of
from score_lab.training.state import TrainState

__all__ = ["NonFiniteLoss", "Reports", "denoiser_of"]


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient became infinite or NaN; the message says at which step and what to try."""


def denoiser_of(parts: Parts, state: TrainState) -> Any:
    """The first average's denoiser on one device, in buffers of its own, which outlive the state's."""
    params = state.ema[0] if state.ema else state.params
    return parts.denoiser(jax.tree.map(lambda x: jnp.copy(x.addressable_data(0)), params))


class Reports:
    """The figures of the steps since the last line (on the devices until they are needed), and everything that is made of them.

    Args:
      metrics: where lines are written; None in a process that is not the first.
      heldout: the evaluation, or None for never.
      step, pending: where the run begins, and the figures since the last line before it.
    """

    def __init__(self, plan: Plan, metrics: Metrics | None, heldout: Callable | None, step: int, pending: Sequence[dict]):
        self.plan, self.metrics, self.heldout = plan, metrics, heldout
        self.last: dict[str, float] = {}
        self._steps = [dict(figures) for figures in pending]
        self._fetched = step
        self._flying: list[dict[str, jax.Array]] = []
        self._limit = in_flight(plan.layout)
        self._speed = speed_of(plan) if plan.options.mfu else None
        if self._speed and plan.lead:
            say(self._speed.line(plan.layout.devices[0].device_kind))
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

    def report(self, step: int, state: TrainState) -> None:
        """Whatever is due after ``step``: a line of means, the held-out loss, the callbacks.  Raises NonFiniteLoss."""
        plan, options = self.plan, self.plan.options
        values: dict[str, float] = {}
        if plan.due(options.log_every, step):
            values |= mean_of(self.drain())
            self._steps = []
            values |= self._time(step)
        if self.heldout is not None and plan.evaluates(step):
            self.drain()
            values |= self.heldout(state)
        for every, function in plan.callbacks:
            if plan.due(every, step):
                self.drain()
                values |= function(denoiser_of(plan.parts, state), step) or {}
        if values:
            self._write(step, values)

    def drain(self) -> list[dict[str, float]]:
        """The figures of every step since the last line, fetched and found finite.  Raises NonFiniteLoss."""
        for figures in jax.device_get(self._flying):
            names = list(figures)
            for row in zip(*(figures[name].tolist() for name in names), strict=True):
                self._fetched += 1
                self._steps.append(dict(zip(names, row, strict=True)))
                self._check(self._steps[-1])
        self._flying = []
        return self._steps

    def _check(self, figures: dict[str, float]) -> None:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(figures[name])]
        if bad:
            raise NonFiniteLoss(
                f"{bad[0]} is {figures[bad[0]]} at step {self._fetched}: stopped; the checkpoints in {self.plan.workdir} are from before; "
                f"try a lower config.optimizer.learning_rate, a longer config.optimizer.warmup, config.optimizer.clip=1.0, or "
                f"config.network.dtype=float32, in another workdir"
            )

    def _time(self, step: int) -> dict[str, float]:
        """Seconds since this process began to train, and since the last line images per second, with what ``mfu`` asks for."""
        began, first = self._clock
        now = time.perf_counter()
        figures = {"seconds": now - self._begun}
        if step > first:
            figures["images_per_second"] = (step - first) * self.plan.parts.batch_size / (now - began)
            figures |= self._speed.figures(figures["images_per_second"]) if self._speed else {}
        return figures

    def _write(self, step: int, values: dict[str, float]) -> None:
        """The values as a line of each kind; what held-out loss and callbacks took is not counted as training."""
        self.last |= values
        if self.metrics is not None:
            rate = self.last.get("images_per_second", 0.0)
            left = (self.plan.options.steps - step) * self.plan.parts.batch_size / rate if rate else math.inf
            self.metrics.write(step, values)
            say(progress_line(step, self.plan.options.steps, values | {"images_per_second": rate}, left))
        if "seconds" in values:
            self._clock = (time.perf_counter(), step)
