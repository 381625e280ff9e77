"""One of two processes of two devices each that make the runs of test_same.py:  same_program.py PORT INDEX FOLDER."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).resolve().parent


def module(name):
    """A file beside this one, by its name."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


if __name__ == "__main__":
    port, index, folder = sys.argv[1:]
    sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    from score_lab.data import DataSpec
    from score_lab.training.parts import build_parts

    same, tiny = module("test_same"), module("conftest").tiny
    parts = build_parts(tiny(network=same.NETWORKS["DiT"]), DataSpec(same.SHAPE, 2, "none"), 0.7)
    for name in ("pmap", "data", "fsdp", "both"):
        np.savez(Path(folder) / f"{name}-{index}.npz", *same.run(parts, name, 10))
