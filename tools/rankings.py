"""Writes docs/rankings.md: which sampler at how many evaluations, and which of them cannot be told apart, from ablations that were run.

    python tools/rankings.py runs/digits/ablation runs/ablate-mixture

Each folder is one that experiments.ablate_samplers wrote; read are the newest study's ranking.csv, pairs.csv, table.csv, table.json and
about.json, and nothing is computed but ranks in place of names.  NFE below are those of BUDGETS that the study has.
"""

import json
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from doc_tables import head, line_of, rows_of  # noqa: E402

from score_lab.ablation.truth import COLUMNS, HIGHER  # noqa: E402
from score_lab.build import ConfigError, refuse  # noqa: E402

BUDGETS = (5, 10, 20, 50)
RESOLUTION = "1 % of the better value or of what the truth's own samples may read, unless the command says otherwise"
HEAD = """# Which sampler, at how many network evaluations

Made by `{command}` from stored ablations; do not edit. Which solver is best depends on the network, the data and the grid: for your own
model, `make ablate WORKDIR=runs/yours`. What each solver is: [samplers.md](samplers.md).

All solvers of one table start from the same noise, at equal counted evaluations (NFE: what was used of the budget; of an adaptive solver
the mean over samples). minus the best: the paired difference, its interval holds for all pairs of that table at once. Not distinguishable:
this interval contains 0, or the difference is below the resolution ({resolution});
that is "these samples cannot tell", not "equal". ms: per sample, on the machine that drew them, beside other work.
"""


def study_of(folder: Path) -> Path:
    """The newest study that was written into an ablation's folder."""
    files = sorted((folder / "studies").glob("*/about.json"), key=lambda file: (-file.stat().st_mtime_ns, file))
    return files[0].parent if files else refuse("rankings", str(folder), "the folder of an ablation: it holds studies/ID/about.json")


def number(text: str) -> str:
    """Three digits."""
    return f"{float(text):.3g}"


def estimate(row: dict[str, str], column: str) -> str:
    """``0.231 [0.213, 0.25]``."""
    return f"{number(row[column])} [{number(row[f'{column}_low'])}, {number(row[f'{column}_high'])}]"


def time_of(row: dict[str, str]) -> str:
    """ms with its interval, if it has one; of a study that kept the fastest chunk's alone, that."""
    if row.get("ms_low") in ("nan", ""):
        return number(row["ms"])
    return estimate(row, "ms") if "ms_low" in row else f"{row.get('ms', '-')} (fastest chunk)"


def contests(study: Path) -> dict[tuple[str, str], dict[int, list[dict[str, str]]]]:
    """(model, guidance) -> budget -> rows of ranking.csv."""
    found: dict[tuple[str, str], dict[int, list[dict[str, str]]]] = {}
    for row in rows_of(study / "ranking.csv"):
        if int(row["budget"]) in BUDGETS:
            found.setdefault((row["model"], row["guidance"]), {}).setdefault(int(row["budget"]), []).append(row)
    return found


def overview(ranked: dict[int, list[dict[str, str]]], families: dict[str, str]) -> list[str]:
    """Every solver's rank and value at every budget, in the order of the last; bold: the best, and what is not told apart from it."""
    order = list(dict.fromkeys(row["sampler"] for rows in [ranked[max(ranked)], *ranked.values()] for row in rows))
    lines = head(["solver", "family", *(f"{budget} NFE" for budget in ranked)])
    for name in order:
        cells = []
        for rows in ranked.values():
            row = next((row for row in rows if row["sampler"] == name), None)
            if row is None or not row["rank"]:
                cells.append("-")
                continue
            text = f"{row['rank']}. {number(row['value'])}"
            best = row["rank"] == "1" or rows[0]["sampler"] in row["not_distinguishable_from"].split("; ")
            cells.append(f"**{text}**" if best else text)
        lines.append(line_of([f"`{name}`", families.get(name, "-"), *cells]))
    return lines


