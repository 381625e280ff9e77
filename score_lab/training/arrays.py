"""Folders of arrays by step, the only file that knows how Orbax writes and reads them (its ``CheckpointManager``, v0).

Saving is asynchronous: the arrays are copied off the devices, files are written in the background and a folder appears under its step only
when whole; then it is sealed (seals.py).  A save can fail there, where the disk is full: ``settle`` removes what is half-written and
raises, and what was saved before stays as it is.  What is there is compared with what is asked of it, leaf by leaf, before it is read.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import refuse
from score_lab.training.leftovers import quiet, remove_half_written, try_folder
from score_lab.training.names import leaf_name
from score_lab.training.seals import damage, seal
from score_lab.training.stops import NonFiniteLoss, Unreadable
from score_lab.training.whole import on_disk
from score_lab.types import PyTree

__all__ = ["Arrays"]


class Arrays:
    """Folders of arrays by step in ``directory``, written in the background; each appears under its step only when whole.

    Args:
      seals: the folder of their seals, STEP.json.
      write: False opens them for reading alone.
      first: a file that is on the disk, as it was when a save began, before that is sealed.
    """

    def __init__(self, directory: Path, seals: Path, write: bool, first: Path | None = None):
        import orbax.checkpoint as ocp

        for name in ("absl", "asyncio"):  # Orbax reports every file that it writes, and every error beside raising it
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._ocp = ocp
        self.directory, self.seals, self._write = Path(directory).absolute(), Path(seals).absolute(), write
        self._first = first
        self._sealing: threading.Thread | None = None
        self._error: Exception | None = None
        self._open()

    def _open(self) -> None:
        ocp, write = self._ocp, self._write
        options, handlers = self._options()
        settings = ocp.CheckpointManagerOptions(create=write, read_only=not write, enable_async_checkpointing=write, **options)
        handlers = {"state": ocp.PyTreeCheckpointHandler(), **handlers}
        try:
            self.manager = ocp.CheckpointManager(self.directory, options=settings, item_handlers=handlers)
        except OSError as error:
            if write:
                raise
            raise Unreadable(f"{self.directory} could not be looked into ({error}): nothing was changed") from error
        self.manager.reached_preemption = lambda step: False  # Orbax would ask with steps, and signals.py asks with dispatches

    def _options(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """More of Orbax's options, and its handlers of what is stored beside the arrays."""
        return {}, {}

    @property
    def steps(self) -> list[int]:
        """The steps there are, ascending."""
        return sorted(self.manager.all_steps())

    def write(self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None, **beside: Any) -> None:
        """Saves ``state``, which may be donated as soon as this returns; ``beside``: Orbax's arguments of the other handlers.

        Raises OSError before anything is begun where no folder can be made in ``directory``.
        """
        ocp = self._ocp
        if jax.process_index() == 0:
            try_folder(self.directory)
            (self.seals / f"{step}.json").unlink(missing_ok=True)
        if jax.default_backend() == "cpu":
            state = jax.tree.map(jnp.copy, state)  # there Orbax would read the very buffers that the next step writes into
        if jax.process_count() > 1:
            state = jax.tree.map(_global, state)
        self.manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), **beside), metrics=metrics, force=True)
        if jax.process_index() == 0:
            self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
            self._sealing.start()

    def _seal(self, step: int) -> None:
        """Waits, in a thread of its own, until ``step`` is on the disk, and seals it; keeps what was met for ``settle``."""
        try:
            if self._first is not None and self._first.exists():
                on_disk(self._first)
            self.manager.wait_until_finished()
            seal(self.directory / str(step), self.seals / f"{step}.json")
            for old in self.seals.glob("*.json"):
                if not (self.directory / old.stem).exists():
                    old.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - raised where somebody waits for the save
            self._error = error

    @property
    def failed(self) -> bool:
        """Whether it is known by now that the last save has failed, without waiting for it."""
        return self._error is not None

    def settle(self) -> None:
        """Waits until the last save is on the disk and sealed.  Raises what it has met, after what it has left half-written is removed."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        error, self._error = self._error, None
        if error is not None:
            self.remove_half_written()
            raise error

    def remove_half_written(self) -> None:
        """Removes what a save that failed has left, and opens the folder anew: Orbax still holds the error.  With several processes, which
        open it together, it stays closed: the run ends."""
        with contextlib.suppress(Exception):
            self.manager.close()
        remove_half_written(self.directory)
        for left in self.seals.glob("*.new"):
            left.unlink()
        if jax.process_count() == 1:
            self._open()

    def damage(self, step: int, deep: bool = True) -> str | None:
        """What is wrong with the files of ``step``, None if nothing is known to be; not ``deep``, by their sizes alone.  Raises Unreadable
        where that cannot be known."""
        try:
            return self._damage(step, deep)
        except OSError as error:
            raise Unreadable(f"{self.directory / str(step)} could not be looked at ({error}): nothing was changed") from error

    def _damage(self, step: int, deep: bool) -> str | None:
        """``damage``; raises OSError where it cannot be known."""
        return damage(self.directory / str(step), self.seals / f"{step}.json", deep)

    def part(self, like: PyTree, step: int, **beside: Any) -> Any:
        """``like`` of ``step`` (a dict may name some of it only), each leaf where its ``sharding`` says, or on the first device where it
        has none; with ``beside`` a pair of it and of the rest."""
        ocp = self._ocp
        self.check(like, step)
        several = jax.process_count() > 1
        default = _everywhere() if several else jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def place(x: Any) -> Any:
            return ocp.ArrayRestoreArgs(sharding=getattr(x, "sharding", None) or default, global_shape=x.shape, dtype=x.dtype)

        restore_args = jax.tree.map(place, like)
        item = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=isinstance(like, dict))
        with quiet():
            restored = self.manager.restore(step, args=ocp.args.Composite(state=item, **beside))
        state = restored["state"]
        if several:
            state = jax.tree.map(lambda x, asked: x if getattr(asked, "sharding", None) else x.addressable_data(0), state, like)
        return (state, restored) if beside else state

    def check(self, like: PyTree, step: int) -> None:
        """Refuses a checkpoint whose tree is not that of ``like``, naming the first leaf that differs."""
        for name, saved, wanted in self.differences(like, step):
            allowed = f"a checkpoint of the configured network, which has {wanted} there ({self.directory / str(step)})"
            refuse("checkpoint", f"{name}: {saved}", allowed)

    def differences(self, like: PyTree, step: int) -> list[tuple[str, str, str]]:
        """``(leaf, what is saved there, what like has there)`` wherever the two differ; a dict ``like`` may name some of the state only."""
        with quiet():
            tree = self.manager.item_metadata(step)["state"].tree
        there = {leaf_name(path): tuple(leaf.shape) for path, leaf in _leaves(tree)}
        asked = {leaf_name(path): leaf.shape for path, leaf in _leaves(like)}
        keys = {leaf_name(path) for path, leaf in _leaves(like) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)}  # saved as their words
        others = () if isinstance(like, dict) else [name for name in there if name not in asked]
        different = [name for name in [*asked, *others] if name not in keys and there.get(name) != asked.get(name)]
        return [(name, _shape(there.get(name)), _shape(asked.get(name))) for name in different]

    def wait(self) -> None:
        """Returns when everything saved is on the disk.  Raises what the last save has met, as ``settle``."""
        self.settle()
        self.manager.wait_until_finished()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None and jax.process_count() > 1 and not issubclass(error[0], NonFiniteLoss):  # which all of them raise at once
            return  # what is being written waits for processes that may be gone
        try:
            self.settle()
            self.manager.wait_until_finished()
        except Exception:
            if error[0] is None:
                raise  # else what ended the run is told, not what came of it
        with contextlib.nullcontext() if error[0] is None else contextlib.suppress(Exception):
            self.manager.close()


def _everywhere() -> jax.sharding.NamedSharding:
    """Of an array that every device of every process holds."""
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("device",)), jax.P())


def _global(x: jax.Array) -> jax.Array:
    """What every process holds alike as the one array that Orbax saves once; one that lies on all of them already as it is."""
    if not x.is_fully_addressable:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_global(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    local = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, _everywhere(), local)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing of that name" if shape is None else f"shape {shape}"


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
