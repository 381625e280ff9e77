"""Rows of measured numbers: to the terminal with their intervals, to CSV and JSON, each with the criteria it meets.

A row is ``{"network": "flow", "path": "VP", "sampler": "DDIM", "nfe": 50}`` beside ``{column: Estimate}``.  In print a cell reads
``0.975 [0.964, 0.983]``, with ``x`` behind it where its criterion is not met.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from score_lab.build import refuse
from score_lab.evaluation.estimate import Estimate
from score_lab.evaluation.quality import Criterion

__all__ = ["Row", "Table", "strict_json"]


@dataclasses.dataclass(frozen=True)
class Row:
    """``name``: what was run, in words and numbers; ``measures``: what was found."""

    name: Mapping[str, Any]
    measures: Mapping[str, Estimate]


@dataclasses.dataclass
class Table:
    """Rows under one set of ``criteria``; ``notes`` are the lines at its foot."""

    criteria: Sequence[Criterion] = ()
    notes: Sequence[str] = ()
    rows: list[Row] = dataclasses.field(default_factory=list)

    def add(self, name: Mapping[str, Any], measures: Mapping[str, Estimate]) -> Row:
        """Appends a row and returns it; ConfigError for names that differ from those of the first row."""
        if self.rows and list(name) != list(self.rows[0].name):
            refuse("table row", list(name), f"the names of the first row, {list(self.rows[0].name)}")
        self.rows.append(Row(dict(name), dict(measures)))
        return self.rows[-1]

    @property
    def columns(self) -> list[str]:
        """All measures of all rows, in the order in which they came."""
        return list(dict.fromkeys(c for row in self.rows for c in row.measures))

    def passes(self, row: Row) -> dict[str, bool]:
        """``{column: met}`` for every criterion; a row that lacks the column does not meet it."""
        return {c.column: c.column in row.measures and c(row.measures[c.column]) for c in self.criteria}

    def passed(self) -> bool:
        """Whether there are rows, and every one meets every criterion."""
        return bool(self.rows) and all(all(self.passes(row).values()) for row in self.rows)

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, the last column ``met`` reading ``4/4``."""
        names = list(self.rows[0].name) if self.rows else []
        header = names + self.columns + (["met"] if self.criteria else [])
        body = []
        for row in self.rows:
            met = self.passes(row)
            cells = [str(row.name[n]) for n in names]
            for column in self.columns:
                text = str(row.measures[column]) if column in row.measures else "-"
                cells.append(text + ("" if met.get(column, True) else " x"))
            body.append(cells + ([f"{sum(met.values())}/{len(met)}"] if self.criteria else []))
        return header, body

    def text(self) -> str:
        """Aligned columns, then the criteria and the notes."""
        header, body = self.cells()
        widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in [header, *body]]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*lines, "", *self.foot()])

    def foot(self) -> list[str]:
        """The criteria in words, the notes, and what the brackets and the x mean."""
        rules = [f"{c.column}: {c.rule}" for c in self.criteria]
        legend = "[low, high]: 95 % interval" + ("; x: the criterion is not met" if self.criteria else "")
        return [*rules, *self.notes, legend]

    def records(self) -> list[dict[str, Any]]:
        """One flat dict a row: names, then column, column_low, column_high, column_n, column_invalid and column_met."""
        records = []
        for row in self.rows:
            record, met = dict(row.name), self.passes(row)
            for column in self.columns:
                e = row.measures.get(column, Estimate.missing(0))
                record |= {column: e.value, f"{column}_low": e.low, f"{column}_high": e.high, f"{column}_n": e.n}
                record |= {f"{column}_invalid": len(e.invalid)} | ({f"{column}_met": met[column]} if column in met else {})
            records.append(record)
        return records

    def csv(self) -> str:
        """The records as CSV text with a header; numbers in full precision."""
        records, out = self.records(), io.StringIO()
        writer = csv.DictWriter(out, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue()

    def json(self) -> str:
        """Strict JSON: rows with their estimates (every invalid index, every note), criteria and notes; what is not finite is null."""
        rows = [{"name": dict(row.name), "measures": _plain(row.measures), "met": self.passes(row)} for row in self.rows]
        criteria = [{"column": c.column, "rule": c.rule} for c in self.criteria]
        return strict_json({"rows": rows, "criteria": criteria, "notes": list(self.notes)})


def _plain(measures: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {column: dataclasses.asdict(estimate) for column, estimate in measures.items()}


def strict_json(value: Any) -> str:
    """JSON that every reader takes: NaN and infinities, which it has not, are null."""
    return json.dumps(_strict(value), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    """``value`` with NaN and infinities as None, numpy scalars as Python's, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
