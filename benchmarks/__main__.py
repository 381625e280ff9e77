"""``python -m benchmarks [--only samplers,dit8] [--solvers Heun DDIM] [--pairs 20]``: benchmarks side by side in one run.

    train_step   training with its pipeline beside a bare JAX step: mlp, dit8, dit32, unet8
    train_extras what checkpoints and log lines cost, dit32
    train_peers  training beside torch, eager and compiled (the ``peers`` extra)
    train_devices training on two CPU devices, by pmap and by meshes, beside one
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
import subprocess
import sys
from collections.abc import Iterator

import jax

from benchmarks.options import NETWORKS, Options
from benchmarks.pairs import MISSED
from score_lab.build import ConfigError, refuse

TRAINING = ("train_step", "train_extras", "train_peers", "train_devices")
NAMES = (*TRAINING, "gpu", "samplers", "dit8", "compile", "memory", "recording", "loops", "peers")


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
    parser.add_argument("--cpu-devices", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", args.cpu_devices)
    options = Options(args.pairs, tuple(args.solvers), tuple(args.peers), tuple(args.networks), args.batch, args.toy)
    try:
        chosen = args.only.split(",")
        for name in chosen:
            if name not in NAMES:
                refuse("--only", name, ", ".join(NAMES), NAMES)
        options.check()
        return int(run(chosen, options, args.cpu_devices) > 0)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def run(chosen: list[str], options: Options, cpu_devices: int = 1) -> int:
    """Every chosen benchmark, line by line; how many bounds do not hold."""
    lines: list[str] = []
    print(f"jax {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}, Python {platform.python_version()}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in chosen:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        wanted = getattr(benchmark, "CPU_DEVICES", 1)
        print(f"\n{name}", flush=True)
        for line in benchmark.measure(options) if wanted <= cpu_devices else _elsewhere(name, wanted):
            print(line, flush=True)
            lines.append(line)
    held, missed = (sum(word in line for line in lines) for word in ("HOLDS", MISSED))
    if held + missed:
        print(f"\nof {held + missed} bounds {held} hold{f', {missed} do not' if missed else ''}")
    return missed


def _elsewhere(name: str, cpu_devices: int) -> Iterator[str]:
    """The lines of the benchmark in a process of its own, whose JAX has so many CPU devices (their number is fixed once JAX has begun)."""
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--only", name, "--cpu-devices", str(cpu_devices)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip() not in ("", name) and not line.startswith(("jax ", "of ")):
                yield line.rstrip()
    if process.returncode not in (0, 1):
        yield f"{name}: the process ended with status {process.returncode}: {MISSED}"


if __name__ == "__main__":
    sys.exit(main())
