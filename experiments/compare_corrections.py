"""Does a correction of the mismatch give N evaluations the quality of 2N?  Each beside the uncorrected run at N and at 2N.

    python -m experiments.compare_corrections --workdir runs/digits
    python -m experiments.compare_corrections --workdir runs/digits,runs/digits-1 --solvers 'DDIM, EulerMaruyama' --nfe 5,10 --seeds 0,1,2
    python -m experiments.compare_corrections --workdir runs/digits --corrections 'epsilon scaling, by band; DCW; my_pkg.mod:Mine + churn'
    python -m experiments.compare_corrections --workdir runs/digits --calibrate measured
    python -m experiments.compare_corrections --config configs/corrections.py:mixture --n 500

Workdirs are training seeds of one method and are pooled.  Mismatch and quality before and after, which differences are real (paired,
common noise, intervals that hold for all rows of one budget at once), which corrections are refused and why; table.csv, table.json,
outcomes.csv, corrections.png and report.html in --output (WORKDIR/corrections by default).  Stopped or killed, the same command goes on
where it was.  A correction from outside is a callable Setting -> Corrected (score_lab.mismatch.corrections), or an object with make.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from configs import corrections
from experiments.ablate_samplers import LISTS, ONCE, define
from experiments.launcher import again, launch, parse, read_config
from score_lab.build import build, refuse


def main() -> None:
    """Parses, plans, samples, measures, compares and writes."""
    values = parse(__doc__, sys.argv, define)
    config = read_config(f"{corrections.__file__}:digits") if values.config is None else values.config

    from experiments.ablation_models import open_models
    from experiments.ablation_parts import Progress, carried_out, corrections_of, study_fields
    from score_lab.ablation import Store, answer, comparison, write_corrections
    from score_lab.ablation.corrections_tables import rows_table

    start = time.time()
    fields = study_fields(config, {name: values[name].value for name in (*LISTS, *ONCE)})
    fields["corrections"] = ("none", *(w for w in corrections_of("; ".join(fields.get("corrections", ("all",)))) if w != "none"))
    study = build({"target": "score_lab.ablation.study:Study", **fields}, field="config")
    if not study.corrected():
        refuse("--corrections", "none", "at least one correction beside none")
    study = dataclasses.replace(study, reference_steps=study.fine_steps())  # the same solution for both
    twice = dataclasses.replace(study, corrections=("none",), nfe=tuple(2 * n for n in study.nfe))
    models = open_models(study)
    store = Store(study.output or next(Path(m["workdir"]) / "corrections" for m in study.models.values()))
    say = Progress(start)
    compared = comparison(*(carried_out(part, models, store, say) for part in (study, twice)), store)
    command = again("compare_corrections", sys.argv[1:])
    page = write_corrections(compared, store.folder, "Corrections: N steps with them, N and 2N without", [command])
    print(f"\n{rows_table(compared).text()}\n")
    print("\n".join(answer(compared)))
    print(f"\n{time.time() - start:.0f} s.  Open {page}")
    if not compared.outcomes:
        refuse("--corrections", ", ".join(study.corrections[1:]), f"one that can be made here: {next(iter(compared.failed.values()), '')}")


if __name__ == "__main__":
    launch(main)
