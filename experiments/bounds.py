"""Says what bounds training and sampling: time, FLOP/s, fraction of the measured peak, intensity against the ridge, and a roofline.

    python -m experiments.bounds --workdir runs/flow
    python -m experiments.bounds --config configs/digits.py:flow --output runs/bounds      # untrained: the speed is the same

Training is the step that ``experiments.train`` runs, at the configured batch, on its devices, with its batches ready on them.  Sampling is
what the ``sampling`` section says (without guidance, which only enlarges the batch), at ``--batches``, on one device; its figures are of
one network evaluation.  Writes bounds.json and roofline.png into WORKDIR/bounds or --output.  Bytes are XLA's, which knows no caches
(score_lab/cost/program.py).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.launcher import launch, parse, set_xla_flag
from score_lab.build import refuse
from score_lab.specs import literal

BATCHES = "1,4,16,64,256"


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""
    flags.DEFINE_string("workdir", None, "a run of experiments.train; or --config", flag_values=values)
    flags.DEFINE_string("batches", BATCHES, "batch sizes of sampling", flag_values=values)
    flags.DEFINE_integer("rounds", 5, "timed runs of each; the median counts", flag_values=values)
    flags.DEFINE_string("output", None, "where the picture goes: WORKDIR/bounds by default, needed with --config", flag_values=values)


def batches_of(text: str) -> list[int]:
    """``"1,4,16"`` as ascending numbers; ConfigError for anything else."""
    found = literal(f"[{text}]")
    if not isinstance(found, list) or not found or any(type(n) is not int or n < 1 for n in found):
        refuse("--batches", text, f"whole numbers, at least 1, as {BATCHES}")
    return sorted(set(found))


def seconds_of(run: Callable[[], Any], rounds: int) -> float:
    """The median of ``rounds`` timed runs, after one that is not counted; ``run`` blocks until its work is done."""
    import numpy as np

    run()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def training(plan: Any, rounds: int) -> Any:
    """The step that is trained, measured on its devices."""
    import jax

    from score_lab.training.memory import keep_buffers
    from score_lab.training.speed import first_batches, speed_of

    keep_buffers()
    speed, dispatch = speed_of(plan), plan.layout.dispatch(plan.parts)
    batches = first_batches(plan, plan.several)
    held = [plan.layout.fresh(plan.parts, plan.seed)]

    def run() -> None:
        held[0], figures = dispatch(held[0], batches)
        jax.block_until_ready((held[0], figures))

    return speed.measured(plan.parts.batch_size * plan.several / seconds_of(run, rounds))


def sampling(denoiser: Any, section: dict, spec: Any, batches: list[int], rounds: int) -> list:
    """One network evaluation at each batch size, measured within whole runs of the sampler on the first device."""
    import jax
    import jax.numpy as jnp

    from experiments.sampling import build_sampling
    from experiments.system import labels_of
    from score_lab.cost import Measured, bytes_of_program, flops_of, measured_peaks
    from score_lab.samplers import sample

    denoiser, sampler, grid = build_sampling(section | {"guidance": None}, denoiser)
    peaks = measured_peaks(jax.devices()[:1], getattr(denoiser.network, "dtype", None))
    t = denoiser.path.time_of(jnp.asarray(sum(max(min(level, 20.0), -20.0) for level in denoiser.log_snr_range) / 2))

    def evaluation(den: Any, x: Any, cond: Any) -> Any:
        return den(x, t, cond).x0

    points = []
    for n in batches:
        cond, x = jax.tree.map(jnp.asarray, labels_of(getattr(denoiser.network, "num_classes", 0), n, None)), jnp.ones((n, *spec.shape))
        moved = bytes_of_program(jax.jit(evaluation).lower(denoiser, x, cond).compile())

        def run(n: int = n, cond: Any = cond) -> Any:
            return jax.block_until_ready(sample(denoiser, sampler, grid, (n, *spec.shape), jax.random.key(0), cond=cond))

        evaluations = float(jnp.mean(run().nfe))
        seconds = seconds_of(run, rounds) / evaluations
        points.append(Measured("sampling, one evaluation", n, seconds, flops_of(evaluation, denoiser, x, cond), moved, peaks))
    return points


def table(points: list) -> list[str]:
    """One line per point under a heading."""
    head = f"{'':28s} {'batch':>6s} {'ms':>10s} {'GFLOP/s':>10s} {'of peak':>8s} {'GB/s':>8s} {'FLOP/byte':>10s} {'of roof':>8s}   bound"
    rows = [
        f"{p.name:28s} {p.batch:6d} {1e3 * p.seconds:10.3f} {p.rate / 1e9:10.2f} {100 * p.utilisation:6.1f} % "
        f"{p.moved / p.seconds / 1e9:8.2f} {p.intensity:10.2f} {100 * p.of_roof:6.1f} %   {p.bound}"
        for p in points
    ]
    return [head, *rows]


def turning(points: list) -> str:
    """Where sampling turns from memory- to compute-bound, which part of the roof it reaches, and whether something else bounds it."""
    from score_lab.cost import FAR_BELOW, reached, turning_point

    turn, part = turning_point(points), reached(points)
    if turn is not None:
        line = f"sampling turns from memory- to compute-bound at a batch of about {turn:.2g}"
    else:
        line = f"sampling is {points[0].bound}-bound at every batch from {points[0].batch} to {points[-1].batch}"
    line = f"{line}; it reaches {part}" if part else line
    far = [str(p.batch) for p in points if p.of_roof < FAR_BELOW]
    where = "" if len(far) == len(points) else f" at batch {', '.join(far)}"
    return f"{line}: something else bounds it{where} (overhead of dispatch, small products, or a busy machine)" if far else line


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    values = parse(__doc__, sys.argv, define)
    if (values.config is None) == (values.workdir is None):
        refuse("--workdir", values.workdir, "a run of experiments.train, or --config=FILE:VARIANT, one of the two")
    if values.workdir is None and values.output is None:
        refuse("--output", None, "--output=DIRECTORY where there is no --workdir")
    batches = batches_of(values.batches)
    if values.rounds < 1:
        refuse("--rounds", values.rounds, "an int of at least 1")

    import jax

    from experiments.sampling import check_sampling, section_of
    from score_lab.report import save_roofline
    from score_lab.training import load
    from score_lab.training.options import check_sections, plain
    from score_lab.training.prepare import DETERMINISTIC, here, prepare
    from score_lab.training.record import read_workdir

    config = read_workdir(values.workdir)["config"] if values.workdir else plain(values.config)
    check_sections(config)
    if config["training"].get("deterministic"):
        set_xla_flag(DETERMINISTIC)  # as the run had it
    if values.workdir:  # which may have been trained on other devices
        config, lines = here(config)
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    plan = prepare(config, None)
    loaded = load(values.workdir) if values.workdir else None
    check_sampling(plan.parts)
    denoiser = loaded.denoiser if loaded else plan.parts.denoiser(plan.parts.init(jax.random.key(plan.seed))[0])
    step = training(plan, values.rounds)
    points = sampling(denoiser, section_of(plan.parts.config), plan.parts.spec, batches, values.rounds)
    kind = jax.devices()[0].device_kind
    lines = [f"training {step.peaks.line(kind)}", f"sampling {points[0].peaks.line(kind)}", *table([step, *points]), turning(points)]
    print("\n".join(lines))
    output = Path(values.output or Path(values.workdir) / "bounds")
    picture = save_roofline(output / "roofline.png", {"sampling": points, "training step": [step]}, f"what bounds it, {kind}")
    written = [vars(p) | {"peaks": vars(p.peaks), "intensity": p.intensity, "bound": p.bound} for p in (step, *points)]
    (output / "bounds.json").write_text(json.dumps(written, indent=2) + "\n")
    print(f"wrote {picture} and {output / 'bounds.json'}")


if __name__ == "__main__":
    launch(main)
