"""Do a sampler's states have the noise level that the network is told?  How far off, where, and what of it is real.

    python -m experiments.snr_mismatch --workdir runs/digits
    python -m experiments.snr_mismatch --workdir runs/digits --solvers 'Euler(variable=T), DDIM, Heun' --nfe 5,10,20,50 --n 2048
    python -m experiments.snr_mismatch --workdir runs/digits --paths own,VP --guidance 1,2 --seeds 0,1,2 --read_outs P1,P3,P4 --basis haar
    python -m experiments.snr_mismatch --config configs/mismatch.py:mixture --output runs/mixture
    python -m experiments.snr_mismatch --workdir runs/digits --estimators 'TotalVariance, my_pkg.mod:Mine' --measures my_pkg.mod:f

The axes are those of experiments.ablate_samplers: all combinations at equal counted evaluations, from the same noise.  Every run is read
beside its null, as many forward samples at the same calls, with intervals over trajectories.  table.csv, calls.csv, table.json, pictures
and report.html in --output (WORKDIR/mismatch by default), whose first lines say what was found and what cannot be concluded.  Stopped or
killed, the same command goes on where it was; more solvers, budgets or seeds add theirs only.  Every field of the configuration:
--config.FIELD=VALUE.
"""

from __future__ import annotations

import sys
import time

from absl import flags

from configs import mismatch
from experiments.ablate_samplers import ABOUT, LISTS
from experiments.launcher import again, launch, parse
from score_lab.build import refuse

QUESTIONS = {
    "estimators": "of the effective level, with commas: SpectralRegression, TotalVariance, DenoiserResidual, MaximumLikelihood, "
    "MixtureLikelihood (exact mixtures), Probe (is trained first), my_package.my_module:Mine",
    "read_outs": "of papers, beside their null: P1, P3, P4, P5, P6, P7",
    "measures": "of one's own: my_package.my_module:function of (record, spectrum, path)",
}


SINGULAR = {
    "--sampler": "--solvers 'DDIM, Heun(variable=T)'", "--steps": "--nfe 5,10,20, budgets of network evaluations",
    "--path": "--paths own,VP", "--grid": "--grids Karras", "--seed": "--seeds 0,1,2",
}  # fmt: skip
"""What experiments.sample takes one of, and this command a list."""


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""
    flags.DEFINE_string("workdir", None, "a run of experiments.train, or several with commas", flag_values=values)
    for name in LISTS:
        flags.DEFINE_string(name, None, f"with commas: {ABOUT[name]}", flag_values=values)
    flags.DEFINE_string("vary", None, "fields of solvers or grids: 'solver.eta=0|0.5|1, grid.s_churn=0|20'", flag_values=values)
    for name, about in QUESTIONS.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    flags.DEFINE_string("basis", None, "of the bands: dct (images), pca (points), fft, haar, identity", flag_values=values)
    flags.DEFINE_integer("n", None, "trajectories of each seed", flag_values=values)
    flags.DEFINE_integer("replicates", None, "of the bootstrap", flag_values=values)
    flags.DEFINE_integer("chunk", None, "trajectories at once", flag_values=values)
    flags.DEFINE_string("output", None, "where to write", flag_values=values)


def main() -> None:
    """Parses, plans, records, measures, says and writes."""
    for word in sys.argv[1:]:
        if (name := word.partition("=")[0].partition(".")[0]) in SINGULAR:
            refuse("command line", word, f"{SINGULAR[name]}, as of experiments.ablate_samplers")
    values = parse(__doc__, sys.argv, define, f"{mismatch.__file__}:digits")  # from whatever folder it is run
    config = values.config

    from experiments import mismatch_parts as parts
    from experiments.ablation_models import open_models
    from score_lab.ablation import runs_of
    from score_lab.mismatch.study import Records
    from score_lab.mismatch.study.conclusions import cannot, compared
    from score_lab.report.mismatch.page import table_of, write

    start = time.time()
    names = (*LISTS, *QUESTIONS, "vary", "basis", "n", "replicates", "chunk", "output", "workdir")
    study, questions = parts.asked(config, {name: values[name].value for name in names})
    print(parts.announced(study, questions), file=sys.stderr, flush=True)
    models = open_models(study, ranked=False)
    records = Records(parts.folder_of(study))
    runs = runs_of(study, models, records)
    todo = parts.subjects(study, models, runs)
    by = parts.recordings(study, questions, models, records)
    records.save_counts()
    found, failed = parts.measure_all(todo, by, [run.system.model for run in runs], questions)
    if not found:
        refuse("snr_mismatch", "every run failed", f"systems that run; the first reason: {failed[0]}")
    trained = sum("workdir" in m for m in study.models.values())
    notes = list(parts.notes_of(study, models, by, todo))
    command = again("snr_mismatch", sys.argv[1:])
    page = write(records.folder, found, failed, notes, trained, [command], parts.homes_of(study))
    table = table_of(found)
    table.notes = [*table.notes, *notes]
    print(f"\n{table.text()}\n")
    print("\n".join([*compared(found), *(f"failed  {line}" for line in failed), "", *cannot(found, trained)]))
    print(f"\n{time.time() - start:.0f} s, {records.made} records made, the others were there.  Open {page}")


if __name__ == "__main__":
    launch(main)
