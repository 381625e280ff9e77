"""A run recorded in chunks, its null at the same calls, and what estimators prepare: everything of a study that costs evaluations.

    run    n trajectories of each seed, sample i from (seed, i): the same noise, and the same bootstrap weights, for every solver
    null   n forward samples of each seed at the levels of the run's calls, shown to the same (guided) network; examples in an order of
           the seed's, again from the first, with other noise, where n is more than there are

Every part is kept under what produced it (``Records``), so a study that was stopped goes on, and one with more solvers, budgets or seeds
adds theirs only.  Solvers that call at the same levels share a null and a calibration.  Memory does not grow with n.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from score_lab.build import refuse
from score_lab.mismatch.bands import BandRecord, BandRecorder
from score_lab.mismatch.estimators.streaming import SumRecord
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.record import Recorders
from score_lab.mismatch.spectrum import Spectrum
from score_lab.mismatch.study.named import Setting
from score_lab.mismatch.study.records import Records
from score_lab.samplers.chunks import Chunks

__all__ = ["FEWEST", "Examples", "Recorded", "Recording", "Subject"]

FEWEST = 32
"""Trajectories below which no interval says anything."""
_RUN, _NULL, _ORDER, _PREPARE = 1, 2, 3, 4
"""What a seed is folded with: the weights of a run, noise and weights of its null, the examples' order, calibrations."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """The data ``x`` (N, *shape) on which the network was trained, or draws of an exact law, their ``label`` (N,) or None; ``what`` words
    on the preprocessing that the spectrum's digest holds."""

    x: np.ndarray
    label: np.ndarray | None = None
    what: str = ""
    columns = ()


