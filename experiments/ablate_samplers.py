"""Which sampler should I use, at how many network evaluations, for my model?

    python -m experiments.ablate_samplers --workdir runs/digits
    python -m experiments.ablate_samplers --workdir runs/digits --nfe 5,10,20 --solvers 'DDIM, DDIM(eta=1), Heun(variable=T), mine:Mine'
    python -m experiments.ablate_samplers --workdir runs/digits --grids 'UniformLogSNR(end=8), Karras' --paths own,VP --guidance 1,2
    python -m experiments.ablate_samplers --config configs/ablate.py:mixture --n 500

All combinations at equal counted evaluations, from the same noise, measured with intervals; table.csv, ranking.csv, pairs.csv, pictures and
report.html in --output (WORKDIR/ablation by default), whose first lines answer the question.  A solver may be made for a number (dpm_fast)
or given a tolerance (Dopri5, DPMAdaptive: the tightest whose mean stays within the budget, on other noises than those that are measured);
AnalyticDPM's Gamma is measured on the model.  Stopped or killed, the same command goes on where it was; more solvers, budgets or seeds add
their cells only, a larger --n the new samples only.  Every field of the configuration: --config.FIELD=VALUE.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from absl import flags

from configs import ablate
from experiments.launcher import again, launch, parse
from score_lab.build import build, refuse

LISTS = ("solvers", "grids", "paths", "guidance", "nfe", "seeds")
ONCE = ("corrections", "calibrate", "basis", "vary", "n", "rank_by", "features", "least_difference", "output", "workdir")
ABOUT = {
    "solvers": "DDIM, DDIM(eta=0.5), Heun(variable=T), my_package.my_module:Mine",
    "grids": "own (the workdir's), UniformLogSNR(end=8), Karras",
    "paths": "own, VP, EDM(sigma_max=80)",
    "guidance": "scales; 1 is none",
    "nfe": "budgets of network evaluations per sample",
    "seeds": "of the noise",
}


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""
    flags.DEFINE_string("workdir", None, "a run of experiments.train, or several with commas", flag_values=values)
    for name in LISTS:
        flags.DEFINE_string(name, None, f"with commas: {ABOUT[name]}", flag_values=values)
    flags.DEFINE_alias("steps", "nfe", flag_values=values)
    flags.DEFINE_alias("samplers", "solvers", flag_values=values)
    flags.DEFINE_string("corrections", None, "with semicolons: none; epsilon scaling, by band; my_pkg.mod:Mine; all", flag_values=values)
    flags.DEFINE_string("calibrate", None, "of corrections: gaussian (spectrum), measured (a run), a number", flag_values=values)
    flags.DEFINE_string("basis", None, "of the spectrum: dct, pca", flag_values=values)
    flags.DEFINE_string("vary", None, "fields of solvers or grids: 'solver.eta=0|0.5|1, grid.s_churn=0|20'", flag_values=values)
    flags.DEFINE_integer("n", None, "samples of each seed", flag_values=values)
    flags.DEFINE_string("rank_by", None, "the column that ranks", flag_values=values)
    flags.DEFINE_float("least_difference", None, "share of the better value that a difference must exceed", flag_values=values)
    flags.DEFINE_string("features", None, "of Frechet distance and KID: PCA, Pixels, my_package.my_module:function", flag_values=values)
    flags.DEFINE_string("output", None, "where to write", flag_values=values)


def main() -> None:
    """Parses, plans, samples, measures, ranks and writes."""
    values = parse(__doc__, sys.argv, define, f"{ablate.__file__}:digits")  # from whatever folder it is run
    config = values.config

    from experiments.ablation_models import open_models
    from experiments.ablation_parts import Progress, carried_out, study_fields
    from score_lab.ablation import Store, full_table, write
    from score_lab.ablation.tables import budgets, failures

    start = time.time()
    given = {name: values[name].value for name in (*LISTS, *ONCE)}
    study = build({"target": "score_lab.ablation.study:Study", **study_fields(config, given)}, field="config")
    models = open_models(study)
    store = Store(study.output or next(Path(m["workdir"]) / "ablation" for m in study.models.values()))
    results = carried_out(study, models, store, Progress(start))
    page = write(results, store, "Which sampler should I use?", [again("ablate_samplers", sys.argv[1:])])
    print(f"\n{full_table(results).text()}\n")
    print("\n".join([*(f"budget  {line}" for line in budgets(results)), *(f"failed  {line}" for line in failures(results))]))
    for line, contest in zip(results.advice(), results.contests, strict=True):
        print("\n".join(["", line, *(f"    {command}" for command in results.commands(contest))]))
    print(f"\n{time.time() - start:.0f} s.  Open {page}")
    if not any(row.cells for row in results.rows):
        refuse("ablation", "every cell failed", f"systems that run; the first reason: {results.rows[0].reason}")


if __name__ == "__main__":
    launch(main)
