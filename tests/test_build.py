"""``build``: what it makes, and the one line that every mistake gets."""

import dataclasses
import sys
import types
from typing import Any

import ml_collections
import numpy as np
import pytest

from score_lab.build import ConfigError, build, find, nearest, refuse
from score_lab.paths import VP, LinearFlow, ddpm_table

OUTER, ROOM = {"target": "my_parts:Outer"}, "score_lab.paths"


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclasses.dataclass(frozen=True)
class Outer:
    """Each kind of field that a part may have."""

    width: int
    rate: float = 0.1
    name: str = "x"
    flag: bool = False
    sizes: tuple[int, ...] = ()
    limit: float | None = None
    inner: Inner | None = None
    path: Any = None

    def check(self):
        if self.width < 1:
            refuse("Outer.width", self.width, ">= 1")


def make(width: int, **rest):
    return width, rest


def refusing(depth: int):
    refuse("refusing.depth", depth, "nothing")


def buggy():
    return {}["a key"]


class Plain:
    """Not a data class: its types are those of __init__."""

    def __init__(self, size: int):
        self.size = size


@pytest.fixture(autouse=True)
def my_parts(monkeypatch):
    """This file as an importable module, as a user's own would be."""
    module = types.ModuleType("my_parts")
    for thing in (Inner, Outer, make, refusing, buggy, Plain):
        setattr(module, thing.__name__, thing)
    module.__all__ = ["Inner", "Outer", "make", "refusing", "buggy", "Plain"]
    monkeypatch.setitem(sys.modules, "my_parts", module)


def made(**kwargs):
    return build(OUTER | {"width": 2, **kwargs})


def test_builds_by_import_path_and_by_bare_name():
    assert made(rate=1) == Outer(2, 1.0) and isinstance(made(rate=1).rate, float)
    assert build("LinearFlow", "score_lab.paths") == LinearFlow()
    assert build({"target": "VP", "beta_max": 5}, "score_lab.paths") == VP(beta_max=5.0)
    assert build({"target": "my_parts:Inner", "depth": 3}, "score_lab.paths") == Inner(3)
    assert len(build({"target": "ddpm_table", "T": 10}, "score_lab.paths").log_snrs) == 10


def test_an_object_is_returned_as_it_is():
    path = VP()
    assert build(path, "score_lab.paths") is path and build(None) is None


def test_config_dicts_nested_parts_and_lists():
    spec = ml_collections.ConfigDict(
        OUTER | {"width": 2, "sizes": [1, 2], "inner": {"target": "my_parts:Inner", "depth": 4}, "path": {"target": "VP"}}
    )
    built = build(spec, "score_lab.paths")
    assert built == Outer(2, sizes=(1, 2), inner=Inner(4), path=VP())
    assert spec.target == "my_parts:Outer"  # the config is not consumed


def test_a_dict_for_a_data_class_field_needs_no_target():
    assert made(inner={"depth": 7}).inner == Inner(7)
    with pytest.raises(ConfigError, match=r"config.inner.dept: 7 .*did you mean 'depth'"):
        made(inner={"dept": 7})


def test_a_dict_for_another_field_stays_a_dict():
    assert made(path={"a": 1}).path == {"a": 1}


def test_context_reaches_those_who_ask_and_the_spec_wins():
    assert build({"target": "my_parts:Outer"}, width=5, nobody_takes_this=1) == Outer(5)
    assert build(OUTER | {"width": 3}, width=5) == Outer(3)
    assert build({"target": "my_parts:make", "other": 1}, width=5, unknown=2) == (5, {"other": 1})


def test_numpy_numbers_are_numbers():
    built = made(width=np.int64(3), rate=np.float32(0.5))
    assert type(built.width) is int and type(built.rate) is float


