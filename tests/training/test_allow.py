"""What may change when a run goes on: with --allow from the very bits of its checkpoint, with a record; else nothing is written."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from experiments import launcher, runs
from experiments import train as command
from experiments.replay import lines
from score_lab.build import ConfigError
from score_lab.data import Toy, batches
from score_lab.training import load, seals, train
from score_lab.training.carried import carried, check_fits
from score_lab.training.changes import check_never, record_at
from score_lab.training.checkpoint import Checkpoints
from score_lab.training.feed import Start
from score_lab.training.mesh import Meshed
from score_lab.training.metrics import read_metrics
from score_lab.training.options import plain
from score_lab.training.parallel import Layout
from score_lab.training.prepare import prepare
from score_lab.training.record import read_workdir
from score_lab.training.replay import replay
from score_lab.training.state import abstract_state

TESTS = Path(__file__).resolve().parents[1]


class Begun(Exception):
    """A run has come to its first update: (state, batches)."""


def bits(tree):
    """Every leaf's bytes by name; keys by their words."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    words = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for _, x in leaves]
    return {jax.tree_util.keystr(name): np.asarray(x).tobytes() for (name, _), x in zip(leaves, words, strict=True)}


def files(workdir):
    return {str(f.relative_to(workdir)): hashlib.sha256(f.read_bytes()).hexdigest() for f in workdir.rglob("*") if f.is_file()}


def saved(workdir, config, step):
    """The state of a checkpoint, by a program that knows nothing of what may change."""
    parts = prepare(plain(config), None).parts
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(abstract_state(parts), step)[0]


