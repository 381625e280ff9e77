"""What a run writes and says on its way, what it is given, and how it stops when the loss is not finite."""

import dataclasses
import json
import os
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from score_lab.build import ConfigError
from score_lab.data import batches
from score_lab.paths.base import normals
from score_lab.training import NonFiniteLoss, PipelineFailed, load, loop, reports, train
from score_lab.training.feed import Feed, open_source
from score_lab.training.heldout import make_heldout
from score_lab.training.metrics import mean_of, progress_line, read_metrics
from score_lab.training.parallel import Layout, layout_of
from score_lab.training.reports import Reports
from score_lab.training.signals import StopRequest
from score_lab.training.state import keys_of


def test_metrics_are_lines_and_events(trained):
    """A line per log and evaluation with the loss, the rate and the held-out loss of each level; the same curves as TensorBoard events."""
    workdir, run = trained
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == [10, 20]
    for line in lines:
        assert {"loss", "grad_norm", "update_norm", "learning_rate", "eps_loss", "eval/loss", "eval/loss at -8.0"} <= set(line)
        np.testing.assert_allclose(line["eval/loss"], 0.5 * (line["eval/loss at -8.0"] + line["eval/loss at +8.0"]))
    assert run.metrics["loss"] == lines[-1]["loss"] and run.step == 20 and run.stopped is None
    events = b"".join(file.read_bytes() for file in (workdir / "events").iterdir())
    assert all(name in events for name in (b"loss", b"grad_norm", b"eval/loss"))


def test_the_held_out_loss_is_what_it_says(trained):
    """Against numpy: the noise of the example's position, x_t on the flow, and the loss of EDM's row from the x0 of the first average; of
    as many examples as are asked for, in the middle of a batch too."""
    workdir, run = trained
    loaded = load(workdir)
    source = open_source(loaded.config)
    batch = next(batches(source, "test", 40, repeat=False))
    key = keys_of(3)["heldout"]
    parts = dataclasses.replace(run.parts, options=dataclasses.replace(run.parts.options, eval_examples=21))
    few = make_heldout(parts, source, run.layout, key)(run.state)
    eps = normals(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(40)), jax.ShapeDtypeStruct((2,), jnp.float32))
    for log_snr in (-8.0, 8.0):
        sigma = 1.0 / (1.0 + np.exp(0.5 * log_snr))  # alpha = 1 - sigma
        alpha, sd = 1.0 - sigma, loaded.denoiser.sigma_data
        x_t = jnp.asarray(alpha * batch["x0"] + sigma * np.asarray(eps), jnp.float32)
        x0 = loaded.denoiser(x_t, jnp.float32(sigma), jax.tree.map(jnp.asarray, batch["cond"])).x0
        error = np.mean(np.square(np.asarray(x0) - batch["x0"]), axis=1) * ((alpha * sd) ** 2 + sigma**2) / (sd * sigma) ** 2
        np.testing.assert_allclose(run.metrics[f"eval/loss at {log_snr:+.1f}"], np.mean(error), rtol=2e-3)
        np.testing.assert_allclose(few[f"eval/loss at {log_snr:+.1f}"], np.mean(error[:21]), rtol=2e-3)


def test_callbacks_get_the_average_and_give_metrics(config, tmp_path):
    """Called at their steps and at the end; the denoiser that they keep outlives the buffers that the next step takes."""
    kept = []

    def look(denoiser, step):
        kept.append((step, denoiser))
        return {"looked": float(step)}

    rare = []
    callbacks = [(10, look), (30, lambda _, step: rare.append(step))]
    run = train(config(training__checkpoint_every=0, training__eval_every=0), tmp_path, callbacks)
    assert [step for step, _ in kept] == [10, 20] and rare == [20]
    assert [line["looked"] for line in read_metrics(tmp_path) if "looked" in line] == [10.0, 20.0]
    for _, denoiser in kept:
        assert np.isfinite(np.asarray(denoiser(jnp.ones((3, 2)), 0.5).x0)).all()
    first, last = (denoiser.params["inward"]["bias"] for _, denoiser in (kept[0], kept[-1]))
    assert not np.array_equal(first, last)
    np.testing.assert_array_equal(last, run.state.ema[0]["network"]["inward"]["bias"])
    np.testing.assert_array_equal(last, load(tmp_path).denoiser.params["inward"]["bias"])  # saved at the end though checkpoint_every is 0


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path, monkeypatch):
    """At a step that is named; the checkpoint before it is kept and loads; nothing is saved after it."""
    from score_lab.training import feed

    original = feed.Layout.place

    def poisoned(layout, rows):
        rows = [dict(row, x0=np.full_like(row["x0"], np.nan)) if poisoned.count + k == 17 else row for k, row in enumerate(rows)]
        poisoned.count += len(rows)
        return original(layout, rows)

    poisoned.count = 1
    monkeypatch.setattr(feed.Layout, "place", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"loss is nan at step 17: stopped; .* try a lower config.optimizer.learning_rate") as caught:
        train(config(training__eval_every=0), tmp_path)
    assert "\n" not in str(caught.value)
    loaded = load(tmp_path)
    assert loaded.step == 10 and all(np.isfinite(p).all() for p in jax.tree.leaves(jax.device_get(loaded.denoiser.params)))


