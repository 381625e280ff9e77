"""Lists the runs below a directory, what each is doing and how far it has come, or the fields in which two of them differ.

    python -m experiments.runs                            # below runs/
    python -m experiments.runs runs/cifar10 old --json
    python -m experiments.runs --compare runs/a runs/b

A run is running (another process holds it), finished, stopped, or damaged; --check reads every byte of the newest checkpoints for that.
A run whose configuration was changed on the way (experiments.train --allow) says what and when.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.launcher import launch
from experiments.overrides import Parser
from score_lab.build import nearest, refuse
from score_lab.training.listing import Run, as_json, find_runs, run_in
from score_lab.training.options import changed
from score_lab.training.record import read_workdir

HEAD = ("run", "state", "step", "best held-out loss", "last loss", "age", "")


def table(runs: Sequence[Run]) -> str:
    """A line per run, columns aligned."""
    rows = [HEAD, *(row(run) for run in runs)]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows)


def row(run: Run) -> tuple[str, ...]:
    """The cells of ``run``; a dash for what was never reported."""
    best = "-" if run.best is None else f"{run.best:.4f} at {run.best_step}"
    steps = "?" if run.steps is None else run.steps
    loss = "-" if run.loss is None else f"{run.loss:.4f}"
    return run.workdir, run.state, f"{run.step}/{steps}", best, loss, since(run.age), run.why or changes(run)


def changes(run: Run) -> str:
    """``changed at 200: optimizer.learning_rate, data.batch_size; at 300: ...`` of a run whose configuration was changed on the way."""
    steps = sorted({entry["step"] for entry in run.allowed})
    fields = {step: [e["field"].removeprefix("config.") for e in run.allowed if e["step"] == step] for step in steps}
    told = "; ".join(f"at {step}: {', '.join(fields[step])}" for step in steps)
    return f"changed {told}" if told else ""


def since(seconds: float) -> str:
    """``42 s``, ``17 min``, ``5 h``, ``12 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def compared(a: str, b: str) -> list[tuple[str, object, object]]:
    """``(field, in a, in b)`` of every field of the two configurations that differs; None is a field that is not there."""
    return changed(read_workdir(a)["config"], read_workdir(b)["config"])


def main() -> None:
    """Parses the command line and prints."""
    parser = Parser("runs", __doc__)
    parser.add_argument("directories", nargs="*", metavar="DIR", help="directories at or below which runs lie (default: runs)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two workdirs whose configurations are compared")
    parser.add_argument("--check", action="store_true", help="read every byte of every newest checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(sys.argv[1:])
    if args.compare:
        if args.directories:
            refuse("DIR", " ".join(args.directories), "none beside --compare A B")
        print(differences(*args.compare, compared(*args.compare), args.json))
        return
    for directory in args.directories or ["runs"]:
        if not Path(directory).is_dir():
            refuse("DIR", directory, f"a directory that is there{nearest(directory, [e.name for e in os.scandir() if e.is_dir()])}")
    runs = [run_in(workdir, args.check) for workdir in find_runs(args.directories or ["runs"])]
    print(as_json(runs) if args.json else table(runs) if runs else f"no runs below {', '.join(args.directories or ['runs'])}")


def differences(a: str, b: str, found: Sequence[tuple[str, object, object]], as_data: bool) -> str:
    """What ``--compare`` prints."""
    if as_data:
        return json.dumps([{"field": field, a: one, b: other} for field, one, other in found], indent=2)
    if not found:
        return f"{a} and {b} have the same configuration"
    return "\n".join([f"{'field'}: {a} | {b}", *(f"{field}: {one!r} | {other!r}" for field, one, other in found)])


if __name__ == "__main__":
    launch(main)
