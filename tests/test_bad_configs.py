"""Two hundred bad configurations, made by rule from configs/toy.py, configs/digits.py and the fields of the data classes behind them.

Each must be refused before anything is compiled or written, in one line that names the field, shows the value and says what is allowed.
"""

import copy
import importlib
import inspect
import os
import random
import re
import resource
import subprocess
import sys
import time
import types
import typing
from pathlib import Path

import network_guard
import pytest

from experiments import launcher, train
from experiments.sampling import SamplingOptions
from score_lab.paths import GaussianPath
from score_lab.training import loop
from score_lab.training.finetune import InitFrom
from score_lab.training.names import named
from score_lab.training.options import DenoiserOptions, ParallelOptions, TrainingOptions, plain
from score_lab.training.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent
MODULES = {name: importlib.import_module(f"configs.{name}") for name in ("toy", "digits")}
SECTIONS = {
    "training": TrainingOptions, "denoiser": DenoiserOptions, "parallel": ParallelOptions, "sampling": SamplingOptions,
    "init_from": InitFrom,
}  # fmt: skip
"""The data classes of the sections that name no target."""
ROOMS = {
    "data": "data", "path": "paths", "target": "targets", "network": "networks", "objective": "objectives", "time_law": "objectives",
    "coupling": "objectives", "sampler": "samplers", "grid": "samplers", "variable": "samplers",
}  # fmt: skip
PIPELINE = {"batch_size": int, "shuffle": bool | None, "num_threads": int | None, "num_workers": int, "prefetch": int}
OPTIMIZER = {"learning_rate": float, "schedule": str, "warmup": int, "final": float, "clip": float | None, "decay_after": int | None}
GIVEN = ("augment_dim", "two_time")
"""Fields that are handed to a part: whether they may be written depends on others."""


def starts():
    """The configurations as their files have them, by name; small where that makes them quicker."""
    found = {f"{name}:{variant}": plain(module.get_config(variant)) for name, module in MODULES.items() for variant in module.VARIANTS}
    for config in found.values():
        config.setdefault("parallel", {"fsdp": 1})
        if config["data"]["target"] == "Toy":
            config["data"] |= {"num_train": 100, "num_test": 40}
        if config.get("coupling") is None:
            config.pop("coupling", None)
    return found


def sections(tree, path=()):
    """``(path, section)`` of every dict, the outermost first."""
    yield path, tree
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from sections(value, (*path, name))


def fields(path, section):
    """The fields that a section may have, with the type that each is of: of the data class behind it, or of the two that are not one."""
    if isinstance(section.get("target"), str):
        made = getattr(importlib.import_module(f"score_lab.{ROOMS[path[-1]]}"), section["target"])
    else:
        made = SECTIONS.get(path[-1]) if path else None
    hints = typing.get_type_hints(made) if made else dict(OPTIMIZER) if path == ("optimizer",) else {}
    if made:
        hints = {name: hints[name] for name in inspect.signature(made).parameters if name in hints and name not in GIVEN}
    return hints | (PIPELINE if path == ("data",) else {})


def misspelt(word, rng):
    """``word`` with two letters swapped, one left out, or one twice."""
    if len(word) == 1:
        return word + "_"
    at = rng.randrange(len(word) - 1)
    ways = [word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]]
    return next(way for way in rng.sample(ways, 3) + [word + "_"] if way != word)


def parts_of(hint):
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    return {typing.get_origin(member) or member for member in members}


WRONG = {int: 8, float: 8.5, str: "many", bool: True, tuple: [1.5, "x"], dict: {"a": 1}, type(None): None}
PLAIN = (int, float, str, bool, tuple, type(None))
OUT = {int: (-3,), float: (float("nan"), float("-inf"), float("inf"))}
ENDS = ("log_snr_min", "start", "end")
"""Of a range of levels, which may be infinite."""


def bad_values(name, hint):
    """Values that no field of this type takes: of other types, None where that is none of them, and numbers out of every range."""
    kinds = parts_of(hint)
    if not kinds <= set(PLAIN):
        return []
    takes = kinds | ({int} if float in kinds else set())
    wrong = [value for kind, value in WRONG.items() if kind not in takes]
    out = [value for kind in (int, float) if kind in kinds for value in OUT[kind]]
    return wrong + [value for value in out if not (name in ENDS and abs(value) == float("inf"))]


def at(config, path):
    for name in path:
        config = config[name]
    return config


def with_value(config, path, name, value):
    config = copy.deepcopy(config)
    at(config, path)[name] = copy.deepcopy(value)
    return config


