"""Checkpoints, the only file that knows Orbax (its ``CheckpointManager``, v0).

    WORKDIR/config.json            what the run is: configuration, data, sigma_data, versions of the libraries
    WORKDIR/checkpoints/STEP/      state: the TrainState;  host: {record, position, pending, step} as JSON;  metrics: for "best"

Saving is asynchronous: the arrays are copied off the devices, files are written in the background and a checkpoint appears under its step
only when whole. The newest ``keep`` and the best by held-out loss stay.  A checkpoint is compared with what is asked of it, leaf by leaf,
before anything is read.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import ConfigError, nearest, refuse
from score_lab.types import PyTree

__all__ = ["BEST", "Arrays", "Checkpoints", "library_versions", "read_workdir", "write_workdir"]

BEST = "eval/loss"
"""The metric that "best" means; lower is better."""

LIBRARIES = ("score_lab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Arrays:
    """Folders of arrays by step in ``directory``, written in the background; each appears under its step only when whole.

    Args:
      write: False opens them for reading alone.
      handlers: Orbax's, of what is stored beside the arrays.
      options: more of Orbax's options.
    """

    def __init__(self, directory: Path, write: bool, handlers: Mapping[str, Any] | None = None, **options: Any):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every file that it writes
        self._ocp = ocp
        self.directory = Path(directory).absolute()
        settings = ocp.CheckpointManagerOptions(create=write, read_only=not write, enable_async_checkpointing=write, **options)
        handlers = {"state": ocp.PyTreeCheckpointHandler(), **(handlers or {})}
        self.manager = ocp.CheckpointManager(self.directory, options=settings, item_handlers=handlers)

    @property
    def steps(self) -> list[int]:
        """The steps there are, ascending."""
        return sorted(self.manager.all_steps())

    def write(self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None, **beside: Any) -> None:
        """Saves ``state``, which may be donated as soon as this returns; ``beside``: Orbax's arguments of the other handlers."""
        ocp = self._ocp
        if jax.default_backend() == "cpu":
            state = jax.tree.map(jnp.copy, state)  # there Orbax would read the very buffers that the next step writes into
        if jax.process_count() > 1:
            state = jax.tree.map(_global, state)
        self.manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), **beside), metrics=metrics, force=True)

    def part(self, like: PyTree, step: int, **beside: Any) -> Any:
        """``like`` of ``step`` on the first device (a dict may name some of it only), with ``beside`` a pair of it and of the rest."""
        ocp = self._ocp
        self.check(like, step)
        several = jax.process_count() > 1
        sharding = _everywhere() if several else jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        restore_args = jax.tree.map(lambda x: ocp.ArrayRestoreArgs(sharding=sharding, global_shape=x.shape, dtype=x.dtype), like)
        item = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=isinstance(like, dict))
        restored = self.manager.restore(step, args=ocp.args.Composite(state=item, **beside))
        state = jax.tree.map(lambda x: x.addressable_data(0), restored["state"]) if several else restored["state"]
        return (state, restored) if beside else state

    def check(self, like: PyTree, step: int) -> None:
        """Refuses a checkpoint whose tree is not that of ``like``, naming the first leaf that differs."""
        there = {_name(path): tuple(leaf.shape) for path, leaf in _leaves(self.manager.item_metadata(step)["state"].tree)}
        asked = {_name(path): leaf.shape for path, leaf in _leaves(like)}
        keys = {_name(path) for path, leaf in _leaves(like) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)}  # saved as their words
        for name in [*asked, *(() if isinstance(like, dict) else there)]:
            if name not in keys and there.get(name) != asked.get(name):
                saved, wanted = (f"shape {tree[name]}" if name in tree else "nothing of that name" for tree in (there, asked))
                allowed = f"a checkpoint of the configured network, which has {wanted} there ({self.directory / str(step)})"
                refuse("checkpoint", f"{name}: {saved}", allowed)

    def wait(self) -> None:
        """Returns when everything saved is on the disk."""
        self.manager.wait_until_finished()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


class Checkpoints(Arrays):
    """The checkpoints of a workdir.  ``keep`` None opens them for reading alone."""

    def __init__(self, workdir: Path, keep: int | None = None):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

        best = keeping.BestN(get_metric_fn=_metric, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        policy = keeping.AnyPreservationPolicy([keeping.LatestN(keep), best]) if keep is not None else None
        super().__init__(
            Path(workdir) / "checkpoints", keep is not None, {"host": ocp.JsonCheckpointHandler()},
            best_fn=_metric, best_mode="min", preservation_policy=policy,
        )  # fmt: skip

    @property
    def best(self) -> int | None:
        """The step with the lowest held-out loss, or None if none was evaluated."""
        return self.manager.best_step()

    def save(self, step: int, state: PyTree, host: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Saves in the background; ``state`` may be donated as soon as this returns."""
        figures = {BEST: float(metrics[BEST])} if BEST in metrics else None
        self.write(step, state, figures, host=self._ocp.args.JsonSave(dict(host)))

    def restore(self, like: PyTree, step: int) -> tuple[PyTree, dict[str, Any]]:
        """``(state, host)`` of ``step``, with the leaves of ``like`` (shapes and dtypes; a dict may name some of the state only) on the
        first device.

        Raises ConfigError naming the first leaf in which the checkpoint differs.
        """
        state, restored = self.part(like, step, host=self._ocp.args.JsonRestore())
        return state, restored["host"]


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a checkpoint means."""
    import platform

    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def read_workdir(workdir: str | Path) -> dict[str, Any]:
    """What ``WORKDIR/config.json`` says of the run; ConfigError if this is no workdir."""
    file = Path(workdir) / "config.json"
    if not file.is_file():
        near = [str(other.parent) for other in Path(workdir).absolute().parent.glob("*/config.json")]
        what = "there is no config.json in it" if Path(workdir).is_dir() else "there is no such directory"
        hint = nearest(str(Path(workdir).absolute()), near)
        refuse("workdir", str(workdir), f"a directory that a training run has made: {what}{hint}")
    try:
        record = json.loads(file.read_text())
        return {name: record[name] for name in ("config", "data", "sigma_data", "versions")}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"workdir: {str(file)!r} cannot be read ({why}); allowed: the file that the training run wrote") from None


def write_workdir(workdir: Path, record: Mapping[str, Any]) -> None:
    """Writes ``WORKDIR/config.json`` whole or not at all."""
    workdir.mkdir(parents=True, exist_ok=True)
    new = workdir / "config.json.new"
    new.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(new, workdir / "config.json")


def _everywhere() -> jax.sharding.NamedSharding:
    """Of an array that every device of every process holds."""
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("device",)), jax.P())


def _global(x: jax.Array) -> jax.Array:
    """What every process holds alike as the one array that Orbax saves once."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_global(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    local = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, _everywhere(), local)


def _metric(metrics: Mapping[str, float]) -> float:
    return metrics[BEST]


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]


def _name(path: Any) -> str:
    """``params.network.blocks.0.first.kernel``."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
