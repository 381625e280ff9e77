"""What has been done, in one SQLite file: it outlives a kill at any moment, is resumed, and extended.

    cells      key, what (JSON), status done | failed, reason, nfe, steps, invalid (JSON), seconds, compile_s, memory, most, chunks (JSON)
    counts     key -> nfe or the reason why it was refused
    measures   key -> estimates (JSON) and bootstrap draws (npz)
    samples/KEY.npz    x (n, *shape), t (K,) and square (K, n) of some calls, written whole before its row

A cell exists when its row does: a run that is killed loses the cell in progress and nothing else.  A file of before ``most`` and ``chunks``
gets them, empty.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.evaluation import Estimate

__all__ = ["Cell", "Store"]

COLUMNS = ("key", "what", "status", "reason", "nfe", "steps", "invalid", "seconds", "compile_s", "memory", "most", "chunks")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, what TEXT, status TEXT, reason TEXT, nfe REAL, steps INTEGER, invalid TEXT,
    seconds REAL, compile_s REAL, memory REAL, most REAL, chunks TEXT);
CREATE TABLE IF NOT EXISTS counts (key TEXT PRIMARY KEY, nfe REAL, reason TEXT);
CREATE TABLE IF NOT EXISTS measures (key TEXT PRIMARY KEY, estimates TEXT, draws BLOB);
"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of ``cells``: one system, one seed.  ``nfe`` of a sample in the mean, ``most`` of the one that took the most (None: not kept);
    ``seconds`` per sample of the fastest chunk and ``chunks`` of every one, ``compile_s`` of its program, ``memory`` in bytes; ``invalid``:
    the indices of the samples that were not finite."""

    key: str
    what: Mapping[str, Any]
    status: str
    reason: str = ""
    nfe: float = float("nan")
    steps: int = 0
    invalid: tuple[int, ...] = ()
    seconds: float = float("nan")
    compile_s: float = float("nan")
    memory: float = float("nan")
    most: float | None = None
    chunks: tuple[float, ...] = ()


class Store:
    """The output folder's ``ablation.sqlite`` and ``samples``; made if need be."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        file = self.folder / "ablation.sqlite"
        if self.folder.exists() and not self.folder.is_dir():
            refuse("output", str(folder), "a folder, or a name that is free: this is a file")
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(file, timeout=60.0, check_same_thread=False)
            self._db.executescript(_SCHEMA)
            there = {row[1] for row in self._db.execute("PRAGMA table_info(cells)")}
            for name, kind in (("most", "REAL"), ("chunks", "TEXT")):
                if name not in there:
                    self._db.execute(f"ALTER TABLE cells ADD COLUMN {name} {kind}")
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"output: {str(file)!r} cannot be used ({error}); allowed: a new folder, or one of an earlier run") from None

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def cell(self, key: str) -> Cell | None:
        """The cell, if it is there and (where done) so are its samples."""
        row = self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM cells WHERE key = ?", (key,)).fetchone()
        if row is None or (row[2] == "done" and not self._file(key).is_file()):
            return None
        number = lambda v: float("nan") if v is None else v  # noqa: E731 - SQLite keeps NaN as NULL
        what, invalid = json.loads(row[1]), tuple(json.loads(row[6]))
        chunks = tuple(json.loads(row[11] or "[]"))
        return Cell(row[0], what, row[2], row[3], number(row[4]), row[5], invalid, *(number(v) for v in row[7:10]), row[10], chunks)

    def put(self, cell: Cell, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Writes the samples, then the row; a failed cell has no samples."""
        if arrays is not None:
            part = self._file(cell.key).with_suffix(".part")
            with open(part, "wb") as file:
                np.savez(file, **arrays)
            os.replace(part, self._file(cell.key))
        row = (cell.key, json.dumps(cell.what, sort_keys=True), cell.status, cell.reason, cell.nfe, cell.steps, json.dumps(cell.invalid))
        with self._db:
            more = (cell.seconds, cell.compile_s, cell.memory, cell.most, json.dumps(cell.chunks))
            marks = ", ".join("?" * len(COLUMNS))
            self._db.execute(f"INSERT OR REPLACE INTO cells ({', '.join(COLUMNS)}) VALUES ({marks})", (*row, *more))

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The samples of a cell that is done."""
        with np.load(self._file(key)) as stored:
            return {name: stored[name] for name in stored.files}

    def count(self, key: str) -> tuple[float | None, str] | None:
        """(nfe, "") or (None, reason), if it was counted."""
        return self._db.execute("SELECT nfe, reason FROM counts WHERE key = ?", (key,)).fetchone()

    def put_count(self, key: str, nfe: float | None, reason: str = "") -> None:
        """Remembers a count or why it was refused."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", (key, nfe, reason))

    def measures(self, key: str) -> tuple[dict[str, Estimate], dict[str, np.ndarray]] | None:
        """Estimates and draws, if they were measured."""
        row = self._db.execute("SELECT estimates, draws FROM measures WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        estimates = {name: Estimate(**{**e, "invalid": tuple(e["invalid"])}) for name, e in json.loads(row[0]).items()}
        with np.load(io.BytesIO(row[1])) as draws:
            return estimates, {name: draws[name] for name in draws.files}

    def put_measures(self, key: str, estimates: Mapping[str, Estimate], draws: Mapping[str, np.ndarray]) -> None:
        """Keeps what was measured (NaN is written as JSON's NaN, which only this file reads)."""
        packed = io.BytesIO()
        np.savez(packed, **draws)
        text = json.dumps({name: dataclasses.asdict(e) for name, e in estimates.items()})
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO measures VALUES (?, ?, ?)", (key, text, packed.getvalue()))

    def _file(self, key: str) -> Path:
        return self.folder / "samples" / f"{key}.npz"
