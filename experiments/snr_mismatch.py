"""A first look at the train-versus-inference SNR mismatch of a trained workdir, call by call, beside the null that forward samples show.

    python -m experiments.snr_mismatch --workdir runs/flow
    python -m experiments.snr_mismatch --workdir runs/flow --path=VP --sampler=DDIM --steps 5,10,50 --n 1000

For every network call: the variance of the sampler's states over the path's own (1: what the network was trained on), and the log-SNR that
this variance amounts to where it can be told.  Intervals are over trajectories.  Writes snr_mismatch.csv and snr_mismatch.png into the
workdir.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import jax
import numpy as np

from experiments import overrides
from experiments.launcher import launch
from experiments.system import System, add_options, examples, open_system, open_workdir
from score_lab.mismatch import DataMoments, Look, NormRecorder, first_look
from score_lab.report import save_mismatch
from score_lab.samplers import sample

FEWEST = 32


def look(run: System, moments: DataMoments, x0: np.ndarray) -> tuple[str, Look]:
    """The name and the reading of one run, beside its null on as many forward samples."""
    samples = sample(
        run.denoiser, run.sampler, run.grid, (run.n, *run.spec.shape), jax.random.key(run.seed),
        cond=run.cond, recorder=NormRecorder(moments.mean),
    )  # fmt: skip
    return f"{type(run.sampler).__name__} {round(float(np.mean(samples.nfe)))}", first_look(samples.record, run.denoiser.path, moments, x0)


def summary(name: str, found: Look) -> str:
    """One line: the last call's ratio, the worst one, and how many calls cannot tell a level."""
    r, null = found.sampler, found.null
    if not np.isfinite(r.ratio).any():
        return f"{name:18s} no call can be read: {len(r.invalid)} of {r.n} trajectories are not finite, the first at index {r.invalid[0]}"
    worst = int(np.nanargmax(np.abs(np.log(r.ratio))))
    blind = int((r.flag != "ok").sum())
    return (
        f"{name:18s} last call: R = {r.ratio[-1]:.3f} [{r.low[-1]:.3f}, {r.high[-1]:.3f}], null {null.ratio[-1]:.3f}; largest at log-SNR "
        f"{r.log_snr[worst]:6.2f}: R = {r.ratio[worst]:.3f} [{r.low[worst]:.3f}, {r.high[worst]:.3f}]; "
        f"level unreadable at {blind} of {len(r.ratio)} calls"
    )


def main() -> None:
    """Parses the command line, samples with the recorder, reads, prints and writes."""
    parser = overrides.Parser("snr_mismatch", __doc__)
    add_options(parser)
    args, changes = overrides.parse(parser, sys.argv[1:])
    args.n = 512 if args.n is None else args.n
    several, runs = (args.steps or "10,50").split(","), []
    for steps in several:
        args.steps = steps
        runs.append(open_system(args, changes))
    x, _ = examples(open_workdir(args), "train")
    if not FEWEST <= args.n <= len(x):
        raise overrides.ConfigError(
            f"--n: {args.n} is refused; allowed: {FEWEST} to {len(x)}, the training examples that make as many forward samples"
        )

    moments, found, rows = DataMoments.of(x), {}, []
    for run in runs:
        name, reading = look(run, moments, x)
        found[name] = reading
        print(summary(name, reading), flush=True)
        for kind in ("sampler", "null"):
            rows += [{"run": name, "of": kind} | record for record in getattr(reading, kind).records()]
    output = Path(args.workdir)
    with open(output / "snr_mismatch.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    save_mismatch(output / "snr_mismatch.png", found, path=type(runs[0].denoiser.path).__name__)
    print(f"wrote {output / 'snr_mismatch.csv'} and {output / 'snr_mismatch.png'}")


if __name__ == "__main__":
    launch(main)
