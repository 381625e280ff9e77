"""Training on two CPU devices beside one of them: by pmap, a mesh of data parallelism, and FSDP; mlp, dit8, unet8, unet32.

Both devices share the machine's cores, as one does alone.  No layout may be a trap: the bound is twice the time of one device, far below
what a convolution's gradient costs inside a loop on a CPU (some forty times).  mlp has none: it computes no longer than devices talk.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.options import Options
from benchmarks.pairs import Ratio, heading, in_turn, interval, line
from benchmarks.train_step import STEPS
from benchmarks.training_cases import CASES, Framework, case_of
from score_lab.training.memory import keep_buffers
from score_lab.training.options import ParallelOptions

CPU_DEVICES = 2
NETWORKS = ("mlp", "dit8", "unet8", "unet32")
LAYOUTS = {"pmap": None, "mesh": ParallelOptions(), "FSDP": ParallelOptions(fsdp=CPU_DEVICES)}
BOUNDS = dict.fromkeys(("dit8", "unet8", "unet32"), 2.0)


def measure(options: Options) -> Iterator[str]:
    """Three rows per network: the layout on two devices / one device."""
    keep_buffers()
    yield heading("ms a step")
    for name in options.training(NETWORKS):
        case, steps = case_of(name, *CASES[name], options.batch), STEPS[name]
        trained = {"one": Framework(case)}
        trained |= {kind: Framework(case, CPU_DEVICES, parallel) for kind, parallel in LAYOUTS.items()}
        times = in_turn({kind: lambda f=f, steps=steps: f.run(steps) for kind, f in trained.items()}, options.pairs)
        for kind in LAYOUTS:
            a, b = (float(np.median(times[which])) for which in (kind, "one"))
            found = interval(times[kind] / times["one"])
            yield line(Ratio(f"{name}, two devices by {kind} / one", a, b, *found, options.pairs, BOUNDS.get(name)), 1e3 / steps)
