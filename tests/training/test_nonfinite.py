"""An update that is not finite: left out to the bit, counted, written down, and made again by replay; or the run stops."""

import dataclasses
import json
import shutil
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.replay import first, lines
from score_lab.build import ConfigError
from score_lab.training import NonFiniteLoss, PipelineFailed, build_parts, load, train
from score_lab.training.arrays import Arrays
from score_lab.training.feed import Feed, Start, open_source, train_stream
from score_lab.training.metrics import read_metrics
from score_lab.training.nonfinite import examples_of
from score_lab.training.options import plain
from score_lab.training.parallel import layout_of
from score_lab.training.prepare import prepare
from score_lab.training.replay import recorded, replay
from score_lab.training.skip import keep_finite
from score_lab.training.state import TrainState, init_state, keys_of

RECORD = 37
"""Of 100 training examples in batches of 16: every batch that holds it is NaN, and no other."""


def poisoned(config, record=RECORD, **changes):
    """A run of 20 updates of one step each, on data of which ``record`` is NaN."""
    data = {"target": "training.poisoned:Poisoned", "num_train": 100, "num_test": 40, "batch_size": 16, "record": record}
    quick = {"eval_every": 0, "ema": (0.9,), "nonfinite": "skip", "profiles": (0.1,), "snapshot_every": 5}
    changes = {f"training__{name}": value for name, value in (quick | changes).items()}
    return config(data=data, denoiser={"sigma_data": 0.7}, **changes)


@pytest.fixture(scope="module")
def skipped(config, tmp_path_factory):
    """``(workdir, Trained)`` of a run that has left out what was NaN, in dispatches of five."""
    workdir = tmp_path_factory.mktemp("skip")
    return workdir, train(poisoned(config), workdir)


def batches_of(parts, source, count):
    layout = layout_of(16, parts.options.accumulate)
    stream = train_stream(parts, source, layout, 3)
    with Feed(stream, layout, [1] * count, 0, None, keys_of(3)["train"], 2) as feed:
        return layout, [batch for batch, _ in feed]


