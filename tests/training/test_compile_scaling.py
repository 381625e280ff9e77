"""``tools/compile_scaling.py`` at the size of a test: a mesh that is not there, bytes on a device, collectives by kind."""

import re
import subprocess
import sys
from pathlib import Path

import network_guard
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def rows(*words):
    """fsdp -> (the numbers of its memory line, {kind: (how many, GiB)}); each line as it is printed."""
    command = [sys.executable, "tools/compile_scaling.py", *words]
    done = subprocess.run(command, cwd=ROOT, env=network_guard.environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {}
    for block in re.split(r"^fsdp ", done.stdout, flags=re.MULTILINE)[1:]:
        fsdp, memory = int(block.split()[0]), re.search(r"GiB on a device: (.*)", block)[1]
        counts = re.findall(r"^  ([a-z-]+): (\d+) a step, ([\d.]+) GiB", block, re.MULTILINE)
        found[fsdp] = dict(re.findall(r"(\w+) ([\d.]+)", memory)), {kind: (int(n), float(size)) for kind, n, size in counts}
    return found


@pytest.mark.slow
def test_eight_devices_that_are_not_there():
    """DiT-S in bfloat16: 33 M parameters.  Parameters, optimizer and averages fall to an eighth, temporaries too but for the arrays at
    work; one sum without fsdp; with it a gather forward and, of blocks, one backward, and a scatter of every large array."""
    found = rows("--devices=8", "--fsdp", "1", "8", "--size=S", "--side=8", "--batch=8", "--remat=full")
    (one, sums), (shared, kinds) = found[1], found[8]
    for name, factor in (("parameters", 1), ("optimizer", 2), ("averages", 2)):
        assert float(one[name]) == pytest.approx(factor * float(one["parameters"]), abs=2e-3)
        assert float(shared[name]) == pytest.approx(float(one[name]) / 8, rel=0.02, abs=1e-3)
    assert float(shared["arguments"]) < 0.14 * float(one["arguments"]) and float(shared["temporaries"]) < 0.6 * float(one["temporaries"])
    assert sums == {"all-reduce": (1, pytest.approx(float(one["parameters"]), abs=2e-3))}
    assert set(kinds) == {"all-gather", "reduce-scatter", "all-reduce"}
    gathers, scatters = kinds["all-gather"][0], kinds["reduce-scatter"][0]
    assert gathers == scatters + 4 * 12  # four matrices in each of twelve blocks
    assert kinds["reduce-scatter"][1] == pytest.approx(float(one["parameters"]) / 8, rel=0.02, abs=1e-3)
    assert kinds["all-reduce"][0] <= 3
