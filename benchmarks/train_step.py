"""The framework's training beside a bare hand-written JAX step of the same network, pipeline included: see training_cases.py.

A timed run makes 30 steps of mlp and dit8, 10 of dit32, 4 of unet8.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.options import Options
from benchmarks.pairs import heading, interleaved, line
from benchmarks.training_cases import CASES, Framework, bare_program, case_of
from score_lab.training.memory import keep_buffers

BOUND = 1.05
NETWORKS = ("mlp", "dit8", "dit32", "unet8")
STEPS = {"mlp": 30, "dit8": 30, "dit32": 10, "unet8": 4, "unet32": 1}


def measure(options: Options) -> Iterator[str]:
    """One row per network: framework / bare, milliseconds a step."""
    keep_buffers()  # as train does, for both
    yield heading("ms a step")
    for name in options.training(NETWORKS):
        case = case_of(name, *CASES[name], options.batch)
        framework, steps = Framework(case), STEPS[name]
        ours = lambda framework=framework, steps=steps: framework.run(steps)  # noqa: E731
        ratio = interleaved(f"train step, {name}, batch {options.batch}", ours, bare_program(case, steps), options.pairs, bound=BOUND)
        yield line(ratio, 1e3 / steps)
