"""Snapshots of the power-function averages, from which an average of any length is put together afterwards (``profiles``).

    WORKDIR/snapshots/STEP/           the averages of ``config.training.profiles`` after STEP updates, in that order; all of them are kept
    WORKDIR/snapshot_seals/STEP.json  what its files are (seals.py): no average is put together from one that was damaged since

They are written in the background by Orbax and appear only when whole; a run that goes on from an earlier checkpoint drops later ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.training.arrays import Arrays
from score_lab.training.profiles import RESIDUAL, coefficients, exponent
from score_lab.training.stops import Unreadable
from score_lab.types import PyTree

__all__ = ["PostHoc", "Snapshots", "post_hoc"]


class Snapshots(Arrays):
    """The snapshots of a workdir.  ``write`` False opens them for reading alone."""

    def __init__(self, workdir: Path, write: bool = False):
        super().__init__(Path(workdir) / "snapshots", Path(workdir) / "snapshot_seals", write)

    def save(self, step: int, averages: Sequence[PyTree]) -> None:
        """Saves in the background; the arrays may be donated as soon as this returns.  Raises what it meets at once, and removes what that
        has left half-written."""
        try:
            self.write(step, {"profiles": tuple(averages)})
        except Exception:
            self.remove_half_written()
            raise

    def drop_after(self, step: int) -> None:
        """Deletes what a run made after ``step``, from which it goes on."""
        for later in [s for s in self.steps if s > step]:
            (self.seals / f"{later}.json").unlink(missing_ok=True)
            self.manager.delete(later)

    def read(self, step: int, like: Sequence[PyTree], position: int) -> PyTree:
        """One average of ``step``, on the first device.  Raises Unreadable where its files cannot be read."""
        asked = tuple(average if i == position else None for i, average in enumerate(like))
        try:
            return self.part({"profiles": asked}, step)["profiles"][position]
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a damaged file makes Orbax raise
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise Unreadable(f"{self.directory / str(step)}: this snapshot could not be read ({why}); nothing was changed") from error


@dataclasses.dataclass(frozen=True)
class PostHoc:
    """An average put together from snapshots.

    Attributes:
      params: like the network's and the objective's.
      step: the step at which its profile ends, the newest snapshot used.
      residual: of its profile, ``|| q - sum c p || / || q ||`` (0: it was tracked).
      snapshots: how many were used.
    """

    params: PyTree
    step: int
    residual: float
    snapshots: int

    def line(self, sigma_rel: float) -> str:
        """What is to be said of it wherever it is used."""
        said = f"ema {sigma_rel:g}: put together from the snapshots up to step {self.step}, residual of its profile {self.residual:.1e}"
        if self.residual <= RESIDUAL:
            return said
        few = f"{self.snapshots} snapshot{'s' if self.snapshots > 1 else ''}"
        return f"{said}, above {RESIDUAL:g}: of {few}; more of them (config.training.snapshot_every), or a width between, leave less"


def post_hoc(workdir: Path, widths: Sequence[float], like: Sequence[PyTree], sigma_rel: float, step: int) -> PostHoc:
    """The average of width ``sigma_rel`` that ends at the newest snapshot not after ``step``.

    Every stored average is read once, one at a time, and summed in float64.

    Args:
      widths: those that were tracked; ``sigma_rel`` lies between the least and the largest.
      like: shapes and dtypes of their averages.

    Raises ConfigError for a width outside, where there is no snapshot, and where one is damaged, naming the file; Unreadable where one
    cannot be read.
    """
    if not min(widths) <= sigma_rel <= max(widths):
        allowed = f"a width from {min(widths)} to {max(widths)}, between those that were tracked (config.training.profiles)"
        refuse("ema", sigma_rel, allowed)
    if not (Path(workdir) / "snapshots").is_dir():
        refuse("ema", sigma_rel, f"an average that was stored: {workdir} holds no snapshots")
    with Snapshots(workdir) as snapshots:
        steps = [s for s in snapshots.steps if s <= step]
        if not steps:
            refuse("ema", sigma_rel, f"an average that was stored: {workdir} holds no snapshot up to step {step}")
        for s in steps:
            if (why := snapshots.damage(s)) is not None:
                refuse("ema", sigma_rel, f"one of the widths that were tracked: {snapshots.directory / str(s)} is damaged ({why})")
        stored = [(position, s) for s in steps for position in range(len(widths))]
        gammas = [exponent(w) for w in widths]
        c, residual = coefficients([(gammas[position], s) for position, s in stored], exponent(sigma_rel), steps[-1])
        total: Any = None
        for factor, (position, s) in zip(c, stored, strict=True):
            part = jax.tree.map(lambda x, f=factor: f * np.asarray(x, np.float64), snapshots.read(s, like, position))
            total = part if total is None else jax.tree.map(np.add, total, part)
    params = jax.tree.map(lambda x, average: jnp.asarray(x, average.dtype), total, like[0])
    return PostHoc(params, steps[-1], residual, len(steps))
