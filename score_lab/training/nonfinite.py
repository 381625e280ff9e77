"""An update whose loss or gradient is not finite, written down so that it can be looked at and replayed (replay.py).

    config.training.nonfinite = "stop"     NonFiniteLoss, at the next line or checkpoint after it
                              = "skip"     it is left out (skip.py); more than ``nonfinite_limit`` in a row stop the run

    WORKDIR/nonfinite/STEP.json            the update that made STEP of STEP - 1: record, time and log-SNR of its examples, its figures

None of it is fetched from the devices: what an update draws is a function of the seed, its number and the index of the example.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.data import numbered
from score_lab.objectives.base import Context
from score_lab.training.feed import BEGINNING, Start
from score_lab.training.levels import times_of
from score_lab.training.options import data_options
from score_lab.training.parts import Parts
from score_lab.training.prepare import Plan
from score_lab.training.state import keys_of
from score_lab.training.whole import write_whole

__all__ = ["bad_figure", "examples_of", "write_down"]


def bad_figure(figures: Mapping[str, Any]) -> str | None:
    """The first of loss and gradient norm that is not finite, or None."""
    return next((name for name in ("loss", "grad_norm") if not math.isfinite(figures[name])), None)


def examples_of(plan: Plan, update: int, start: Start) -> dict[str, list[Any]]:
    """The global batch of ``update`` (from 0), of a stream that begins at ``start``, a list with an entry per example: ``index`` in the
    global batch, ``position`` in the order of the data, ``record`` of the training split, and ``t`` and ``log_snr`` (null without a time
    law or on a path that is learned)."""
    pipeline = data_options(plan.parts.config)[1]
    order = {name: value for name, value in pipeline.items() if name in ("batch_size", "shuffle")}
    index, positions, records = numbered(plan.source, "train", seed=plan.seed, start=start.example, **order).rows_of(update - start.batch)
    drawn: dict[str, list[Any]] = {"index": index.tolist(), "position": positions.tolist(), "record": records.tolist()}
    return drawn | _levels(plan.parts, plan.seed, update, index)


def write_down(plan: Plan, step: int, figures: Mapping[str, Any], start: Start = BEGINNING, changes: int = 0) -> Path:
    """Writes WORKDIR/nonfinite/STEP.json, whole or not at all, about the update that ended at ``step``; gives its path.

    ``start``: where the stream begins; ``changes``: how often the configuration had been changed on the way (changes.py).
    """
    file = plan.workdir / "nonfinite" / f"{step}.json"
    file.parent.mkdir(exist_ok=True)
    figures = {name: _number(value) for name, value in figures.items()}
    said = {"step": step, "update": step - 1, "seed": plan.seed, "changes": changes, "figures": figures}
    write_whole(file, json.dumps(said | {"examples": examples_of(plan, step - 1, start)}) + "\n")
    return file


def _levels(parts: Parts, seed: int, update: int, index: np.ndarray) -> dict[str, list[Any]]:
    """``t`` and ``log_snr``, drawn on the host by the law of the objective with the key of ``update``."""
    nothing = [None] * len(index)
    if hasattr(parts.objective, "path"):  # it depends on the parameters
        return {"t": nothing, "log_snr": nothing}
    key = jax.random.fold_in(keys_of(seed)["train"], update)
    ctx = Context(parts.denoiser({"network": None, "objective": None}), path=parts.path, key=key, batch_size=parts.batch_size)
    times = times_of(parts.objective, ctx, jnp.asarray(index))
    if times is None:
        return {"t": nothing, "log_snr": nothing}
    return {"t": np.asarray(times).tolist(), "log_snr": [_number(x) for x in np.asarray(parts.path.log_snr(times)).tolist()]}


def _number(value: Any) -> Any:
    """JSON has neither infinity nor NaN: they are written as words."""
    if isinstance(value, list):
        return [_number(x) for x in value]
    return value if math.isfinite(value) else str(value)
