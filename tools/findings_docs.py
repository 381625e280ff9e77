"""Writes the tables and the picture of docs/findings.md, and docs/corrections.md, from what experiments.compare_corrections left behind.

    python tools/findings_docs.py findings digits=runs/digits-0/corrections patches=runs/patches-0/corrections \\
        mixture=runs/corrections-mixture more=runs/digits-0/corrections-more
    python tools/findings_docs.py corrections gaussian=runs/digits/corrections measured=runs/digits/corrections-measured

findings: between ``<!-- NAME -->`` and ``<!-- end NAME -->`` of docs/findings.md a row for every sampler, N and measure, from table.csv
(values) and outcomes.csv (words); docs/findings.png from the shares of outcomes.csv.  corrections: the corrections.md of each folder, one
after the other.  No number is made here.
"""

import json
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import matplotlib  # noqa: E402

matplotlib.use("Agg")

from doc_tables import head, line_of, rows_of  # noqa: E402

from score_lab.evaluation import Estimate  # noqa: E402
from score_lab.report import save_shares  # noqa: E402

NAMES = {
    "energy": "energy", "kid": "KID", "agreement": "agreement", "mmd": "MMD^2", "w2": "W2", "frechet": "Frechet (moment)",
    "band_kl": "band KL (moment)", "solver_error": "solver error",
}  # fmt: skip
WORDS = {"better": "**better**", "reached": "**reached**", "-": "no gain"}
PICTURED = {"digits": ("energy", "kid"), "patches": ("energy", "kid"), "mixture": ("energy", "w2")}
MARKED = "<!-- {} -->\n"
HEAD = """# Corrections

Made by `python tools/findings_docs.py corrections` from the `corrections.md` that each command below left; do not edit. Every correction of
`score_lab.mismatch.corrections.CATALOGUE` that can be made on this network, of the digits, around the same sampler at the same number of
network evaluations: mismatch and quality, before (*none, N*) and after, and which differences are real. Of those that are made in sampling
these could not be made on it:

{unmade}

In the tables:

- A cell: the value with the correction, and one word on its paired difference to N without: **better**, **worse**, or **=**, no difference
  can be told (common noise; intervals that hold at once for all rows of one table and measure; above the resolution). **(2N)**: besides,
  where N and 2N without correction are told apart, it is not told apart from 2N, or is better.
- ln R: of the states at the last network call, all bands; 0 is no mismatch; better is nearer to 0, by 1 % of it and
  by 0.005 (a change below that is **=**). Worst band: of the samples.
- **diverged**: more than 100 times the best of its budget.
- One network, one training seed: what is real here is real for this network. Several training seeds: [findings.md](findings.md).
"""
COMMAND = """python -m experiments.compare_corrections --workdir runs/digits --solvers 'DDIM, DDIM(eta=1)' --nfe 10 --n 200 --seeds 0,1"""
MEASURED = (
    "epsilon scaling; epsilon scaling, by band; signal gain, by band; DCW; DCW, by band; DCW in wavelets; state gain, by band; "
    "fresh noise, by band; angle step, forward; angle step, trend; re-conditioning; spectral clamp; analytic variance"
)
CALIBRATED = {
    "gaussian": ("## Calibrated from the spectrum alone", "Or with the papers' numbers, where there is no calibration.", COMMAND),
    "measured": (
        "## Calibrated from one measured run",
        "Those for which that is something else: one uncorrected run of a seed of its own, and one pass over forward samples.",
        f"{COMMAND} \\\n    --calibrate measured --output runs/digits/corrections-measured \\\n    --corrections '{MEASURED}'",
    ),
}


def number(text: str | None) -> float:
    """NaN for what is not there."""
    return float(text) if text not in (None, "") else float("nan")


