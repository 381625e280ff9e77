"""Command lines of the launchers that read a workdir: fixed options, and ``--sampler.eta=1``-like overrides of its ``sampling`` section.

``--sampler=NAME`` (or ``--path``, ``--grid``, ``--guidance``) replaces that part by a fresh one of this name,
``--sampler='NAME(FIELD=VALUE)'`` by one with fields; ``--sampler.FIELD=VALUE`` then sets a field of it, in whatever order the two are
given.  ``--guidance=2`` is the scale.  Values are Python literals (``1e-3``, ``None``, ``(1, 2)``), parts
(``--sampler.form=NoisePrediction``, see score_lab.specs) or plain words.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from experiments.compiled import FLAG, HELP
from score_lab.build import ConfigError, nearest, refuse
from score_lab.specs import literal, part_of, spec_of

PARTS = ("path", "sampler", "grid", "guidance")
NESTED = ("variable", "grid")
"""Fields that are parts themselves, so that a bare name is one: ``--sampler.variable=Kappa``."""


class Parser(argparse.ArgumentParser):
    """The parser of a launcher: whole names only, and one line for whatever is wrong (a ConfigError)."""

    def __init__(self, name: str, about: str):
        super().__init__(
            prog=f"python -m experiments.{name}",
            description=about,
            epilog=f"{FLAG} DIRECTORY: {HELP}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError for what argparse refuses."""
        option, value = re.match(r"argument ([^:]+): ", message), re.search(r"invalid (\w+) value: (.*)", message)
        if option and value:
            kind = {"int": "a whole number", "float": "a number"}.get(value[1], value[1])
            raise ConfigError(f"{option[1]}: {value[2]} is refused; allowed: {kind}")
        if option and "expected one argument" in message:
            raise ConfigError(f"{option[1]}: no value; allowed: {option[1]}=VALUE")
        raise ConfigError(f"command line: {message}; allowed: what --help says")


def parse(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> tuple[argparse.Namespace, list[tuple[str, Any]]]:
    """The parser's own options, and the overrides ``[("sampler.eta", 1), ...]``; ConfigError for anything else, with the nearest name."""
    needed = [action for action in parser._actions if action.required]
    for action in needed:  # asked for below: a misspelt name is told first
        action.required = False
    args, words = parser.parse_known_args(argv)
    known = [option for action in parser._actions for option in action.option_strings] + [f"--{part}" for part in PARTS]
    overrides = []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name[2:].split(".")[0] not in PARTS:
            raise ConfigError(
                f"command line: {word!r} is refused; allowed: {', '.join(known)}, and fields as --sampler.eta=1{nearest(name, known)}"
            )
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"{name}: no value; allowed: {name}=VALUE")
            value = words.pop(0)
        overrides.append((name[2:], literal(value)))
    for action in needed:
        if getattr(args, action.dest) is None:
            name = action.option_strings[0]
            raise ConfigError(f"{name}: None is refused; allowed: {name}=VALUE, {action.help}")
    return args, overrides


def apply(sampling: Mapping[str, Any], overrides: list[tuple[str, Any]], bases: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the ``sampling`` section with the overrides: whole parts first, then fields.

    ``bases[part]`` is what a field of a part that the section lacks is set on (``--path.beta_max=10``: the path of training).  ConfigError
    for a field of something that has none.  A whole part may be ``NAME(field=value, ...)`` (see score_lab.specs); a number for
    guidance is its scale.
    """
    sampling = copy.deepcopy(dict(sampling))
    for part, value in overrides:
        if "." not in part:
            scale = part == "guidance" and isinstance(value, (int, float)) and not isinstance(value, bool)
            sampling[part] = None if value in (None, "none") else {"scale": value} if scale else named(value, f"sampling.{part}")
    for name, value in overrides:
        part, *fields = name.split(".")
        if fields:
            node = sampling[part] = sampling.get(part) or copy.deepcopy(dict((bases or {}).get(part) or {}))
            if not isinstance(node, dict):
                refuse(f"--{name}", value, f"--{part}=NAME first: the configuration has {len(node)} of them, {node!r}")
            for field in fields[:-1]:
                child = node.get(field)
                if isinstance(child, str):
                    child = {"target": child}
                if not (child is None or isinstance(child, Mapping)):
                    refuse(f"--{name}", value, f"a field of a part, and {field} is {child!r}")
                node[field] = dict(child or {})
                node = node[field]
            if isinstance(value, str) and fields[-1] != "target":
                value = (named if fields[-1] in NESTED else part_of)(value, f"sampling.{name}")
            node[fields[-1]] = value
    return sampling


def named(value: Any, field: str) -> dict[str, Any]:
    """The specification that a word names: ``DDIM``, ``my_package.my_module:Mine``, or ``DDIM(eta=0.5)``."""
    return spec_of(value, field) if isinstance(value, str) and "(" in value else {"target": value}
