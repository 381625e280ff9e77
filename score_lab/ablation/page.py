"""What an ablation leaves behind: CSV files, pictures and one page that answers first and explains later.

    table.csv  table.json  ranking.csv  pairs.csv  failures.csv  quality.png  same_noise_*.png  report.html

These lie in studies/ID, where ID is the hash of what was asked (see ``study_id``), and a copy of the newest study's in the folder itself:
a narrower question asked later does not overwrite the answer to a wider one.  The newest page links to the others.
"""

from __future__ import annotations

import dataclasses
import html
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from score_lab.ablation.pictures import draw_quality, draw_same_noise, heading
from score_lab.ablation.results import Results
from score_lab.ablation.store import Store
from score_lab.ablation.tables import budgets, failures, full_table, ranking_table, write_rankings
from score_lab.ablation.truth import HIGHER
from score_lab.report import Page
from score_lab.specs import key_of, plain

__all__ = ["studies", "study_id", "write"]

STUDIES = "studies"


def write(results: Results, store: Store, title: str, commands: Sequence[str]) -> Path:
    """Everything of the module's list into the study's folder, then its copy into the store's; returns the newest page's file."""
    name = study_id(results)
    at = store.folder / STUDIES / name
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(parents=True)
    whole = full_table(results, whole=True)
    (at / "table.csv").write_text(whole.csv())
    (at / "table.json").write_text(whole.json())
    write_rankings(results, at)
    page = _composed(results, store, title, commands, at)
    (at / "about.json").write_text(json.dumps({"about": _about(results), "commands": list(commands)}))
    page.write(at / "report.html")
    for old in store.folder.glob("same_noise_*.png"):
        old.unlink()
    for file in at.iterdir():
        if file.name not in ("about.json", "report.html"):
            shutil.copy(file, store.folder)
    others = [(folder, about) for folder, about in studies(store) if folder != name]
    if others:
        links = "".join(f'<li><a href="{STUDIES}/{folder}/report.html">{html.escape(about)}</a></li>' for folder, about in others)
        page.section("Other studies in this folder, the newest first", "Their cells are kept too: asked again, they are not sampled again.")
        page.parts.append(f"<ul>{links}</ul>")
    return page.write(store.folder / "report.html")


def _composed(results: Results, store: Store, title: str, commands: Sequence[str], at: Path) -> Page:
    """The page: the answer, its pictures, the rankings, then all that was measured; the pictures' files are written to ``at``."""
    page = Page(title, " ".join(model.note for model in results.models.values()))
    page.section("Which sampler should I use?")
    for line, contest in zip(results.advice(), results.contests, strict=True):
        page.parts.append(f"<p>{html.escape(line)}</p>")
        page.parts += [f"<pre>{html.escape(command)}</pre>" for command in results.commands(contest)]
    page.parts.append(f"<p>{html.escape(_caveat(results))}</p>")
    page.section("Quality against network evaluations", "Bands are 95 % intervals; the grey lines are explained at the table's foot.")
    page.picture(draw_quality(results, at), "Every column against the counted network evaluations per sample")
    page.section("Rankings", *([] if len(results.contests) < 2 else ["Best first; the numbers in 'not distinguishable from' are ranks."]))
    for contest in results.contests:
        page.section(heading(results, contest)).table(ranking_table(results, contest))
    for caption, file in draw_same_noise(results, store, at):
        page.section(caption).picture(file, "Column j of every row started from the same noise")
    page.section("Everything that was measured").table(full_table(results))
    if budgets(results):
        page.section("What was used of the budgets, where it was not all", *budgets(results))
    if failures(results):
        page.section("What failed", *failures(results))
    page.commands(commands)
    return page


def study_id(results: Results) -> str:
    """10 hex digits of the SHA-256 of what was asked: the study's fields and the models' arrays, but not where it is written, nor in which
    chunks."""
    asked = {name: value for name, value in plain(dataclasses.asdict(results.study)).items() if name not in ("output", "chunk")}
    return key_of(asked | {"digests": {name: [model.digest, model.truth.digest] for name, model in results.models.items()}})[:10]


def studies(store: Store) -> list[tuple[str, str]]:
    """(folder, one line) of every study that was written, the newest first."""
    files = sorted((store.folder / STUDIES).glob("*/about.json"), key=lambda file: (-file.stat().st_mtime_ns, file))
    return [(file.parent.name, json.loads(file.read_text())["about"]) for file in files]


def _about(results: Results) -> str:
    """What a study asked, in one line."""
    study, solvers = results.study, list(dict.fromkeys(row.run.system.names()["solver"] for row in results.rows))
    shown = ", ".join(solvers[:6]) + (f" and {len(solvers) - 6} more" if len(solvers) > 6 else "")
    return f"{shown}; {len(results.rows)} rows; NFE {', '.join(map(str, study.nfe))}; {len(study.seeds)} x {study.n} samples"


def _caveat(results: Results) -> str:
    columns = sorted({f"{c} ({'higher' if c in HIGHER else 'lower'} is better)" for c in results.rank_by.values()})
    pairs, different = sum(len(c.ranking.pairs) for c in results.contests), sum(c.ranking.distinguished() for c in results.contests)
    study = results.study
    return (
        f"Ranked by {', '.join(columns)} on {len(study.seeds)} x {study.n} samples that start from the same noise for every sampler. "
        f"{different} of {pairs} pairs differ: the interval of their paired difference, which holds for all pairs of one budget at once at "
        f"the level {study.alpha:g} (bootstrap, largest |z|), leaves out 0, and the difference is more than the resolution, "
        f"{100 * study.least_difference:g} % of the better value or of what perfect samples may read (the upper end of the last row's "
        f"interval, if that is more). {_too_small(results)}Not distinguishable means that this many samples cannot tell, or that it makes "
        "no difference, not that the two are equal. More seeds tell more."
    )


def _too_small(results: Results) -> str:
    """How many pairs are told apart by their intervals alone."""
    small = sum(pair.excludes_zero and not pair.differs for c in results.contests for pair in c.ranking.pairs)
    return f"The intervals alone would tell {small} more apart. " if small else ""