def test_the_feed_hands_over_what_was_read_and_where_it_was(config):
    """Batches in order with the position behind each, though more are read ahead; couplings see the step's key; errors reach the reader."""
    source = open_source(config())
    layout = layout_of(16, 1)
    seen = []

    def coupling(key, x0):
        seen.append(np.asarray(jax.random.key_data(key)))
        return {"x0": x0, "noise": -x0}

    key = jax.random.key(5)
    with Feed(batches(source, "train", 16, seed=1), layout, [2, 2, 1], 7, coupling, key, ahead=2) as feed:
        items = list(feed)
    reference = batches(source, "train", 16, seed=1)
    for count, (placed, position) in zip([2, 2, 1], items, strict=True):
        for k in range(count):
            x0 = next(reference)["x0"]
            np.testing.assert_array_equal(np.asarray(placed["x0"])[:, k].reshape(16, 2), x0)
            np.testing.assert_array_equal(np.asarray(placed["noise"])[:, k].reshape(16, 2), -x0)
        assert position == reference.get_state()
    for step, words in zip(range(7, 12), seen, strict=True):
        np.testing.assert_array_equal(words, jax.random.key_data(jax.random.fold_in(key, step)))

    def broken(key, x0):
        raise OSError("disk")

    said = "^the data pipeline failed before step 4: OSError: disk; the same command goes on"
    with Feed(batches(source, "train", 16), layout, [1], 3, broken, key, ahead=1) as feed, pytest.raises(PipelineFailed, match=said):
        list(feed)
    with Feed(batches(source, "train", 16), layout, [1] * 50, 0, None, key, ahead=1) as feed:
        next(iter(feed))
    assert not feed._thread.is_alive()  # left early, and ended


def test_means_and_the_line_on_the_terminal():
    """Means in float64 but for the learning rate, which is the last one; step, loss, examples/s and time left on the line."""
    steps = [{"loss": 1.0, "learning_rate": 0.1}, {"loss": 2.0, "learning_rate": 0.2}]
    assert mean_of(steps) == {"loss": 1.5, "learning_rate": 0.2}
    line = progress_line(50, 2000, {"loss": 0.25, "eval/loss": 0.5, "images_per_second": 1234.4}, 83.2)
    assert line == "step   50/2000   loss 0.2500   held-out loss 0.5000   1234 examples/s   1:24 left"


def test_a_callback_that_is_none_is_refused(config, tmp_path):
    """Before anything is written."""
    with pytest.raises(ConfigError, match="callbacks"):
        train(config(), tmp_path / "run", [(0, print)])
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_says_what_it_is(trained):
    """Beside the state: the configuration, the data, the versions of the libraries, the position in the data, the step."""
    workdir, _ = trained
    host = json.loads((workdir / "checkpoints" / "20" / "host" / "metadata").read_text())
    record = json.loads((workdir / "config.json").read_text())
    assert host["step"] == 20 and host["position"] and host["record"]["config"] == record["config"]
    assert host["record"]["versions"]["jax"] == jax.__version__ and record["data"]["shape"] == [2]


