"""The benchmarks of training at toy size: that both sides train, that their rows are told, that what is absent is one line.

What they time is not tested here.
"""

import importlib
import sys

import jax
import numpy as np
import pytest

import benchmarks.__main__
from benchmarks import gpu, train_devices, train_extras, train_peers, train_step
from benchmarks.options import Options
from benchmarks.pairs import Ratio
from benchmarks.training_cases import CASES, Framework, bare_program, case_of
from score_lab.cost import Peaks
from score_lab.networks import MLP, DiT, UNet

MOONS = (MLP(width=8, depth=1), (2,))


@pytest.fixture(scope="module")
def case():
    return case_of("mlp", *MOONS, 8)


def test_both_sides_make_the_steps_that_are_timed(case):
    """Ten steps a dispatch; the framework's counter says so, the bare loss falls."""
    framework = Framework(case)
    seen = []
    framework.run(20, lambda done, state, figures: seen.append(done))
    assert seen == [10, 20] and int(framework.state.step) == 20
    bare_program(case, 10)()


def test_the_networks_are_those_that_are_told():
    """Parameters as the head of training_cases says, and a scan where it is no trap."""
    shapes = {name: jax.eval_shape(lambda n=network, s=shape: n.init(jax.random.key(0), s)) for name, (network, shape) in CASES.items()}
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for name, tree in shapes.items()}
    assert {name: round(count, 1) for name, count in counts.items()} == {"mlp": 1.7, "dit8": 2.8, "dit32": 2.8, "unet8": 2.1, "unet32": 2.1}


def rows(module, options, monkeypatch):
    monkeypatch.setattr(module, "CASES", dict.fromkeys(CASES, MOONS))
    return list(module.measure(options))


def test_a_row_for_each_network(monkeypatch):
    told = rows(train_step, Options(pairs=2, networks=("dit8",), batch=8), monkeypatch)
    assert len(told) == 2 and told[1].startswith("train step, dit8, batch 8") and "<= 1.05" in told[1]


def test_checkpoints_and_log_lines(monkeypatch):
    """Both rows; a checkpoint of every pair was made."""
    told = rows(train_extras, Options(pairs=2, batch=8), monkeypatch)
    assert "a checkpoint every 100 steps" in told[1] and "<= 1.03" in told[1] and "a log line every 10 steps" in told[2]


def test_a_checkpoints_cost_is_that_of_one_in_a_hundred_steps(monkeypatch, tmp_path, case):
    """20 steps take 2 s, 3 s with a checkpoint: 10 s for 100, so one second is a tenth."""
    monkeypatch.setattr(train_extras, "in_turn", lambda programs, pairs: {"a": np.full(pairs, 3.0), "b": np.full(pairs, 2.0)})
    found = train_extras.checkpointing(Framework(case), tmp_path, 20)
    assert isinstance(found, Ratio) and found.ratio == pytest.approx(1.1) and found.b == pytest.approx(0.1) and not found.holds


def test_two_devices_by_each_layout(monkeypatch):
    """Three rows, and twice the time of one device is the most."""
    told = rows(train_devices, Options(pairs=2, networks=("unet8",), batch=8), monkeypatch)
    assert [row.split(" / ")[0].split(" by ")[1] for row in told[1:]] == ["pmap", "mesh", "FSDP"]
    assert all("<= 2" in row for row in told[1:])


@pytest.mark.parametrize(("status", "more"), [(0, []), (1, []), (3, ["train_devices: the process ended with status 3: DOES NOT HOLD"])])
def test_a_benchmark_of_several_cpu_devices_has_a_process_of_its_own(monkeypatch, tmp_path, status, more):
    """Its lines are passed on without the head and the sum of its own, and how it ends is seen."""
    script = tmp_path / "python"
    lines = ["jax 1 on 2 x cpu", "", "train_devices", "unet8 HOLDS", "", "of 1 bounds 1 hold"]
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {status}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert list(benchmarks.__main__._elsewhere("train_devices", 2)) == ["unet8 HOLDS", *more]


