"""A run that starts from another workdir: whose leaves, where its averages start, what is refused; a resumed one never goes there."""

import json
import shutil

import jax
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.training import load, train
from score_lab.training.finetune import starting_leaves, starts_from
from score_lab.training.names import matches, named
from score_lab.training.options import plain
from score_lab.training.parallel import Layout
from score_lab.training.prepare import prepare
from score_lab.training.state import init_state

LABELS = "network.conditioning.table"


def start_of(config, workdir):
    """The plan of the run, and its state before the first step."""
    plan = prepare(plain(config), workdir)
    return plan, init_state(plan.parts, plan.seed, starting_leaves(plan.parts))


def leaves(tree):
    return {name: np.asarray(leaf) for name, leaf in named(tree).items()}


@pytest.mark.parametrize("ema, step", [(0, None), (0.99, 10), (None, None)])
def test_a_new_run_starts_at_the_parameters_of_the_other(config, trained, tmp_path, ema, step):
    """Parameters and all averages are what ``load`` gives of the other workdir; the optimizer and the step are new."""
    source = {"workdir": str(trained[0]), "ema": ema, "step": step}
    plan, state = start_of(config(seed=9, init_from=source), tmp_path / "new")
    other = load(trained[0], ema, step)
    for tree in (state.params, *state.ema):
        jax.tree.map(np.testing.assert_array_equal, tree["network"], other.denoiser.params)
    assert int(state.step) == 0 and not any(np.any(x) for x in jax.tree.leaves(state.opt_state))
    origin = plan.parts.origin
    assert (origin["step"], origin["ema"], origin["drawn"]) == (other.step, other.ema, []) and len(origin["fingerprint"]) == 16
    assert not (tmp_path / "new").exists()


def test_a_changed_head_is_drawn_and_the_rest_is_loaded(config, trained, tmp_path):
    """No classes in place of two: the label's leaves are of the seed's own draw, all others of the other run."""
    changes = {"network__num_classes": 0, "objective__label_dropout": 0.0, "seed": 9}
    renewed = {"workdir": str(trained[0]), "new": [LABELS, "network.outward.*"]}  # patterns of a leaf that is gone, and of two that are new
    plan, state = start_of(config(init_from=renewed, **changes), tmp_path / "new")
    drawn, there = leaves(init_state(plan.parts, 9).params), leaves(load(trained[0]).params)
    assert plan.parts.origin["drawn"] == ["network.outward.bias", "network.outward.kernel"] and "network.conditioning.table" in there
    for name, leaf in leaves(state.params).items():
        np.testing.assert_array_equal(leaf, (drawn if matches(["network.outward.*"], name) else there)[name])


def test_what_it_starts_from_is_said_in_one_line():
    origin = {"workdir": "runs/a", "step": 20, "ema": 0.9, "fingerprint": "f", "drawn": []}
    assert starts_from(origin) == "starts from the average 0.9 of runs/a at step 20; drawn anew: nothing"
    said = starts_from(origin | {"ema": None, "drawn": list("abcde")})
    assert said == "starts from the parameters of runs/a at step 20; drawn anew: a, b, c and 2 more"


def test_it_trains_and_goes_on_without_the_other_workdir(config, trained, tmp_path, capsys):
    """20 steps at once are 10, then, with the other workdir gone, 10 more, to the bit; the record says what it came from in both."""
    other, straight, broken = (tmp_path / name for name in ("other", "straight", "broken"))
    shutil.copytree(trained[0], other)
    settings = {"seed": 9, "init_from": {"workdir": str(other)}, "training__eval_every": 0, "optimizer__schedule": "constant"}
    unbroken = train(config(**settings), straight)
    assert f"{straight}: starts from the average 0.9 of {other} at step 20; drawn anew: nothing\n" in capsys.readouterr().out
    train(config(training__steps=10, **settings), broken)
    shutil.rmtree(other)
    capsys.readouterr()
    resumed = train(config(**settings), broken)
    jax.tree.map(np.testing.assert_array_equal, unbroken.state.params, resumed.state.params)
    jax.tree.map(np.testing.assert_array_equal, unbroken.state.ema, resumed.state.ema)
    assert "starts from" not in capsys.readouterr().out
    records = [json.loads((workdir / "config.json").read_text())["init_from"] for workdir in (straight, broken)]
    assert records[0] == records[1] == dict(unbroken.parts.origin)
    assert records[0]["step"] == 20 and records[0]["ema"] == 0.9
    assert load(broken).step == 20  # neither does loading look for it


def test_the_fingerprint_is_of_the_parameters(config, trained, tmp_path):
    """A copy has the same one, the parameters another than their average; a workdir that changes before the run begins is refused."""
    shutil.copytree(trained[0], tmp_path / "copy")
    (tmp_path / "copy" / "metrics.jsonl").unlink()

    def plan(workdir, ema=0):
        return prepare(plain(config(init_from={"workdir": str(workdir), "ema": ema})), tmp_path / "new")

    first = plan(trained[0]).parts.origin["fingerprint"]
    copy = plan(tmp_path / "copy")
    assert copy.parts.origin["fingerprint"] == first != plan(trained[0], None).parts.origin["fingerprint"]
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / "20")
    with pytest.raises(ConfigError, match=r"config.init_from.workdir: .*its parameters have just changed"):
        starting_leaves(copy.parts)


@pytest.mark.parametrize(
    "changes, more, message",
    [
        ({"network__width": 16}, {}, r"network.*, which has shape \(.*8.*\) in .* and shape \(.*16.*\) in this run.*a pattern of it"),
        ({"network__depth": 2}, {}, r"config.init_from: 'network.*, which has nothing in .* and shape"),
        ({"network__num_classes": 0, "objective__label_dropout": 0.0}, {}, r"'network.conditioning.table, which has shape .* and nothing"),
        ({}, {"new": ["network.conditioning.tabel"]}, r"init_from.new: 'network.conditioning.tabel'.*did you mean '.*.table'"),
        ({}, {"new": ["*"]}, r"config.init_from.new: \['\*'\].*leave a leaf"),
        ({}, {"new": "network.*"}, r"config.init_from.new: 'network.\*' is refused"),
        ({}, {"ema": 5}, r"config.init_from.ema: 5 is refused; allowed: a position below 2"),
        ({}, {"step": 15}, r"config.init_from.step: 15 is refused; allowed: one of 10, 20"),
        ({}, {"workdir": "nowhere"}, r"config.init_from.workdir: 'nowhere'.*there is no such directory"),
        ({}, {"workdirs": "x"}, r"config.init_from.workdirs: 'x'.*did you mean 'workdir'"),
    ],
)
def test_refused_before_anything_is_made(config, trained, tmp_path, changes, more, message, monkeypatch):
    """One line that names the leaf or the field; no workdir; no state."""
    monkeypatch.setattr(Layout, "fresh", None)
    with pytest.raises(ConfigError, match=message) as caught:
        train(config(init_from={"workdir": str(trained[0])} | more, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_init_from_is_a_section(config, trained, tmp_path):
    """A bare directory is refused, not taken for one."""
    with pytest.raises(ConfigError, match=r"config.init_from: '.*' is refused; allowed: a section"):
        prepare(plain(config(init_from=str(trained[0]))), tmp_path / "run")
