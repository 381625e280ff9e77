"""What causes the mismatch of a sampler's last states: the prior, too few steps, the network, guidance, or chance?

    python -m experiments.decompose_mismatch --workdir runs/digits --solvers 'DDIM, Heun' --nfe 10 --n 512 --most 128
    python -m experiments.decompose_mismatch --workdir runs/digits --guidance 2 --path VP --grid 'UniformLogSNR(end=8)'
    python -m experiments.decompose_mismatch --config configs/decompose.py:gaussian      # the exact denoiser is known: the model's part too

An experiment cube on common random numbers: true start or prior, N, 2 N, ... steps, guided or not, and the exact denoiser where there is
one.  On a trained network, what a Gaussian of the data's spectrum loses by discretisation stands beside what was measured.  Writes
table.csv, table.json, pictures and report.html into --output (WORKDIR/decomposition by default); every cell is kept, so the same command
goes on where it was stopped, and more solvers add theirs only.  Every field of the configuration: --config.FIELD=VALUE.
"""

from __future__ import annotations

import sys
import time

from absl import flags

from configs import decompose
from experiments.launcher import again, launch, parse

WORDS = {
    "workdir": "a run of experiments.train",
    "solvers": "with commas: DDIM, Heun, DDIM(eta=1), my_package.my_module:Mine",
    "nfe": "budgets of network evaluations per sample, with commas",
    "grid": "own (the workdir's), UniformLogSNR(end=8), Karras",
    "path": "own, VP, EDM(sigma_max=80)",
    "basis": "of the bands: dct (images), pca (points), fft, haar, identity",
    "output": "where to write",
}
NUMBERS = {"n": "trajectories", "most": "steps of the finest run", "seed": "of the noise", "chunk": "trajectories at once"}


def define(values: flags.FlagValues) -> None:
    """The flags of this launcher."""
    for name, about in WORDS.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    for name, about in NUMBERS.items():
        flags.DEFINE_integer(name, None, about, flag_values=values)
    flags.DEFINE_float("guidance", None, "scale; 1 is none", flag_values=values)


def main() -> None:
    """Parses, runs the cube of every solver and budget, says and writes."""
    values = parse(__doc__, sys.argv, define, f"{decompose.__file__}:digits")  # from whatever folder it is run
    config = values.config

    from experiments.decompose_parts import opened, taken_apart
    from score_lab.mismatch.study import Records
    from score_lab.report.mismatch.decomposition_page import table_of, words_of, write

    start = time.time()
    setting = opened(config, {name: values[name].value for name in (*WORDS, *NUMBERS, "guidance")})
    records = Records(setting.asked.folder)
    found = [taken_apart(setting, records, spec, budget) for spec in setting.asked.solvers for budget in setting.asked.nfe]
    page = write(setting.asked.folder, found, setting.notes, [again("decompose_mismatch", sys.argv[1:])])
    print(f"\n{table_of(found).text()}\n")
    print("\n".join(line for part in found for line in words_of(part)))
    print(f"\n{time.time() - start:.0f} s, {records.made} records made, {records.there} were there.  Open {page}")


if __name__ == "__main__":
    launch(main)
