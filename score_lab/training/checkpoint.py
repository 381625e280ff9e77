"""Checkpoints: which are kept, which is best, and which can still be read.

    WORKDIR/checkpoints/STEP/      state: the TrainState;  host: {record, position, pending, step} as JSON;  metrics: for "best"
    WORKDIR/seals/STEP.json        what its files are (seals.py): a checkpoint that was damaged since is passed over, with a line

The newest ``keep`` and the best by held-out loss stay.  What is saved in the background can fail there, where the disk is full: ``settle``
then removes what is half-written and raises, and the checkpoints from before stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from score_lab.build import ConfigError, refuse
from score_lab.training.arrays import Arrays
from score_lab.training.disk import remove_half_written
from score_lab.training.seals import damage, seal
from score_lab.types import PyTree

__all__ = ["BEST", "Checkpoints"]

BEST = "eval/loss"
"""The metric that "best" means; lower is better."""


class Checkpoints(Arrays):
    """The checkpoints of a workdir.  ``keep`` None opens them for reading alone."""

    def __init__(self, workdir: Path, keep: int | None = None):
        self._seals, self._sealing, self._keep = Path(workdir).absolute() / "seals", None, keep
        self._error: Exception | None = None
        self.saving: int | None = None
        self._open(Path(workdir) / "checkpoints")

    def _open(self, directory: Path) -> None:
        """Orbax reads the figures of all checkpoints when it opens them; where some cannot be read there is no best one."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

        options: dict[str, Any] = {"lightweight_initialize": True}
        if all(_figures_can_be_read(entry) for entry in directory.glob("*") if entry.name.isdigit()):
            best = keeping.BestN(get_metric_fn=_metric, reverse=True, n=1, keep_checkpoints_without_metrics=False)
            options = {"best_fn": _metric, "best_mode": "min"}
            if self._keep is not None:
                options["preservation_policy"] = keeping.AnyPreservationPolicy([keeping.LatestN(self._keep), best])
        super().__init__(directory, self._keep is not None, {"host": ocp.JsonCheckpointHandler()}, **options)

    @property
    def best(self) -> int | None:
        """The step with the lowest held-out loss, or None if none was evaluated."""
        return self.manager.best_step()

    def save(self, step: int, state: PyTree, host: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Saves in the background; ``state`` may be donated, and ``host`` changed, as soon as this returns.

        Raises what the save before has met (``settle``).
        """
        figures = {BEST: float(metrics[BEST])} if BEST in metrics else None
        self.settle()
        self.saving = step
        try:
            self.write(step, state, figures, host=self._ocp.args.JsonSave(copy.deepcopy(dict(host))))
        except Exception:
            self._remove_half_written()
            raise
        if jax.process_index() == 0:
            self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
            self._sealing.start()

    @property
    def failed(self) -> bool:
        """Whether it is known by now that the last save has failed, without waiting for it."""
        return self._error is not None

    def settle(self) -> None:
        """Waits for the last save.  Raises what it has met, after what it has left half-written is removed."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        error, self._error = self._error, None
        if error is not None:
            self._remove_half_written()
            raise error

    def _remove_half_written(self) -> None:
        """Removes what a save that failed has left, and opens the folder anew: Orbax still holds the error."""
        with contextlib.suppress(Exception):
            self.manager.close()
        remove_half_written(self.directory)
        for left in self._seals.glob("*.new"):
            left.unlink()
        self._open(self.directory)

    def newest(self, read: Callable[[int], Any]) -> tuple[int, Any, dict[int, str]]:
        """``(step, read(step), {later step: what is wrong with it})`` of the newest checkpoint that can be read.

        Raises ConfigError where there is none, and whatever ``read`` refuses.
        """
        damaged = {}
        for step in reversed(self.steps):
            why = self.damage(step)
            if why is None:
                try:
                    return step, read(step), damaged
                except ConfigError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever a damaged file makes Orbax raise
                    why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            damaged[step] = why
        what = "; ".join(f"checkpoint {step}: {why}" for step, why in damaged.items())
        refuse("workdir", str(self.directory.parent), f"the workdir of a run with a checkpoint that can be read ({what})")

    def damage(self, step: int) -> str | None:
        """What is wrong with the files of ``step``, None if nothing is known to be."""
        directory = self.directory / str(step)
        readable = _figures_can_be_read(directory)
        return damage(directory, self._seals / f"{step}.json") or (None if readable else "its held-out loss cannot be read")

    def seal_again(self, step: int) -> None:
        """Seals ``step``, which was just read, where the run was killed before it could: else the best checkpoint may stay without."""
        if jax.process_index() == 0 and not (self._seals / f"{step}.json").exists():
            seal(self.directory / str(step), self._seals / f"{step}.json")

    def put_aside(self, steps: Iterable[int]) -> None:
        """Renames the checkpoints of ``steps`` to ``STEP.damaged``, so that a run may write these steps again."""
        several = jax.process_count() > 1
        if several:
            multihost_utils.sync_global_devices("damaged checkpoints are put aside")
        if jax.process_index() == 0:
            for step in steps:
                aside = self.directory / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.directory / str(step), aside)
                (self._seals / f"{step}.json").unlink(missing_ok=True)
        if several:
            multihost_utils.sync_global_devices("damaged checkpoints were put aside")
        self.manager.close()
        self._open(self.directory)

    def wait(self) -> None:
        """Returns when everything saved is on the disk.  Raises what the last save has met, as ``settle``."""
        self.settle()
        super().wait()

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None and jax.process_count() > 1:
            return  # what is being written waits for processes that may be gone
        try:
            self.settle()
        except Exception:
            if error[0] is None:
                raise  # else what ended the run is told, not what came of it
        super().__exit__(*error)

    def _seal(self, step: int) -> None:
        """Waits, in a thread of its own, until ``step`` is on the disk, and seals it; keeps what was met for ``settle``."""
        try:
            self.manager.wait_until_finished()
            seal(self.directory / str(step), self._seals / f"{step}.json")
            for old in self._seals.glob("*.json"):
                if not (self.directory / old.stem).exists():
                    old.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - raised where somebody waits for the save
            self._error = error

    def restore(self, like: PyTree, step: int) -> tuple[PyTree, dict[str, Any]]:
        """``(state, host)`` of ``step``, with the leaves of ``like`` (shapes and dtypes; a dict may name some of the state only) on the
        first device.

        Raises ConfigError naming the first leaf in which the checkpoint differs.
        """
        state, restored = self.part(like, step, host=self._ocp.args.JsonRestore())
        return state, restored["host"]


def _metric(metrics: Mapping[str, float]) -> float:
    return metrics[BEST]


def _figures_can_be_read(directory: Path) -> bool:
    """Whether what a checkpoint says of its held-out loss is JSON, or it says nothing."""
    try:
        json.loads((directory / "metrics" / "metrics").read_text())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True
