"""Does a correction of the mismatch give N evaluations the quality of 2N?  Each beside the uncorrected run at N and at 2N.

    python -m experiments.compare_corrections --workdir runs/digits
    python -m experiments.compare_corrections --workdir runs/digits,runs/digits-1 --solvers 'DDIM, EulerMaruyama' --nfe 5,10 --seeds 0,1,2
    python -m experiments.compare_corrections --workdir runs/digits --corrections 'epsilon scaling, by band; DCW; my_pkg.mod:Mine + churn'
    python -m experiments.compare_corrections --workdir runs/digits --calibrate measured
    python -m experiments.compare_corrections --config configs/corrections.py:mixture --n 500
    python -m experiments.compare_corrections --workdir runs/plain-0,runs/plain-1 --corrections none --trained 'MixFlow=runs/mixflow-*'

Workdirs are training seeds of one method and are pooled.  Mismatch and quality before and after, which differences are real (paired,
common noise, intervals that hold for all rows of one budget at once), which corrections are refused and why; table.csv, table.json,
outcomes.csv, corrections.png and report.html in --output (WORKDIR/corrections by default).  Stopped or killed, the same command goes on
where it was.  --trained holds networks that a correction was trained into (configs/corrected.py), as many as workdirs, beside those
without.  A correction from outside is a callable Setting -> Corrected (score_lab.mismatch.corrections), or an object with make.
"""

from __future__ import annotations

import dataclasses
import glob
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from configs import corrections
from experiments.ablate_samplers import LISTS, ONCE
from experiments.ablate_samplers import define as define_axes
from experiments.launcher import again, launch, parse
from score_lab.build import build, refuse
from score_lab.specs import split


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher: those of experiments.ablate_samplers, and its own."""
    define_axes(values)
    flags.DEFINE_string("trained", None, "with semicolons: NAME=WORKDIR,...; as many as --workdir has, * allowed", flag_values=values)


def trained_of(text: str, study: Any) -> dict[str, Any]:
    """``NAME=WORKDIR,WORKDIR; NAME=runs/x-*`` -> name -> the study with these models and without corrections.

    ConfigError for a name that a correction has, and for another number of workdirs than the study's."""
    found = {}
    for word in (part.strip() for part in text.split(";")):
        name, equals, homes = (v.strip() for v in word.partition("="))
        homes = [h for home in split(homes) for h in (sorted(glob.glob(home)) or [home] if "*" in home else [home])]
        if lost := [home for home in homes if "*" in home]:
            refuse("--trained", lost[0], "workdirs that are there: nothing matches")
        if not (name and equals and homes) or name in (*study.corrections, *found):
            refuse("--trained", word, "NAME=WORKDIR,...; NAME=..., each name once, and none of a correction")
        if len(homes) != len(study.models):
            most = f"as many workdirs as there are without, {len(study.models)}: seed beside seed"
            refuse("--trained", f"{name}={','.join(homes)}", most)
        models = {f"{name} {k}": {"workdir": home} for k, home in enumerate(homes)}
        found[name] = dataclasses.replace(study, models=models, corrections=("none",))
    return found


def check_data(models: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """ConfigError unless all networks were trained on the same data: quality and mismatch are of those."""
    told = next(iter(models.values())).spectrum.digest
    for name, model in others.items():
        if model.spectrum.digest != told:
            refuse("--trained", name, f"networks of the data of {next(iter(models))}: these are of other data, or of other preprocessing")


def main() -> None:
    """Parses, plans, samples, measures, compares and writes."""
    values = parse(__doc__, sys.argv, define, f"{corrections.__file__}:digits")
    config = values.config

    from experiments.ablation_models import open_models
    from experiments.ablation_parts import Progress, carried_out, corrections_of, study_fields
    from score_lab.ablation import Store, answer, comparison, write_corrections
    from score_lab.ablation.corrections_tables import rows_table

    start = time.time()
    fields = study_fields(config, {name: values[name].value for name in (*LISTS, *ONCE)})
    fields["corrections"] = ("none", *(w for w in corrections_of("; ".join(fields.get("corrections", ("all",)))) if w != "none"))
    study = build({"target": "score_lab.ablation.study:Study", **fields}, field="config")
    if not study.corrected() and values.trained is None:
        refuse("--corrections", "none", "at least one correction beside none, or networks that one was trained into (--trained)")
    study = dataclasses.replace(study, reference_steps=study.fine_steps())  # the same solution for both
    twice = dataclasses.replace(study, corrections=("none",), nfe=tuple(2 * n for n in study.nfe))
    trained = trained_of(values.trained, study) if values.trained is not None else {}
    models = open_models(study, bands=True)
    store = Store(study.output or next(Path(m["workdir"]) / "corrections" for m in study.models.values()))
    say = Progress(start)
    opened = {name: open_models(part, bands=True) for name, part in trained.items()}
    for others in opened.values():
        check_data(models, others)
    found = [carried_out(part, models, store, say) for part in (study, twice)]
    others = {name: carried_out(part, opened[name], store, say) for name, part in trained.items()}
    compared = comparison(*found, store, others)
    command = again("compare_corrections", sys.argv[1:])
    page = write_corrections(compared, store.folder, "Corrections: N steps with them, N and 2N without", [command])
    print(f"\n{rows_table(compared).text()}\n")
    print("\n".join(answer(compared)))
    print(f"\n{time.time() - start:.0f} s.  Open {page}")
    if not compared.outcomes:
        asked = ", ".join((*study.corrections[1:], *trained))
        refuse("--corrections", asked, f"one that can be made here: {next(iter(compared.failed.values()), '')}")


if __name__ == "__main__":
    launch(main)
