"""Checkpoints: what they hold, which of them are kept, and which is best.

    WORKDIR/checkpoints/STEP/      state: the TrainState;  host: {record, position, pending, step} as JSON;  metrics: for "best"
    WORKDIR/seals/STEP.json        what its files are (seals.py); the lines of metrics.jsonl up to STEP are on the disk before it is

The newest ``keep`` and the best by held-out loss stay.  From which of them a run goes on is newest.py's.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from score_lab.training.arrays import Arrays
from score_lab.training.seals import seal
from score_lab.types import PyTree

__all__ = ["BEST", "Checkpoints"]

BEST = "eval/loss"
"""The metric that "best" means; lower is better."""


class Checkpoints(Arrays):
    """The checkpoints of a workdir.  ``keep`` None opens them for reading alone."""

    def __init__(self, workdir: Path, keep: int | None = None):
        self._keep = keep
        self.saving: int | None = None
        super().__init__(Path(workdir) / "checkpoints", Path(workdir) / "seals", keep is not None, Path(workdir) / "metrics.jsonl")

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
