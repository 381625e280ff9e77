"""Makes one update of a run again, from the newest checkpoint before it, and says what in it is not finite.

    python -m experiments.replay --workdir runs/x --step 213

STEP is what the line and WORKDIR/nonfinite/STEP.json name, or any step of the run.  Where the configuration was changed on the way, the
update is made under that of its time.  Nothing is written.  On other devices than those of the run it is the same to rounding; a line
says so where its mesh does not fit them.
"""

from __future__ import annotations

import math
import sys

from experiments.launcher import launch
from experiments.overrides import Parser
from score_lab.build import refuse
from score_lab.training.prepare import here
from score_lab.training.record import read_workdir
from score_lab.training.replay import Replay, recorded, replay

MOST = 8
"""Names and examples that are listed before "and so many more"."""


def lines(found: Replay, told: dict | None) -> list[str]:
    """What is said of an update that was made again, and of what the run had written down about it."""
    between = found.step - 1 - found.start
    said = f"update {found.step - 1}, which makes step {found.step}: from {_start(found.start)}, {between} updates made again"
    lines = [said, f"loss {found.loss:.6g}   grad_norm {found.grad_norm:.6g}"]
    if told is not None:
        lines += [f"the run wrote down loss {told['figures']['loss']}, grad_norm {told['figures']['grad_norm']}"]
    lines += [f"under {_then(entry)}" for entry in found.since]
    lines += [f"  || gradient of {name} || = {norm:.6g}" for name, norm in found.norms.items()]
    lines += [f"parameters that are not finite before it: {_listed(found.parameters)}"] if found.parameters else []
    lines += [f"gradients that are not finite: {_listed(found.gradients)}"] if found.gradients else []
    if found.culprits:
        lines += [f"examples whose {found.culprit} is not finite, {len(found.culprits)} of {len(found.losses)}:"]
        lines += [_example(found, place) for place in found.culprits[:MOST]]
        lines += [f"  and {len(found.culprits) - MOST} more"] if len(found.culprits) > MOST else []
    return [*lines, "first: " + first(found)]


def first(found: Replay) -> str:
    """What was not finite before anything else."""
    if found.parameters:
        return f"the parameter {found.parameters[0]}, before this update: replay an earlier step"
    if found.culprits:
        finite = [level for k in found.culprits if isinstance(level := found.examples["log_snr"][k], float)]
        where = f", at log-SNR {min(finite):.4g} to {max(finite):.4g}" if finite else ""
        return f"the {found.culprit} of record {found.examples['record'][found.culprits[0]]} of the training split{where}"
    if found.gradients:
        return f"the gradient of {found.gradients[0]}, though that of every example alone is finite: a sum that overflows"
    return "nothing: this update is finite"


def _then(entry: dict) -> str:
    """The value that a field had in the update, where the run has changed it since."""
    now = f"{entry['new']!r} since step {entry['step']}" if "new" in entry else f"gone since step {entry['step']}"
    return f"{entry['field']} {entry['old']!r} ({now})" if "old" in entry else f"no {entry['field']} ({now})"


def _start(step: int) -> str:
    return f"checkpoint {step}" if step else "the parameters that the run began with"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _example(found: Replay, place: int) -> str:
    record, t, log_snr = (found.examples[name][place] for name in ("record", "t", "log_snr"))
    where = f", t {t:.4g}, log-SNR {log_snr if isinstance(log_snr, str) else f'{log_snr:.4g}'}" if t is not None else ""
    return f"  index {found.examples['index'][place]}, record {record}{where}: loss {found.losses[place]:.6g}"


def main() -> int:
    """Parses the command line and replays; status 1 where the update is not finite."""
    parser = Parser("replay", __doc__)
    parser.add_argument("--workdir", help="the directory of the run")
    parser.add_argument("--step", type=int, help="the step that the update makes")
    args = parser.parse_args(sys.argv[1:])
    for name in ("workdir", "step"):
        if getattr(args, name) is None:
            refuse(f"--{name}", None, f"--{name}=VALUE, see --help")
    for line in here(read_workdir(args.workdir)["config"])[1]:
        print(line, file=sys.stderr, flush=True)
    found = replay(args.workdir, args.step)
    print("\n".join(lines(found, recorded(args.workdir, args.step))))
    return 0 if math.isfinite(found.loss) and math.isfinite(found.grad_norm) else 1


if __name__ == "__main__":
    launch(main)