def first(monkeypatch, config, workdir, allow=()):
    """(layout, state, batch) of the first update that a run would make; it is killed before."""

    def dispatch(self, parts):
        def stop(state, batch):
            raise Begun(self, state, batch)

        return stop

    with monkeypatch.context() as patched, pytest.raises(Begun) as caught:
        for layout in (Layout, Meshed):
            patched.setattr(layout, "dispatch", dispatch)
        train(config, workdir, allow=allow)
    return caught.value.args


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the run of CONFIG, which has made its 20 steps.  Its lock is one that would be written anew."""
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    (workdir / "lock").write_text("process 1 on another machine\n")
    return workdir


ACCEPTED = {
    "optimizer.learning_rate": {"optimizer__learning_rate": 1e-3},
    "optimizer": {"optimizer__schedule": "constant", "optimizer__b1": 0.8, "optimizer__clip": 0.5},
    "config.network.dropout": {"network__dropout": 0.5},
    "objective.time_law": {"objective__time_law": {"target": "LogitNormal"}},
    "objective": {"objective__label_dropout": 0.1, "objective__weighting": {"target": "MinSNR"}},
    "coupling": {"coupling": {"target": "MinibatchOT"}},
    "training.accumulate,training.ema": {"training__accumulate": 1, "training__ema": (0.5, 0.99)},
    "training.loss_edges": {"training__loss_edges": (0.0,)},
    "data": {"data__num_train": 150, "data__seed": 7},
    "data.batch_size": {"data__batch_size": 24},
    "denoiser.log_snr_min": {"denoiser__log_snr_min": -9.0},
}


QUICK = ("optimizer", "training.accumulate,training.ema", "data")
"""Those that are not slow."""


@pytest.mark.parametrize("allow", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ACCEPTED])
def test_a_run_goes_on_from_the_very_bits(config, copy, trained, monkeypatch, capsys, allow):
    """Whatever changed, the first update starts at the arrays of the checkpoint; the record is the new one and says what was before."""
    changed = config(training__steps=30, **ACCEPTED[allow])
    before = read_workdir(copy)
    _, state, _ = first(monkeypatch, changed, copy, [allow, "training.steps"])
    local = jax.tree.map(lambda x: x.addressable_data(0).reshape(x.shape[-x.ndim :]) if not x.is_fully_replicated else x, state)
    assert bits(local) == bits(saved(trained[0], config(), 20))
    after, said = read_workdir(copy), capsys.readouterr().out
    assert after["config"] == plain(changed) and after["sigma_data"] == before["sigma_data"]
    assert {entry["step"] for entry in after["allowed"]} == {20}
    assert all(f"{entry['field']}: " in said for entry in after["allowed"])
    restored = record_at(after, 0)
    assert restored == before | {"data": before["data"] | {"fingerprint": restored["data"]["fingerprint"]}}
    assert restored["data"]["fingerprint"] == before["data"]["fingerprint"]


@pytest.mark.parametrize("parallel", [None, {"fsdp": 2, "min_size": 8}], ids=["pmap", "fsdp"])
def test_killed_between_the_record_and_a_checkpoint(config, copy, trained, monkeypatch, parallel):
    """The same command goes on, again and again, and so does the same without --allow; the record says once what was changed."""
    changed = config(training__steps=30, optimizer__learning_rate=1e-3, data__batch_size=24, parallel=parallel)
    begun = [first(monkeypatch, changed, copy, allow)[1:] for allow in (["training,optimizer", "data"], ["training,optimizer", "data"], [])]
    assert sorted(int(entry.name) for entry in (copy / "checkpoints").iterdir()) == [10, 20]
    for state, batch in begun[1:]:
        assert bits(state) == bits(begun[0][0]) and bits(batch) == bits(begun[0][1])
    assert sorted((*entry.values(),) for entry in read_workdir(copy)["allowed"]) == [
        (20, "config.data.batch_size", 16, 24), (20, "config.optimizer.learning_rate", 1e-2, 1e-3), (20, "config.training.steps", 20, 30),
    ]  # fmt: skip
    (run,) = [runs.run_in(workdir) for workdir in runs.find_runs([copy])]
    assert "changed at 20: " in runs.table([run]) and "optimizer.learning_rate" in runs.table([run])
    assert read_workdir(copy)["config"] == plain(changed)
    assert load(copy).config == plain(config()) | {"parallel": parallel}  # of checkpoint 20, which is older
    with pytest.raises(ConfigError, match=r"config.data.batch_size: 16 is refused; allowed: 24, with .*--allow data.batch_size$"):
        train(config(training__steps=30, optimizer__learning_rate=1e-3), copy)


@pytest.mark.slow
def test_sigkill_in_the_first_step_after_a_change(config, copy, trained, tmp_path):
    """Of a process, whose lock and files nobody tidies up: the same command without --allow makes what it would have made."""
    changed, straight = config(training__steps=30, optimizer__learning_rate=1e-3), tmp_path / "straight"
    shutil.copytree(trained[0], straight)
    (tmp_path / "config.json").write_text(json.dumps(changed))
    words = [sys.executable, "-m", "training.killed", str(copy), str(tmp_path / "config.json"), "first", "0", "optimizer,training"]
    flags = "--xla_force_host_platform_device_count=4"
    environment = network_guard.environment(XLA_FLAGS=flags, PYTHONPATH=os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    assert subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, timeout=300).returncode == -signal.SIGKILL
    assert read_workdir(copy)["config"] == plain(changed) and not (copy / "checkpoints" / "30").exists()
    train(changed, copy)
    train(changed, straight, allow=["optimizer,training"])
    assert bits(load(copy, ema=None).params) == bits(load(straight, ema=None).params)
    assert read_workdir(copy)["allowed"] == read_workdir(straight)["allowed"]


def test_a_larger_batch_reads_on_where_the_last_one_ended(config, copy, monkeypatch, capsys):
    """20 batches of 16 are 320 examples: batches of 24 go on with examples 320 to 343 of the same order, and say so."""
    order = batches(Toy(num_train=100, num_test=40), "train", 16, seed=3)
    examples = np.concatenate([next(order)["x0"] for _ in range(22)])
    changed = config(training__steps=30, data__batch_size=24)
    layout, _, batch = first(monkeypatch, changed, copy, ["data.batch_size", "training.steps"])
    np.testing.assert_array_equal(np.asarray(layout.rows(batch)["x0"]).reshape(-1, 2)[:24], examples[320:344])
    assert "the data are read on from example 320 of their order, 24 for an update" in capsys.readouterr().out
    assert Start(20, 320).at(25, 24) == Start(25, 440)


def test_a_checkpoint_that_is_damaged_is_no_way_around_the_record(config, copy, monkeypatch):
    """Changed at 20, and then checkpoint 20 is lost: the run goes on from 10 with the new value, which the record then says of 10."""
    changed = config(training__steps=30, optimizer__learning_rate=1e-3)
    first(monkeypatch, changed, copy, ["optimizer", "training"])
    shutil.rmtree(copy / "checkpoints" / "20")
    _, state, _ = first(monkeypatch, changed, copy)
    assert int(np.asarray(state.step).max()) == 10 and {entry["step"] for entry in read_workdir(copy)["allowed"]} == {10}


def test_figures_begin_anew_and_a_position_stays_while_it_counts_the_same(config, copy):
    """Of a host's part of a checkpoint with figures since the last line: kept under the same configuration, dropped under another."""
    host = {"step": 20, "position": {"next_index": 20}, "pending": [{"loss": 1.0}], "watch": {"in_a_row": 3}, "record": read_workdir(copy)}
    for changes, pending, position, start in (
        ({"training__keep": 9}, [{"loss": 1.0}], {"next_index": 20}, Start()),
        ({"optimizer__learning_rate": 1e-3, "data__num_train": 150}, [], {"next_index": 20}, Start()),
        ({"data__batch_size": 32}, [], None, Start(20, 320)),
        ({"data__num_workers": 2}, [], None, Start(20, 320)),
    ):
        after = carried(host, prepare(plain(config(**changes)), None).parts)
        assert (after["pending"], after["position"], after["start"]) == (pending, position, start)
        assert bool(after["watch"]) == bool(pending)
    again = carried(after | {"step": 30, "start": {"batch": 20, "example": 320}}, prepare(plain(config(data__batch_size=8)), None).parts)
    assert again["start"] == Start(30, 480)


