"""A mesh of devices in place of ``jax.pmap``: one program over all of them, parameters shared out among some (FSDP, ZeRO-3).

    config.parallel = {"fsdp": f, "data": d},      d f devices;      global batch over all d f,  parameters, optimizer and averages over f

The step is the one of step.py, not mapped: a batch is (A, G / A, ...) of which every device holds some rows, sums over it are XLA's
collectives.  Of an array of at least ``min_size`` numbers the largest axis that ``fsdp`` divides is shared out (the first, of equal ones),
so that a device holds 1 / f of it; a rule by name comes before that.  Parameters are gathered for the loss; their gradient is added up
over all devices, and each updates its own share of parameters, optimizer and averages.

Rows carry their index in the global batch, so which device holds which row changes nothing but the order of sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import nearest, refuse
from score_lab.training.names import leaf_name, matches, named
from score_lab.training.options import ParallelOptions
from score_lab.training.parallel import Layout, scanned, slow_in_scan
from score_lab.training.parts import Parts
from score_lab.training.state import TrainState, abstract_state, init_state
from score_lab.training.step import make_step
from score_lab.types import Array, PyTree

__all__ = ["Meshed", "shared_axis"]

DATA, FSDP = "data", "fsdp"


def shared_axis(name: str, shape: Sequence[int], options: ParallelOptions) -> int | None:
    """The axis of an array of this ``name`` and ``shape`` that is shared out among ``options.fsdp`` devices, None for none.

    Raises ConfigError for a rule whose axis the array does not have, or that ``fsdp`` does not divide.
    """
    for pattern, axis in options.rules:
        if matches((pattern, f"*.{pattern}"), name):
            if axis is not None and (axis >= len(shape) or shape[axis] % options.fsdp):
                good = [i for i, n in enumerate(shape) if n % options.fsdp == 0]
                refuse("config.parallel.rules", (pattern, axis), f"for {name} of shape {tuple(shape)} None or one of the axes {good}")
            return axis
    if options.fsdp == 1 or math.prod(shape) < options.min_size:
        return None
    fitting = [i for i, n in enumerate(shape) if n % options.fsdp == 0]
    return max(fitting, key=lambda i: shape[i], default=None)


@dataclasses.dataclass(frozen=True)
class Meshed(Layout):
    """How a run lies on a mesh ``(data, fsdp)`` of all devices of all processes.

    Attributes:
      mesh: JAX's, of Auto axes.
      options: ``config.parallel``.
    """

    mesh: jax.sharding.Mesh
    options: ParallelOptions

    @classmethod
    def of(cls, layout: Layout, options: ParallelOptions) -> Meshed:
        """The mesh of ``options`` over the devices of ``layout``; ConfigError where it does not fit them."""
        devices = list(layout.devices) if layout.processes == 1 else jax.devices()
        count, fsdp = len(devices), options.fsdp
        if count % fsdp:
            refuse("config.parallel.fsdp", fsdp, f"a divisor of {count}, the number of devices")
        data = count // fsdp if options.data is None else options.data
        if data * fsdp != count:
            refuse("config.parallel.data", data, f"{count // fsdp}, or None: fsdp = {fsdp} on {count} devices")
        auto = (jax.sharding.AxisType.Auto,) * 2
        mesh = jax.make_mesh((data, fsdp), (DATA, FSDP), axis_types=auto, devices=devices)
        return cls(layout.batch_size, layout.accumulate, layout.devices, layout.processes, layout.process, mesh, options)

    def check(self, parts: Parts) -> None:
        """Refuses a rule that does not fit an array (of the optimizer and the averages too), or that matches no parameter."""
        state = abstract_state(parts)
        self.shardings(state)
        leaves = named(state.params)
        for pattern, axis in self.options.rules:
            if not any(matches((pattern, f"*.{pattern}"), name) for name in leaves):
                refuse("config.parallel.rules", (pattern, axis), f"a pattern that some parameter matches{nearest(pattern, list(leaves))}")

    @property
    def replicated(self) -> jax.sharding.NamedSharding:
        """Of arrays that every device holds."""
        return jax.sharding.NamedSharding(self.mesh, jax.P())

    @property
    def sharding(self) -> jax.sharding.NamedSharding:
        """Of batches (K, A, G / A, ...)."""
        return jax.sharding.NamedSharding(self.mesh, jax.P(None, None, (DATA, FSDP)))

    def shardings(self, state: PyTree) -> PyTree:
        """Where every leaf of ``state`` (arrays or shapes) lies."""

        def one(path: Any, x: Any) -> jax.sharding.NamedSharding:
            axis = None if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else shared_axis(leaf_name(path), x.shape, self.options)
            return self.replicated if axis is None else jax.sharding.NamedSharding(self.mesh, jax.P(*[None] * axis, FSDP))

        return jax.tree_util.tree_map_with_path(one, state)

    def place(self, batches: Sequence[PyTree]) -> PyTree:
        """This process's rows of K global batches, each with leaves (G / processes, ...), on the mesh: leaves (K, A, G / A, ...)."""
        sharding, number = self.sharding, len(self.devices)
        rows = self.local_size // (number * self.accumulate)

        def one(*leaves: np.ndarray) -> Array:
            split = np.stack([x.reshape((number, self.accumulate, rows) + x.shape[1:]) for x in leaves], axis=1)
            shape = (len(leaves), self.accumulate, self.batch_size // self.accumulate, *split.shape[4:])
            own = sorted(sharding.addressable_devices, key=lambda d: self.devices.index(d))
            parts = [jax.device_put(x, d) for x, d in zip(split, own, strict=True)]
            return jax.make_array_from_single_device_arrays(shape, sharding, parts)

        return jax.tree.map(one, *batches)

    def rows(self, batches: PyTree) -> PyTree:
        """The first of the batches that ``place`` has put on the mesh, as it was; in one process."""
        split = (self.accumulate, len(self.devices), -1)
        return jax.tree.map(lambda x: np.asarray(x)[0].reshape(*split, *x.shape[3:]).swapaxes(0, 1).reshape(-1, *x.shape[3:]), batches)

    def share(self, batches: PyTree) -> PyTree:
        """Shapes of what one device holds of one step of ``batches``, as placed: leaves (A, m, ...)."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[1], x.shape[2] // self.mesh.size, *x.shape[3:]), x.dtype), batches)

    def shapes(self, batches: PyTree, several: int, factor: int = 1) -> PyTree:
        """Shapes and places of ``several`` steps of batches of ``factor`` times the examples of ``batches``."""

        def one(x: Any) -> jax.ShapeDtypeStruct:
            _, a, m, *rest = x.shape
            return jax.ShapeDtypeStruct((several, a, factor * m, *rest), x.dtype, sharding=self.sharding)

        return jax.tree.map(one, batches)

    def fresh(self, parts: Parts, seed: int, leaves: Mapping[str, Any] | None = None) -> TrainState:
        """The state at step 0, of which no device ever holds more than its share; ``leaves``: see init_state."""
        with jax.set_mesh(self.mesh):
            return init_state(parts, seed, leaves, self.shardings(abstract_state(parts)))

    def put(self, state: PyTree) -> PyTree:
        """A state that was read into the places of ``like``, as it is."""
        return state

    def like(self, state: PyTree) -> PyTree:
        """Shapes, dtypes and places of a state to be read from a checkpoint."""
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self.shardings(state))

    def dispatch(self, parts: Parts) -> Callable:
        """``dispatch(state, batches) -> (state, metrics (K,))`` on all devices; compiled once per K.  ``state`` is donated."""
        unroll, shardings = slow_in_scan(parts.network), self.shardings(abstract_state(parts))
        step = make_step(parts, None, unroll, self._whole)

        def in_place(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
            new, metrics = step(state, batch)
            return jax.lax.with_sharding_constraint(new, shardings), metrics

        places = {"in_shardings": (shardings, self.sharding), "out_shardings": (shardings, self.replicated)}
        return self._on_mesh(jax.jit(scanned(in_place, unroll), donate_argnums=0, **places))

    def summed(self, function: Callable) -> Callable:
        """``(params, batches, number) -> `` what ``function`` gives of all rows of one batch placed without microbatches."""

        def of_all(params: PyTree, batches: PyTree, number: Array) -> PyTree:
            return function(self._whole(params), jax.tree.map(lambda x: x[0, 0], batches), number)

        return self._on_mesh(jax.jit(of_all, out_shardings=self.replicated))

    def local(self, params: PyTree) -> PyTree:
        """``params`` whole on one device of this process, in buffers of their own."""
        whole = self._on_mesh(jax.jit(lambda tree: tree, out_shardings=self.replicated))(params)
        return jax.tree.map(lambda x: jnp.copy(x.addressable_data(0)), whole)

    def _whole(self, params: PyTree) -> PyTree:
        """``params`` gathered on every device; their gradient is added up there before it is shared out."""
        return jax.lax.with_sharding_constraint(params, self.replicated)

    def _on_mesh(self, compiled: Any) -> Any:
        """``compiled``, called and lowered under the mesh."""

        def call(*arguments: Any) -> Any:
            with jax.set_mesh(self.mesh):
                return compiled(*arguments)

        def lower(*arguments: Any) -> Any:
            with jax.set_mesh(self.mesh):
                return compiled.lower(*arguments)

        call.lower = lower
        return call
