"""Measures what a trained workdir's samples are worth: every number with its interval, its n and what it stands on.

    python -m experiments.evaluate --workdir runs/flow
    python -m experiments.evaluate --workdir runs/flow --ema 0.05,0.07,0.1     # averages of these widths (config.training.profiles)
    python -m experiments.evaluate --workdir runs/flow --path=VP --sampler=DPMSolverPP2M --grid=UniformLogSNR --steps 20 --n 1000

Label agreement by a classifier fitted on the training split, Frechet distance over the floor FD(train, test), within-class variance and
distance to the nearest training example; for points in a few dimensions the energy distance to held-out data.  Writes evaluation.csv and
evaluation.json into the workdir.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments import overrides
from experiments.counting import Line
from experiments.launcher import launch
from experiments.system import System, add_options, average_of, examples, open_system, step_of
from score_lab.build import refuse
from score_lab.evaluation import Reference, Table, energy_distance
from score_lab.samplers import sample_chunked
from score_lab.training.restore import check_averages


def measure(run: System, reference: Reference | None, test, progress: Callable[[int, int], None] | None = None) -> tuple[dict, int]:
    """The columns for ``run``'s samples, and the NFE spent on each; ``progress(done, n)`` after each chunk of them."""
    samples = sample_chunked(
        run.denoiser, run.sampler, run.grid, (run.n, *run.spec.shape), jax.random.key(run.seed), cond=run.cond, chunk=run.chunk,
        progress=progress,
    )  # fmt: skip
    if reference is None:
        return {"energy": energy_distance(samples.x, test)}, round(float(np.mean(samples.nfe)))
    return reference.measure(samples.x, run.cond["label"] if run.cond else None), round(float(np.mean(samples.nfe)))


def check(run: System, images: bool) -> None:
    """Refuses samples that cannot be measured: too few, or images of no class."""
    labels = set(run.cond["label"].tolist()) if run.cond else {0}
    if run.n < 2 * len(labels):
        refuse("--n", run.n, f"at least {2 * len(labels)}, two samples of every class that is asked for")
    if images and -1 in labels:
        refuse("--labels", -1, "classes: it is measured whether a sample shows its own")


def progress(line: Line, what: str, start: float, before: float, part: float, done: int, n: int) -> None:
    """Says what is drawn of a cell, which is a ``part`` of the work behind what was done ``before``, and the time left at this pace."""
    share = before + part * done / n
    left = f", about {(time.monotonic() - start) * (1 / share - 1):.0f} s left" if 0 < share < 1 else ""
    line(f"{what}, {f'{done} of {n} samples' if done < n else 'measuring'}{left}")


def main() -> None:
    """Parses the command line, samples, measures and writes."""
    parser = overrides.Parser("evaluate", __doc__)
    add_options(parser)
    args, changes = overrides.parse(parser, sys.argv[1:])
    args.n = 1000 if args.n is None else args.n
    averages = [None] if args.ema is None else [ema.strip() for ema in args.ema.split(",")]
    check_averages(args.workdir, map(average_of, averages), step_of(args.step))  # before the first is put together from its snapshots
    runs = [open_system(argparse.Namespace(**vars(args) | {"ema": ema}), changes) for ema in averages]  # all before the first is sampled
    loaded, images = runs[0][1], len(runs[0][0].spec.shape) == 3
    for run, _ in runs:
        check(run, images)
    (x, label), (x_test, label_test) = examples(loaded, "train"), examples(loaded, "test")

    line = Line()
    if images:
        line("fitting the classifier to the training data")
    reference = Reference.fit(x, label, x_test, label_test) if images else None
    table = Table(reference.criteria() if images else (), reference.describe() if images else ())
    table.notes = [*table.notes, *(which.note for _, which in runs if which.note)]
    start = time.monotonic()
    for k, (run, _) in enumerate(runs):
        ema = "none" if run.ema is None else run.ema
        say = partial(progress, line, f"cell {k + 1}/{len(runs)}: ema {ema}", start, k / len(runs), 1 / len(runs))
        say(0, run.n)
        measures, nfe = measure(run, reference, x_test, say)
        names = {"path": type(run.denoiser.path).__name__, "sampler": type(run.sampler).__name__}
        table.add(names | {"ema": ema, "NFE": nfe, "n": run.n, "seed": run.seed}, measures)
    line(f"{len(runs)} of {len(runs)} cells in {time.monotonic() - start:.0f} s", last=True)
    print(table.text())
    output = Path(args.workdir)
    (output / "evaluation.csv").write_text(table.csv())
    (output / "evaluation.json").write_text(table.json())
    print(f"wrote {output / 'evaluation.csv'} and {output / 'evaluation.json'}")


if __name__ == "__main__":
    launch(main)
