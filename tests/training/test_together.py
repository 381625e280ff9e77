"""Several processes are stopped by a signal to one of them: all save, all exit alike, and the run goes on to the very bits."""

import re
import signal
import sys

import pytest
from training import together

STEPS, SECONDS = 40, 0.2
RUN = [f"--config.training.{word}" for word in (f"steps={STEPS}", f"log_every={STEPS}", f"checkpoint_every={STEPS}", "eval_every=0")]
RUN += ["--config.training.steps_per_dispatch=1", "--config.training.ema=(0.9,)"]


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "name"), [(1, "SIGTERM"), (0, "SIGINT")])
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path, victim, name):
    """Long before a line or a checkpoint is due both save and exit with 128 + the signal; the same commands then make the same bits."""
    cache, whole, broken = tmp_path / "compiled", tmp_path / "whole", tmp_path / "broken"
    signalled = [sys.executable, "-m", "training.signalled", name, str(victim), str(SECONDS)]
    with together.start(broken, *RUN, devices=1, program=signalled, cache=cache) as processes:
        statuses, said, errors = together.ended(processes)
    assert statuses == [128 + getattr(signal, name)] * 2, (said, errors)
    assert not any("Traceback" in text for text in errors), errors
    step = int(re.search(rf"stopped by {name} at step (\d+), which is saved", said[0])[1])
    assert 3 < step < STEPS and together.saved(broken)[0] == step
    together.run(broken, *RUN, devices=1, cache=cache)
    together.run(whole, *RUN, devices=1, cache=cache)
    together.same(broken, whole)