def test_the_base_of_an_optimizer_never_changes_however_it_is_written(config, tmp_path):
    """In one word or as a section, and what it takes may."""
    record = {"config": plain(config(optimizer__base_optimizer="adamw"))}
    check_never(tmp_path, record, plain(config(optimizer__base_optimizer={"name": "adamw", "weight_decay": 0.1})), [])
    with pytest.raises(ConfigError, match=r"config.optimizer.base_optimizer.name: 'lion' is refused; allowed: 'adamw'.* another one$"):
        check_never(tmp_path, record, plain(config(optimizer__base_optimizer={"name": "lion"})), [])


def sgd(config, **changes):
    """Eight steps, a line and a checkpoint of each two; an update is the learning rate times the gradient."""
    quick = {"steps": 8, "ema": (0.9,), "log_every": 1, "eval_every": 0, "checkpoint_every": 2, "keep": 9, "accumulate": 1}
    changes = {f"training__{name}": value for name, value in quick.items()} | changes
    return config(**{"optimizer": {"name": "sgd", "learning_rate": 0.1}} | changes)


def stopping(step):
    """A callback that presses Ctrl-C after ``step``."""

    def press(denoiser, now):
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    return [(1, press)]


@pytest.fixture(scope="module")
def halted(config, tmp_path_factory):
    """``(stopped at 4, that one gone on to 8, gone on to 8 with another rate and batch)``."""
    home = tmp_path_factory.mktemp("halted")
    assert train(sgd(config), home / "stopped", stopping(4)).step == 4
    for name in ("old", "new"):
        shutil.copytree(home / "stopped", home / name)
    train(sgd(config), home / "old")
    train(other(config), home / "new", allow=["optimizer.learning_rate,data"])
    return home / "stopped", home / "old", home / "new"


def other(config):
    return sgd(config, optimizer__learning_rate=0.025, data__batch_size=24)


def test_the_new_learning_rate_is_what_is_used(halted):
    """The norm of every update over that of its gradient, and what the lines say; those of before stay."""
    stopped, _, new = halted
    figures = read_metrics(new)
    assert [line["step"] for line in figures] == list(range(1, 9)) and figures[:4] == read_metrics(stopped)
    np.testing.assert_allclose([line["update_norm"] / line["grad_norm"] for line in figures], [0.1] * 4 + [0.025] * 4, rtol=1e-5)
    assert [line["learning_rate"] for line in figures] == pytest.approx([0.1] * 4 + [0.025] * 4)


