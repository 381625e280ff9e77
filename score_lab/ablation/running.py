"""Cells are sampled: one program for all seeds of a run, the next one compiled while this one samples.

A cell that raises is stored with its reason, in one line, and the rest go on.  Every chunk is timed (some share the processor with a
compilation, so that it is their median that tells); memory is what XLA allocates for one chunk: arguments, result and scratch.  Evaluations
are those of every sample, which differ where the solver is adaptive.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_lab.ablation.correcting import assembled
from score_lab.ablation.plan import Run
from score_lab.ablation.store import Cell, Store
from score_lab.ablation.study import Model
from score_lab.mismatch import BandRecorder, NormRecorder, Recorders
from score_lab.samplers import sample
from score_lab.samplers.loop import check_run

__all__ = ["Program", "run_cells"]

CALLS = 24
"""Network calls of which the states' norms are kept."""
REPLICATES = 40
"""Of the bands' record, which is kept where the data's spectrum is known."""
BAND = "band_"


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled run: ``call(key, index, cond)`` -> (x, (nfe, attempted steps) of each sample or of all, and of every call slot: t (K,),
    whether it was made (K,), squared norms (K, chunk), and of ``bands``, where the spectrum is known, its sums)."""

    call: Callable
    chunk: int
    steps: int
    compile_s: float
    memory: float
    bands: Any = None

    @classmethod
    def of(cls, model: Model, section: Mapping[str, Any], chunk: int) -> Program:
        """Builds the parts, checks them and compiles."""
        made = assembled(model, section)
        denoiser, sampler, steps, start = made.denoiser, made.sampler, made.grid.steps(made.denoiser.path), made.start
        check_run(denoiser, sampler, steps, denoiser.path)
        denoiser, sampler = (part.specialise() if hasattr(part, "specialise") else part for part in (denoiser, sampler))
        norms = NormRecorder(jnp.asarray(model.truth.moments.mean, jnp.result_type(float)))
        bands = None if model.spectrum is None else BandRecorder.of(model.spectrum, jax.random.key(0), REPLICATES)

        def draw(denoiser, sampler, steps, bands, key, index, cond):
            if bands is not None:  # the seeds' weights are independent, as their trajectories are
                bands = dataclasses.replace(bands, key=jax.random.fold_in(key, 1))
            shape, x_T = ((chunk, *model.shape), None) if start is None else (None, start.x_T(denoiser.path, steps, key, index=index))
            recorder = Recorders((norms,) if bands is None else (norms, bands))
            done = sample(denoiser, sampler, steps, shape, key, x_T=x_T, index=index, cond=cond, recorder=recorder)
            seen = done.record[0]
            spent = done.nfe, steps.t.shape[0] if done.num_steps is None else done.num_steps
            return done.x, spent, seen.t, seen.made, seen.square, None if bands is None else done.record[1]

        parts = jax.device_put((denoiser, sampler, steps, bands))
        begun, seen = time.perf_counter(), (jax.random.key(0), jnp.arange(chunk, dtype=jnp.int32), model.cond(chunk))
        compiled = jax.jit(draw).lower(*parts, *seen).compile()
        seconds = time.perf_counter() - begun
        return cls(lambda *batch: compiled(*parts, *batch), chunk, int(steps.t.shape[0]), seconds, _memory(compiled), bands)


def _memory(compiled: Any) -> float:
    """Bytes of arguments, results and scratch; NaN where the backend does not say."""
    try:
        m = compiled.memory_analysis()
        return float(m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes)
    except Exception:  # noqa: BLE001 - not every backend has it
        return float("nan")


def draw_cell(
    program: Program, model: Model, run: Run, seed: int, before: Mapping[str, np.ndarray] | None = None
) -> tuple[Cell, dict[str, np.ndarray]]:
    """The samples 0..n-1 of ``seed``, chunk by chunk, with their indices as everywhere; the first of them are taken from ``before``."""
    n, chunk, key = int(run.what["n"]), program.chunk, jax.random.key(seed)
    cond, times = model.cond(n), []
    if program.bands is not None and before is not None and ((n - len(before["x"])) % chunk or f"{BAND}n" not in before):
        before = None  # sums over bands take whole chunks
    x, square = ([], []) if before is None else ([before["x"]], [before["square"]])
    spent = [] if before is None or "spent" not in before else [before["spent"]]
    sums = [] if before is None or program.bands is None else [bands_of(before)]
    for first in range(sum(map(len, x)), n, chunk):
        rows = np.minimum(np.arange(first, first + chunk), n - 1)
        batch = jnp.asarray(rows, jnp.int32), None if cond is None else {name: jnp.asarray(v[rows]) for name, v in cond.items()}
        start = time.perf_counter()
        out = jax.block_until_ready(program.call(key, *batch))
        times.append((time.perf_counter() - start) / chunk)
        x.append(np.asarray(out[0])[: n - first])
        spent.append(np.stack([np.broadcast_to(np.asarray(v), chunk)[: n - first] for v in out[1]]))
        kept = _some(np.asarray(out[3]))
        square.append(np.asarray(out[4])[kept, : n - first])
        if program.bands is not None:
            sums.append(jax.tree.map(np.asarray, out[5]))
    drawn = np.concatenate(x)
    invalid = tuple(int(i) for i in np.flatnonzero(~np.isfinite(drawn.reshape(n, -1)).all(axis=1)))
    what, (nfe, steps) = {**run.what, "seed": seed}, np.concatenate(spent, axis=1)
    cell = Cell(
        what=what, key=run.keys[0], status="done", nfe=float(nfe.mean()), steps=round(float(steps.mean())), invalid=invalid,
        seconds=min(times), compile_s=program.compile_s, memory=program.memory, most=float(nfe.max()), chunks=tuple(times),
    )  # fmt: skip
    arrays = {"x": drawn, "t": np.asarray(out[2])[kept], "square": np.concatenate(square, axis=1)}
    if np.ptp(nfe) or np.ptp(steps):
        arrays["spent"] = np.concatenate(spent, axis=1)
    if program.bands is not None:
        arrays |= {f"{BAND}{name}": np.asarray(value) for name, value in program.bands.merge(sums).items()}
    return cell, arrays


def bands_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The bands' sums among a cell's arrays, for ``BandRecorder.merge`` and ``collect``."""
    return {name.removeprefix(BAND): value for name, value in arrays.items() if name.startswith(BAND)}


