"""What Orbax and TensorStore leave behind where they fail: half-written folders are removed, late callbacks print nothing."""

import asyncio
import contextlib
import gc
import os
import shutil
import sys
import time
import types
import warnings

import pytest

from score_lab.training.checkpoint import Checkpoints
from score_lab.training.leftovers import quiet, remove_half_written
from score_lab.training.state import abstract_state

LATE = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
OTHERS = [types.SimpleNamespace(exc_value=RuntimeError("else"), object=None), types.SimpleNamespace(exc_value=LATE.exc_value, object=print)]


@pytest.fixture
def told(monkeypatch):
    """What the program's own hook hears."""
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    return heard


def all_said():
    for said in (LATE, *OTHERS):
        sys.unraisablehook(said)


def test_late_callbacks_are_silent_until_their_loops_are_gone(told):
    """And nothing else is; then the program has its own hook again."""
    own, loop = sys.unraisablehook, asyncio.new_event_loop()
    loop.close()
    with contextlib.suppress(OSError), quiet(), quiet():
        all_said()
        raise OSError
    all_said()
    assert told == OTHERS * 2 and sys.unraisablehook is not own
    del loop
    gc.collect()
    all_said()
    assert told[4:] == [LATE, *OTHERS] and sys.unraisablehook is own


def test_what_did_not_fail_leaves_no_hook(told):
    """Also where somebody has put one on it, which is kept, and where hooks are left in another order than they came."""
    own = sys.unraisablehook
    with quiet():
        all_said()
    assert told == OTHERS and sys.unraisablehook is own
    first, second = quiet(), quiet()
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None), second.__exit__(None, None, None)
    assert sys.unraisablehook is own
    with quiet():
        below = sys.unraisablehook
        sys.unraisablehook = theirs = lambda said: below(said)
    told.clear()
    all_said()
    assert told == [LATE, *OTHERS] and sys.unraisablehook is theirs


def test_a_checkpoint_whose_arrays_cannot_be_read_is_quiet(trained, tmp_path, told):
    """Every array store is cut short: TensorStore gives up at the first, and tells a closed loop of the others."""
    own = sys.unraisablehook
    shutil.copytree(trained[0] / "checkpoints" / "20", tmp_path / "checkpoints" / "20")
    for file in (tmp_path / "checkpoints" / "20" / "state").glob("**/d/*"):
        os.truncate(file, file.stat().st_size // 2)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Exception, match="Error"):
        checkpoints.restore(abstract_state(trained[1].parts), 20)
    deadline = time.monotonic() + 60
    while sys.unraisablehook is not own and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert told == [] and sys.unraisablehook is own


def test_a_folder_that_is_still_written_into_is_removed(tmp_path, monkeypatch):
    """A writer that has not heard of the failure puts a file where one was just removed, also when it was gone for a moment."""
    left, remove = tmp_path / "5.orbax-checkpoint-tmp", shutil.rmtree
    late = iter([True, True, False, False, True])

    def rmtree(path, ignore_errors):
        remove(path, ignore_errors=ignore_errors)
        if next(late, False):
            (path / "state").mkdir(parents=True)

    (left / "state").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    remove_half_written(tmp_path)
    assert not left.exists() and next(late, None) is None


def test_what_orbax_had_not_begun_is_thrown_away_in_silence():
    """While a run goes on after a failure, and after it; another's coroutine that is never awaited is warned of, as ever."""

    def async_serialize_from_host():
        async def write_fragment():
            pass

        return write_fragment()

    async def another():
        pass

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with quiet():
            async_serialize_from_host()
            gc.collect()
        async_serialize_from_host(), another()
        gc.collect()
    (only,) = said
    assert "another' was never awaited" in str(only.message)
