"""Draws samples from a trained workdir, by any sampler on any path.

    python -m experiments.sample --workdir runs/flow
    python -m experiments.sample --workdir runs/flow --sampler='DDIM(eta=0.5)' --guidance=2
    python -m experiments.sample --workdir runs/flow --sampler=AnalyticDPM --steps 10        # its table: see experiments.gamma
    python -m experiments.sample --workdir runs/flow --n 100000 --chunk 2GiB --shards out
    python -m experiments.sample --workdir runs/flow --path=VP --sampler=DDIM --sampler.eta=0.5 --steps 50 --labels 3,8 --guidance.scale=2

Writes samples.npz (x, label, nfe and how they were made) and samples.png into --output.  Sample i depends on --seed and i alone: another
--n or --chunk draws the same ones.  What an earlier command left in WORKDIR/samples is replaced: --output keeps both.

With --shards FOLDER samples are written as they are drawn, chunk by chunk (a manifest, shards, and a PNG of each image); stopped anywhere,
the same command goes on and ends with the same bytes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments import overrides
from experiments.counting import Line
from experiments.launcher import launch
from experiments.system import System, add_options, open_system
from score_lab.build import refuse
from score_lab.report import save_samples, save_scatter
from score_lab.samplers import sample_chunked, sample_written


def main() -> None:
    """Parses the command line, samples and writes."""
    parser = overrides.Parser("sample", __doc__)
    add_options(parser)
    parser.add_argument("--output", help="where to write; WORKDIR/samples by default, in place of what is there")
    parser.add_argument("--shards", metavar="FOLDER", help="write as it goes into this folder, in place of --output; begun or resumed")
    parser.add_argument("--format", default="npz", help="of the shards: npz (default) or zarr")
    parser.add_argument("--no-png", action="store_true", help="no PNG of each image beside the shards")
    args, changes = overrides.parse(parser, sys.argv[1:])
    if args.shards is None and (args.no_png or args.format != "npz"):
        refuse("--no-png" if args.no_png else "--format", "given", "nothing without --shards=FOLDER")
    if args.shards is not None and args.output is not None:
        refuse("--output", args.output, "one of --output and --shards")
    run, _ = open_system(args, changes)

    if args.shards is not None:
        return shards(run, Path(args.shards), args.format, not args.no_png)
    output = Path(args.output or Path(args.workdir) / "samples")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse("--output", str(output), f"a directory that can be made ({error.strerror})")
    start = time.time()
    samples = sample_chunked(*wanted(run), cond=run.cond, chunk=run.chunk, progress=progress(start))
    label = run.cond["label"] if run.cond else None
    before = (output / "samples.npz").exists()
    how = json.dumps({"sampling": run.sampling, "seed": run.seed, "step": run.step, "ema": run.ema})
    np.savez(output / "samples.npz", x=samples.x, nfe=samples.nfe, made_by=how, **({} if label is None else {"label": label}))
    bad = np.flatnonzero(~np.isfinite(samples.x.reshape(run.n, -1)).all(axis=1))
    print(f"{run.name}: {run.n} samples, {evaluations(samples.nfe)}, {time.time() - start:.1f} s")
    if len(bad):
        print(f"not finite: {len(bad)} samples, at index {', '.join(map(str, bad[:10]))}{', ...' if len(bad) > 10 else ''}")
    picture = save_picture(output / "samples.png", run, samples.x, label)
    instead = ", in place of those that were there (--output=DIRECTORY writes elsewhere)" if before else ""
    print(f"wrote {output / 'samples.npz'}" + (f" and {picture}" if picture else "") + instead)


def wanted(run: System) -> tuple:
    """What ``sample`` and its like are told first."""
    return run.denoiser, run.sampler, run.grid, (run.n, *run.spec.shape), jax.random.key(run.seed)


def progress(start: float) -> Callable[[int, int], None]:
    """One line that counts, on stderr."""
    line = Line()
    return lambda done, n: line(f"{done}/{n} samples, {time.time() - start:.1f} s", last=done == n)


def evaluations(nfe: np.ndarray) -> str:
    """``12 NFE each``, or the range where an adaptive solver spends them as it needs."""
    if np.ndim(nfe) == 0 or np.min(nfe) == np.max(nfe):
        return f"{int(np.max(nfe))} NFE each"
    return f"{np.min(nfe)} to {np.max(nfe)} NFE, {np.mean(nfe):.1f} on average"


def shards(run: System, folder: Path, format: str, png: bool) -> None:
    """Writes the samples into ``folder`` as they are drawn."""
    start = time.time()
    done = sample_written(folder, *wanted(run), cond=run.cond, chunk=run.chunk, progress=progress(start), format=format, png=png)
    print(f"{run.name}: {run.n} samples in {folder}, shards of {done.chunk}, {time.time() - start:.1f} s")
    if done.bad:
        some = ", ".join(map(str, done.bad[:10])) + (", ..." if len(done.bad) > 10 else "")
        print(f"not finite: {len(done.bad)} samples, at index {some}")


def save_picture(file: Path, run: System, x: np.ndarray, label: np.ndarray | None) -> Path | None:
    """Images by class, or points in the plane; None for anything else."""
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        return save_samples(file, {run.name: x}, label)
    return save_scatter(file, {run.name: x}) if x.ndim == 2 and x.shape[1] == 2 else None


if __name__ == "__main__":
    launch(main)
