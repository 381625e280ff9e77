"""Writes the tables and the picture of docs/findings.md, and docs/corrections.md, from what experiments.compare_corrections left behind.

    python tools/findings_docs.py findings digits=runs/digits-0/corrections patches=runs/patches-0/corrections \\
        mixture=runs/corrections-mixture more=runs/digits-0/corrections-more
    python tools/findings_docs.py corrections gaussian=runs/digits/corrections measured=runs/digits/corrections-measured \\
        probe=runs/digits/corrections-probe edm=runs/digits/corrections-edm ... trained=runs/corrections-trained

findings: between ``<!-- NAME -->`` and ``<!-- end NAME -->`` of docs/findings.md a row for every sampler, N and measure, from table.csv
(values) and outcomes.csv (words); docs/findings.png from the shares of outcomes.csv.  corrections: the corrections.md of each folder, one
after the other, under the headings of SECTIONS; one that no folder is given for stays as it is there, or is its command alone.  What one
could not make and another did is said to be there.  No number is made here.
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
network evaluations: mismatch and quality, before (*none, N*) and after, and which differences are real. One that needs another path,
guidance, a larger budget or another training has a section of its own. Of those that are made in sampling these could not be made:

{unmade}

In the tables:

- A cell: the value with the correction, and one word on its paired difference to N without: **better**, **worse**, or **=**, no difference
  can be told (common noise; intervals that hold at once for all rows of one table and measure; above the resolution). **(2N)**: besides,
  where N and 2N without correction are told apart, it is not told apart from 2N, or is better.
- ln R: of the states at the last network call, all bands; 0 is no mismatch; better is nearer to 0, by 1 % of it and
  by 0.005 (a change below that is **=**). Worst band: of the samples.
- KID is the unbiased estimator: its mean over sample sets is 0 where both laws are one, so that near 0 it is below as often as above. A
  negative value is no distance below none; it says that none can be told.
- **diverged**: more than 100 times the best of its budget.
- One network, one training seed: what is real here is real for this network. Several training seeds: [findings.md](findings.md).
"""
ASKED = "--solvers 'DDIM, DDIM(eta=1)' --nfe 10 --n 200 --seeds 0,1"
COMMAND = """python -m experiments.compare_corrections --workdir runs/digits --solvers 'DDIM, DDIM(eta=1)' --nfe 10 --n 200 --seeds 0,1"""
MEASURED = (
    "epsilon scaling; epsilon scaling, by band; signal gain, by band; DCW; DCW, by band; DCW in wavelets; state gain, by band; "
    "fresh noise, by band; angle step, forward; angle step, trend; re-conditioning; spectral clamp; analytic variance"
)
TRAIN = """for seed in 0 1 2; do for name in plain perturbed velocity mixflow self_forced blind; do
    python -m experiments.train --config configs/corrected.py:$name --workdir runs/$name-$seed \\
        --config.seed=$seed --config.training.steps=600
done; done
python -m experiments.compare_corrections --workdir runs/plain-0,runs/plain-1,runs/plain-2 --corrections none \\
    --trained 'input perturbation=runs/perturbed-*; target Velocity=runs/velocity-*; MixFlow=runs/mixflow-*;
        self-forcing=runs/self_forced-*; noise-label dropout=runs/blind-*' \\
    --solvers 'DDIM, DDIM(eta=1)' --nfe 10 --n 200 --seeds 0,1 --output runs/corrections-trained"""


def command(name: str, words: str, asked: str = ASKED, workdir: str = "runs/digits") -> str:
    """The line to type for one section."""
    line = f"python -m experiments.compare_corrections --workdir {workdir} {asked}"
    return f"{line} \\\n    {words} --output {workdir}/corrections-{name}"


