"""Our training beside torch's, eager and compiled, of the same networks with the same losses, interleaved in one process: mlp, dit8, dit32.

Ratio: seconds of ours over torch's; below 1 we are ahead.  (The ``peers`` extra; there is no U-Net of ours in torch.)
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

NETWORKS = ("mlp", "dit8", "dit32")
BOUNDS = {"dit8": 1.0, "dit32": 1.0}
PAUSE = 0.005
"""Seconds before each timed run: torch's idle threads spin for about one millisecond after their work."""


def measure(options: Options) -> Iterator[str]:
    """Two rows per network; one line that names the extra where torch is not installed."""
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
    for name in options.training(NETWORKS):
        case, steps = case_of(name, *CASES[name], options.batch), STEPS[name]
        framework = Framework(case)
        programs = {"ours": lambda framework=framework, steps=steps: framework.run(steps)}
        programs |= {kind: peer.torch_program(case, steps, kind == "compile") for kind in ("eager", "compile")}
        try:
            times = in_turn(programs, options.pairs, pause=PAUSE)
        except Exception as error:  # torch.compile needs a C++ compiler
            yield f"{name}: torch cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
            continue
        mine = float(np.median(times["ours"]))
        for kind in ("eager", "compile"):
            theirs = float(np.median(times[kind]))
            found = interval(times["ours"] / times[kind])
            yield line(Ratio(f"{name}, ours / torch {kind}", mine, theirs, *found, options.pairs, BOUNDS.get(name)), 1e3 / steps)
