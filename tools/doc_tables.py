"""What the tools that write pages of docs/ share: rows of a CSV file in, lines of a table in Markdown out."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def line_of(cells: Iterable[str]) -> str:
    """``| a | b |``."""
    return f"| {' | '.join(cells)} |"


def head(names: Sequence[str]) -> list[str]:
    """The two lines above a table's rows."""
    return [line_of(names), line_of(["---"] * len(names))]