def contest(rows: list[dict[str, str]], table: dict[str, dict[str, str]], column: str) -> list[str]:
    """One budget's ranking."""
    rank = {row["sampler"]: row["rank"] for row in rows if row["rank"]}
    lines = head(["rank", "solver", "NFE", column, "minus the best", "not distinguishable from", "ms"])
    for row in rows:
        name, seen = row["sampler"], table.get(row["sampler"], {})
        if not row["rank"]:
            lines.append(line_of(["-", f"`{name}`", "-", "-", "-", row["not_distinguishable_from"].replace("|", "/"), "-"]))
            continue
        same = ", ".join(rank[other] for other in row["not_distinguishable_from"].split("; ") if other) or "-"
        most = seen.get("most NFE", "-")
        used = number(row["nfe"]) + (f" (at most {most})" if most not in ("-", seen.get("NFE")) else "")
        flag = seen.get("flag", "-")
        solver = f"`{name}`" + (f", {flag}" if flag != "-" else "")
        cells = (row["rank"], solver, used, estimate(row | {"value_low": row["low"], "value_high": row["high"]}, "value"),
                 estimate(row, "minus_best") if row["rank"] != "1" else "0", same, time_of(seen))  # fmt: skip
        lines.append(line_of(cells))
    return lines


def command_of(about: dict, rows: list[dict[str, str]]) -> str:
    """The command that draws these rows: the study's own, with the solvers and budgets named that its configuration had, and without the
    folder that was written to."""
    words, given = [], iter(shlex.split(about["commands"][0]))
    for word in given:
        if word == "--output":
            next(given)
        elif not word.startswith("--output="):
            words.append(word)
    for flag, column, between in (("--solvers", "solver", ", "), ("--nfe", "budget", ",")):
        if not any(word.split("=")[0] == flag for word in words):
            words += [flag, between.join(dict.fromkeys(row[column] for row in rows))]
    return shlex.join(words)


def section(folder: Path) -> list[str]:
    """What one ablation says."""
    study = study_of(folder)
    about, written = json.loads((study / "about.json").read_text()), json.loads((study / "table.json").read_text())
    table = [row for row in rows_of(study / "table.csv") if row["budget"] != "-"]
    families = {row["solver"]: row["family"] for row in table}
    told, lines = rows_of(study / "pairs.csv"), []
    for (model, guidance), ranked in contests(study).items():
        column = next(row["column"] for rows in ranked.values() for row in rows)
        better = "higher" if column in HIGHER else "lower"
        n = next(row["n"] for row in table)
        lines += [f"## {model}" + ("" if guidance == "1" else f", guidance {guidance}"), "", "```bash", command_of(about, table), "```", ""]
        lines += [f"{COLUMNS[column]}, {better} is better, on {n} samples a row; {len(families)} solvers of {len(set(families.values()))} "
                  f"families. Rank and value; bold: the best, and those that are not distinguishable from it.", ""]  # fmt: skip
        lines += [*overview(ranked, families), ""]
        for budget, rows in ranked.items():
            pairs = [p for p in told if (p["model"], p["guidance"], int(p["budget"])) == (model, guidance, budget)]
            apart = sum(p["distinguishable"] == "True" for p in pairs)
            here = {row["solver"]: row for row in table if int(row["budget"]) == budget}
            lines += [f"### {model}, {budget} NFE: {apart} of {len(pairs)} pairs are distinguishable", ""]
            lines += [*contest(rows, here, COLUMNS[column]), ""]
    lines += ["What the numbers stand on:", "", *(f"- {note}" for note in written["notes"]), ""]
    return lines


def page(folders: list[str]) -> str:
    """The text of docs/rankings.md; ConfigError for a folder that is none of an ablation."""
    if not folders:
        refuse("rankings", folders, "the folders of ablations, for example runs/digits/ablation")
    command = shlex.join(["python", "tools/rankings.py", *folders])
    lines = [HEAD.format(command=command, resolution=RESOLUTION)]
    for folder in folders:
        lines += section(Path(folder))
    return "\n".join(lines).rstrip() + "\n"


def main(folders: list[str]) -> int:
    """Writes docs/rankings.md; 2 and one line where a folder is none of an ablation."""
    try:
        text = page(folders)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (ROOT / "docs" / "rankings.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
