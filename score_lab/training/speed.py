"""What a training step costs on one device, and the figures that the log has of it where ``config.training.mfu`` asks for them.

    flops_per_second = operations of a global batch x images/s / G          (score_lab.cost.flops: products and convolutions)
    mfu              = flops_per_second / (matmul peak of all devices, measured before the run's clock, in the network's dtype)
    bytes_per_second = bytes of a step (XLA's count) on all devices, likewise

The step is compiled once more for that, alone and with its microbatches unrolled, since XLA counts the body of a loop once (with more than
two of them, at one and at two, and a line through both); operations are counted in its jaxpr, with attention written out, for cuDNN's is
no product there.  Where parameters are shared out (mesh.py), bytes are those of the program that XLA partitions: each device updates its
share, and what it gathers is written and read like anything else.  Elsewhere collectives are in neither.
"""

from __future__ import annotations

import dataclasses

import jax

from score_lab.cost import Measured, Peaks, bytes_of_program, flops_of, measured_peaks
from score_lab.denoiser import written_out
from score_lab.training.feed import Feed, train_stream
from score_lab.training.parallel import Layout
from score_lab.training.parts import Parts
from score_lab.training.prepare import Plan
from score_lab.training.state import abstract_state, keys_of
from score_lab.training.step import make_step
from score_lab.types import PyTree

__all__ = ["Speed", "StepCost", "abstract_batch", "cost_of_step", "first_batches", "speed_of"]


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One update on one device, which holds ``batch`` examples of it: operations and bytes moved."""

    batch: int
    flops: float
    moved: float


def first_batches(plan: Plan, steps: int) -> PyTree:
    """The batches of the first ``steps`` steps on the devices, as one dispatch takes them."""
    stream = train_stream(plan.parts, plan.source, plan.layout, plan.seed)
    key = keys_of(plan.seed)["train"]
    with Feed(stream, plan.layout, [steps], 0, plan.parts.coupling, key, 1) as feed:
        return next(iter(feed))[0]


def abstract_batch(plan: Plan) -> PyTree:
    """Shapes and dtypes of the batches of one step, as they are placed."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), first_batches(plan, 1))


def cost_of_step(parts: Parts, batch: PyTree, layout: Layout | None = None) -> StepCost:
    """The cost of an update of ``parts`` on one device, for ``batch`` with leaves (A, m, ...), abstract or not; ``layout``: where the state
    lies, None for one device that holds all of it."""
    state = abstract_state(parts)
    counted = dataclasses.replace(parts, network=written_out(parts.network))
    flops = flops_of(make_step(counted, unroll=True), state, batch)
    count, size = batch["index"].shape
    moved = _moved(parts, layout, batch, min(count, 2))
    if count > 2:
        moved += (count - 2) * (moved - _moved(parts, layout, batch, 1))
    return StepCost(count * size, float(flops), moved)


def _moved(parts: Parts, layout: Layout | None, batch: PyTree, count: int) -> float:
    """Bytes of a step with the first ``count`` microbatches alone, none of them in a loop."""
    some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), batch)
    if layout is not None and layout.shares:
        lowered = layout.dispatch(parts, unroll=True).lower(layout.like(abstract_state(parts)), layout.of_shares(some))
    else:
        lowered = jax.jit(make_step(parts, unroll=True), donate_argnums=0).lower(abstract_state(parts), some)
    return bytes_of_program(lowered.compile())


@dataclasses.dataclass(frozen=True)
class Speed:
    """The cost of a step per device, of all devices of all ``processes`` together, beside this process's peaks."""

    cost: StepCost
    peaks: Peaks
    processes: int

    def measured(self, images_per_second: float) -> Measured:
        """One step on the devices of this process at ``images_per_second`` of all."""
        devices = self.peaks.devices
        seconds = self.cost.batch * devices * self.processes / images_per_second
        return Measured("training step", self.cost.batch, seconds, self.cost.flops * devices, self.cost.moved * devices, self.peaks)

    def figures(self, images_per_second: float) -> dict[str, float]:
        """The metrics of a log line."""
        step = self.measured(images_per_second)
        moved = step.moved / step.seconds * self.processes
        return {"flops_per_second": step.rate * self.processes, "mfu": step.utilisation, "bytes_per_second": moved}

    def line(self, kind: str) -> str:
        """What a step is bound by, in words."""
        step = self.measured(1.0)
        return (
            f"a step on one device: {self.cost.flops / 1e9:.4g} GFLOP, {self.cost.moved / 1e9:.4g} GB moved, "
            f"{step.intensity:.3g} FLOP/byte: {step.bound}-bound; {self.peaks.line(kind)}"
        )


def speed_of(plan: Plan) -> Speed:
    """What the log of ``plan`` needs: its step is traced and compiled, the devices are measured."""
    one = plan.layout.share(abstract_batch(plan))
    peaks = measured_peaks(plan.layout.devices, getattr(plan.parts.network, "dtype", None))
    return Speed(cost_of_step(plan.parts, one, plan.layout), peaks, plan.layout.processes)