BLIND = "python -m experiments.train --config configs/corrected.py:blind --workdir runs/blind --config.training.steps=600"
SECTIONS = {
    "gaussian": ("Calibrated from the spectrum alone", "Or with the papers' numbers, where there is no calibration.", COMMAND),
    "measured": (
        "Calibrated from one measured run",
        "Those for which that is something else: one uncorrected run of a seed of its own, and one pass over forward samples.",
        f"{COMMAND} \\\n    --calibrate measured --output runs/digits/corrections-measured \\\n    --corrections '{MEASURED}'",
    ),
    "probe": (
        "With a noise-level probe",
        "Three small networks that read the level of a state, trained on the data once and kept beside the run; what that costs is below.",
        command("probe", "--corrections 'noise level correction'"),
    ),
    "edm": (
        "On the EDM path of the same network",
        "Where alpha' = 1, so that what is moved is noise alone: the published form of DCW.",
        command("edm", "--paths EDM --corrections 'DCW in pixels, published; DCW in wavelets, published'"),
    ),
    "restart": (
        "At a budget that pays for renoising",
        "Restart takes steps of its own, 11 at least.",
        command("restart", "--corrections Restart", ASKED.replace("--nfe 10", "--nfe 20")),
    ),
    "guided": (
        "Under classifier-free guidance",
        "Scale 2: a guided call is two evaluations.",
        command("guided", "--guidance 2 --corrections 'CFG rescale'"),
    ),
    "shifted": (
        "With a number",
        "Resolution shift, as if the grid were for pictures of a quarter of the values: these are of the size that it is "
        "for, so nothing is to be gained.",
        command("shifted", "--calibrate 4 --corrections 'resolution shift'"),
    ),
    "blind": (
        "On a network trained without its noise label now and then",
        "Noise awareness guidance: a guided call is two evaluations.",
        f"{BLIND}\n{command('awareness', '--corrections ' + chr(39) + 'noise awareness guidance' + chr(39), workdir='runs/blind')}",
    ),
    "trained": (
        "Made in training",
        "Other networks on the same data, one for each seed beside the plain one's; MixFlow is defined for the target Velocity alone, and "
        "is to be held against the same target without it; rho of self-forcing, by which its target is too small, is `target_gain` in its "
        "metrics.jsonl. Intervals are over training seeds where there are several.",
        TRAIN,
    ),
}
"""Heading, words and command of every section of docs/corrections.md."""


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


REFUSED = re.compile(r"^- (.+?) \(around ([^\n]*?)\): (.*)$", flags=re.MULTILINE)
"""A line of corrections.md that says what was not made."""


def places(texts: dict[str, str]) -> dict[str, list[str]]:
    """Correction -> the sections that made it, by their headings."""
    found: dict[str, list[str]] = {}
    for name, text in texts.items():
        for correction in dict.fromkeys(re.findall(r"^\| ([^*|][^|]*?) \|", text, flags=re.MULTILINE)):
            found.setdefault(correction, []).append(SECTIONS[name][0])
    return found


def unmade(texts: dict[str, str]) -> str:
    """A line for every correction that no section could make around any sampler, with the reason that it was refused with."""
    refused: dict[str, str] = {}
    for text in texts.values():
        for name, _, reason in REFUSED.findall(text):
            refused.setdefault(name, reason)
    return "\n".join(f"- {name}: {reason}" for name, reason in refused.items() if name not in places(texts)) or "- none"


def pointed(text: str, made: dict[str, list[str]], here: str) -> str:
    """``text`` of the section ``here`` with the place, instead of a reason, of what a section below it made for its sake."""
    order = [title for title, _, _ in SECTIONS.values()]

    def word(found: re.Match) -> str:
        mine = made.get(found[1], [])
        below = [] if here in mine else [title for title in mine if order.index(title) > order.index(here)]
        return f"- {found[1]} (around {found[2]}): {f'made below under *{below[0]}*' if below else found[3]}"

    return REFUSED.sub(word, text)


def sections(page: Path) -> dict[str, str]:
    """What ``page`` says under each heading of SECTIONS; the command, and that it was not run, where it does not have that yet."""
    parts = re.split(r"^## (.*)$", page.read_text(), flags=re.MULTILINE) if page.exists() else []
    there = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {name: there.get(title, f"{words} Not run yet.\n\n```bash\n{lines}\n```") for name, (title, words, lines) in SECTIONS.items()}


def main() -> None:
    """By the first word of the command line."""
    what, *words = sys.argv[1:] or [""]
    folders = {name: Path(folder) for name, _, folder in (word.partition("=") for word in words)}
    docs = ROOT / "docs"
    if what == "corrections" and folders and set(folders) <= set(SECTIONS):
        before = sections(docs / "corrections.md")
        texts = {name: (folders[name] / "corrections.md").read_text() if name in folders else before[name] for name in SECTIONS}
        parts, made = [HEAD.replace("{unmade}", unmade(texts))], places(texts)
        for name, (title, words, lines) in SECTIONS.items():
            if name not in folders:
                parts += [f"## {title}", before[name]]
                continue
            size = json.loads((folders[name] / "table.json").read_text())["notes"][0]
            parts += [f"## {title}", f"{words} {size}.", f"```bash\n{lines}\n```", pointed(texts[name], made, title)]
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