def _some(made: np.ndarray) -> np.ndarray:
    """At most CALLS of the slots in which a call was ``made``, evenly spread, the last among them."""
    slots = np.flatnonzero(made)
    return slots[np.unique(np.linspace(0, len(slots) - 1, min(CALLS, len(slots))).round().astype(int))]


def run_cells(
    runs: Sequence[Run], models: Mapping[str, Model], seeds: Sequence[int], store: Store, chunk: int,
    progress: Callable[[int, int, Run], None] | None = None,
) -> None:  # fmt: skip
    """Everything that is not in ``store`` yet; cells that failed are tried again, those with fewer samples are extended.
    ``progress(done, all, run)`` after each run."""
    waiting, seen = [], set()
    for run in runs:
        missing = [k for k, key in enumerate(run.keys[: len(seeds)]) if key not in seen and not _done(store, run, key)]
        seen.update(run.keys)
        if missing:
            waiting.append((run, missing))
    with ThreadPoolExecutor(1) as pool:

        def compiling(i: int) -> Future | None:
            return pool.submit(_compile, models[waiting[i][0].system.model], waiting[i][0], chunk) if i < len(waiting) else None

        ahead = compiling(0)
        for i, (run, missing) in enumerate(waiting):
            here, ahead = ahead, compiling(i + 1)
            try:
                program = here.result()
                for k in missing:
                    begun = store.cell(run.keys[k])
                    before = store.arrays(run.keys[k]) if begun is not None and begun.status == "done" else None
                    cell, arrays = draw_cell(program, models[run.system.model], run, seeds[k], before)
                    earlier = () if before is None or len(before["x"]) >= cell.what["n"] else begun.chunks
                    store.put(dataclasses.replace(cell, key=run.keys[k], chunks=(*earlier, *cell.chunks)), arrays)
            except Exception as error:  # noqa: BLE001 - one cell's failure is its result
                for k in missing:
                    if not _done(store, run, run.keys[k]):
                        store.put(Cell(run.keys[k], {**run.what, "seed": seeds[k]}, "failed", reason_of(error)))
            if progress is not None:
                progress(i + 1, len(waiting), run)


def _done(store: Store, run: Run, key: str) -> bool:
    cell = store.cell(key)
    return cell is not None and cell.status == "done" and cell.what["n"] >= run.what["n"]


def _compile(model: Model, run: Run, chunk: int) -> Program:
    if run.reason:
        raise Refused(run.reason)
    n = int(run.what["n"])
    chunk = min(chunk, n)
    if model.spectrum is not None:
        chunk = max(k for k in range(1, chunk + 1) if n % k == 0)  # whole chunks, so that no trajectory is summed twice
    return Program.of(model, run.section, chunk)


class Refused(Exception):
    """A run that could not be planned; its reason is the message."""


def reason_of(error: Exception) -> str:
    """One line: the type, unless it is a user's error, and the first line of the message."""
    text = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    return text[:300] if isinstance(error, ValueError | Refused) else f"{type(error).__name__}: {text[:300]}"