@pytest.mark.slow
def test_a_changed_run_that_is_stopped_is_the_one_that_was_not(config, halted, tmp_path):
    """4 steps of 16, 2 of 24, Ctrl-C, 2 of 24 without --allow: the arrays of the run that made the last four at once."""
    stopped, _, new = halted
    shutil.copytree(stopped, tmp_path / "again")
    assert train(other(config), tmp_path / "again", stopping(6), allow=["optimizer", "data"]).step == 6
    train(other(config), tmp_path / "again")
    for ema in (0, None):
        assert bits(load(tmp_path / "again", ema=ema).params) == bits(load(new, ema=ema).params)
    assert read_workdir(tmp_path / "again")["allowed"] == read_workdir(new)["allowed"]
    hosts = [json.loads((w / "checkpoints" / "8" / "host" / "metadata").read_text()) for w in (tmp_path / "again", new)]
    assert [(host["position"], host["start"]) for host in hosts] == [({"next_index": 4}, {"batch": 4, "example": 64})] * 2


def test_an_older_checkpoint_is_loaded_as_what_it_was_made_with(config, tmp_path):
    """Changed at 4: checkpoint 2 holds the average of 0.9 and none of 0.5, over the levels that it was trained on, of the data that it saw;
    what changes freely is the newest."""
    before = sgd(config, training__steps=4)
    after = before | {"sampling": {"n": 8}, "training": before["training"] | {"ema": (0.5,), "steps": 6}}
    after |= {"denoiser": {"sigma_data": "data", "log_snr_min": -3.0}, "data": before["data"] | {"num_train": 150}}
    train(before, tmp_path)
    was = load(tmp_path, ema=0.9, step=2)
    train(after, tmp_path, allow=["training,denoiser.log_snr_min,data"])
    old, new = load(tmp_path, ema=0.9, step=2), load(tmp_path, ema=0.5)
    assert bits(old.params) == bits(was.params) and old.denoiser.log_snr_range == was.denoiser.log_snr_range
    assert old.denoiser.log_snr_range[0] < -3.0 == new.denoiser.log_snr_range[0]
    assert (old.ema, old.spec, old.config) == (0.9, was.spec, plain(before) | {"sampling": {"n": 8}}) and new.spec != old.spec
    assert (new.ema, new.config, new.step) == (0.5, plain(after), 6)
    for ema, step in ((0.5, 2), (0.9, 6)):
        with pytest.raises(ConfigError, match=f"^ema: {ema} is refused"):
            load(tmp_path, ema=ema, step=step)


def changed_since_2(new, tmp_path):
    """``new`` without its checkpoints after 2, so that what is replayed crosses the change at 4."""
    shutil.copytree(new, tmp_path / "run")
    for step in (4, 6, 8):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    return tmp_path / "run"


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_metrics(workdir)}


@pytest.mark.slow
def test_replay_makes_each_update_under_the_configuration_of_its_time(halted, tmp_path):
    """Of step 8, from checkpoint 2 across the change; and of what was written down of step 6 before the run went back to 4 and changed: the
    losses are those of the lines."""
    _, old, new = halted
    workdir = changed_since_2(new, tmp_path)
    across = replay(workdir, 8)
    assert (across.start, across.loss) == (2, pytest.approx(losses(new)[8], rel=1e-5)) and len(across.losses) == 24 and not across.since
    (workdir / "nonfinite").mkdir()
    (workdir / "nonfinite" / "6.json").write_text(json.dumps({"step": 6, "changes": 0, "figures": {"loss": 0.0, "grad_norm": 0.0}}))
    then = replay(workdir, 6)
    assert then.loss == pytest.approx(losses(old)[6], rel=1e-5) and losses(old)[6] != pytest.approx(losses(new)[6], rel=1e-5)
    assert [entry["field"] for entry in then.since] == ["config.data.batch_size", "config.optimizer.learning_rate"]
    assert then.examples["position"] == list(range(80, 96))
    assert "under config.optimizer.learning_rate 0.1 (0.025 since step 4)" in lines(then, None)


