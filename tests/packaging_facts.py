"""What setup.py and the constraints say, read without installing anything."""

import runpy
import sys
import types
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def metadata():
    """The keyword arguments with which setup.py calls ``setup`` (setuptools itself is not in every environment)."""
    said = {}
    fake = types.ModuleType("setuptools")
    fake.find_packages = lambda **kwargs: list(kwargs["include"])
    fake.setup = said.update
    held = sys.modules.get("setuptools")
    sys.modules["setuptools"] = fake
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        sys.modules.pop("setuptools")
        if held is not None:
            sys.modules["setuptools"] = held
    return said


def requirements(extra=None):
    """``{canonical name: Requirement}`` of the default installation, or of one extra."""
    lines = metadata()["extras_require"][extra] if extra else metadata()["install_requires"]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def pins(path):
    """``{canonical name: version}`` of a constraints file, every line of which must be ``name==version`` or a comment."""
    found = {}
    for line in path.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, equals, version = line.partition("==")
        assert equals and " " not in line and "/" not in line and "@" not in line, f"{path.name}: {line!r}"
        found[canonicalize_name(name)] = version
    return found


def environment_closure(names):
    """Every distribution that ``names`` pull in here, by the metadata of what is installed (extras that are asked for included)."""
    from importlib.metadata import PackageNotFoundError, requires

    todo, seen = [(canonicalize_name(n), frozenset()) for n in names], {}
    while todo:
        name, extras = todo.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen[name] = seen.get(name, frozenset()) | extras
        try:
            lines = requires(name) or ()
        except PackageNotFoundError:
            lines = ()
        for requirement in map(Requirement, lines):
            asked = [{"extra": e} for e in (*extras, "")]
            if requirement.marker is None or any(requirement.marker.evaluate(a) for a in asked):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return set(seen)
