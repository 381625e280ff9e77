"""What a checkpoint every 100 steps and a log line every 10 cost beside training without them, dit32.

    checkpoint     1 + ([seconds of 20 steps with a checkpoint saved behind the first dispatch] - [without]) / (5 [without])
    log line       [10 steps, their means fetched, written to metrics.jsonl and TensorBoard and said] / [10 steps]

The checkpoint is written in the background while the steps after it run; the clock stops when both are done.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.options import Options
from benchmarks.pairs import Ratio, heading, in_turn, interval, line
from benchmarks.training_cases import CASES, Framework, case_of
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.memory import keep_buffers
from score_lab.training.metrics import Metrics, mean_of, progress_line, say

CHECKPOINT_BOUND, LOG_BOUND = 1.03, 1.01
EVERY = 100
"""Steps between two checkpoints."""


def measure(options: Options) -> Iterator[str]:
    """Two rows."""
    keep_buffers()
    case = case_of("dit32", *CASES["dit32"], options.batch)
    framework = Framework(case)
    yield heading("ms a step")
    with tempfile.TemporaryDirectory() as folder:
        yield line(checkpointing(framework, Path(folder), options.pairs), 1e3)
        yield line(logging(framework, Path(folder), options.pairs), 1e3)


def checkpointing(framework: Framework, folder: Path, pairs: int) -> Ratio:
    """Training with a checkpoint every 100 steps over training without."""
    steps, saved = 2 * framework.case.scanned, [0]
    with Checkpoints(folder, keep=1) as checkpoints:

        def save(done: int, state: Any, figures: Any) -> None:
            if done == framework.case.scanned:
                saved[0] += 1
                host = {"step": saved[0], "position": framework.stream.get_state(), "pending": [], "record": {}}
                checkpoints.save(saved[0], state, host, {})

        def checkpointed() -> None:
            framework.run(steps, save)
            checkpoints.wait()

        times = in_turn({"a": checkpointed, "b": lambda: framework.run(steps)}, pairs)
    ratios = 1 + (times["a"] - times["b"]) / (times["b"] * EVERY / steps)
    median, low, high = interval(ratios)
    plain = float(np.median(times["b"])) / steps
    name = f"a checkpoint every {EVERY} steps, {framework.case.name}"
    return Ratio(name, plain * median, plain, median, low, high, pairs, CHECKPOINT_BOUND)


def logging(framework: Framework, folder: Path, pairs: int) -> Ratio:
    """Ten steps with a log line over ten without."""
    steps, flying = 10, []
    with Metrics(folder, 0) as metrics, contextlib.redirect_stdout(io.StringIO()):

        def keep(done: int, state: Any, figures: Any) -> None:
            flying.append(figures)

        def logged() -> None:
            framework.run(steps, keep)
            fetched = jax.device_get(flying)
            rows = [{name: float(value[k]) for name, value in f.items()} for f in fetched for k in range(len(f["loss"]))]
            flying.clear()
            values = mean_of(rows)
            metrics.write(steps, values)
            say(progress_line(steps, steps, values, 0.0))

        times = in_turn({"a": logged, "b": lambda: framework.run(steps)}, pairs)
    a, b = (float(np.median(times[which])) / steps for which in "ab")
    return Ratio(f"a log line every {steps} steps, {framework.case.name}", a, b, *interval(times["a"] / times["b"]), pairs, LOG_BOUND)