@pytest.mark.slow
def test_replay_of_steps_that_nothing_was_written_down_of(halted, tmp_path):
    """Step 4, the last before the change, and step 6, which is of the run that has changed."""
    _, _, new = halted
    workdir = changed_since_2(new, tmp_path)
    before, after = replay(workdir, 4), replay(workdir, 6)
    assert (before.start, before.loss) == (2, pytest.approx(losses(new)[4], rel=1e-5)) and len(before.losses) == 16
    assert len(before.since) == 2 and not after.since
    assert after.loss == pytest.approx(losses(new)[6], rel=1e-5) and after.examples["position"] == list(range(88, 112))


REFUSED = [
    ("--config.optimizer.learning_rate=.1", "optimizer.learning_rate: 0.1 is refused; allowed: 0.01", "--allow optimizer.learning_rate"),
    (
        "--config.optimizer.learning_rate=1e-3 --config.data.batch_size=32 --allow=optimizer",
        "config.data.batch_size: 32 is refused; allowed: 16, with which",
        "--allow optimizer,data.batch_size",
    ),
    ("--config.data.num_train=101 --allow=data.num_train", "config.data.fingerprint: '", "--allow data.num_train,data.fingerprint"),
    ("--config.data.num_train=101", "(changed too: config.data.fingerprint: '", "--allow data.num_train,data.fingerprint"),
    ("--allow=optimiser", "--allow: 'optimiser' is refused", "(did you mean 'optimizer'?)"),
    ("--allow=data.batchsize,optimizer", "--allow: 'data.batchsize' is refused", "(did you mean 'data.batch_size'?)"),
    ("--allow=", "--allow: '' is refused", "optimizer"),
    (
        "--config.optimizer.learning_rate=1e-3 --config.data.batch_size=32",
        "config.data.batch_size: 32 is refused (changed too: config.optimizer.learning_rate: 0.001, was 0.01); allowed: 16",
        "--allow data.batch_size,optimizer.learning_rate",
    ),
    ("--config.optimizer.name=adamm", "config.optimizer.name: 'adamm' is refused; allowed: one of optax's", "did you mean 'adam"),
    ("--config.network.width=16 --allow=network", "first.bias has shape (8,) in checkpoint 20, and shape (16,) now", "config.init_from"),
    ("--config.network.width=16", "first.bias has shape (8,) in checkpoint 20, and shape (16,) now", "config.init_from"),
    ("--config.network.depth=2 --allow=network", "in checkpoint 20, and shape", "config.init_from (docs/training.md)"),
    ("--config.data.name=checkerboard --allow=data", "config.network.num_classes: 2 is refused; allowed: 8", "unconditional network"),
    ("--config.seed=4 --allow=seed", "config.seed: 4 is refused; allowed: 3", "the checkpoints hold them"),
    ("--config.path.target=VP --allow=path", "config.path.target: 'VP' is refused", "with the same parameters"),
    ("--config.target.target=Eps --allow=target", "config.target.target: 'Eps' is refused", "with the same parameters"),
    ("--config.denoiser.sigma_data=0.5 --allow=denoiser", "config.denoiser.sigma_data: 0.5 is refused", "with the same parameters"),
    ("--config.optimizer.name=adamw --allow=optimizer", "config.optimizer.name: 'adamw' is refused", "another one"),
    ("--config.optimizer.freeze=['network.inward.*'] --allow=optimizer", "config.optimizer.freeze: ['network.inw", "config.init_from"),
    ("--config.optimizer.groups=[{'pattern':'*.bias','b1':0.8}] --allow=optimizer", "config.optimizer.groups: [{'pat", "config.init_from"),
    (
        "--config.optimizer.schedule=constant --config.training.steps=30 --allow=optimizer",
        "config.training.steps: 30 is refused; allowed: 20, with which",
        "--allow optimizer,training.steps",
    ),
    ("--config.training.ema=(0.9,) --allow=training", "config.training.ema: [0.9] is refused", "config.init_from"),
    ("--config.training.profiles=(0.1,) --allow=training", "config.training.profiles: [0.1] is refused", "of the old widths"),
    ("--config.init_from.workdir=x --allow=init_from", "config.init_from: {'workdir': 'x'} is refused", "a run begins once"),
    ("--config.training.steps=10 --allow=training", "training.steps: 10 is refused; allowed: more than 20", "no step is left for it"),
]


