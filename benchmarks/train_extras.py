"""What a checkpoint every 100 steps and a log line every 10 cost beside training without them, dit32.

    checkpoint     1 + ([seconds of 20 steps with a checkpoint saved behind the first dispatch] - [without]) / (5 [without])
    log line       [20 steps and two lines of all that a run reports: means, loss by level, spikes, files, terminal] / [20 steps]

The checkpoint is written in the background while the steps after it run; the clock stops when both are done.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import Options
from benchmarks.pairs import Ratio, heading, in_turn, interval, line
from benchmarks.training_cases import CASES, Framework, case_of
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.disk import Disk
from score_lab.training.feed import BEGINNING
from score_lab.training.memory import keep_buffers
from score_lab.training.metrics import Metrics
from score_lab.training.options import plain
from score_lab.training.prepare import prepare
from score_lab.training.reports import Reports

CHECKPOINT_BOUND, LOG_BOUND = 1.03, 1.01
EVERY, LOG_EVERY = 100, 10
"""Steps between two checkpoints, and between two lines."""
MANY = 10**9
"""Steps of a run that does not end while it is timed."""


def measure(options: Options) -> Iterator[str]:
    """Two rows."""
    keep_buffers()
    case = case_of("dit32", *CASES["dit32"], options.batch)
    framework = Framework(case)
    yield heading("ms a step")
    with tempfile.TemporaryDirectory() as folder:
        yield line(checkpointing(framework, Path(folder), options.pairs), 1e3)
        yield line(logging(framework, Path(folder, "lines"), options.pairs), 1e3)


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
    """Training with everything that a run reports every ten steps over training without."""
    config = plain(framework.case.parts.config)
    config["training"] |= {"log_every": LOG_EVERY, "steps": MANY, "eval_every": 0}
    plan = prepare(config, folder)
    folder.mkdir()
    steps, begun = 2 * LOG_EVERY, [0]
    with Metrics(folder, 0) as metrics, contextlib.redirect_stdout(io.StringIO()):
        host = {"step": 0, "pending": [], "start": BEGINNING, "allowed": []}
        reports = Reports(plan, metrics, None, Disk(folder, go_on=False), host)

        def report(done: int, state: Any, figures: Any) -> None:
            reports.add(figures, begun[0] + done)
            reports.report(begun[0] + done, state)

        def logged() -> None:
            framework.run(steps, report)
            begun[0] += steps

        times = in_turn({"a": logged, "b": lambda: framework.run(steps)}, pairs)
    a, b = (float(np.median(times[which])) / steps for which in "ab")
    return Ratio(f"a log line every {LOG_EVERY} steps, {framework.case.name}", a, b, *interval(times["a"] / times["b"]), pairs, LOG_BOUND)