@dataclasses.dataclass(frozen=True)
class Subject:
    """One system with a number of steps.

    Attributes:
      name: in words, "DDIM, 10 NFE".
      axes: name -> word, for the table.
      denoiser: on the path that is sampled, guided as it is sampled; ``exact`` the model's own denoiser on that path, unguided.
      sampler, steps: what is run.
      shape: of one state.
      examples: of the model's data.
      keys: one per seed: of everything that decides a run's samples.
      system: of everything that decides what the network says to a state: model, path, guidance and the code of these.
      cond: n -> what samples 0..n-1 are conditioned on.
      note: what a reader must know, for example of the budget.
    """

    name: str
    axes: Mapping[str, Any]
    denoiser: Any
    exact: Any
    sampler: Any
    steps: Any
    shape: tuple[int, ...]
    examples: Examples
    keys: tuple[str, ...]
    system: str
    cond: Callable[[int], Mapping[str, np.ndarray] | None]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Of one run and its null, all seeds together: ``record``, ``null`` of ``BandRecorder`` and, by the number of the estimator,
    ``sums``, ``null_sums`` of those with a recorder of their own; ``seeds`` the records of each seed; ``invalid`` (seed, index) of every
    trajectory that is not finite; ``nfe`` counted; ``estimators`` as prepared; ``cycled``: examples were used more than once."""

    record: BandRecord
    null: BandRecord
    sums: Mapping[int, SumRecord]
    null_sums: Mapping[int, SumRecord]
    seeds: tuple[BandRecord, ...]
    invalid: tuple[tuple[int, int], ...]
    nfe: float
    estimators: tuple[Any, ...]
    cycled: bool


@dataclasses.dataclass(frozen=True)
class Recording:
    """How runs are recorded: ``spectrum``, ``n`` of each of the ``seeds``, ``chunk`` at once, ``replicates`` of the bootstrap, the
    ``estimators`` (see ``named``), ``code`` a digest of the code that records, and where it is kept."""

    spectrum: Spectrum
    n: int
    seeds: tuple[int, ...]
    estimators: tuple[Any, ...]
    records: Records
    chunk: int = 128
    replicates: int = 200
    code: str = ""

    def check(self) -> None:
        """ConfigError for fewer than ``FEWEST`` trajectories or 20 replicates."""
        if self.n < FEWEST:
            refuse("n", self.n, f"at least {FEWEST} trajectories: no interval says anything with fewer")
        if self.replicates < 20:
            refuse("replicates", self.replicates, "at least 20 of the bootstrap; 200 is usual")

    def recorded(self, subject: Subject) -> Recorded:
        """The run and its null, from what is kept or by doing it."""
        early = self._prepared(subject, np.unique(np.asarray(subject.steps.t)), True)
        runs = [self._run(subject, i, early) for i in range(len(self.seeds))]
        parts = self._parts(early)
        results = [_unpacked(r, len(parts.parts)) for r in runs]
        record, *sums = parts.collect(_merged(parts, results))
        times = np.unique(record.t)[::-1]
        nulls = [_unpacked(self._null(subject, i, early, times), len(parts.parts)) for i in range(len(self.seeds))]
        null, *null_sums = parts.collect(_merged(parts, nulls))
        rows = np.array([int(np.argmin(np.abs(times - t))) for t in record.t])
        own = [i for i, e in enumerate(early) if hasattr(e, "recorder")]
        late = self._prepared(subject, times, False)
        seeds = tuple(parts.collect(r)[0] for r in results)
        invalid = tuple((seed, int(j)) for seed, r in zip(self.seeds, runs, strict=True) for j in r["not_finite"])
        return Recorded(
            record, rows_of(null, rows), dict(zip(own, sums, strict=True)),
            {i: rows_of(s, rows) for i, s in zip(own, null_sums, strict=True)}, seeds, invalid, float(runs[0]["nfe"]),
            tuple(e if done is None else done for e, done in zip(early, late, strict=True)), self.n > len(subject.examples.x),
        )  # fmt: skip

    def setting(self, subject: Subject, times: np.ndarray) -> Setting:
        """What an estimator, or a read-out of the network alone, is prepared with for calls at ``times`` (K,)."""
        seed = self.seeds[0]
        x, cond = self._examples(subject, seed, np.arange(len(subject.examples.x)))
        about = {"code": self.code, "seed": seed, "data": self.spectrum.digest, "replicates": self.replicates}

        def of_data(what: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
            return self.records.kept({**about, **what}, make)

        def kept(what: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
            return of_data({"system": subject.system, **what}, make)

        key = jax.random.fold_in(jax.random.key(seed), _PREPARE)
        return Setting(subject.denoiser, subject.exact, x, cond, times, self.spectrum, key, self.replicates, kept, of_data)

    def _prepared(self, subject: Subject, times: np.ndarray, early: bool) -> tuple[Any, ...]:
        """``early``: those that are recorded in the scan are prepared, the others are as they are; else the others, and None for these."""
        setting, found = self.setting(subject, times), []
        for estimator in self.estimators:
            mine = bool(getattr(estimator, "in_scan", False)) == early
            ready = estimator.prepare(setting) if mine and hasattr(estimator, "prepare") else estimator
            found.append(ready if mine or early else None)
        return tuple(found)

    def _parts(self, estimators: Sequence[Any], seed: int = 0, of: int = _RUN) -> Recorders:
        key = jax.random.fold_in(jax.random.key(seed), of)
        own = [e.recorder(key, self.replicates) for e in estimators if hasattr(e, "recorder")]
        return Recorders((BandRecorder.of(self.spectrum, key, self.replicates), *own))

    def _what(self, own: str, i: int, estimators: Sequence[Any]) -> dict[str, Any]:
        pairs = [(e, ready) for e, ready in zip(self.estimators, estimators, strict=True) if hasattr(ready, "recorder")]
        sums = [repr(e) + getattr(ready, "digest", "") for e, ready in pairs]  # what was trained is more than its settings
        kept = {"spectrum": self.spectrum.digest, "sums": sums, "replicates": self.replicates, "code": self.code}
        return {"of": own, "n": self.n, "seed": self.seeds[i]} | kept

    def _run(self, subject: Subject, i: int, estimators: Sequence[Any]) -> dict[str, np.ndarray]:
        def made() -> dict[str, np.ndarray]:
            seed, cond = self.seeds[i], subject.cond(self.n)
            parts = self._parts(estimators, seed)
            chunks = Chunks.of(
                subject.denoiser, subject.sampler, subject.steps, (self.n, *subject.shape), jax.random.key(seed),
                chunk=even(self.n, self.chunk), cond=cond,
            )  # fmt: skip
            total, bad, nfe = None, [], 0.0
            for first in chunks.starts():
                part = chunks.run(first, parts)
                total = part.record if total is None else parts.merge([total, part.record])
                bad += (first + np.flatnonzero(~np.isfinite(part.x.reshape(len(part.x), -1)).all(axis=1))).tolist()
                nfe = float(np.mean(part.nfe))
            return _packed(total) | {"not_finite": np.asarray(bad, np.int64), "nfe": np.asarray(nfe)}

        return self.records.kept(self._what("run", i, estimators) | {"key": subject.keys[i]}, made)

    def _null(self, subject: Subject, i: int, estimators: Sequence[Any], times: np.ndarray) -> dict[str, np.ndarray]:
        def made() -> dict[str, np.ndarray]:
            seed, size = self.seeds[i], even(self.n, self.chunk)
            parts, key = self._parts(estimators, seed, _NULL), jax.random.fold_in(jax.random.key(seed), _NULL)
            total = None
            for first in range(0, self.n, size):
                index = np.arange(first, min(first + size, self.n), dtype=np.int32)
                x, cond = self._examples(subject, seed, index)
                result = jax.tree.map(np.asarray, forward_run(subject.denoiser, x, times, parts, key, cond=cond, index=index))
                total = result if total is None else parts.merge([total, result])
            return _packed(total)

        return self.records.kept(self._what("null", i, estimators) | {"key": subject.system, "t": times.tolist()}, made)

    def _examples(self, subject: Subject, seed: int, index: np.ndarray) -> tuple[np.ndarray, Any]:
        """Example ``index[j]`` of the seed's order, and what the network is told with it."""
        data = subject.examples
        order = np.random.default_rng((seed, _ORDER)).permutation(len(data.x))
        rows = order[index % len(data.x)]
        told = subject.cond(1)
        if told is None or data.label is None:
            return data.x[rows], None
        return data.x[rows], {"label": np.asarray(data.label)[rows].astype(np.int32)}


