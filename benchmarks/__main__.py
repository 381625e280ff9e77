"""``python -m benchmarks [--only samplers,dit8] [--solvers Heun DDIM] [--pairs 20]``: benchmarks side by side in one run.

    train_step   training with its pipeline beside a bare JAX step: mlp, dit8, dit32, unet8
    train_extras what checkpoints and log lines cost, dit32
    train_peers  training beside torch, eager and compiled (the ``peers`` extra)
    gpu          training and sampling of DiT-B/2, DiT-XL/2 and a U-Net on an accelerator, against its measured peak
    samplers     what every solver costs beyond a free network, microseconds per evaluation
    dit8         the time to sample with dit8 beside a bare scan of the same network
    compile      what the first call of every solver takes longer than the second, dit8, 50 steps
    memory       what it saves that a training step's buffers are kept
    recording    what a record by band costs beside the run that it is of, dit8
    loops        what is left in the loop of every solver: scalar operations, operations on states, kernels
    peers        diffusers, k-diffusion and azula on the same network and noise (the ``peers`` extra)
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys

import jax

from benchmarks.options import NETWORKS, Options
from benchmarks.pairs import MISSED
from score_lab.build import ConfigError, refuse

NAMES = ("train_step", "train_extras", "train_peers", "gpu", "samplers", "dit8", "compile", "memory", "recording", "loops", "peers")


def main() -> int:
    """Runs the benchmarks and prints their tables as they grow; 1 if a bound does not hold, 2 for a bad command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--solvers", nargs="+", default=(), help="names or families of the catalogue, or parts of them; all by default")
    parser.add_argument("--peers", nargs="+", default=(), help="parts of the names of the peers' runs; all by default")
    parser.add_argument("--networks", nargs="+", default=(), help=f"of {', '.join(NETWORKS)}, trained, or sampled by peers; all by default")
    parser.add_argument("--pairs", type=int, default=20, help="interleaved pairs behind every ratio")
    parser.add_argument("--batch", type=int, default=64, help="examples of a training step")
    parser.add_argument("--toy", action="store_true", help="the accelerator's benchmarks at toy size, on whatever there is")
    args = parser.parse_args()
    options = Options(args.pairs, tuple(args.solvers), tuple(args.peers), tuple(args.networks), args.batch, args.toy)
    try:
        chosen = args.only.split(",")
        for name in chosen:
            if name not in NAMES:
                refuse("--only", name, ", ".join(NAMES), NAMES)
        options.check()
        return int(run(chosen, options) > 0)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def run(chosen: list[str], options: Options) -> int:
    """Every chosen benchmark, line by line; how many bounds do not hold."""
    lines: list[str] = []
    print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}, Python {platform.python_version()}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in chosen:
        print(f"\n{name}", flush=True)
        for line in importlib.import_module(f"benchmarks.{name}").measure(options):
            print(line, flush=True)
            lines.append(line)
    held, missed = (sum(word in line for line in lines) for word in ("HOLDS", MISSED))
    if held + missed:
        print(f"\nof {held + missed} bounds {held} hold{f', {missed} do not' if missed else ''}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
