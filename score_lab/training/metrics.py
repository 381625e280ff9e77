"""Where the figures of a run go: the terminal, ``metrics.jsonl`` and TensorBoard event files.

A line of ``metrics.jsonl`` is one step: ``{"step": 500, "loss": 0.23, ..., "seconds": 12.3, "images_per_second": 5210.0}``, the means since
the line before. All of it but the figures of the clock (``CLOCK``) is a function of the configuration, and equal in a resumed run:
lines beyond the checkpoint that a run resumes from are cut off when it opens the file.

A line goes to the system at once, and so outlives the process, however that ends.  On the disk it is with the next checkpoint, in whose
background the file is synchronised before that is sealed: what a power failure leaves after its lines (nothing, half a line, zeros where a
file system had the length and not yet the bytes) is cut off with what lies beyond the checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_lab.training.appended import Appended
from score_lab.training.events import Events
from score_lab.training.whole import write_whole

__all__ = ["CLOCK", "Metrics", "lines_of", "mean_of", "progress_line", "read_metrics", "say"]

CLOCK = ("seconds", "images_per_second", "flops_per_second", "mfu", "bytes_per_second")
"""The metrics that are measured on a clock and differ from run to run."""


class Metrics:
    """Writes the metrics of a run into ``workdir``; ``step`` is where it starts, and later lines of an earlier run are removed."""

    def __init__(self, workdir: Path, step: int):
        self.path = workdir / "metrics.jsonl"
        _cut(self.path, step)
        self._lines = Appended(self.path)
        self._events = Events(workdir / "events", step)

    def write(
        self, step: int, values: Mapping[str, float], histograms: Mapping[str, Any] | None = None, images: Mapping[str, bytes] | None = None
    ) -> None:
        """One line (none without ``values``) and one event, with a point per curve and the PNGs ``images``; at once, so that nothing is
        lost with the process.

        Raises OSError where there is no space: what did not fit is written with the next line, and no line is torn.
        """
        try:
            self._lines.write((json.dumps({"step": step, **values}) + "\n").encode() if values else b"")
        finally:
            self._events.write(step, values, histograms or {}, images)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *error: Any) -> None:
        self._lines.__exit__(*error)
        self._events.__exit__(*error)


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, oldest first."""
    with (Path(workdir) / "metrics.jsonl").open() as file:
        return [json.loads(line) for line in file]


def lines_of(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of ``metrics.jsonl``, oldest first, while a run writes it; none where there is no such file."""
    path = Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in _untorn(path)] if path.is_file() else []


def mean_of(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over ``steps`` of every metric of the last of them, but the last learning rate, in float64."""
    means = {name: float(np.mean([s[name] for s in steps if name in s], dtype=np.float64)) for name in steps[-1]}
    return means | ({"learning_rate": steps[-1]["learning_rate"]} if "learning_rate" in steps[-1] else {})


def progress_line(step: int, steps: int, values: Mapping[str, float], left: float) -> str:
    """``step 500/2000   loss 0.2312   5210 examples/s   1:23 left``, with the held-out loss where there is one."""
    parts = [f"step {step:>{len(str(steps))}}/{steps}"]
    parts += [f"{label} {values[name]:.4f}" for name, label in (("loss", "loss"), ("eval/loss", "held-out loss")) if name in values]
    if values.get("images_per_second"):
        parts += [f"{values['images_per_second']:.0f} examples/s"]
    if math.isfinite(left):
        minutes, seconds = divmod(math.ceil(left), 60)
        parts += [f"{minutes}:{seconds:02d} left"]
    return "   ".join(parts)


def say(line: str) -> None:
    """One line on the terminal, at once."""
    print(line, file=sys.stdout, flush=True)


def _cut(path: Path, step: int) -> None:
    """Keeps the whole lines of ``path`` up to ``step``; the rest was written by a run that went on after its last checkpoint."""
    if not path.exists():
        return
    kept = [line + "\n" for line in _untorn(path) if json.loads(line)["step"] <= step]
    write_whole(path, "".join(kept))


def _untorn(path: Path) -> Iterator[str]:
    """The lines that are not torn."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        yield line
