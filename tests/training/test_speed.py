"""What the log says of operations, MFU and bytes; the trace of some steps; what a run would hold: on a network of a few hundred weights."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from experiments import launcher
from experiments import train as train_command
from score_lab.build import ConfigError
from score_lab.cost import Memory, Peaks
from score_lab.training import fits, loop, tracing, train
from score_lab.training.feed import BEGINNING, Feed
from score_lab.training.fits import Fit, bytes_of, fit_of, largest_batch
from score_lab.training.metrics import read_metrics
from score_lab.training.options import TrainingOptions
from score_lab.training.prepare import prepare
from score_lab.training.reports import Reports
from score_lab.training.speed import Speed, StepCost, abstract_batch, cost_of_step, speed_of
from score_lab.training.state import abstract_state

PEAKS = Peaks(flops=1e9, bandwidth=1e8, dtype="float32", devices=4)


@pytest.fixture(scope="module")
def plan(config):
    """Nothing of it is written: there is no workdir."""
    return prepare(config(network__dropout=0.0, coupling={"target": "MinibatchOT"}), None)


def test_a_step_costs_three_forward_passes_of_its_layers(plan):
    """An MLP of width 8, one block, 4 examples a device in two microbatches: closed form; the first layers' inputs have no gradient."""
    batch = plan.layout.share(abstract_batch(plan))
    cost = cost_of_step(plan.parts, batch)
    forward = sum(2 * 4 * i * o for i, o in ((128, 8), (8, 8), (2, 8), (8, 16), (8, 8), (8, 8), (8, 2)))
    first = 2 * 4 * (128 * 8 + 2 * 8)
    assert cost.batch == 4 and cost.flops == 3 * forward - first
    assert cost.moved > 2 * bytes_of(abstract_state(plan.parts).params)  # read and written, at least


def test_bytes_of_many_microbatches_are_on_a_line(monkeypatch, plan):
    """100 bytes of the update and 10 a microbatch: 140 for four, from programs of one and two."""
    compiled = []
    monkeypatch.setattr("score_lab.training.speed._moved", lambda parts, layout, batch, count: compiled.append(count) or 100.0 + 10 * count)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((4, *x.shape[3:]), x.dtype), abstract_batch(plan))
    assert cost_of_step(plan.parts, batch).moved == 140.0 and sorted(compiled) == [1, 2]


@pytest.mark.slow
def test_bytes_of_a_step_are_those_of_a_share(config):
    """Adam on a network of large matrices and one example a device: four that share them move far less than four that do not."""
    small = {"network__width": 128, "data__batch_size": 4, "training__accumulate": 1}
    plans = [prepare(config(**small, parallel={"fsdp": n, "min_size": 64}), None) for n in (1, 4)]
    alone, shared = (cost_of_step(p.parts, p.layout.share(abstract_batch(p)), p.layout) for p in plans)
    assert alone.flops == shared.flops and 0.25 * alone.moved < shared.moved < 0.75 * alone.moved


def test_figures_of_a_log_line_are_of_all_devices():
    """16 examples of 100 FLOP and 50 bytes on 4 devices, 2 processes: 128 examples an update; 1280 images/s are 10 updates a second."""
    speed = Speed(StepCost(16, 1600.0, 800.0), PEAKS, processes=2)
    figures = speed.figures(1280.0)
    assert figures == pytest.approx({"flops_per_second": 10 * 8 * 1600, "mfu": 10 * 4 * 1600 / 1e9, "bytes_per_second": 10 * 8 * 800})
    assert "2 FLOP/byte: memory-bound" in speed.line("cpu")


@pytest.mark.slow
def test_the_log_has_them_where_they_are_asked_for(monkeypatch, tmp_path, config):
    """And the trace of ten steps names parts in the terminal; nothing that is trained changes."""
    said = []
    monkeypatch.setattr("score_lab.training.speed.measured_peaks", lambda *_: PEAKS)
    monkeypatch.setattr(tracing, "say", said.append)
    quiet = {"training__eval_every": 0, "training__steps": 40, "training__checkpoint_every": 0}
    told = train(config(**quiet, training__mfu=True, training__profile=10), tmp_path / "told")
    plain = train(config(**quiet), tmp_path / "plain")
    lines = read_metrics(tmp_path / "told")
    assert lines[-1]["flops_per_second"] > 0 and lines[-1]["mfu"] == pytest.approx(lines[-1]["flops_per_second"] / PEAKS.flops)
    assert not {"mfu", "flops_per_second", "bytes_per_second"} & set(read_metrics(tmp_path / "plain")[-1])
    assert all(bool(jnp.array_equal(a, b)) for a, b in zip(*(jax.tree.leaves(t.state.params) for t in (told, plain)), strict=True))
    assert said[0].startswith("the slowest parts of 10 steps") and said[-1].endswith("the trace of 10 steps")
    assert 2 <= len(said) <= 12 and any(".py:" in line for line in said[1:-1])
    assert list((tmp_path / "told" / "profile").rglob("*.xplane.pb")) and not (tmp_path / "plain" / "profile").exists()


