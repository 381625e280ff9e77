"""``python -m benchmarks [--only train_step,samplers] [--pairs 20]``: every benchmark side by side in one run."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys

import jax

from benchmarks.pairs import table
from score_lab.build import ConfigError, nearest

NAMES = ("train_step", "samplers")


def main() -> int:
    """Runs the benchmarks and prints their tables; 2 for a bad command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--pairs", type=int, default=20, help="interleaved pairs behind every ratio")
    args = parser.parse_args()
    try:
        chosen = args.only.split(",")
        for name in chosen:
            if name not in NAMES:
                raise ConfigError(f"--only: {name!r} is refused; allowed: {', '.join(NAMES)}{nearest(name, NAMES)}")
        if args.pairs < 20:
            raise ConfigError(f"--pairs: {args.pairs} is refused; allowed: at least 20")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}, Python {platform.python_version()}")
    for name in chosen:
        rows = importlib.import_module(f"benchmarks.{name}").measure(args.pairs)
        print(f"\n{name}\n{rows if isinstance(rows, str) else table(rows)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