def generated(rng):
    """``(rule, start, path of the field, value, config)``, every one that the rules below make, once."""
    seen = set()
    for start, config in starts().items():
        for path, section in sections(config):
            label = str(section["target"]) if isinstance(section.get("target"), str) else ""
            for name, value in section.items():
                if ("misspelt", path, name, label) not in seen:
                    seen.add(("misspelt", path, name, label))
                    wrong = misspelt(name, rng)
                    yield "misspelt", start, (*path, wrong), value, with_value(config, path, wrong, value)
                if name in ("target", "name", "schedule") and isinstance(value, str) and ("name", path, value) not in seen:
                    seen.add(("name", path, value))
                    wrong = misspelt(value, rng)
                    yield "unknown name", start, (*path, name), wrong, with_value(config, path, name, wrong)
                if isinstance(value, dict) and ("section", path, name) not in seen:
                    seen.add(("section", path, name))
                    for wrong in (3, "", [1, 2], True, *([{}] if "target" in value else [])):
                        yield "no section", start, (*path, name), wrong, with_value(config, path, name, wrong)
            for name, hint in fields(path, section).items():
                if ("value", path, name, label) in seen:
                    continue
                seen.add(("value", path, name, label))
                for wrong in bad_values(name, hint):
                    yield "value", start, (*path, name), wrong, with_value(config, path, name, wrong)


