"""What may run in a workdir, what may be loaded from it, and that a refused run changes nothing in it."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.training import load, train
from score_lab.training.checkpoint import BEST, Checkpoints
from score_lab.training.metrics import read_metrics
from score_lab.training.options import plain
from score_lab.training.parallel import Layout
from score_lab.training.parts import build_parts
from score_lab.training.prepare import prepare


def fingerprints(directory):
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def edited(trained, tmp_path, edit):
    """A copy of the trained workdir with its config.json edited."""
    workdir = tmp_path / "edited"
    shutil.copytree(trained[0], workdir)
    record = json.loads((workdir / "config.json").read_text())
    edit(record)
    (workdir / "config.json").write_text(json.dumps(record))
    return workdir


def test_load_gives_the_trained_denoiser_back(trained):
    """Every average by position and by decay, and the parameters themselves; the same predictions as at the end of training."""
    workdir, run = trained
    x, t = jnp.ones((3, 2)), jnp.array([0.1, 0.5, 0.9])
    np.testing.assert_array_equal(load(workdir).denoiser(x, t).x0, run.denoiser(x, t).x0)
    for ema, params in ((0, run.state.ema[0]), (0.99, run.state.ema[1]), (1, run.state.ema[1]), (None, run.state.params)):
        loaded = load(workdir, ema=ema)
        jax.tree.map(np.testing.assert_array_equal, loaded.denoiser.params, params["network"])
        assert loaded.ema == (None if ema is None else (0.9, 0.99)[ema if ema in (0, 1) else 1])
        assert all(len(p.devices()) == 1 for p in jax.tree.leaves(loaded.denoiser.params))
    assert (loaded.step, loaded.spec.num_classes, loaded.spec.shape) == (20, 2, (2,))
    assert loaded.config["training"]["steps"] == 20 and loaded.versions["jax"] == jax.__version__


def test_load_by_step_and_best(trained):
    """The checkpoint of step 10 is another one; "best" is the one with the lowest held-out loss."""
    workdir, _ = trained
    assert load(workdir, step=10).step == 10
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert load(workdir, step="best").step == min(lines, key=lambda line: line["eval/loss"])["step"]


def test_best_is_of_all_checkpoints_however_rare_the_evaluation(config, tmp_path):
    """Evaluated every 20 steps and saved every 10: each checkpoint has its held-out loss, and the best is the least of them."""
    train(config(training__eval_every=20), tmp_path)
    losses = {line["step"]: line["eval/loss"] for line in read_metrics(tmp_path)}
    assert sorted(losses) == [10, 20] and load(tmp_path, step="best").step == min(losses, key=losses.get)


def test_a_checkpoint_is_of_the_moment_in_which_it_was_saved(trained, tmp_path, monkeypatch):
    """What the host hands over may change at once, as the figures since the last line do: Orbax is handed what nobody changes."""
    workdir, run = trained
    host = json.loads((workdir / "checkpoints" / "20" / "host" / "metadata").read_text()) | {"pending": [{"loss": 1.0}]}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        handed, save = [], checkpoints._ocp.args.JsonSave
        monkeypatch.setattr(checkpoints._ocp.args, "JsonSave", lambda item: handed.append(item) or save(item))
        checkpoints.save(10, run.state, host, {})
        host["pending"].append({"loss": 2.0})
    assert [item["pending"] for item in handed] == [[{"loss": 1.0}]]


def test_the_best_stays_however_old_it_is(trained, tmp_path):
    """keep = 1, and the first is the best: it and the newest are there, and loaded as such; what is neither is gone, with its seal."""
    workdir, run = trained
    shutil.copy(workdir / "config.json", tmp_path)
    host = json.loads((workdir / "checkpoints" / "20" / "host" / "metadata").read_text())
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, loss in ((10, 0.1), (20, 0.5), (30, 0.3), (40, 0.4)):
            checkpoints.save(step, run.state, host | {"step": step}, {BEST: loss})
    for kept in (tmp_path / "checkpoints", tmp_path / "seals"):
        assert sorted(entry.name.removesuffix(".json") for entry in kept.iterdir()) == ["10", "40"]
    assert load(tmp_path, step="best").step == 10 and load(tmp_path).step == 40
    with Checkpoints(tmp_path, keep=1) as checkpoints:  # a run that goes on, and is better once more
        checkpoints.save(50, run.state, host | {"step": 50}, {BEST: 0.05})
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["50"] and load(tmp_path, step="best").step == 50


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ema": 2}, r"ema: 2 is refused; allowed: a position below 2, one of the decays \(0.9, 0.99\)"),
        ({"ema": 0.5}, r"ema: 0.5"),
        ({"step": 15}, r"step: 15 is refused; allowed: one of 10, 20, 'best'"),
    ],
)
def test_load_of_what_is_not_there(trained, arguments, message):
    """The averages and steps that there are."""
    with pytest.raises(ConfigError, match=message):
        load(trained[0], **arguments)


def test_a_workdir_of_a_name_that_is_like_none_has_no_suggestion(tmp_path):
    """The path before it is alike for all."""
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "config.json").write_text("{}")
    for name, hint in (("nosuch", ""), ("flwo", f" (did you mean {str(tmp_path / 'flow')!r}?)")):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        assert str(caught.value).endswith(f"there is no such directory{hint}")


def test_a_directory_that_is_no_workdir(trained, tmp_path):
    """Nothing there, nothing saved yet, or a broken record."""
    with pytest.raises(ConfigError, match=r"workdir: .*a directory that a training run has made: there is no config.json"):
        load(tmp_path)
    shutil.copy(trained[0] / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"workdir: .*this one has none yet"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"config": 3')
    with pytest.raises(ConfigError, match=r"cannot be read \(JSONDecodeError"):
        load(tmp_path)


def test_a_checkpoint_of_another_network_names_the_first_parameter(trained, tmp_path):
    """In load, and when a run would go on from it."""
    workdir = edited(trained, tmp_path, lambda record: record["config"]["network"].update(width=16))
    with pytest.raises(ConfigError, match=r"checkpoint: 'ema.0.network.*; allowed: a checkpoint of the configured network") as caught:
        load(workdir)
    assert "\n" not in str(caught.value) and "which has shape" in str(caught.value)
    before = fingerprints(workdir)
    with pytest.raises(ConfigError, match=r"checkpoint: 'params.network"):
        train(json.loads((workdir / "config.json").read_text())["config"], workdir)
    assert fingerprints(workdir) == before


def test_a_custom_part_that_cannot_be_imported_is_named(trained, tmp_path):
    """The file, the field and the module."""
    workdir = edited(trained, tmp_path, lambda record: record["config"].update(path={"target": "my_paths.mine:Mine"}))
    with pytest.raises(ConfigError, match=r"config.json: config.path.target: 'my_paths.mine:Mine' is refused.*'my_paths' cannot"):
        load(workdir)


def test_a_refused_run_changes_nothing(config, trained, tmp_path):
    """Another configuration, data that changed, a file in the way: one line that names what differs, and every byte as it was."""
    workdir, _ = trained
    before = fingerprints(workdir)
    for changes, message in (
        ({"network__width": 16}, r"config.network.width: 16 is refused; allowed: 8, with which .* was begun, or another workdir"),
        ({"seed": 4, "training__ema": (0.9,)}, r"config.seed: 4 is refused \(changed too: config.training.ema: \[0.9\], was"),
        ({"training__steps": 40}, r"config.training.steps: 40"),  # the cosine schedule would have been another
        ({"network__width": "wide"}, r"config.network.width: 'wide'"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(config(**changes), workdir)
    assert fingerprints(workdir) == before
    other = edited(trained, tmp_path, lambda record: record["data"].update(fingerprint="0" * 16))
    before = fingerprints(other)
    with pytest.raises(ConfigError, match=r"config.data.fingerprint: '.*; allowed: '0{16}', with which .* --allow data.fingerprint$"):
        train(config(), other)
    assert fingerprints(other) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"workdir: .*this is a file"):
        train(config(), tmp_path / "file")
    (other / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"workdir: .*no config.json that says of what"):
        train(config(), other)
    assert (tmp_path / "file").read_text() == "mine" and (other / "checkpoints" / "20").is_dir()


def test_what_may_differ(config, trained, tmp_path):
    """Logging and sampling may; more steps may where the learning rate does not depend on their number; a finished run is not run again."""
    workdir, _ = trained
    plan = prepare(plain(config(training__log_every=5, training__keep=7, sampling={"n": 3})), workdir)
    assert plan.record["config"]["training"]["log_every"] == 10 and plan.options.log_every == 5
    before = fingerprints(workdir / "checkpoints")
    assert train(config(), workdir).step == 20 and fingerprints(workdir / "checkpoints") == before
    constant = edited(trained, tmp_path, lambda record: record["config"]["optimizer"].update(schedule="constant"))
    longer = config(training__steps=40, optimizer__schedule="constant")
    assert prepare(plain(longer), constant).options.steps == 40


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"training__steps": 0}, r"config.training.steps: 0"),
        ({"training__stepz": 3}, r"config.training.stepz: 3.*did you mean 'steps'"),
        ({"training__ema": (1.0,)}, r"config.training.ema: \(1.0,\)"),
        ({"training__steps": 2.5}, r"config.training.steps: 2.5 is refused; allowed: int"),
        ({"training__accumulate": 3}, r"config.training.accumulate: 3.*a divisor of 4"),
        ({"training__steps_per_dispatch": "many"}, r"steps_per_dispatch: 'many'"),
        ({"data__batch_size": 18}, r"config.data.batch_size: 18.*multiple of 4"),
        ({"data__batch_size": None}, r"config.data.batch_size: None"),
        ({"data__target": "Toys"}, r"config.data.target: 'Toys'.*did you mean 'Toy'"),
        ({"network__num_classes": 3}, r"config.network.num_classes: 3.*2, the number of classes"),
        ({"network__num_classes": 0}, r"config.objective.label_dropout: 0.3.*unconditional"),
        ({"network": {"target": "DiT", "patch": 3}, "data": {"target": "Digits", "batch_size": 16}}, r"config.network.patch: 3"),
        ({"network": {"target": "DiT"}}, r"config.network: shape: \(2,\)"),
        ({"path": None}, r"config.path: None.*a run needs"),
        ({"networks": {"target": "MLP"}}, r"config.networks: .*did you mean 'network'"),
        ({"objective": {"target": "score_lab.paths:VP"}}, r"config.objective.target: 'score_lab.paths:VP'.*VP gives no init"),
        ({"denoiser__sigma_data": -1.0}, r"config.denoiser.sigma_data: -1.0"),
        ({"denoiser__log_snr_min": 30.0}, r"config.denoiser.log_snr_min: 30.0"),
        ({"target": {"target": "Eps"}, "denoiser": {"sigma_data": 1.0, "log_snr_min": float("-inf")}}, r"says nothing of x0 at t = 1"),
        ({"seed": -1}, r"config.seed: -1"),
        ({"optimizer__name": "adamm"}, r"config.optimizer.name: 'adamm'.*did you mean 'adam'"),
        ({"optimizer__learning_rate": lambda step: 1.0}, r"config.optimizer.learning_rate: .*saved as JSON"),
    ],
)
def test_refused_before_anything_is_made(config, tmp_path, changes, message, monkeypatch):
    """One line; no workdir; nothing compiled."""
    monkeypatch.setattr(Layout, "fresh", None)
    monkeypatch.setattr(Layout, "dispatch", None)
    with pytest.raises(ConfigError, match=message) as caught:
        train(config(**changes), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_labels_need_labels(config):
    """A network with classes on data without them."""
    with pytest.raises(ConfigError, match=r"config.network.num_classes: 2 is refused; allowed: 0: the data have no labels"):
        build_parts(plain(config()), DataSpec((2,), 0, "none"), 1.0)
