"""experiments.train with a signal at a known moment:  python -m training.signalled SIGNAL INDEX COUNT SECONDS FLAGS

Process INDEX of the run sends itself SIGNAL after its dispatch COUNT; every dispatch takes SECONDS more, so that the run does not end.
"""

import signal
import sys
import time

import jax

from experiments import train
from experiments.launcher import launch
from score_lab.training.mesh import Meshed
from score_lab.training.parallel import Layout


def arm(layout, number, index, last, seconds):
    dispatch = layout.dispatch

    def dispatches(self, parts):
        compiled, count = dispatch(self, parts), 0

        def call(state, batches):
            nonlocal count
            time.sleep(seconds)
            result = compiled(state, batches)
            count += 1
            if count == last and jax.process_index() == index:
                signal.raise_signal(number)
            return result

        return call

    layout.dispatch = dispatches


if __name__ == "__main__":
    _, number, index, last, seconds, *sys.argv[1:] = sys.argv
    for layout in (Layout, Meshed):
        arm(layout, getattr(signal, number), int(index), int(last), float(seconds))
    launch(train.main)
