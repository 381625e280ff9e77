"""What a record by band costs beside the run that it is of: dit8 (batch 64), 20 evaluations, 200 replicates, beside the same run without.

One row per solver and recorder.  A chosen list of solvers is timed; DDIM, Heun and Euler-Maruyama by default, of one, two calls and with
noise.  Also the bytes of the compiled programs: what a record adds for each trajectory (its weights), and what it holds however many
there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.dit8 import SHAPE, condition, denoiser
from benchmarks.networks import BATCH
from benchmarks.options import Options
from benchmarks.pairs import heading, interleaved, line
from score_lab.build import ConfigError
from score_lab.mismatch.bands import BandRecorder
from score_lab.mismatch.spectrum import Spectrum
from score_lab.samplers import UniformLogSNR, sample
from score_lab.samplers.loop import memory_of

BOUND = 1.15
EVALUATIONS = 20
DEFAULT = ("DDIM", "Heun in kappa", "Euler-Maruyama")


def recorder_of(basis: str, replicates: int) -> BandRecorder:
    """For 8 x 8 pictures: radial bands of the DCT, or every coefficient its own of ``each``."""
    x = np.random.default_rng(0).standard_normal((64, *SHAPE[1:])).astype(np.float32)
    spectrum = Spectrum.of(x, "dct", "each" if basis == "each" else "radial")
    return BandRecorder.of(spectrum, jax.random.key(0), replicates)


def measure(options: Options) -> Iterator[str]:
    """The ratios of times, and the memory."""
    den, cond = denoiser(), condition()
    chosen = Options(options.pairs, options.solvers or DEFAULT).fixed_step()
    yield heading()
    for name, sampler in chosen.items():
        steps = UniformLogSNR(max(EVALUATIONS // sampler.calls, sampler.memory + 3)).steps(den.path)
        plain = lambda s=sampler, g=steps: jax.block_until_ready(sample(den, s, g, SHAPE, cond=cond).x)  # noqa: E731
        try:
            plain()
        except ConfigError as error:
            yield f"{name:44s} refused: {error}"
            continue
        for basis, replicates in (("dct", 200), ("each", 200)) if name == "DDIM" else (("dct", 200),):
            kept = recorder_of(basis, replicates)
            ours = lambda s=sampler, g=steps, r=kept: jax.block_until_ready(sample(den, s, g, SHAPE, cond=cond, recorder=r))  # noqa: E731
            bands = kept.membership.shape[1]
            yield line(interleaved(f"{name}, {bands} bands", ours, plain, options.pairs, warmup=1, bound=BOUND))
    sampler, kept = chosen[next(iter(chosen))], recorder_of("dct", 200)
    steps = UniformLogSNR(EVALUATIONS).steps(den.path)

    def added(n: int) -> int:
        arguments = den, sampler, steps, (n, *SHAPE[1:])
        label = {"label": np.arange(n) % 10}
        return memory_of(*arguments, cond=label, recorder=kept) - memory_of(*arguments, cond=label)

    few, many = added(BATCH), added(2 * BATCH)
    each = (many - few) / BATCH
    rest = (few - BATCH * each) / 1024
    yield f"memory that a record of {EVALUATIONS} calls adds: {each / 1024:.1f} KiB for each trajectory of a chunk, {rest:.0f} KiB besides"