def combinations(rng):
    """The same of values that are good alone and do not go together, or do not fit the four devices, the data or the parameters."""
    found = starts()
    leaves = list(named(prepare(found["digits:flow"], None).parts.shapes()))

    def bad(rule, start, path, value, **others):
        """``others``: further values, by ``section__field``."""
        config = copy.deepcopy(found[start])
        for name, other in [*((tuple(key.split("__")), x) for key, x in others.items()), (path, value)]:
            node = config
            for part in name[:-1]:
                node = node.setdefault(part, {})
            node[name[-1]] = other
        return rule, start, path, value, config

    for start in found:
        size = found[start]["data"]["batch_size"]
        yield bad("batch on devices", start, ("data", "batch_size"), size + rng.choice((1, 2, 3)))
        yield bad("batch in parts", start, ("training", "accumulate"), size // 4 + rng.randrange(1, 9))
        yield bad("mesh", start, ("parallel", "fsdp"), rng.choice((3, 5, 6, 7, 8)))
        yield bad("mesh", start, ("parallel", "data"), rng.choice((3, 5, 6, 7, 8)), parallel__fsdp=rng.choice((1, 2, 4)))
        yield bad("devices", start, ("training", "devices"), rng.randrange(5, 99))
        yield bad("dispatch", start, ("training", "steps_per_dispatch"), rng.choice((7, 11, 13)))
        steps = found[start]["training"]["steps"]
        yield bad("warm-up", start, ("optimizer", "warmup"), steps + rng.randrange(100))
        yield bad("average", start, ("training", "ema"), [rng.choice((1.0, -0.5, 1.0 + rng.random()))])
        yield bad("width", start, ("training", "profiles"), [rng.choice((0.0, -0.1, 0.289 + rng.random()))])
        yield bad("snapshots of nothing", start, ("training", "snapshot_every"), rng.randrange(1, 99), training__profiles=[])
        yield bad("classes", start, ("network", "num_classes"), rng.randrange(11, 99))
        yield bad("edges", start, ("training", "loss_edges"), [rng.uniform(1, 2), rng.uniform(-2, 1)])
        yield bad("no workdir", start, ("init_from",), {"workdir": f"runs/none_{rng.randrange(99)}"})
        yield bad("field of no such optimizer", start, ("optimizer", "mu"), rng.random())
        yield bad("part of another kind", start, ("path", "target"), found[start]["network"]["target"])
    for name in rng.sample(leaves, 6):
        wrong = misspelt(name, rng)
        yield bad("frozen", "digits:flow", ("optimizer", "freeze"), [wrong])
        yield bad("group", "digits:flow", ("optimizer", "groups"), [{"pattern": wrong, "learning_rate": 1e-4}])
        yield bad("rule", "digits:flow", ("parallel", "rules"), [[wrong, 0]])
        yield bad("rule", "digits:flow", ("parallel", "rules"), [[name, rng.randrange(5, 9)]], parallel__fsdp=2)
        yield bad("group that is frozen", "digits:flow", ("optimizer", "groups"), [{"pattern": name}], optimizer__freeze=[name])
        yield bad("field of no group", "digits:flow", ("optimizer", "groups"), [{"pattern": name, misspelt("learning_rate", rng): 1e-4}])
    yield bad("all frozen", "digits:flow", ("optimizer", "freeze"), ["*"])


MANY = {"misspelt": 45, "unknown name": 20, "no section": 25, "value": 60, "combinations": 50}


def pools():
    """``(all of them by rule, what draws among them)``."""
    rng, found = random.Random(0), {}
    for case in generated(rng):
        found.setdefault(case[0], []).append(case)
    return found | {"combinations": list(combinations(rng))}, rng


def cases():
    """200 of them: so many of each rule, drawn once."""
    found, rng = pools()
    return [case for rule, many in MANY.items() for case in rng.sample(found[rule], many)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where the digits are built, and paths that are verified once each: a third of a second, and many cases share one."""
    verified, verify = set(), GaussianPath.check

    def once(path):
        if (known := (type(path), repr(path))) not in verified:
            verify(path)
            verified.add(known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.getbasetemp() / "config_data"))
        patch.setattr(GaussianPath, "check", once)
        yield


class Begun(Exception):
    """Nothing was refused: the run would have begun."""


@pytest.fixture
def launched(data, tmp_path, monkeypatch, capsys):
    """``launched(config, name)``: the command ``experiments.train`` on a file of ``config``, in this process, from a folder that holds
    nothing but such files; its exit status, what it says on stderr and the seconds of the processor that it takes."""

    def begun():
        raise Begun

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    monkeypatch.setattr(loop, "keep_buffers", begun)  # the first that a run does when nothing is wrong

    def launch(config, name="bad"):
        write_config(tmp_path / f"{name}.py", config)
        monkeypatch.setattr(sys, "argv", ["train", f"--config={tmp_path / name}.py", f"--workdir={tmp_path / 'new'}"])
        capsys.readouterr()
        before = time.process_time()
        with pytest.raises(SystemExit) as left:
            launcher.launch(train.main)
        took = time.process_time() - before
        said = capsys.readouterr()
        assert not said.out, said.out
        return left.value.code, said.err, took

    return launch


def write_config(file, config):
    """As a configuration file that anyone could have written."""
    file.write_text(f"from ml_collections import ConfigDict\nnan, inf = float('nan'), float('inf')\n\n\ndef get_config():\n"
                    f"    return ConfigDict({config!r}, convert_dict=True)\n")  # fmt: skip


def check_line(said, path, value):
    """One line, with the name of the field, its value, and what is allowed."""
    assert "\n" not in said and len(said) < 1500, said
    assert path[-1] in said and re.search(r"allowed: .", said), said
    shown = [value] if isinstance(value, (str, int, float, type(None))) else inner(value) or [None]
    assert any(repr(v) in said for v in shown) or (value != "" and str(value) in said), (value, said)


def inner(value):
    """The plain values in lists and dicts, those that ``value`` is made of."""
    if isinstance(value, dict):
        return [v for x in value.items() for v in inner(x)]
    return [v for x in value for v in inner(x)] if isinstance(value, (list, tuple)) else [value]


def check_refused(status, said, path, value):
    """Exit status 2, and one line on stderr."""
    assert status == 2, (status, said)
    assert said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1 and "Traceback" not in said, said
    check_line(said.rstrip("\n"), path, value)


SECONDS = 5.0


def test_two_hundred_bad_configurations_are_one_line_each(launched, tmp_path):
    """Through the launcher: exit status 2, one line on stderr, under five seconds of the processor, and nothing written."""
    drawn = cases()
    assert len(drawn) == 200
    check_all(drawn, launched, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rule", MANY)
def test_all_that_the_rules_make_are_one_line_each(rule, launched, tmp_path):
    """The 200 are drawn from them."""
    drawn = pools()[0][rule]
    assert len(drawn) >= MANY[rule]
    check_all(drawn, launched, tmp_path)


def check_all(drawn, launched, home):
    """Each is refused in one line, under five seconds, and leaves nothing in ``home`` but its own file."""
    wrong = []
    for number, (rule, start, path, value, config) in enumerate(drawn):
        try:
            status, said, took = launched(config, f"bad_{number}")
            check_refused(status, said, path, value)
            assert took < SECONDS
        except Begun:
            wrong.append((rule, start, path, value, "was not refused"))
        except Exception as error:  # noqa: BLE001 - a traceback for whoever wrote this configuration
            wrong.append((rule, start, path, value, repr(error)))
    assert not wrong, "\n".join(map(str, wrong))
    assert {entry.name for entry in home.iterdir()} - {"__pycache__"} == {f"bad_{number}.py" for number in range(len(drawn))}


@pytest.mark.parametrize("start", ["toy:moons", "digits:flow"])
def test_the_good_configuration_is_not_refused(start, launched):
    """So the test above can fail."""
    with pytest.raises(Begun):
        launched(starts()[start])


@pytest.mark.parametrize("value", ["", "cosine", 3, [1, 2], {"a": True}])
def test_a_line_that_does_not_show_the_value_is_found(value):
    """So that it can fail for each kind of value; with it, the line is good."""
    check_line(f"config.a.b: {value!r} is refused; allowed: c", ("a", "b"), value)
    with pytest.raises(AssertionError):
        check_line("config.a.b: this is refused; allowed: c", ("a", "b"), value)


COMMANDS = 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COMMANDS))
def test_the_same_from_the_shell(number, data, tmp_path):
    """Exit status 2, one line on stderr, less than five seconds of the processor, and nothing written."""
    _, start, path, value, config = random.Random(1).sample(cases(), COMMANDS)[number]
    file, new = tmp_path / "bad.py", tmp_path / "new"
    write_config(file, config)
    words = [sys.executable, "-m", "experiments.train", f"--config={file}", f"--workdir={new}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, env=network_guard.environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    check_refused(done.returncode, done.stderr, path, value)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < SECONDS
    assert not new.exists() and sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.py"]
