"""A mesh of devices in place of ``jax.pmap``: one program over all of them, parameters shared out among some (FSDP, ZeRO-3).

    config.parallel = {"fsdp": f, "data": d},      d f devices;      global batch over all d f,  parameters, optimizer and averages over f

The step is the one of step.py; a batch is (A, G / A, ...) of which every device holds some rows.  Of an array of at least ``min_size``
numbers the largest axis that ``fsdp`` divides is shared out (the first, of equal ones), so that a device holds 1 / f of it; a rule by name
comes before that.  The gradient is made device by device (``jax.shard_map``):

    shared out      gathered where the network uses it, in its dtype (shares.py), a block's for the block alone and once more backwards;
                    its gradient is scattered in sums over fsdp as soon as it is there, then added up over data
    not shared      its gradient is added up over all devices, with the metrics

What the update does with it is XLA's to partition: every device its own share of parameters, optimizer and averages.

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
from score_lab.shares import Share, gathered
from score_lab.training.names import leaf_name, matches, named
from score_lab.training.options import ParallelOptions
from score_lab.training.parallel import Layout, scanned, slow_in_scan
from score_lab.training.parts import Parts
from score_lab.training.state import TrainState, abstract_state, init_state
from score_lab.training.step import averaged, gradient_of, make_step
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
            more = " (JAX_NUM_CPU_DEVICES=N in the environment makes N of a CPU)" if devices[0].platform == "cpu" else ""
            refuse("config.parallel.fsdp", fsdp, f"a divisor of {count}, the number of devices{more}")
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
    def words(self) -> str:
        """``4 devices (cpu) as a mesh, data 2 x fsdp 2``."""
        data, fsdp = self.mesh.shape[DATA], self.mesh.shape[FSDP]
        return f"{self._counted(data * fsdp)} as a mesh, data {data} x fsdp {fsdp}"

    @property
    def shares(self) -> bool:
        """Whether arrays of the state are shared out among devices."""
        return self.options.fsdp > 1

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
        """This process's rows of K global batches, each with leaves (G / processes, ...), on the mesh: leaves (K, A, G / A, ...).

        The k-th part of them lies on the device that holds the k-th part of this process's rows, whatever order the mesh has.
        """
        sharding, number = self.sharding, len(self.devices)
        rows = self.local_size // (number * self.accumulate)

        def one(*leaves: np.ndarray) -> Array:
            split = np.stack([x.reshape((number, self.accumulate, rows) + x.shape[1:]) for x in leaves], axis=1)
            shape = (len(leaves), self.accumulate, self.batch_size // self.accumulate, *split.shape[4:])
            places = sharding.addressable_devices_indices_map(shape)
            own = sorted(places, key=lambda device: places[device][2].start or 0)
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

    def of_shares(self, share: PyTree) -> PyTree:
        """Shapes and places of one step of which every device holds ``share``, leaves (A, m, ...)."""

        def one(x: Any) -> jax.ShapeDtypeStruct:
            a, m, *rest = x.shape
            return jax.ShapeDtypeStruct((1, a, m * self.mesh.size, *rest), x.dtype, sharding=self.sharding)

        return jax.tree.map(one, share)

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

    def dispatch(self, parts: Parts, unroll: bool = False) -> Callable:
        """``dispatch(state, batches) -> (state, metrics (K,))`` on all devices; compiled once per K.  ``state`` is donated; ``unroll``: no
        loop over microbatches, nor over steps, whatever the network."""
        unroll, shardings = unroll or slow_in_scan(parts.network), self.shardings(abstract_state(parts))
        step = make_step(parts, None, unroll, self._gradient(parts, unroll))

        def in_place(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
            new, metrics = step(state, batch)
            return jax.lax.with_sharding_constraint(new, shardings), metrics

        places = {"in_shardings": (shardings, self.sharding), "out_shardings": (shardings, self.replicated)}
        return self._on_mesh(jax.jit(scanned(in_place, unroll), donate_argnums=0, **places))

    def summed(self, parts: Parts, function: Callable) -> Callable:
        """``(params, batches, number) -> sum over the devices`` of what ``function`` gives of the rows that each holds of one batch placed
        without microbatches."""
        shardings = self.shardings(abstract_state(parts).params)

        def on_each(params: PyTree, batches: PyTree, number: Array) -> PyTree:
            params = self._shares(parts, shardings)(params)
            return self._psum(function(params, jax.tree.map(lambda x: x[0, 0], batches), number), (DATA, FSDP))

        specs = (_specs(shardings), self.sharding.spec, jax.P())
        return self._on_mesh(jax.jit(jax.shard_map(on_each, mesh=self.mesh, in_specs=specs, out_specs=jax.P(), check_vma=False)))

    def local(self, params: PyTree) -> PyTree:
        """``params`` whole on one device of this process, in buffers of their own."""
        gathered = self._on_mesh(jax.jit(lambda tree: tree, out_shardings=self.replicated))(params)
        return jax.tree.map(lambda x: jnp.copy(x.addressable_data(0)), gathered)

    def _gradient(self, parts: Parts, unroll: bool) -> Callable:
        """``(state, batch) -> (grads, metrics, objective state)`` of the global batch; the gradient lies where the parameters do."""
        state = dataclasses.replace(abstract_state(parts), opt_state=())
        places = self.shardings(state)
        shares = self._shares(parts, places.params)
        one = gradient_of(parts, unroll, shares)

        def add_up(grad: Array, place: jax.sharding.NamedSharding) -> Array:
            return self._psum(grad, (DATA, FSDP) if _axis(place) is None else (DATA,))

        def on_each(state: TrainState, batch: PyTree) -> tuple[PyTree, dict[str, Array], PyTree]:
            objective = gathered(_shared_out(state.objective, places.objective))
            state = dataclasses.replace(state, ema=tuple(map(shares, state.ema)), objective=objective)
            grads, metrics, objective = one(state, batch, self.mesh.size)
            with jax.named_scope("gradient"):
                grads = jax.tree.map(add_up, grads, places.params)
            with jax.named_scope("metrics"):
                metrics = self._psum(metrics, (DATA, FSDP))
            return grads, metrics, averaged(objective, (DATA, FSDP))

        specs = (_specs(places), jax.P(None, (DATA, FSDP)))
        out = (_specs(places.params), jax.P(), jax.P())
        mapped = jax.shard_map(on_each, mesh=self.mesh, in_specs=specs, out_specs=out, check_vma=False)
        return lambda state, batch: mapped(dataclasses.replace(state, opt_state=()), batch)

    def _psum(self, tree: PyTree, axes: Sequence[str]) -> PyTree:
        """The sum over the devices along ``axes``, without a word to others where there is one device along them."""
        axes = tuple(axis for axis in axes if self.mesh.shape[axis] > 1)
        return jax.lax.psum(tree, axes) if axes else tree

    def _shares(self, parts: Parts, places: PyTree) -> Callable:
        """``params -> params`` for the loss: a network that takes shares is handed them, anything else is gathered here."""

        def of(params: PyTree) -> PyTree:
            shared = _shared_out(params, places)
            lazy = ("network",) if getattr(parts.network, "takes_shares", False) else ()
            return {name: part if name in lazy else gathered(part) for name, part in shared.items()}

        return of

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


def _axis(place: jax.sharding.NamedSharding) -> int | None:
    """The axis that is shared out, None for none."""
    return len(place.spec) - 1 if FSDP in place.spec else None


def _specs(shardings: PyTree) -> PyTree:
    return jax.tree.map(lambda place: place.spec, shardings)


def _shared_out(tree: PyTree, places: PyTree) -> PyTree:
    """``tree`` of one device's arrays, those that are shared out as shares."""
    return jax.tree.map(lambda x, place: x if _axis(place) is None else Share(x, _axis(place), FSDP), tree, places)
