"""What is declared is what is used, was tried, and brings neither TensorFlow nor PyTorch."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

import network_guard
import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging_facts import ROOT, environment_closure, metadata, pins, requirements

SUPPORTED = ("311", "312", "313")
FORBIDDEN = {"tensorflow", "tensorflow-cpu", "tf-nightly", "keras", "clu", "torch", "torchvision"}
OURS = {"score_lab", "experiments", "configs", "benchmarks"}
INDIRECT = {
    "array-record": "tensorflow-datasets reads with it in as_data_source, and leaves it to its users to install",
    "importlib-resources": "tensorflow-datasets imports it and forgets to declare it",
}
LAUNCHERS = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if '__name__ == "__main__"' in p.read_text())


def imported_roots():
    """The first part of every absolute import in the library, the launchers and the configs, also of those inside functions."""
    roots = set()
    for file in (f for folder in sorted(OURS) for f in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add(node.module.partition(".")[0])
    return roots - OURS - set(sys.stdlib_module_names)


def providers():
    """``{imported root: the distributions that provide it}``: ``sklearn`` is scikit-learn, ``orbax`` may be several."""
    known = packages_distributions()
    return {root: {canonicalize_name(name) for name in known.get(root, [root])} for root in imported_roots()}


def test_every_requirement_is_imported_somewhere():
    unused = set(requirements()) - set().union(*providers().values()) - set(INDIRECT)
    assert not unused, f"setup.py asks for {sorted(unused)}, and nothing imports it"


def test_every_import_is_declared():
    declared = set(requirements()).union({"jaxlib"}, *(requirements(extra) for extra in ("peers", "sweep", "zarr")))
    assert not {root: names for root, names in providers().items() if not names & declared}


def test_default_installation_brings_no_tensorflow_and_no_torch():
    closure = environment_closure(requirements())
    assert {"jax", "jaxlib", "tensorflow-datasets", "protobuf"} <= closure  # it does follow what is asked for
    assert not closure & FORBIDDEN


@pytest.mark.parametrize("python", SUPPORTED)
def test_constraints_pin_everything_and_nothing_else(python):
    pinned = pins(ROOT / f"constraints/py{python}.txt")
    asked = requirements() | requirements("dev")
    assert set(asked) <= set(pinned)
    for name, requirement in asked.items():
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]}"
    assert not set(pinned) & FORBIDDEN and "score-lab" not in pinned


def test_the_newest_are_the_same_but_for_jax():
    ours, newest = (pins(ROOT / f"constraints/{name}.txt") for name in ("py312", "newest-py312"))
    assert {name for name in ours | newest if ours.get(name) != newest.get(name)} == {"jax", "jaxlib", "flax"}


def test_floors_are_the_versions_that_were_tried():
    floors = pins(ROOT / "constraints/floors-py311.txt")
    for name, requirement in requirements().items():
        (floor,) = requirement.specifier
        tried = re.match(re.escape(floor.version) + r"(\.\d+)?$", floors[name])  # >=0.10 was tried as 0.10.0
        assert floor.operator == ">=" and tried, f"{requirement} was tried as {floors[name]}"


def test_supported_pythons_are_those_with_constraints():
    allowed = SpecifierSet(metadata()["python_requires"])
    assert {p for p in ("310", *SUPPORTED, "314") if allowed.contains(f"3.{p[1:]}")} == set(SUPPORTED)
    assert {f.stem for f in (ROOT / "constraints").glob("py*.txt")} == {f"py{p}" for p in SUPPORTED}


def test_every_module_imports_where_tensorflow_and_torch_cannot_be():
    """In a fresh process in which importing any of FORBIDDEN raises: so also where the ``peers`` extra is installed."""
    forbidden = {n.replace("-", "_") for n in FORBIDDEN}
    program = f"""
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise ModuleNotFoundError("imported: " + name, name=name)
sys.meta_path.insert(0, Absent())
import score_lab
names = [m.name for m in pkgutil.walk_packages(score_lab.__path__, "score_lab.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    ran = run("-c", program)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout) == sum(f != ROOT / "score_lab/__init__.py" for f in (ROOT / "score_lab").rglob("*.py"))


def test_it_is_imported_beside_a_folder_of_its_name(tmp_path):
    """Where one typed ``git clone`` there is a folder ``score_lab``, which Python takes for a package where nothing else is found."""
    installed = json.loads(distribution("score-lab").read_text("direct_url.json") or "{}").get("url")
    if installed != ROOT.as_uri():
        pytest.skip("what is installed here is not this clone")
    (tmp_path / "score_lab").mkdir()
    environment = network_guard.environment(JAX_PLATFORMS="cpu", PYTHONPATH="")
    program = [sys.executable, "-c", "import score_lab; print(score_lab.load.__name__)"]
    ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout == "load\n", ran.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_of_every_launcher(launcher):
    ran = run("-m", f"experiments.{launcher}", "--help")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "--" in ran.stdout and "Traceback" not in ran.stderr


@pytest.mark.parametrize("version, status", [((3, 10), 2), ((3, 14), 2), ((2, 7), 2), ((3, 12), 0)])
def test_an_unsupported_python_is_refused_in_one_line(version, status):
    program = f"import sys; sys.path.insert(0, 'tools'); import make_venv; make_venv.check_version({version})"
    ran = run("-c", program)
    assert ran.returncode == status
    assert len(ran.stderr.splitlines()) == (status != 0) and ("3.11, 3.12, 3.13" in ran.stderr) == (status != 0)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_python_that_cannot_run_says_why(tmp_path):
    """The first line that it says itself (pyenv's shims name the versions that there are), not only that it failed."""
    shim = tmp_path / "python3"
    shim.write_text("#!/bin/sh\necho 'pyenv: version 3.12 is not installed' >&2\necho more >&2\nexit 127\n")
    shim.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "VENV")}  # of make test
    ran = subprocess.run(["make", "venv", f"PYTHON={shim}"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    said = [line for line in ran.stderr.splitlines() if "cannot be run" in line]
    assert ran.returncode == 2 and len(said) == 1 and "(pyenv: version 3.12 is not installed); allowed: Python 3.11" in said[0]


def test_a_failed_install_says_one_line(tmp_path):
    """An environment whose pip says ERROR and fails: one line with pip's reason and what to try, no stamp left behind."""
    pip = tmp_path / "bin/python"
    pip.parent.mkdir()
    pip.write_text("#!/bin/sh\necho Collecting jax\necho 'ERROR: no such thing as jax' \nexit 3\n")
    pip.chmod(0o755)
    (tmp_path / ".installed").touch()
    ran = run("tools/make_venv.py", str(tmp_path), "constraints/py311.txt")
    assert ran.returncode == 1 and not (tmp_path / ".installed").exists()
    (line,) = ran.stderr.splitlines()
    assert "no such thing as jax; try:" in line and "pip.log" in line
    assert "Collecting jax" in (tmp_path / "pip.log").read_text()


def run(*arguments):
    """This Python in the repository's root, with no network."""
    environment = network_guard.environment(JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