def even(n: int, chunk: int) -> int:
    """The largest size from ``chunk`` / 2 to ``chunk`` that divides ``n``, so that there is one program; ``chunk`` where none does."""
    return n if n <= chunk else next((size for size in range(chunk, chunk // 2, -1) if n % size == 0), chunk)


def rows_of(record: Any, rows: np.ndarray) -> Any:
    """The calls ``rows`` of a ``BandRecord`` or ``SumRecord``, in that order."""

    def one(value: Any) -> Any:
        return {name: v[rows] for name, v in value.items()} if isinstance(value, dict) else value[rows]

    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    whole = ("weight", "spectrum", "sizes")
    return type(record)(**{name: value if name in whole or value is None else one(value) for name, value in fields.items()})


def _merged(parts: Recorders, results: list[tuple]) -> tuple:
    return results[0] if len(results) == 1 else parts.merge(results)


def _packed(result: tuple) -> dict[str, np.ndarray]:
    return {f"{i}_{name}": np.asarray(value) for i, part in enumerate(result) for name, value in part.items()}


def _unpacked(arrays: Mapping[str, np.ndarray], count: int) -> tuple:
    split: list[dict[str, np.ndarray]] = [{} for _ in range(count)]
    for name, value in arrays.items():
        i, _, field = name.partition("_")
        if i.isdigit():
            split[int(i)][field] = value
    return tuple(split)