@pytest.mark.parametrize(
    ("spec", "room", "message"),
    [
        ({"target": "LinearFlw"}, ROOM, "config.target: 'LinearFlw' is refused; allowed: one of .*did you mean 'LinearFlow'"),
        ({"target": "linearflow"}, ROOM, "did you mean 'LinearFlow'"),
        ({"target": "base"}, ROOM, "config.target"),
        ({"target": "LinearFlow"}, None, "an import path 'module:Name'"),
        ({"target": "no_such_module:X"}, None, "config.target: 'no_such_module:X' .*'no_such_module' cannot"),
        ({"target": "score_lab.pathz:VP"}, None, "'score_lab.pathz' cannot"),
        ({"target": "score_lab.paths:VPP"}, None, "did you mean 'VP'"),
        ({"target": 3}, None, "config.target: 3 is refused; allowed: a string"),
        ({"target": "my_parts:__doc__"}, None, "a class or function"),
        ({"beta_max": 3.0}, ROOM, "config.target: None is refused"),
        ({"target": "VP", "beta_mx": 3.0}, ROOM, "config.beta_mx: 3.0 .*of VP: beta_min, beta_max.*did you mean 'beta_max'"),
        ({"target": "VP", "beta_max": "big"}, ROOM, "config.beta_max: 'big' is refused; allowed: float"),
        ({"target": "VP", "beta_max": True}, ROOM, "config.beta_max: True is refused; allowed: float"),
        ({"target": "VP", "beta_max": None}, ROOM, "config.beta_max: None is refused; allowed: float"),
        ({"target": "my_parts:Outer"}, None, "config.width: None is refused; allowed: a value: Outer cannot be built without it"),
        (OUTER | {"width": 1.5}, None, "config.width: 1.5 is refused; allowed: int"),
        (OUTER | {"width": True}, None, "config.width: True is refused; allowed: int"),
        (OUTER | {"width": 1, "flag": 1}, None, "config.flag: 1 is refused; allowed: bool"),
        (OUTER | {"width": 1, "sizes": 3}, None, "config.sizes: 3 is refused; allowed: tuple"),
        (OUTER | {"width": 1, "limit": "x"}, None, "config.limit: 'x' is refused; allowed: float or None"),
        (OUTER | {"width": 0}, None, "config: Outer.width: 0 is refused; allowed: >= 1"),
        (OUTER | {"width": 1, "path": {"target": "VP", "beta_min": -1.0}}, ROOM, "config.path: VP.beta_min, beta_max"),
        (OUTER | {"width": 1, "path": {"target": "VP", "bet": 1}}, ROOM, "config.path.bet: 1"),
        (OUTER | {"width": 1, "path": {"target": "ddpm_table", "betas": "x"}}, ROOM, "config.path: ddpm_table.betas"),
        ({"target": "my_parts:refusing", "depth": 2}, None, "config: refusing.depth: 2"),
        ({"target": "my_parts:Plain", "size": "x"}, None, "config.size: 'x' is refused; allowed: int"),
        ({"target": "my_parts:Plain", "sise": 1}, None, "did you mean 'size'"),
    ],
)
def test_one_line_that_names_the_field_shows_the_value_and_says_what_is_allowed(spec, room, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(spec, room)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("room", "base", "made"),
    [("score_lab.paths", "GaussianPath", "LinearFlow"), ("score_lab.data", "Source", "Digits")],
)
def test_a_base_that_leaves_something_open_is_not_among_what_is_allowed(room, base, made):
    with pytest.raises(ConfigError) as error:
        build({"target": "nosuch"}, room)
    listed = str(error.value).partition("one of ")[2].partition(" in ")[0].split(", ")
    assert made in listed and base not in listed


def test_a_module_that_needs_a_package_says_which(tmp_path, monkeypatch):
    """Not "no such module": the user's own file exists, what it imports does not."""
    (tmp_path / "needs_a_package.py").write_text("import a_package_that_is_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="'needs_a_package:X' needs the module 'a_package_that_is_absent', which is not"):
        build({"target": "needs_a_package:X"})


def test_a_bug_in_the_target_is_not_disguised():
    """Only ConfigError is a user's error; anything else keeps its traceback."""
    with pytest.raises(KeyError, match="a key"):
        build({"target": "my_parts:buggy"})


def test_find_and_nearest():
    assert find("ddpm_table", "score_lab.paths") is ddpm_table
    assert nearest("velocty", ["Velocity", "V"]) == " (did you mean 'Velocity'?)"
    assert nearest("entirely different", ["Velocity", "V"]) == ""


def test_refuse_is_one_line():
    with pytest.raises(ConfigError, match=r"^a.b: 'x y' is refused; allowed: 1 or 2$"):
        refuse("a.b", "x y", "1\n  or 2")


def test_a_module_of_ones_own_that_fails_is_one_line_with_its_place(tmp_path, monkeypatch):
    """What it raises, where; of one that is not there, where it was looked for, and the nearest that is."""
    package = tmp_path / "my_package_of_build"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("import math\nfrom score_lab.paths import GaussianPth\n")
    (package / "torn.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, *said in (
        ("my_package_of_build.broken:X", "raises ImportError: ", "GaussianPth", f"({package}/broken.py, line 2)"),
        ("my_package_of_build.torn:X", "raises SyntaxError: ", f"({package}/torn.py, line 1)"),
        ("my_package_of_build.brokn:X", f"'my_package_of_build.brokn' cannot: it is not in {package} (did you mean 'broken'?)"),
        ("my_pakage_of_build.broken:X", "'my_pakage_of_build' cannot: it is neither in ", "nor in a folder of PYTHONPATH"),
    ):
        with pytest.raises(ConfigError) as caught:
            build({"target": name}, field="config.path")
        told = str(caught.value)
        assert told.startswith(f"config.path.target: '{name}' is refused; allowed: a module that can be imported; ") and "\n" not in told
        assert all(words in told for words in said), told
