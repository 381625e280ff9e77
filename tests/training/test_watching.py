"""What a run shows of itself: the loss against log-SNR, the norm of updates, spikes, TensorBoard's events."""

import dataclasses
import itertools
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.objectives import Context
from score_lab.training.levels import COUNTS, SUMS, bin_names, binned, histograms, loss_by_level
from score_lab.training.metrics import Metrics, read_metrics
from score_lab.training.options import TrainingOptions
from score_lab.training.parallel import layout_of
from score_lab.training.parts import build_parts
from score_lab.training.spikes import Spikes
from score_lab.training.state import init_state

EDGES = (-2.0, 0.0, 2.0)


def events_in(folder):
    """Every event of the files in ``folder``, each record with its two sums checked."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
            assert struct.unpack("<I", data[12 + size : 16 + size])[0] == masked_crc32c(data[12 : 12 + size])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_the_bins_of_a_step_are_sums_over_the_global_batch(config):
    """On four devices with two microbatches: of the losses and levels that the objective gives for the whole batch, in numpy."""
    spec = DataSpec((2,), 2, "none")
    parts = build_parts(config(training__loss_edges=EDGES, optimizer={"name": "sgd", "learning_rate": 0.5}), spec, 0.7)
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=16).astype(np.int32)
    batch = {"x0": rng.normal(size=(16, 2)).astype(np.float32), "cond": {"label": labels}, "index": np.arange(16, dtype=np.int32)}
    layout = layout_of(16, 2)
    state = init_state(parts, 0)
    before = jax.device_get(state.params)
    ctx = Context(parts.denoiser(state.params), path=parts.path, step=state.step, key=jax.random.fold_in(state.key, 0), batch_size=16)
    data = jax.tree.map(jnp.asarray, batch)
    loss, levels = jax.jit(lambda: (parts.objective.loss(ctx, {}, {}, data)[0], parts.path.log_snr(parts.objective.corrupt(ctx, data).t)))()
    after, figures = layout.dispatch(parts)(jax.device_put(state, layout.replicated), layout.place([batch]))
    place = np.digitize(np.asarray(levels), EDGES)
    assert figures[SUMS].shape == (1, 4) and len(set(place)) == 4
    np.testing.assert_array_equal(figures[COUNTS][0], np.bincount(place, minlength=4))
    np.testing.assert_allclose(figures[SUMS][0], np.bincount(place, np.asarray(loss), minlength=4), rtol=2e-5)
    np.testing.assert_allclose(np.sum(figures[SUMS]) / 16, figures["loss"][0], rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, jax.device_get(after.params), before)
    np.testing.assert_allclose(figures["update_norm"][0], optax.tree.norm(moved), rtol=1e-4)
    np.testing.assert_allclose(figures["update_norm"][0], 0.5 * figures["grad_norm"][0], rtol=1e-5)


def test_bins_hold_their_lower_edge_and_both_infinities():
    """And a loss that is NaN spoils its own bin alone."""
    levels = jnp.array([-np.inf, -2.0, -1.0, 0.0, 2.0, np.inf])
    sums = binned(jnp.array([1.0, 2.0, np.nan, 4.0, 8.0, 16.0]), levels, EDGES)
    np.testing.assert_array_equal(sums[COUNTS], [1, 2, 1, 2])
    np.testing.assert_array_equal(sums[SUMS], [1, np.nan, 4, 24])


def test_a_line_has_the_mean_of_every_bin_that_is_not_empty():
    steps = [{SUMS: [1.0, 0.0, 2.0, 0.0], COUNTS: [1, 0, 4, 0]}, {SUMS: [0.0, 0.0, 4.0, 9.0], COUNTS: [0, 0, 2, 3]}, {"loss": 1.0}]
    assert bin_names(EDGES) == ["loss at (-inf, -2)", "loss at [-2, 0)", "loss at [0, 2)", "loss at [2, inf)"]
    assert loss_by_level(steps, EDGES) == {"loss at (-inf, -2)": 1.0, "loss at [0, 2)": 1.0, "loss at [2, inf)": 3.0}
    assert histograms(steps, EDGES) == {SUMS: ([-2.0, 0.0, 2.0, 4.0], [1, 0, 6, 9]), COUNTS: ([-2.0, 0.0, 2.0, 4.0], [1, 0, 6, 3])}


def test_a_run_shows_them(trained):
    """In metrics.jsonl and as curves and histograms of TensorBoard; all examples of the steps since the line before are in a bin."""
    workdir, _ = trained
    line = read_metrics(workdir)[-1]
    shown = {name: value for name, value in line.items() if name.startswith("loss at")}
    assert "loss at [-2, 0)" in shown and all(np.isfinite(list(shown.values()))) and line["update_norm"] > 0
    events = {event.step: {value.tag: value for value in event.summary.value} for event in events_in(workdir / "events")}
    assert np.float32(line["loss at [-2, 0)"]) == np.float32(events[20]["loss at [-2, 0)"].simple_value)
    assert events[20][COUNTS].histo.num == 10 * 16 == sum(events[20][COUNTS].histo.bucket)
    assert len(events[20][SUMS].histo.bucket_limit) == 10 and set(line) - {"step"} <= set(events[20])


def by_hand(values, window, threshold):
    """The definition, a step at a time."""
    found = []
    for k in range(window, len(values)):
        before = values[k - window : k]
        median = np.median(before)
        if values[k] > median + threshold * max(np.median(np.abs(before - median)), 0.01 * abs(median)):
            found.append(k)
    return found


def test_spikes_are_those_of_the_definition():
    """However the steps are handed over, and also after the state went through a checkpoint."""
    rng = np.random.default_rng(0)
    loss = 1.0 + 0.1 * rng.normal(size=200)
    loss[[5, 60, 61, 150]] = 9.0
    norm = np.full(200, 2.0)
    norm[[70, 90]] = (2.05, 2.3)  # within ten hundredths, and above
    steps = [(k, {"loss": loss[k], "grad_norm": norm[k]}) for k in range(200)]
    expected = {*by_hand(loss, 20, 10.0), *by_hand(norm, 20, 10.0)}
    assert {60, 61, 90, 150} <= expected and not {5, 70} & expected
    at_once = Spikes(20, 10.0).found(steps)
    assert set(at_once) == expected and at_once[90] == "grad_norm 2.3 against a median of 2"
    pieces, watch = {}, Spikes(20, 10.0)
    for first in range(0, 200, 7):
        pieces |= watch.found(steps[first : first + 7])
        watch = Spikes(20, 10.0, watch.state)
    assert pieces == at_once and Spikes(20, 0.0).found(steps) == {}


@pytest.mark.slow
def test_a_spike_is_a_line_and_a_count(config, tmp_path, monkeypatch, capsys):
    """Of the step whose data are fifty times as large."""
    from score_lab.training import feed, train

    original, numbers = feed.Layout.place, itertools.count(1)

    def jolted(layout, rows):
        return original(layout, [row | {"x0": 50.0 * row["x0"]} if next(numbers) == 18 else row for row in rows])

    monkeypatch.setattr(feed.Layout, "place", jolted)
    options = {"training__eval_every": 0, "training__spike_window": 12, "training__steps_per_dispatch": 1, "training__log_every": 5}
    train(config(**options), tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("spike: ")]
    assert len(said) == 1 and said[0].startswith("spike: step 18, loss ") and "against a median of" in said[0]
    assert [line["spikes"] for line in read_metrics(tmp_path)] == [0.0, 0.0, 0.0, 1.0]


def test_a_torn_or_refused_write_is_made_good(tmp_path, monkeypatch):
    """A line and an event that do not fit leave nothing behind, and come with the next ones."""
    import errno
    import os

    from score_lab.training import appended

    def half(file, data):
        if full and len(data) > 3:
            os_write(file, data[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os_write(file, data)

    os_write, full = os.write, False
    monkeypatch.setattr(appended.os, "write", half)
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(1, {"loss": 1.0})
        full = True
        for step in (2, 3):
            with pytest.raises(OSError, match="No space"):
                metrics.write(step, {"loss": float(step)})
        assert [line["step"] for line in read_metrics(tmp_path)] == [1] and [e.step for e in events_in(tmp_path / "events")] == [0, 1]
        full = False
        metrics.write(4, {"loss": 4.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert [event.step for event in events_in(tmp_path / "events")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("loss_edges", (0.0, 0.0), "ascending"),
        ("loss_edges", (0.0, math.inf), "ascending"),
        ("loss_edges", ("a",), "ascending"),
        ("nonfinite", "skp", "'stop' or 'skip' .did you mean 'skip'"),
        ("nonfinite_limit", 0, "at least 1"),
        ("spike_window", 3, "at least 10"),
        ("spike_threshold", -1.0, "0 for no look"),
        ("disk_full", "goon", "'stop' or 'go_on' .did you mean 'go_on'"),
    ],
)
def test_refused(field, value, message):
    with pytest.raises(ConfigError, match=f"^{field}: .* is refused; allowed: .*{message}"):
        dataclasses.replace(TrainingOptions(steps=10), **{field: value}).check()
