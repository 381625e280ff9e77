"""The whole of score_lab in five minutes: train one network on handwritten digits, sample it on three paths with five samplers, measure,
and look.

    make digits
    python -m experiments.digits --workdir runs/digits
    python -m experiments.digits --workdir runs/vp --config configs/digits.py:vp
    python -m experiments.digits --workdir runs/short --short          # two minutes, with a network that is not done learning

Exits with 1 if a cell of the table misses its criterion (with --short: if its labels are not recognised at all).  Writes into the workdir
what experiments.train does, and table.csv, table.json, samples.npz, pictures and report.html.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from experiments import overrides
from experiments.launcher import FAILED, again, fail, launch, read_config, set_xla_flag

PATHS = {
    "LinearFlow": {"target": "LinearFlow"},
    "VP": {"target": "VP"},
    "EDM": {"target": "EDM", "sigma_max": 80.0},
}
SAMPLERS = {
    "Euler": ({"target": "Euler", "variable": {"target": "T"}}, 50),
    "Heun": ({"target": "Heun"}, 25),
    "DDIM": ({"target": "DDIM"}, 50),
    "DPM++2M": ({"target": "DPMSolverPP2M"}, 20),
    "Euler-Maruyama": ({"target": "EulerMaruyama", "increment": "exact"}, 100),
}
SAME = {("LinearFlow", "Euler"): "DDIM", ("EDM", "Euler"): "DDIM"}
"""Euler in t, where alpha and sigma are linear in t, is DDIM to the last step (tests/samplers/test_orders.py): sampled once."""
LEAST_AGREEMENT = 0.5
"""Of labels, with --short, whose network is not done learning: noise has 0.1."""
GRID = {"target": "UniformLogSNR", "end": 8.0}
"""One grid for all paths: the same levels, so that paths and samplers differ and nothing else."""
LOOKS = (("DDIM", 10), ("DDIM", 50), ("Heun", 10), ("Euler-Maruyama", 50))
"""Sampler and steps of the look at the mismatch."""


def main() -> int:
    """Trains, samples, measures, draws; says what to open at the end."""
    parser = overrides.Parser("digits", __doc__)
    parser.add_argument("--workdir", default="runs/digits", help="where everything is written")
    parser.add_argument("--config", help="configs/digits.py:flow by default (:tiny with --short); any configuration of labelled images")
    parser.add_argument("--n", type=int, help="samples in a cell of the table (1000; 200 with --short)")
    parser.add_argument("--short", action="store_true", help="a small network and few samples: two minutes")
    args, changes = overrides.parse(parser, sys.argv[1:])
    if changes:
        raise overrides.ConfigError(
            f"command line: '--{changes[0][0]}' is refused; allowed: the options of --help (experiments.sample overrides parts)"
        )
    n = (200 if args.short else 1000) if args.n is None else args.n
    if n < 100:
        raise overrides.ConfigError(f"--n: {n} is refused; allowed: at least 100, below which no interval says anything")
    config = read_config(args.config or f"configs/digits.py:{'tiny' if args.short else 'flow'}")
    start, workdir = time.time(), Path(args.workdir)

    from experiments.gallery import Gallery, check_labelled
    from experiments.sampling import check_sampling
    from score_lab.training import train
    from score_lab.training.options import check_sections, plain
    from score_lab.training.prepare import DETERMINISTIC

    check_sections(plain(config))
    if config.training.get("deterministic"):
        set_xla_flag(DETERMINISTIC)
    say("training", config)
    trained = train(config, workdir, checks=[check_sampling, check_labelled])
    phases = {"training": time.time() - start}
    if trained.stopped:
        return 128 + signal.Signals[trained.stopped]
    gallery = Gallery.open(workdir, n, short=args.short)
    for phase, work in (
        ("table", lambda: gallery.sample_table(PATHS, SAMPLERS, GRID, SAME)),
        ("mismatch", lambda: gallery.look_at_mismatch(SAMPLERS, LOOKS, GRID)),
        ("pictures", gallery.write),
    ):
        before = time.time()
        work()
        phases[phase] = time.time() - before
    took = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in phases.items())
    print(f"\n{time.time() - start:.0f} s ({took}).  Open {workdir / 'report.html'} (or the pictures beside it).  Then try:")
    print("\n".join(f"  {line}" for line in then_try(workdir)))
    if not args.short and not gallery.table.passed():
        return fail("the table: some cells, marked x, do not meet their criterion", FAILED)
    if args.short and (least := min(row.measures["agreement"].value for row in gallery.table.rows)) < LEAST_AGREEMENT:
        return fail(f"the table: label agreement {least:.2f} is below {LEAST_AGREEMENT}: these are no digits", FAILED)
    return 0


def then_try(workdir: Path) -> list[str]:
    """The lines to type next."""
    at, sampler = ["--workdir", str(workdir)], ["--sampler=DDIM", "--sampler.eta=1", "--steps", "100"]
    return [
        again("sample", [*at, "--labels", "3", "--guidance.scale=2", *sampler]),
        again("snr_mismatch", [*at, "--paths=VP", "--solvers=DDIM", "--nfe", "5,10,20,50"]),
    ]


def say(what: str, config) -> None:
    """One line about what begins."""
    size = {k: v for k, v in config.network.to_dict().items() if k != "target"}
    print(
        f"{what}: {config.network.target} {json.dumps(size)} on {config.path.target}, "
        f"{config.training.steps} steps of {config.data.batch_size}",
        flush=True,
    )


if __name__ == "__main__":
    launch(main)