@pytest.mark.slow
def test_replay_of_a_step_from_before_the_lines_came_at_another_pace(config, tmp_path):
    """``log_every`` changes freely and is in no history: dispatches of ten steps, in which it is no more, are made again all the same."""
    pace = {"optimizer__schedule": "constant", "training__eval_every": 0}
    train(config(training__steps_per_dispatch=10, **pace), tmp_path)
    before = replay(tmp_path, 7)
    slower = config(training__steps_per_dispatch=5, training__log_every=5, training__checkpoint_every=15, training__steps=25, **pace)
    train(slower, tmp_path, allow=["training.steps_per_dispatch,training.checkpoint_every"])
    again = replay(tmp_path, 7)
    assert again.loss == before.loss and again.losses.tobytes() == before.losses.tobytes()
    assert {entry["field"] for entry in again.since} == {"config.training.steps_per_dispatch", "config.training.checkpoint_every"}


def test_a_command_that_lacks_a_name_reads_no_array(config, copy, monkeypatch):
    """It is refused by sizes alone; one whose metadata are damaged is looked at to the end, and the one before it counts."""
    with monkeypatch.context() as patched:
        patched.setattr(seals, "_mark", lambda path: pytest.fail(f"{path} was read"))
        with pytest.raises(ConfigError, match="--allow optimizer.learning_rate$"):
            train(config(optimizer__learning_rate=0.1), copy)
    file = copy / "checkpoints" / "20" / "state" / "_METADATA"
    file.write_bytes(b"?" * len(file.read_bytes()))
    changed = prepare(plain(config(optimizer__learning_rate=0.1)), copy, allow=["optimizer"])
    assert check_fits(copy, changed.parts, changed.changes) == 10


ON_A_MESH = [(f"{words} --config.parallel.fsdp=2", said, end) for words, said, end in REFUSED if "--config.network" in words]


@pytest.mark.parametrize("words, said, end", REFUSED + ON_A_MESH, ids=[words for words, _, _ in REFUSED + ON_A_MESH])
def test_refused_in_one_line_and_nothing_is_written(config, copy, tmp_path, monkeypatch, capsys, words, said, end):
    """Exit status 2, and every byte of the workdir as it was."""
    file = tmp_path / "config.py"
    file.write_text(f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({config()!r})\n")
    monkeypatch.setattr(sys, "argv", ["train", f"--config={file}", f"--workdir={copy}", *words.split()])
    before = files(copy)
    with pytest.raises(SystemExit) as caught:
        launcher.launch(command.main)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert said in err and end in err and files(copy) == before


def test_a_new_run_takes_the_same_command(config, tmp_path, monkeypatch):
    """--allow is there from the beginning, several times and with commas; nothing was changed, and the record says nothing of it."""
    allow = ["training,optimizer.learning_rate", "config.data", "coupling"]
    first(monkeypatch, config(), tmp_path / "run", allow)
    assert "allowed" not in read_workdir(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--allow: 'optimizer.learning_rat' is refused.*did you mean 'optimizer.learning_rate'"):
        train(config(), tmp_path / "other", allow=["optimizer.learning_rat"])
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_other_processes_read_the_same_data_on(config, copy, monkeypatch, capsys):
    """A position counts the batches of each worker: with one more, the stream begins anew where the last one ended."""
    order = batches(Toy(num_train=100, num_test=40), "train", 16, seed=3)
    examples = np.concatenate([next(order)["x0"] for _ in range(21)])
    changed = config(training__steps=30, data__num_workers=1)
    layout, _, batch = first(monkeypatch, changed, copy, ["data.num_workers", "training.steps"])
    np.testing.assert_array_equal(np.asarray(layout.rows(batch)["x0"]).reshape(-1, 2)[:16], examples[320:])
