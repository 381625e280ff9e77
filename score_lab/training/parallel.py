"""How a run lies on its devices: data parallelism by ``jax.pmap``, the default, or a mesh (mesh.py); several steps in one compiled call.

    global batch (G, ...)  =  processes x local devices D x microbatches A x m,      examples keep their global index
    dispatch(state, batches) -> (state, metrics (K,)),      batches: leaves (D, K, A, m, ...) for K steps

``Layout`` is everything that the rest of training asks of either: where a state lies (``put``, ``like``, ``fresh``), where batches do
(``place``), the compiled steps (``dispatch``), sums over all examples (``summed``) and a copy of parameters on one device (``local``).

Under ``pmap`` the state is mapped with ``in_axes=None, out_axes=None``: it is replicated where it lies, nobody adds or strips a device
axis, and its buffers are donated.  K > 1 is a ``lax.scan`` of the same step.  XLA's CPU backend runs a convolution's weight gradient about
100 times slower inside a scan, so that there K is 1 and microbatches are unrolled.  One device runs the same code: its price beside
``jax.jit`` is some microseconds a dispatch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.training.parts import Parts
from score_lab.training.state import TrainState, init_state
from score_lab.training.step import make_step
from score_lab.types import Array, PyTree

__all__ = ["AXIS", "Layout", "in_flight", "layout_of", "scanned", "slow_in_scan", "steps_per_dispatch"]

AXIS = "device"
AUTO = 10
"""The most steps in a dispatch that "auto" asks for."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a run lies on the devices, by ``jax.pmap``.

    Attributes:
      batch_size: G, over all processes.
      accumulate: A, microbatches.
      devices: the local devices used.
      processes, process: how many there are, and which one this is.
    """

    batch_size: int
    accumulate: int
    devices: tuple[Any, ...]
    processes: int
    process: int

    @property
    def local_size(self) -> int:
        """Examples of a global batch that this process holds."""
        return self.batch_size // self.processes

    @property
    def words(self) -> str:
        """Where a run computes: ``4 devices (cpu) by pmap``."""
        return f"{self._counted(len(self.devices) * self.processes)} by pmap"

    def _counted(self, count: int) -> str:
        several = f" of {self.processes} processes" if self.processes > 1 else ""
        return f"{count} device{'s' if count > 1 else ''} ({self.devices[0].device_kind}){several}"

    @property
    def sharding(self) -> jax.sharding.NamedSharding:
        """Of arrays whose first axis runs over the local devices."""
        return jax.sharding.NamedSharding(self._mesh, jax.P(AXIS))

    @property
    def replicated(self) -> jax.sharding.NamedSharding:
        """Of arrays that every local device holds."""
        return jax.sharding.NamedSharding(self._mesh, jax.P())

    @property
    def _mesh(self) -> jax.sharding.Mesh:
        return jax.sharding.Mesh(np.array(self.devices), (AXIS,))

    def place(self, batches: Sequence[PyTree]) -> PyTree:
        """This process's rows of K global batches, each with leaves (G / processes, ...), on the devices: leaves (D, K, A, m, ...)."""
        shape = (len(self.devices), self.accumulate, self.local_size // (len(self.devices) * self.accumulate))

        def one(*leaves: np.ndarray) -> Array:
            split = [x.reshape(shape + x.shape[1:]) for x in leaves]
            return jax.device_put(np.stack(split, axis=1), self.sharding)

        return jax.tree.map(one, *batches)

    def rows(self, batches: PyTree) -> PyTree:
        """The first of the batches that ``place`` has put on the devices, as it was: leaves (G / processes, ...)."""
        return jax.tree.map(lambda x: np.asarray(x)[:, 0].reshape(-1, *x.shape[4:]), batches)

    def share(self, batches: PyTree) -> PyTree:
        """Shapes of what one device holds of one step of ``batches``, as placed: leaves (A, m, ...)."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), batches)

    def shapes(self, batches: PyTree, several: int, factor: int = 1) -> PyTree:
        """Shapes and places of ``several`` steps of batches of ``factor`` times the examples of ``batches``."""

        def one(x: Any) -> jax.ShapeDtypeStruct:
            d, _, a, m, *rest = x.shape
            return jax.ShapeDtypeStruct((d, several, a, factor * m, *rest), x.dtype)

        return jax.tree.map(one, batches)

    @property
    def shares(self) -> bool:
        """Whether arrays of the state are shared out among devices."""
        return False

    def check(self, parts: Parts) -> None:
        """Raises ConfigError where the arrays of ``parts`` do not fit."""

    def fresh(self, parts: Parts, seed: int, leaves: Mapping[str, Any] | None = None) -> TrainState:
        """The state at step 0, where it will lie; ``leaves``: see init_state."""
        return self.put(init_state(parts, seed, leaves))

    def put(self, state: PyTree) -> PyTree:
        """A state that every process holds whole, or that was read into the places of ``like``, where it will lie."""
        return jax.device_put(state, self.replicated)

    def like(self, state: PyTree) -> PyTree:
        """Shapes and dtypes of a state to be read from a checkpoint, and where each leaf is read to (nowhere said: the first device)."""
        return state

    def dispatch(self, parts: Parts) -> Callable:
        """``dispatch(state, batches) -> (state, metrics (K,))`` on all devices; compiled once per K.  ``state`` is donated."""
        unroll = slow_in_scan(parts.network)
        axis = AXIS if len(self.devices) * self.processes > 1 else None  # a sum over one device copies every gradient
        several = scanned(make_step(parts, axis, unroll), unroll)
        return jax.pmap(several, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)

    def summed(self, parts: Parts, function: Callable) -> Callable:
        """``(params, batches, number) -> sum over the devices`` of what ``function`` gives of the rows (m, ...) that each holds of one
        batch placed without microbatches."""

        def on_each(params: PyTree, batches: PyTree, number: Array) -> PyTree:
            return jax.lax.psum(function(params, jax.tree.map(lambda x: x[0, 0], batches), number), AXIS)

        return jax.pmap(on_each, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)

    def local(self, params: PyTree) -> PyTree:
        """``params`` whole on one device of this process, in buffers of their own, which outlive the state's."""
        return jax.tree.map(lambda x: jnp.copy(x.addressable_data(0)), params)


def scanned(step: Callable, unroll: bool) -> Callable:
    """``(state, batches) -> (state, metrics (K,))``: ``step`` over the K batches of one device, leaves (K, A, m, ...)."""

    def several(state: PyTree, batches: PyTree) -> tuple[PyTree, dict[str, Array]]:
        count = batches["index"].shape[0]
        if count > 1:
            return jax.lax.scan(step, state, batches, unroll=count if unroll else 1)
        state, metrics = step(state, jax.tree.map(lambda x: x[0], batches))
        return state, jax.tree.map(lambda x: x[None], metrics)

    return several


def layout_of(batch_size: int, accumulate: int = 1, devices: int | None = None) -> Layout:
    """The layout of this run, or ConfigError where the batch cannot be shared evenly or there are fewer devices than asked for."""
    local = jax.local_devices()
    if devices is not None and devices > len(local):
        refuse("config.training.devices", devices, f"at most {len(local)}, the local devices there are, or None for all")
    if devices is not None and jax.process_count() > 1:
        refuse("config.training.devices", devices, "None where there are several processes: all devices of each are used")
    used = tuple(local[: devices or len(local)])
    processes = jax.process_count()
    shares = len(used) * processes
    if batch_size % shares:
        refuse("config.data.batch_size", batch_size, f"a multiple of {shares}, the number of devices{_nearby(batch_size, shares)}")
    if batch_size // shares % accumulate:
        each = f"the examples of a batch on each device (config.data.batch_size = {batch_size} on {shares} devices)"
        refuse("config.training.accumulate", accumulate, f"a divisor of {batch_size // shares}, {each}")
    return Layout(batch_size, accumulate, used, processes, jax.process_index())


def slow_in_scan(network: Any) -> bool:
    """Whether loops over this network's gradient must be unrolled: convolutions on CPU."""
    return bool(getattr(network, "uses_convolution", False)) and jax.default_backend() == "cpu"


def steps_per_dispatch(parts: Parts, cadences: Sequence[int]) -> int:
    """K: a divisor of every number of ``cadences`` (steps between logs, checkpoints, ...), so that each falls between two dispatches."""
    asked = parts.options.steps_per_dispatch
    common = math.gcd(*cadences)
    if asked == "auto":
        return 1 if slow_in_scan(parts.network) else max(k for k in range(1, AUTO + 1) if common % k == 0)
    if common % asked:
        refuse(
            "config.training.steps_per_dispatch",
            asked,
            f"'auto' or a divisor of {common}, which log_every, eval_every, checkpoint_every and the callbacks have in common",
        )
    return asked


def in_flight(layout: Layout) -> int:
    """How many dispatches may run ahead of the host.

    Several devices on one CPU share a pool of threads, in which queued collectives would wait for each other forever.
    """
    return 1 if layout.devices[0].platform == "cpu" and len(layout.devices) > 1 else 3


def _nearby(size: int, shares: int) -> str:
    low = size // shares * shares
    return f": {low} or {low + shares}" if low else f": {shares}"