def table(folder: Path) -> str:
    """Markdown: sampler, N and measure down; without at N and at 2N, and every correction, across."""
    values = {(r["solver"], int(r["NFE"]), r["correction"]): r for r in rows_of(folder / "table.csv")}
    found = {(r["solver"], int(r["budget"]), r["correction"], r["column"]): r["verdict"] for r in rows_of(folder / "outcomes.csv")}
    columns = [c for c in NAMES if any(key[3] == c for key in found)]
    names = list(dict.fromkeys(key[2] for key in found))
    lines = head(["sampler", "N", "measure", "none, N", "none, 2N", *names])
    for solver, N in dict.fromkeys((key[0], key[1]) for key in sorted(found, key=lambda k: (k[0], k[1]))):
        for column in (*columns, "ln R"):
            cells = [number(values[solver, n, "none"].get(column)) for n in (N, 2 * N)]
            off = [_far(values[solver, n, "none"], column) for n in (N, 2 * N)]
            texts = [f"{_said(v, column)} {word}".strip() for v, word in zip(cells, off, strict=True)]
            if all(math.isnan(v) for v in cells):
                continue
            for name in names:
                row, word = values.get((solver, N, name)), found.get((solver, N, name, column), "")
                texts.append("-" if row is None else f"{_said(number(row.get(column)), column)} {WORDS.get(word, word)}".strip())
            lines.append(line_of([solver, str(N), NAMES.get(column, "ln R, last call"), *texts]))
    floor = next(n for n in json.loads((folder / "table.json").read_text())["notes"] if n.startswith("exact samples"))
    return "\n".join([*lines, "", floor[0].upper() + floor[1:] + "."])


def _far(row: dict[str, str], column: str) -> str:
    """diverged, where the row's flag says so of the column."""
    return "diverged" if column in re.findall(r"\w+", row.get("flag", "").removeprefix("diverged")) else ""


def _said(value: float, column: str) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}" if column == "ln R" else f"{value:.3g}"


def shares(folders: dict[str, Path]) -> dict:
    """For ``save_shares``: measure -> sampler -> correction -> {N: share}, by corrections of all folders, where N is told from 2N."""
    kept: dict = {}
    common = set.intersection(*({r["correction"] for r in rows_of(folder / "outcomes.csv")} for folder in folders.values()))
    for name, folder in folders.items():
        for r in rows_of(folder / "outcomes.csv"):
            if r["column"] in PICTURED[name] and r["verdict"] not in ("same", "diverged", "N diverged") and r["correction"] in common:
                share = Estimate(*(number(r[f"share_{v}"]) for v in ("value", "low", "high")), 0)
                by = kept.setdefault(f"{name}, {NAMES[r['column']]}", {}).setdefault(r["solver"], {})
                by.setdefault(r["correction"], {})[int(r["budget"])] = share
    return kept


def unmade(folders: dict[str, Path]) -> str:
    """A line for every correction that no folder could make around any sampler, with the reason that it was refused with."""
    texts = [(folder / "corrections.md").read_text() for folder in folders.values()]
    refused: dict[str, str] = {}
    for text in texts:
        for name, reason in re.findall(r"^- (.+?) \(around [^\n]*?\): (.*)$", text, flags=re.MULTILINE):
            refused.setdefault(name, reason)
    lines = [f"- {name}: {reason}" for name, reason in refused.items() if not any(f"\n| {name} | " in text for text in texts)]
    return "\n".join(lines) or "- none"


def main() -> None:
    """By the first word of the command line."""
    what, *words = sys.argv[1:] or [""]
    folders = {name: Path(folder) for name, _, folder in (word.partition("=") for word in words)}
    docs = ROOT / "docs"
    if what == "corrections" and folders and set(folders) <= set(CALIBRATED):
        parts = [HEAD.replace("{unmade}", unmade(folders))]
        for name, folder in folders.items():
            title, words, command = CALIBRATED[name]
            size = json.loads((folder / "table.json").read_text())["notes"][0]
            parts += [title, f"{words} {size}.", f"```bash\n{command}\n```", (folder / "corrections.md").read_text()]
        (docs / "corrections.md").write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    elif what == "findings" and folders and set(folders) <= {*PICTURED, "more"}:
        text = (docs / "findings.md").read_text()
        for name, folder in folders.items():
            start, end = MARKED.format(name), MARKED.format(f"end {name}")
            text, count = re.subn(f"{start}.*?{end}", lambda _, s=start, f=folder, e=end: f"{s}\n{table(f)}\n\n{e}", text, flags=re.DOTALL)
            if count != 1:
                sys.exit(f"docs/findings.md has no {start.strip()} ... {end.strip()}")
        (docs / "findings.md").write_text(text)
        if set(folders) >= set(PICTURED):
            save_shares(docs / "findings.png", shares({name: folders[name] for name in PICTURED}))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