class Dispatch:
    """Five steps a call; counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, state, batches):
        self.calls += 1
        return state, {"loss": jnp.zeros(5)}

    def lower(self, state, batches):
        return jax.jit(lambda x: x + 1).lower(jnp.zeros(3))


@pytest.mark.parametrize(("steps", "left", "traced"), [(7, 100, 10), (50, 15, 10), (5, 100, 5)])
def test_whole_dispatches_are_traced_behind_the_first(monkeypatch, tmp_path, steps, left, traced):
    """Seven steps in dispatches of five are two dispatches; fewer where the run ends before."""
    events, said, dispatch = [], [], Dispatch()
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append(("start", dispatch.calls)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append(("stop", dispatch.calls)))
    monkeypatch.setattr(tracing, "newest_trace", lambda folder: folder / "x")
    monkeypatch.setattr(tracing, "times_by_instruction", lambda file: {"copy.1": 2e6})
    monkeypatch.setattr(tracing, "say", said.append)
    with tracing.Traced(dispatch, tmp_path / "profile", steps, left) as run:
        for _ in range(left // 5):
            run(0, 0)
    assert events == [("start", 1), ("stop", 1 + traced // 5)] and dispatch.calls == left // 5
    assert said[0].startswith(f"the slowest parts of {traced} steps") and said[1].split() == ["100.0", "%", f"{2 / traced:.3f}", "copy"]


def test_nothing_is_traced_by_default(monkeypatch, tmp_path):
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: pytest.fail("traced"))
    with tracing.Traced(Dispatch(), tmp_path / "profile", 0, 100) as run:
        for _ in range(4):
            run(0, 0)
    assert not (tmp_path / "profile").exists()


def test_a_trace_under_way_ends_with_the_run(monkeypatch, tmp_path):
    """Also where it is stopped in between."""
    ended = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: ended.append(True))
    monkeypatch.setattr(tracing, "newest_trace", lambda folder: None)
    with tracing.Traced(Dispatch(), tmp_path / "profile", 50, 100) as run:
        run(0, 0)
        run(0, 0)
        assert not ended
    assert ended == [True]


@pytest.mark.slow
def test_options_are_checked_and_may_differ_between_runs_of_a_workdir(tmp_path, config):
    with pytest.raises(ConfigError, match="profile: -1 is refused"):
        TrainingOptions(steps=1, profile=-1).check()
    short = {"training__steps": 2, "training__eval_every": 0, "training__log_every": 2, "optimizer__warmup": 1}
    assert train(config(**short), tmp_path).step == 2
    again = config(**short)
    again["training"] |= {"mfu": True, "profile": 5}
    assert prepare(loop.plain(again), tmp_path).record is not None


def test_the_state_is_counted_and_the_total_is_xlas(plan):
    """Per device all of it, as pmap holds it: parameters, two moments of Adam and a count, two averages."""
    fit = fit_of(plan)
    params = bytes_of(abstract_state(plan.parts).params)
    assert fit.parts["parameters"] == params and fit.parts["averages (2)"] == 2 * params
    assert 2 * params < fit.parts["optimizer"] < 2 * params + 100
    assert fit.memory.total >= 5 * params and fit.doubled.total > fit.memory.total
    assert fit.devices == 4 and fit.grain == 8 and fit.fits and fit.largest % 8 == 0
    lines = fit.lines("cpu")
    assert "on each of 4 x cpu, batch 16" in lines[0] and "shared by 4 devices" in lines[-2] and "compiled at 16 and 32" in lines[-1]


@pytest.mark.parametrize(("prefetch", "devices", "flying"), [(1, 1, 3), (3, 1, 3), (2, 4, 1)])
def test_batches_are_counted_as_they_lie(monkeypatch, config, prefetch, devices, flying):
    """In closed form, x0, label and index of every example of a dispatch's steps; and as a feed and a loop that nothing leaves make them:
    placed are those of the queue, one behind it, and every one that was taken, the last of which is held back.
    """
    plan = prepare(loop.plain(ConfigDict(config(training__prefetch=prefetch, training__devices=devices))), None)
    monkeypatch.setattr(fits, "_compiled", lambda plan, state, batch, factor: Memory(1000 * factor, 0, 0, 0))
    fit = fit_of(plan)
    ((name, held),) = [item for item in fit.parts.items() if item[0].startswith("batches")]
    example = sum(x.dtype.itemsize * math.prod(x.shape[4:]) for x in jax.tree.leaves(abstract_batch(plan)))
    count = prefetch + 2 + flying
    assert name == f"batches ({count} dispatches of {plan.several} steps)" and held == count * plan.several * 16 // devices * example
    more = (count - 1) * held // count  # one of them is an argument of the program
    assert (fit.memory.total, fit.doubled.total) == (1000 + more, 2000 + 2 * more)

    placed, taken = [], []
    monkeypatch.setattr(type(plan.layout), "place", lambda layout, rows: placed.append(rows))
    monkeypatch.setattr(jax, "block_until_ready", lambda figures: held_back())
    stream = type("Stream", (), {"__next__": lambda self: {}, "get_state": lambda self: {}})()
    reports = Reports(plan, None, None, None, {"step": 0, "pending": [], "start": BEGINNING, "allowed": []})
    reports._clock = (0.0, 0)

    class Full(Exception):
        pass

    def held_back():
        raise Full  # no dispatch ever ends here

    with Feed(stream, plan.layout, [1] * 50, 0, None, jax.random.key(0), prefetch) as feed:
        with pytest.raises(Full):
            for batches in feed:
                taken.append(batches)
                reports.throttle()
                reports.add({}, len(taken))
        until = time.monotonic() + 300
        while len(placed) < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(taken) == flying + 1 and len(placed) == count


def test_the_largest_batch_is_where_the_line_meets_the_memory():
    """1000 bytes and 10 for each example: 2000 are enough for 100; in multiples of 8 for 96; nothing below 1000 is."""
    assert largest_batch(32, 1320, 1640, 2000, 1) == 100 and largest_batch(32, 1320, 1640, 2000, 8) == 96
    assert largest_batch(32, 1320, 1640, 900, 8) == 0 and largest_batch(32, 1320, 1320, 2000, 8) is None


def test_what_does_not_fit_says_so():
    memory = Memory(arguments=600, results=600, in_place=600, temporaries=900)
    fit = Fit({"parameters": 600}, memory, dataclasses.replace(memory, temporaries=1800), 32, 2, 2, 2000, 2)
    assert not fit.fits and fit.largest == 14 and "it does not fit" in fit.lines("x")[-2]
    unknown = dataclasses.replace(fit, device=None)
    assert unknown.fits and unknown.largest is None and "does not say" in unknown.lines("x")[-1]


def test_the_command_says_what_fits_and_writes_nothing(monkeypatch, capsys, tmp_path, config):
    monkeypatch.chdir(tmp_path)
    assert train_command.say_memory(loop.plain(ConfigDict(config())), None) == 0
    assert "the largest batch that fits is about" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_profile_and_memory_are_flags(monkeypatch, tmp_path):
    """``--profile`` is the field of the configuration; ``--memory`` needs no workdir."""
    seen = []
    monkeypatch.setattr("score_lab.training.train", lambda config, *_, **__: seen.append(config) or type("T", (), {"stopped": None}))
    toy = f"--config={train_command.__file__.replace('experiments/train.py', 'configs/toy.py')}"
    monkeypatch.setattr("sys.argv", ["train", toy, f"--workdir={tmp_path}", "--profile=7"])
    assert train_command.main() == 0 and seen[0].training.profile == 7
    monkeypatch.setattr(train_command, "say_memory", lambda config, workdir, allow: seen.append(workdir) or 1)
    monkeypatch.setattr("sys.argv", ["train", toy, "--memory"])
    with pytest.raises(SystemExit) as caught:
        launcher.launch(train_command.main)
    assert caught.value.code == 1 and seen[1] is None


def test_peaks_are_those_of_the_networks_dtype(monkeypatch, plan):
    asked = []
    monkeypatch.setattr("score_lab.training.speed.measured_peaks", lambda devices, dtype: asked.append((len(devices), dtype)) or PEAKS)
    monkeypatch.setattr("score_lab.training.speed.cost_of_step", lambda parts, batch, layout: StepCost(4, 1.0, 1.0))
    speed_of(plan)
    half = dataclasses.replace(plan.parts, network=dataclasses.replace(plan.parts.network, dtype="bfloat16"))
    speed_of(dataclasses.replace(plan, parts=half))
    assert asked == [(4, None), (4, "bfloat16")]
