"""Our training beside torch's, eager and compiled, of the same networks with the same losses, interleaved in one process.

Ratio: seconds of ours over those of torch; below 1 we are ahead, and the bound is on the faster of torch's two ways.  mlp and the DiTs
train on one CPU device, the U-Nets on one and on two of the same cores; their bound is 0.6 of torch's speed, since oneDNN's convolutions
are faster than XLA's.  (The ``peers`` extra.)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

from benchmarks.options import Options
from benchmarks.pairs import Ratio, heading, in_turn, interval, line
from benchmarks.train_step import STEPS
from benchmarks.training_cases import CASES, Framework, case_of
from score_lab.training.memory import keep_buffers

CPU_DEVICES = 2
DEVICES = {"mlp": (1,), "dit8": (1,), "dit32": (1,), "unet8": (1, 2), "unet32": (1, 2)}
"""On how many devices ours train."""
BOUNDS = {"dit8": 1.0, "dit32": 1.0, "unet8": 1 / 0.6, "unet32": 1 / 0.6}
KINDS = ("eager", "compile")
PAUSE = 0.005
"""Seconds before each timed run: torch's idle threads spin for about one millisecond after their work."""


def measure(options: Options) -> Iterator[str]:
    """A row per network, way of torch and number of devices; one line that names the extra where torch is not installed."""
    try:
        peer = importlib.import_module("benchmarks.peers.torch_training")
    except ImportError as error:
        yield f"torch is not here ({error}); try: {sys.executable} -m pip install -e '.[peers]'"
        return
    import numpy as np
    import torch

    keep_buffers()
    yield f"torch {torch.__version__} with {torch.get_num_threads()} threads, batch {options.batch}, float32; A: ours, B: torch"
    yield heading("ms a step")
    for name in options.training(tuple(DEVICES)):
        case, steps = case_of(name, *CASES[name], options.batch), STEPS[name]
        ours = {count: Framework(case, count) for count in DEVICES[name]}
        programs = {count: lambda f=f, steps=steps: f.run(steps) for count, f in ours.items()}
        programs |= {kind: peer.torch_program(case, steps, kind == "compile") for kind in KINDS}
        try:
            times = in_turn(programs, options.pairs, pause=PAUSE)
        except Exception as error:  # torch.compile needs a C++ compiler
            yield f"{name}: torch cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
            continue
        fastest = min(KINDS, key=lambda kind: np.median(times[kind]))
        for count in DEVICES[name]:
            for kind in KINDS:
                a, b = (float(np.median(times[which])) for which in (count, kind))
                bound = BOUNDS.get(name) if kind == fastest else None
                label = f"{name} on {count} device{'s' * (count > 1)}, ours / torch {kind}"
                yield line(Ratio(label, a, b, *interval(times[count] / times[kind]), options.pairs, bound), 1e3 / steps)
