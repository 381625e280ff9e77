"""Checkpoints: which are kept, which is best, and which can still be read.

    WORKDIR/checkpoints/STEP/      state: the TrainState;  host: {record, position, pending, step} as JSON;  metrics: for "best"
    WORKDIR/seals/STEP.json        what its files are (seals.py): a checkpoint that was damaged since is passed over, with a line

The newest ``keep`` and the best by held-out loss stay.  A checkpoint is damaged where its files are not what its seal says, or, without a
seal, where it cannot be read.  One that is as it was sealed and cannot be read (no memory, a file system that fails for a while) is not:
that ends the run in one line, and nothing is moved.  Several processes go on from the same one: the first looks, and tells the others.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from score_lab.build import ConfigError, refuse
from score_lab.training.arrays import Arrays
from score_lab.training.seals import is_sealed, seal
from score_lab.training.stops import Unreadable
from score_lab.types import PyTree

__all__ = ["BEST", "Checkpoints"]

BEST = "eval/loss"
"""The metric that "best" means; lower is better."""
SOUND, UNSEALED, DAMAGED, UNKNOWN, NONE = range(5)
"""What the first process finds of a checkpoint: as it was sealed, nothing to hold it to, damaged, not to be looked at; no further one."""
FOR_A_WHILE = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.EACCES)
"""Errors that say nothing of what a file holds."""


class Checkpoints(Arrays):
    """The checkpoints of a workdir.  ``keep`` None opens them for reading alone."""

    def __init__(self, workdir: Path, keep: int | None = None):
        self._keep = keep
        self.saving: int | None = None
        super().__init__(Path(workdir) / "checkpoints", Path(workdir) / "seals", keep is not None)

    def _options(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Orbax reads the figures of all checkpoints when it opens them; where some cannot be read there is no best one."""
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

        options: dict[str, Any] = {"lightweight_initialize": True}
        try:
            ranked = all(_figures_can_be_read(entry) for entry in self.directory.glob("*") if entry.name.isdigit())
        except OSError:
            ranked = False
        if ranked:
            best = keeping.BestN(get_metric_fn=_metric, reverse=True, n=1, keep_checkpoints_without_metrics=False)
            options = {"best_fn": _metric, "best_mode": "min"}
            if self._keep is not None:
                options["preservation_policy"] = keeping.AnyPreservationPolicy([keeping.LatestN(self._keep), best])
        return options, {"host": self._ocp.JsonCheckpointHandler()}

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
            self.remove_half_written()
            raise

    def newest(self, read: Callable[[int], Any]) -> tuple[int, Any, dict[int, str]]:
        """``(step, read(step), {later step: what is wrong with it})`` of the newest checkpoint that is not damaged, the same in all
        processes.

        Raises ConfigError where there is none, whatever ``read`` refuses, and Unreadable for one that is sound and cannot be read.
        """
        damaged: dict[int, str] = {}
        while True:
            step, found, why = self._look(damaged)
            if found == NONE:
                what = "; ".join(f"checkpoint {step}: {why}" for step, why in damaged.items())
                refuse("workdir", str(self.directory.parent), f"the workdir of a run with a checkpoint that can be read ({what})")
            if found == UNKNOWN:
                raise Unreadable(self._unreadable(step, why))
            result = None
            if found != DAMAGED:
                result, why = self._attempt(read, step, found == SOUND)
                if found == SOUND or not _any(why is not None):
                    return step, result, damaged
            damaged[step] = why or "another process could not read it"

    def read(self, read: Callable[[int], Any], step: int) -> Any:
        """``read(step)`` of a checkpoint that is not damaged.  Raises Unreadable where it cannot be read."""
        return self._attempt(read, step, sound=True)[0]

    def _attempt(self, read: Callable[[int], Any], step: int, sound: bool) -> tuple[Any, str | None]:
        """``(read(step), None)``, or ``(None, what is wrong)``.  Raises Unreadable where that cannot be because its files are damaged: they
        are ``sound``, or the error says nothing of them."""
        try:
            return read(step), None
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a damaged file makes Orbax raise
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            if sound or _for_a_while(error):
                raise Unreadable(self._unreadable(step, why)) from error
            return None, why

    def _look(self, damaged: Mapping[int, str]) -> tuple[int, int, str | None]:
        """``(step, what is found of it, what is wrong with it)`` of the newest checkpoint that is not among ``damaged``, as the first
        process sees it: every byte is read by it alone."""
        step, found, why = -1, NONE, None
        if jax.process_index() == 0:
            step = max((s for s in self.steps if s not in damaged), default=-1)
            if step >= 0:
                try:
                    why = self.damage(step)
                    found = DAMAGED if why else SOUND if is_sealed(self.seals / f"{step}.json") else UNSEALED
                except (OSError, Unreadable) as error:
                    found, why = UNKNOWN, str(error.__cause__ or error)
        if jax.process_count() > 1:
            step, found = multihost_utils.broadcast_one_to_all(np.array([step, found], np.int32)).tolist()
            if jax.process_index() and found in (DAMAGED, UNKNOWN):
                why = "as the first process says"
        return step, found, why

    def _unreadable(self, step: int, why: str) -> str:
        again = "nothing was changed, and the same command tries again"
        return f"{self.directory.parent}: checkpoint {step} is not known to be damaged, and could not be read ({why}): {again}"

    def _damage(self, step: int, deep: bool) -> str | None:
        """That of the files, and a held-out loss that cannot be read."""
        readable = _figures_can_be_read(self.directory / str(step))
        return super()._damage(step, deep) or (None if readable else "its held-out loss cannot be read")

    def seal_again(self, step: int) -> None:
        """Seals ``step``, which was just read, where the run was killed before it could: else the best checkpoint may stay without."""
        if jax.process_index() == 0 and not (self.seals / f"{step}.json").exists():
            seal(self.directory / str(step), self.seals / f"{step}.json")

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
                (self.seals / f"{step}.json").unlink(missing_ok=True)
        if several:
            multihost_utils.sync_global_devices("damaged checkpoints were put aside")
        self.manager.close()
        self._open()

    def restore(self, like: PyTree, step: int) -> tuple[PyTree, dict[str, Any]]:
        """``(state, host)`` of ``step``, with the leaves of ``like`` (shapes and dtypes; a dict may name some of the state only) on the
        first device.

        Raises ConfigError naming the first leaf in which the checkpoint differs.
        """
        state, restored = self.part(like, step, host=self._ocp.args.JsonRestore())
        return state, restored["host"]

    def host(self, step: int) -> dict[str, Any]:
        """The host's part of ``step`` alone: no array is read."""
        return self.manager.restore(step, args=self._ocp.args.Composite(host=self._ocp.args.JsonRestore()))["host"]


def _any(mine: bool) -> bool:
    """Whether it is so in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(mine)))) if jax.process_count() > 1 else mine


def _for_a_while(error: BaseException | None) -> bool:
    """Whether ``error``, or one that it came from, is a lack of memory or of the file system that says nothing of what a file holds."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in FOR_A_WHILE or "RESOURCE_EXHAUSTED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _metric(metrics: Mapping[str, float]) -> float:
    return metrics[BEST]


def _figures_can_be_read(directory: Path) -> bool:
    """Whether what a checkpoint says of its held-out loss is JSON, or it says nothing.  Raises OSError where that cannot be known."""
    try:
        json.loads((directory / "metrics" / "metrics").read_text())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True
