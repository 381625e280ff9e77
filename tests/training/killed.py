"""A run that kills itself with SIGKILL at a point that is named:  python -m training.killed WORKDIR CONFIG.json POINT NUMBER [ALLOW]

    commit N   before Orbax gives the N-th checkpoint of this process its name
    item N     before it gives that checkpoint's arrays theirs
    files N    as soon as the N-th checkpoint has a file with something in it
    seal N     the N-th checkpoint has its name, and its seal is not begun
    sealed N   its seal is written, and has no name yet
    first 0    in the first step after a restore
    start S    S seconds after the libraries were there: in the restore, the compilation, a step or a save
    loop S     S seconds after the second dispatch
    none 0     never

A time is cut short after MOST dispatches, so that no run ends before it is killed on a fast machine.  What is wrapped is what the run
itself calls: ``os.rename``, ``os.replace``, ``seals.seal`` and ``Layout.dispatch``.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from score_lab.training import arrays, train
from score_lab.training.parallel import Layout

MOST = 4
RENAMES = {"commit": str.isdigit, "item": "state".__eq__}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # nothing of this process goes on while the signal is on its way


def after(seconds):
    threading.Thread(target=lambda: (time.sleep(seconds), kill()), daemon=True).start()


def before_rename(workdir, named, number):
    """Kills before the ``number``-th rename, below the checkpoints, to a name that ``named`` is true of."""
    rename, count = os.rename, 0

    def renames(source, target, **words):
        nonlocal count
        place = Path(os.fsdecode(target))
        if (workdir / "checkpoints") in place.parents and named(place.name):
            count += 1
            if count == number:
                kill()
        return rename(source, target, **words)

    os.rename = renames


def within_files(workdir, number):
    """Kills when the ``number``-th folder that Orbax fills has a file that is not empty."""

    def watch():
        seen = set()
        while True:
            for file in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*/**/*"):
                top = file.relative_to(workdir / "checkpoints").parts[0]
                try:
                    if file.is_file() and file.stat().st_size:
                        seen.add(top)
                except OSError:
                    continue  # it has just been renamed
                if len(seen) == number:
                    kill()
            time.sleep(1e-4)

    threading.Thread(target=watch, daemon=True).start()


def around_seal(point, number):
    """Kills before the ``number``-th seal is begun, or before it is given its name."""
    seal, count = arrays.seal, 0

    def seals(directory, file):
        nonlocal count
        count += directory.parent.name == "checkpoints"
        if count == number:
            if point == "seal":
                kill()
            os.replace = lambda source, target: kill()
        return seal(directory, file)

    arrays.seal = seals


def in_dispatch(point, number):
    """Kills in the first dispatch, under way on the devices, of a run that goes on; or ``number`` seconds after the second of any run, and
    at the latest after MOST.
    """
    dispatch = Layout.dispatch

    def dispatches(self, parts):
        compiled, count = dispatch(self, parts), 0

        def call(state, batches):
            nonlocal count
            went_on = point == "first" and int(state.step) > 0
            result = compiled(state, batches)
            count += 1
            if went_on:
                kill()
            if point == "loop" and count == 2:
                after(number)
            if point != "first" and count == MOST:
                kill()
            return result

        return call

    Layout.dispatch = dispatches


def arm(point, number, workdir):
    if point in RENAMES:
        before_rename(workdir, RENAMES[point], int(number))
    elif point == "files":
        within_files(workdir, int(number))
    elif point in ("seal", "sealed"):
        around_seal(point, int(number))
    elif point in ("first", "start", "loop"):
        in_dispatch(point, number)
        if point == "start":
            after(number)


if __name__ == "__main__":
    workdir, config, point, number, *allow = sys.argv[1:]
    arm(point, float(number), Path(workdir).absolute())
    train(json.loads(Path(config).read_text()), workdir, allow=allow)
