"""Training and sampling on one accelerator against the matmul peak measured in the same run, one table.

    DiT-B/2, DiT-XL/2    32 x 32 x 4 latents, 1000 classes, bfloat16 compute with float32 parameters, cuDNN attention where it is a GPU
    U-Net (ADM 64)       64 x 64 x 3, width 192, multipliers 1 2 3 4, 3 blocks, attention at 32, 16, 8 with heads of 64, bfloat16

For each: milliseconds of a training step with Adam and one average, MFU (operations of score_lab.cost, which leave elementwise work out),
bytes moved and intensity by XLA's count against the ridge, activations per example, images a second of 50 DDIM steps at batch 1, 16 and
256.  ``--toy``: the same program with small networks, on whatever there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.options import Options
from benchmarks.pairs import in_turn, interval, verdict
from benchmarks.training_cases import Case, case_of
from score_lab.cost import Measured, Peaks, bytes_of_program, flops_of, measured_peaks, memory_of
from score_lab.networks import DiT, UNet
from score_lab.samplers import DDIM, UniformTime, sample
from score_lab.training.state import abstract_state, init_state
from score_lab.training.step import make_step

BOUND = 0.6
"""Of the measured peak, for the transformers."""
ROUNDS = 20
SAMPLED = (1, 16, 256)


@dataclasses.dataclass(frozen=True)
class Row:
    """A network, the shape of its examples, the batch that it is trained at, and whether it has to reach the bound."""

    name: str
    network: Any
    shape: tuple[int, int, int]
    batch: int
    bounded: bool


def rows(toy: bool, gpu: bool) -> list[Row]:
    """The three networks, small ones for ``toy``."""
    common = {"dtype": "bfloat16", "attention": "cudnn" if gpu else "xla"}
    if toy:
        dit = DiT(patch=2, width=16, depth=1, heads=2, num_classes=10, **common)
        unet = UNet(width=8, multipliers=(1, 2), blocks=1, attention_at=(4,), head_width=8, num_classes=10, **common)
        return [Row("DiT, toy", dit, (8, 8, 4), 4, False), Row("U-Net, toy", unet, (8, 8, 3), 4, False)]
    adm = UNet(width=192, multipliers=(1, 2, 3, 4), blocks=3, attention_at=(32, 16, 8), head_width=64, num_classes=1000, **common)
    return [
        Row("DiT-B/2", DiT.named("B/2", num_classes=1000, **common), (32, 32, 4), 256, True),
        Row("DiT-XL/2", DiT.named("XL/2", num_classes=1000, **common), (32, 32, 4), 64, True),
        Row("U-Net ADM 64", adm, (64, 64, 3), 64, False),
    ]


def measure(options: Options) -> Iterator[str]:
    """One row per network; one line where there is no accelerator and ``--toy`` was not said."""
    device = jax.devices()[0]
    if device.platform == "cpu" and not options.toy:
        yield "no accelerator here; --toy runs the same program with small networks"
        return
    peaks = measured_peaks((device,), "bfloat16")
    yield peaks.line(device.device_kind)
    sampled = (1, 2) if options.toy else SAMPLED
    columns = "".join(f"{f'images/s at {n}':>17s}" for n in sampled)
    yield f"{'':16s} {'batch':>6s} {'ms':>9s} {'TFLOP/s':>9s} {'MFU':>7s} {'FLOP/byte':>10s} {'MiB/example':>12s}{columns}   bound"
    for row in rows(options.toy, device.platform == "gpu"):
        yield _line(row, peaks, sampled, 3 if options.toy else 50, 2 if options.toy else ROUNDS)


def _line(row: Row, peaks: Peaks, sampled: tuple[int, ...], steps: int, rounds: int) -> str:
    case = case_of(row.name, row.network, row.shape, row.batch)
    try:
        step, high, activations = training(case, peaks, rounds)
        speeds = "".join(f"{sampling(case, n, steps, rounds):17.4g}" for n in sampled)
    except jax.errors.JaxRuntimeError as error:  # out of memory is a line of the table, not its end
        return f"{row.name:16s} cannot be run: {' '.join(str(error).split())[:140]}"
    figures = f"{1e3 * step.seconds:9.2f} {step.rate / 1e12:9.4g} {100 * step.utilisation:5.1f} % {step.intensity:10.4g}"
    # the bound is one from below: what is compared is peak over achieved
    reached = f">= {100 * BOUND:g} % of the peak {verdict(1 / step.utilisation, 1 / high, 1 / BOUND)}"
    held = reached if row.bounded else f"{step.bound}-bound"
    return f"{row.name:16s} {row.batch:6d} {figures} {activations / 2**20:12.4g}{speeds}   {held}"


def training(case: Case, peaks: Peaks, rounds: int) -> tuple[Measured, float, float]:
    """The step alone on one device, the upper end of the 95 % interval of its MFU, and bytes of temporaries per example."""
    parts, size = case.parts, case.parts.batch_size
    rng = np.random.default_rng(0)
    batch = {
        "x0": rng.standard_normal((1, size, *parts.spec.shape), np.float32),
        "cond": {"label": rng.integers(case.network.num_classes, size=(1, size)).astype(np.int32)},
        "index": np.arange(size, dtype=np.int32)[None],
    }
    compiled = jax.jit(make_step(parts), donate_argnums=0).lower(abstract_state(parts), batch).compile()
    counted = dataclasses.replace(parts, network=dataclasses.replace(case.network, attention="xla"))
    flops = float(flops_of(make_step(counted), abstract_state(parts), batch))
    held, batch = [init_state(parts, 0)], jax.device_put(batch)

    def run() -> None:
        held[0], figures = compiled(held[0], batch)
        jax.block_until_ready((held[0], figures))

    times = in_turn({"step": run}, rounds)["step"]
    memory = memory_of(compiled)
    median, low, _ = interval(times)
    step = Measured("training", size, median, flops, bytes_of_program(compiled), peaks)
    return step, flops / low / peaks.flops, (memory.temporaries / size if memory else float("nan"))


def sampling(case: Case, n: int, steps: int, rounds: int) -> float:
    """Images a second of ``steps`` DDIM steps at batch ``n``."""
    params = case.parts.init(jax.random.key(0))[0]
    denoiser, label = case.parts.denoiser(params), jnp.arange(n) % case.network.num_classes
    run = lambda: jax.block_until_ready(  # noqa: E731
        sample(denoiser, DDIM(), UniformTime(steps), (n, *case.parts.spec.shape), jax.random.key(0), cond={"label": label})
    )
    return n / float(np.median(in_turn({"run": run}, max(rounds // 3, 1), warmup=1)["run"]))
