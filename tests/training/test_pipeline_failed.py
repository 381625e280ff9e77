"""A data pipeline that raises or loses a process ends the run in one line, and does not keep it waiting."""

import os
import queue
import signal
import threading
import time
from pathlib import Path

import pytest
from training import processes

from score_lab.training import PipelineFailed, load, train
from score_lab.training import feed as feeds


def dying(config, how, **pipeline):
    data = {"target": "training.poisoned:Dying", "num_train": 160, "num_test": 40, "batch_size": 16, "how": how, "parent": os.getpid()}
    return config(data=data | pipeline, denoiser={"sigma_data": 0.7}, training__eval_every=0, training__checkpoint_every=1)


def test_a_record_that_cannot_be_read(config, tmp_path):
    """The line says what, before which step; what was done until then is saved where a checkpoint was due."""
    said = r"^the data pipeline failed before step \d+: ValueError: record 5 cannot be decoded"
    with pytest.raises(PipelineFailed, match=said) as caught:
        train(dying(config, "raise"), tmp_path)
    step = int(str(caught.value).split("step ")[1].split(":")[0])
    assert 1 <= step <= 10 and "the same command goes on from the newest checkpoint" in str(caught.value)
    if step > 1:
        assert load(tmp_path).step == step - 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "exit"])
def test_a_worker_that_dies(config, tmp_path, monkeypatch, how):
    """By a signal, of which Grain tells, and with status 0, of which it does not: then the run notices by itself."""
    monkeypatch.setattr(feeds, "GRACE", 3.0)
    begun = time.monotonic()
    with pytest.raises(PipelineFailed, match=r"^the data pipeline failed before step \d+: "):
        train(dying(config, how, num_workers=1, prefetch=1), tmp_path)
    assert time.monotonic() - begun < 300


def waiting(others=()):
    """A feed without its thread: what is put into its queue comes."""
    feed = object.__new__(feeds.Feed)
    feed._queue, feed._workers, feed._others, feed._begun = queue.Queue(), set(), set(others), False
    return feed


def test_a_process_that_is_gone_is_noticed(monkeypatch):
    """Without one: the processes that are seen, and a queue in which nothing comes."""
    feed = waiting()
    seen = iter([{7, 8}] + [{8}] * 100)
    monkeypatch.setattr(feeds, "_workers", lambda: next(seen))
    monkeypatch.setattr(feeds, "LOOK", 0.01)
    monkeypatch.setattr(feeds, "GRACE", 0.05)
    with pytest.raises(PipelineFailed, match="^the data pipeline failed before step 13: its process 7 is gone"):
        feed._next(12)
    monkeypatch.setattr(feeds, "_workers", lambda: {8})
    feed = waiting()
    feed._queue.put("a batch")
    assert feed._next(12) == "a batch"


def test_the_processes_of_other_streams_are_not_its_own(monkeypatch):
    """7 was there before, 8 is this stream's, 9 the held-out stream's, which begins and ends later: a long wait is no reason to stop."""
    monkeypatch.setattr(feeds, "LOOK", 0.01)
    monkeypatch.setattr(feeds, "GRACE", 0.05)
    feed, alive = waiting(others={7}), {7, 8}
    monkeypatch.setattr(feeds, "_workers", lambda: set(alive))
    feed._queue.put("a batch")
    assert feed._next(0) == "a batch" and feed._workers == {8}
    alive |= {9}
    feed._queue.put("the next")
    assert feed._next(1) == "the next"
    alive -= {7, 9}
    threading.Timer(0.5, feed._queue.put, ["after a while"]).start()
    assert feed._next(2) == "after a while" and feed._workers == {8}
    alive -= {8}
    with pytest.raises(PipelineFailed, match="before step 4: its process 8 is gone"):
        feed._next(3)


def started(process):
    """The processes that ``process`` has started and that are alive: Grain's, and what Python starts to look after their memory."""
    found = set()
    for file in Path(f"/proc/{process.pid}/task").glob("*/children"):
        found |= {int(pid) for pid in file.read_text().split()}
    return found


def alive(pid):
    """Whether it runs: not gone, and not dead and unmissed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_signal_to_all_is_not_for_the_workers_and_they_end_with_the_run(tmp_path):
    """To the group, as a terminal sends it, and to every process, as some schedulers do and twice, here while the run waits for a batch: it
    saves, with status 143.  kill -9 of the run alone leaves no process behind, where nobody else could end them.
    """
    words = ["--config.data.target=training.poisoned:Slow", "--config.data.num_workers=1", "--config.data.prefetch=1"]
    training = ("steps=400", "log_every=1", "eval_every=0", "checkpoint_every=400", "steps_per_dispatch=1")
    words += [f"--config.training.{word}" for word in training]
    file = tmp_path / "metrics.jsonl"
    with processes.start(tmp_path, *words, count=1, devices=1) as (process,):
        processes.until(lambda: file.exists() and len(file.read_text().splitlines()) > 2, [process])
        os.killpg(process.pid, signal.SIGTERM)
        for pid in (*started(process), process.pid):
            os.kill(pid, signal.SIGTERM)
        (status,), (said,), (errors,) = processes.ended([process])
    assert status == 143 and "Traceback" not in errors, errors
    step, *_ = processes.saved(tmp_path)
    assert 3 <= step < 400 and f"stopped by SIGTERM at step {step}, which is saved" in said
    with processes.start(tmp_path, *words, count=1, devices=1) as (process,):
        processes.until(lambda: len(file.read_text().splitlines()) > step + 1, [process])
        left = started(process)
        assert len(left) == 2
        process.kill()
        process.wait()
        deadline = time.monotonic() + 120
        while any(map(alive, left)) and time.monotonic() < deadline:
            time.sleep(0.05)
        orphans = list(filter(alive, left))
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        assert not orphans


@pytest.mark.slow
def test_the_processes_of_a_stream_are_found(config, tmp_path, monkeypatch):
    """Two of Grain's, and an evaluation with two of its own after every step: the stream's are the two that the run began with."""
    found, following = [], feeds.Feed._next

    def look(self, number):
        item = following(self, number)
        found.append(frozenset(self._workers))
        return item

    monkeypatch.setattr(feeds.Feed, "_next", look)
    data = {"target": "Toy", "num_train": 160, "num_test": 40, "batch_size": 16, "num_workers": 2, "prefetch": 1}
    often = {"training__steps": 4, "training__eval_every": 1, "training__log_every": 1, "training__checkpoint_every": 0}
    train(config(data=data, optimizer__warmup=1, **often), tmp_path)
    assert len(found) == 4 and len(found[0]) == 2 and len(set(found)) == 1