def test_torch_that_is_not_there_is_one_line(monkeypatch):
    def absent(name):
        raise ImportError("No module named 'torch'")

    monkeypatch.setattr(importlib, "import_module", absent)
    (line,) = train_peers.measure(Options(pairs=2))
    assert "No module named 'torch'" in line and ".[peers]" in line and "\n" not in line


def test_torch_beside_ours(monkeypatch):
    """Where torch is installed: its step trains the same network."""
    torch = pytest.importorskip("torch")
    from benchmarks.peers.torch_networks import torch_network
    from benchmarks.peers.torch_training import loss_of, torch_program

    case = case_of("mlp", *MOONS, 8)
    torch_program(case, 2, compiled=False)()
    network = torch_network(case.network, case.network.init(jax.random.key(0), (2,)), (2,))
    assert torch.isfinite(loss_of(network, torch.zeros(8, 2), torch.zeros(8, dtype=torch.long)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP(width=16, depth=2), (2,)),
        (DiT(patch=2, width=16, depth=2, heads=2, num_classes=3), (8, 8, 1)),
        (UNet(width=8, multipliers=(1, 2), blocks=2, attention_at=(), num_classes=3), (8, 8, 3)),
    ],
)
def test_the_networks_of_torch_are_ours(network, shape):
    """Where torch is installed: the same weights, none of them zero, give the same output."""
    torch = pytest.importorskip("torch")
    from benchmarks.peers.torch_networks import torch_network

    leaves, tree = jax.tree.flatten(network.init(jax.random.key(0), shape))
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(tree, [x + 0.05 * rng.standard_normal(x.shape, np.float32) for x in leaves])
    x, level, label = rng.standard_normal((4, *shape), np.float32), np.linspace(-5, 5, 4, dtype=np.float32), np.array([-1, 0, 1, 2])
    cond = {"label": jax.numpy.asarray(label)} if network.num_classes else None
    ours = jax.jit(network.apply)(params, x, level, cond)
    image = len(shape) == 3
    tensor = torch.tensor(np.moveaxis(x, -1, 1) if image else x)
    theirs = torch_network(network, params, shape)(tensor, torch.tensor(level), torch.tensor(label)).numpy()
    np.testing.assert_allclose(np.moveaxis(theirs, 1, -1) if image else theirs, ours, atol=2e-5)


def test_without_an_accelerator_there_is_one_line():
    (line,) = gpu.measure(Options())
    assert "no accelerator here; --toy" in line
    assert {row.network.attention for row in gpu.rows(toy=True, gpu=False)} == {"xla"}


@pytest.mark.slow
def test_a_toy_on_request(monkeypatch):
    """Its table has the columns of the whole one."""
    monkeypatch.setattr(gpu, "measured_peaks", lambda *_: Peaks(1e9, 1e8, "bfloat16", 1))
    tiny = gpu.Row("DiT, toy", DiT(patch=4, width=8, depth=1, heads=2, num_classes=10, dtype="bfloat16"), (8, 8, 4), 2, True)
    monkeypatch.setattr(gpu, "rows", lambda toy, on_gpu: [tiny])
    peaks, head, row = gpu.measure(Options(toy=True))
    assert "bfloat16" in peaks and "images/s at 2" in head and "MFU" in head
    assert row.startswith("DiT, toy") and ">= 60 % of the peak" in row and ("HOLDS" in row or "DOES NOT HOLD" in row)


def test_the_whole_table_has_the_papers_models():
    big, huge, unet = gpu.rows(toy=False, gpu=True)
    assert (big.network.depth, huge.network.width, unet.network.width) == (12, 1152, 192)
    assert {(row.network.attention, row.network.dtype) for row in (big, huge, unet)} == {("cudnn", "bfloat16")}
    assert [row.bounded for row in (big, huge, unet)] == [True, True, False]


def test_memory_errors_are_rows(monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of\nmemory")

    monkeypatch.setattr(gpu, "training", full)
    row = gpu._line(gpu.rows(toy=True, gpu=False)[0], Peaks(1e9, 1e8, "bfloat16", 1), (1,), 1, 1)
    assert "cannot be run: RESOURCE_EXHAUSTED: out of memory" in row and "\n" not in row
