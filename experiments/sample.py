"""Draws samples from a trained workdir, by any sampler on any path.

    python -m experiments.sample --workdir runs/flow
    python -m experiments.sample --workdir runs/flow --path=VP --sampler=DDIM --sampler.eta=0.5 --steps 50 --labels 3,8 --guidance.scale=2

Writes samples.npz (x, label, nfe and how they were made) and samples.png into --output.  Sample i depends on --seed and i alone: another
--n or --chunk draws the same ones.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from experiments import overrides
from experiments.launcher import launch
from experiments.system import System, add_options, open_system
from score_lab.report import save_samples, save_scatter
from score_lab.samplers import sample_chunked


def main() -> None:
    """Parses the command line, samples and writes."""
    parser = overrides.Parser("sample", __doc__)
    add_options(parser)
    parser.add_argument("--output", help="where to write; WORKDIR/samples by default")
    args, changes = overrides.parse(parser, sys.argv[1:])
    run = open_system(args, changes)

    start = time.time()
    samples = sample_chunked(
        run.denoiser, run.sampler, run.grid, (run.n, *run.spec.shape), jax.random.key(run.seed), cond=run.cond, chunk=run.chunk,
        progress=lambda done, n: print(f"\r{done}/{n} samples, {time.time() - start:.1f} s", end="", file=sys.stderr, flush=True),
    )  # fmt: skip
    print(file=sys.stderr)
    output = Path(args.output or Path(args.workdir) / "samples")
    output.mkdir(parents=True, exist_ok=True)
    label = run.cond["label"] if run.cond else None
    how = json.dumps({"sampling": run.sampling, "seed": run.seed, "step": run.step, "ema": run.ema})
    np.savez(output / "samples.npz", x=samples.x, nfe=samples.nfe, made_by=how, **({} if label is None else {"label": label}))
    bad = np.flatnonzero(~np.isfinite(samples.x.reshape(run.n, -1)).all(axis=1))
    print(f"{run.name}: {run.n} samples, {int(samples.nfe)} NFE each, {time.time() - start:.1f} s")
    if len(bad):
        print(f"not finite: {len(bad)} samples, the first at index {bad[0]}")
    picture = save_picture(output / "samples.png", run, samples.x, label)
    print(f"wrote {output / 'samples.npz'}" + (f" and {picture}" if picture else ""))


def save_picture(file: Path, run: System, x: np.ndarray, label: np.ndarray | None) -> Path | None:
    """Images by class, or points in the plane; None for anything else."""
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        return save_samples(file, {run.name: x}, label)
    return save_scatter(file, {run.name: x}) if x.ndim == 2 and x.shape[1] == 2 else None


if __name__ == "__main__":
    launch(main)