@pytest.mark.parametrize("spoilt", [False, True])
def test_between_two_lines_the_host_waits_for_nothing_that_is_new(config, tmp_path, monkeypatch, spoilt):
    """On one device, slow beside the host: a dispatch is asked for while the last one is under way, so nothing has looked at what that one
    makes, figures or state, by whatever means.  In a loop that looks at each loss every dispatch is done before the next.
    """
    last, done, make, add = [], [], Layout.dispatch, Reports.add

    @jax.jit
    def late(number, tree):
        spent = 0.0 * jax.lax.fori_loop(0, 100, lambda _, x: jnp.sin(x), jnp.full(50_000, number))[0]
        return jax.tree.map(lambda x: x + spent if x.dtype == jnp.float32 else x, tree)  # of the same value, and a while later

    def slow(dispatch):
        def slowed(state, batches):
            done.extend(figures["loss"].is_ready() for figures in last[-1:])
            state, figures = late(float(len(done)), dispatch(state, batches))
            last.append(figures)
            return state, figures

        return slowed

    monkeypatch.setattr(Layout, "dispatch", lambda layout, parts: slow(make(layout, parts)))
    if spoilt:
        monkeypatch.setattr(Reports, "add", lambda self, figures, step: (add(self, figures, step), np.asarray(figures["loss"]))[0])
    options = {"steps": 24, "log_every": 12, "eval_every": 0, "checkpoint_every": 0, "steps_per_dispatch": 1, "devices": 1}
    train(config(**{f"training__{name}": value for name, value in options.items()}), tmp_path)
    assert len(done) == 23 and done[0] and done[11]  # the first, which was compiled, and that of the line
    busy = [not ready for k, ready in enumerate(done) if k not in (0, 11)]
    assert sum(busy) == 0 if spoilt else sum(busy) >= 15, done  # of 21: another process may have had the processor


def test_a_second_sigterm_changes_nothing_and_a_second_ctrl_c_interrupts():
    """Of one process; schedulers send SIGTERM again, and pass it on."""
    with StopRequest() as stop:
        assert not stop.agreed()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed() and stop.named() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.named() == signal.SIGTERM


@pytest.mark.parametrize(("pressed", "name"), [((False, False), "SIGTERM"), ((False, True), "SIGINT")])
def test_of_several_processes_all_stop_by_one_name(monkeypatch, pressed, name):
    """Stood in for JAX: asked once a dispatch, with its number; SIGTERM stays JAX's, Ctrl-C becomes one, and what stopped is agreed on."""
    asked, raised = [], []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda number: asked.append(number) or number == 3)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda mine: np.array([*pressed[:1], mine or pressed[1]]))
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGTERM) is before
        assert [stop.agreed() for _ in range(3)] == [False, False, True] and asked == [1, 2, 3]
        assert stop.named().name == name == stop.signal.name
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert raised == [signal.SIGTERM] and stop.named() == signal.SIGINT


def test_only_training_is_counted_as_training(config, tmp_path, monkeypatch):
    """On a clock by which a step takes a second, a preview every 4 steps 100 and a held-out loss 1000: 16 images/s at the line of every 10,
    where a preview is due and where none is."""
    now, add, made = [0.0], reports.Reports.add, loop.make_heldout

    def adds(self, figures, step):
        now[0] += len(jax.tree.leaves(figures)[0])
        add(self, figures, step)

    def draws(denoiser, step):
        now[0] += 100.0

    def heldout(*args):
        measure = made(*args)

        def measured(state):
            now[0] += 1000.0
            return measure(state)

        return measured

    monkeypatch.setattr(reports, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(reports.Reports, "add", adds)
    monkeypatch.setattr(loop, "make_heldout", heldout)
    train(config(training__eval_every=5), tmp_path, [(4, draws)])
    lines = [line for line in read_metrics(tmp_path) if "images_per_second" in line]
    assert [line["step"] for line in lines] == [10, 20] and [line["images_per_second"] for line in lines] == [16.0, 16.0]
    assert lines[1]["seconds"] > 2000


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_waits_long_for_others_says_so(tmp_path, monkeypatch, capsys, processes):
    """One line, which says what happens next; nothing where it is done in time, and nothing of one process alone."""
    monkeypatch.setattr(loop, "LONG", 0.05)
    with loop._waiting(tmp_path, processes, "checkpoint 5"):
        time.sleep(0.5)
    with loop._waiting(tmp_path, processes, "checkpoint 10"):
        pass
    time.sleep(0.2)
    said = capsys.readouterr().out
    assert said.count("\n") == processes - 1
    assert processes == 1 or said.startswith(f"{tmp_path}: checkpoint 5 has waited 0.05 seconds for the disk or for the other processes: ")