def same(a, b):
    """Bit by bit."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def everything(state):
    return {name: getattr(state, name) for name in ("step", "params", "ema", "opt_state", "objective")}


def test_a_skipped_update_is_one_that_was_left_out(config, skipped):
    """To the bit: the same updates without those whose batch holds the record, the step counted on; by hand, from the sound program."""
    workdir, run = skipped
    sound = build_parts(poisoned(config, nonfinite="stop"), open_source(poisoned(config)).spec, 0.7)
    layout, batches = batches_of(sound, open_source(poisoned(config)), 20)
    state = jax.device_put(init_state(sound, 3), layout.replicated)
    dispatch, left_out = layout.dispatch(sound), []
    for number, batch in enumerate(batches, 1):
        if np.isnan(np.asarray(batch["x0"])).any():
            left_out.append(number)
            state = dataclasses.replace(state, step=state.step + 1)
        else:
            state, _ = dispatch(state, batch)
    assert left_out and len(left_out) <= 5
    same(everything(run.state), everything(state))
    lines_there = read_metrics(workdir)
    assert sum(line["skipped"] for line in lines_there) == len(left_out)
    assert all(np.isfinite(list(line.values())).all() for line in lines_there)
    assert sorted(int(file.stem) for file in (workdir / "nonfinite").iterdir()) == left_out
    for line in lines_there:  # the rate goes by the updates that were made, as Optax's own does
        made = sum(step not in left_out for step in range(1, line["step"] + 1))
        np.testing.assert_allclose(line["learning_rate"], sound.schedule(made - 1), rtol=1e-6)


@pytest.mark.parametrize(("loss", "grad_norm"), [(np.inf, 1.0), (1.0, np.nan), (1.0, 1.0)])
def test_what_is_left_out_changes_the_step_alone(loss, grad_norm):
    """Parameters, averages, optimizer and what an objective carries; a loss or a gradient that is not finite is enough."""

    def state(value):
        return TrainState(
            step=jnp.asarray(int(value)), key=jax.random.key(0), params={"p": jnp.full(2, value)}, ema=({"p": jnp.full(2, value)},),
            opt_state=(jnp.asarray(value),), objective={"mean": jnp.full(3, value), "count": jnp.asarray(int(value))},
        )  # fmt: skip

    good = bool(np.isfinite([loss, grad_norm]).all())
    kept, told = keep_finite(state(2.0), state(1.0), {"loss": jnp.asarray(loss), "grad_norm": jnp.asarray(grad_norm)})
    same(everything(kept), everything(dataclasses.replace(state(2.0 if good else 1.0), step=jnp.asarray(2))))
    assert float(told["skipped"]) == (0.0 if good else 1.0)


@pytest.mark.slow
def test_skipping_changes_no_bit_of_a_sound_run(config, tmp_path):
    """The same parameters, averages and Optax state as with the program of "stop"."""
    ends = [train(poisoned(config, None, nonfinite=kind), tmp_path / kind) for kind in ("stop", "skip")]
    same(*(everything(end.state) for end in ends))
    assert not (tmp_path / "skip" / "nonfinite").exists()


def test_what_is_written_down_is_what_was_drawn(config, skipped):
    """Of every example: its record, by the data that it had, and its time, by the law of the objective with the key of that step."""
    workdir, _ = skipped
    step = min(int(file.stem) for file in (workdir / "nonfinite").iterdir())
    told = recorded(workdir, step)
    parts = build_parts(poisoned(config), open_source(poisoned(config)).spec, 0.7)
    _, batches = batches_of(parts, source := open_source(poisoned(config)), step)
    x0 = np.asarray(batches[-1]["x0"])[:, 0].reshape(16, 2)
    examples = told["examples"]
    np.testing.assert_array_equal(source("train").arrays["image"][examples["record"]], x0)
    assert told["step"] == step and told["update"] == step - 1 and examples["index"] == list(range(16))
    assert examples["position"] == list(range(16 * (step - 1), 16 * step)) and told["figures"]["loss"] == "nan"
    key = jax.random.fold_in(keys_of(3)["train"], step - 1)
    t = parts.objective.time_law.sample(key, jnp.arange(16), 16, parts.path, parts.log_snr_range)
    np.testing.assert_array_equal(np.float32(examples["t"]), t)
    np.testing.assert_array_equal(np.float32(examples["log_snr"]), parts.path.log_snr(t))
    assert json.loads(json.dumps(told)) == told


def test_the_examples_of_a_run_that_has_changed_its_batch(config):
    """Of a stream that begins at update 20 and example 320, as one of 24 does after twenty of 16: what it reads, by its data."""
    plan, start = prepare(plain(config(data__batch_size=24)), None), Start(20, 320)
    stream = train_stream(plan.parts, plan.source, plan.layout, plan.seed, start)
    for update in (20, 21, 22):
        x0, examples = next(stream)["x0"], examples_of(plan, update, start)
        assert examples["position"] == list(range(320 + 24 * (update - 20), 344 + 24 * (update - 20)))
        np.testing.assert_array_equal(plan.source("train").arrays["image"][examples["record"]], x0)


@pytest.mark.slow
def test_replay_names_the_record(config, skipped):
    """From the checkpoint before it, with the state of that step to the bit, and without one from the beginning."""
    workdir, _ = skipped
    step = max(int(file.stem) for file in (workdir / "nonfinite").iterdir())
    found = replay(workdir, step)
    assert found.start == 10 and step > 11 and np.isnan(found.loss) and not found.parameters
    place = found.examples["record"].index(RECORD)
    assert found.culprits == [place] and found.culprit == "loss" and np.isnan(found.losses[place])
    assert set(found.norms) == {f"network.{name}" for name in found.state.params["network"]} and np.isnan(list(found.norms.values())).any()
    said = lines(found, recorded(workdir, step))
    assert f"from checkpoint 10, {step - 11} updates made again" in said[0] and f"record {RECORD}, t " in "\n".join(said)
    assert first(found).startswith(f"the loss of record {RECORD} of the training split, at log-SNR ")
    copy = workdir.with_name("copy")
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "10")
    again = replay(copy, step)
    assert again.start == 0
    same(everything(again.state), everything(found.state))
    with pytest.raises(ConfigError, match="step: 21 is refused; allowed: an int from 1 to 20"):
        replay(workdir, 21)


@pytest.mark.slow
def test_replay_of_a_finite_update_is_the_update(trained):
    """Its loss and its gradient norm are those that the line of that run averaged, and there is nothing to find."""
    workdir, _ = trained
    found = [replay(workdir, step) for step in (19, 20)]
    assert all(replayed.culprits == replayed.gradients == replayed.parameters == [] for replayed in found)
    assert found[0].start == 10 and first(found[0]) == "nothing: this update is finite"
    np.testing.assert_allclose(found[0].loss, np.mean(found[0].losses))
    assert int(found[1].state.step) == 19


@pytest.mark.slow
def test_too_many_in_a_row_stop_the_run(config, tmp_path):
    """The count goes on over lines and over a checkpoint from which a run goes on."""
    from score_lab.training import feed

    original = feed.Layout.place
    with pytest.MonkeyPatch.context() as patch:
        empty = lambda row: row | {"x0": np.full_like(row["x0"], np.nan)}  # noqa: E731
        patch.setattr(feed.Layout, "place", lambda layout, rows: original(layout, [empty(row) for row in rows]))
        few = poisoned(config, None, log_every=5, checkpoint_every=5, nonfinite_limit=12, profiles=(), snapshot_every=0)
        said = "loss is nan at step 13, and 12 before it, more than config.training.nonfinite_limit: stopped"
        with pytest.raises(NonFiniteLoss, match=said):
            train(few, tmp_path)
        known = {"step", "skipped", "seconds", "images_per_second"}
        assert load(tmp_path).step == 10 and all(set(line) <= known for line in read_metrics(tmp_path))
        with pytest.raises(NonFiniteLoss, match="loss is nan at step 13, and 12 before it"):
            train(few, tmp_path)


def test_stop_writes_down_and_may_go_on_with_skip(config, tmp_path, capsys):
    """The run stops before the first such update is saved; the same command with "skip" ends like a run that skipped from the start."""
    said = r"loss is nan at step (\d+): stopped; .*experiments.replay --workdir .* --step \1; try"
    with pytest.raises(NonFiniteLoss, match=said) as caught:
        train(poisoned(config, nonfinite="stop", log_every=1), tmp_path)
    step = int(str(caught.value).split("step ")[1].split(":")[0])
    assert recorded(tmp_path, step)["figures"]["grad_norm"] == "nan" and "skipped" not in recorded(tmp_path, step)["figures"]
    run = train(poisoned(config, log_every=1), tmp_path)
    assert run.step == 20 and all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(run.state.params)))
    assert f"loss is nan at step {step}: left out, 1 in a row; see why: python -m experiments.replay" in capsys.readouterr().out


@pytest.mark.parametrize(("count", "error", "waits"), [(2, NonFiniteLoss, True), (2, PipelineFailed, False), (1, PipelineFailed, True)])
def test_a_checkpoint_in_flight_is_waited_for_where_all_processes_stop_alike(monkeypatch, count, error, waits):
    """NonFiniteLoss of several processes is raised in each at the same step; of any other error the rest may know nothing."""
    asked = []
    stored = object.__new__(Arrays)
    stored._sealing, stored._error = threading.Thread(target=asked.append, args=("sealed",)), None
    stored.manager = types.SimpleNamespace(wait_until_finished=lambda: asked.append("written"), close=lambda: asked.append("closed"))
    monkeypatch.setattr(jax, "process_count", lambda: count)
    if waits:
        stored._sealing.start()
    with pytest.raises(error), stored:
        raise error("stopped")
    assert asked == (["sealed", "written", "closed"] if waits else [])
