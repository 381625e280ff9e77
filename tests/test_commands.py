"""Every command that README.md, docs/, the configurations and `make digits` tell to type has flags that its launcher knows.

Nothing is loaded: what is parsed is taken no further.
"""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

import benchmarks.__main__ as benches
from experiments import digits, overrides
from experiments.compiled import taken
from score_lab.build import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("[a-z]*.py"))
COMMAND = re.compile(r"python -m (experiments\.\w+|benchmarks)\b(.*)")
LAUNCHERS = sorted(f"experiments.{p.stem}" for p in (ROOT / "experiments").glob("*.py") if "\n    launch(main)" in p.read_text())


class Parsed(Exception):
    """The command line was understood."""


def words_of(line, more):
    """As a shell has them; a quotation that is open at the end of ``line`` goes on in the lines after it."""
    for k in range(4):
        try:
            return shlex.split(" ".join([line, *more[:k]]), comments=True)
        except ValueError:
            continue
    raise AssertionError(f"a quotation without an end: {line}")


def told(text):
    """``(module, words)`` of each command in ``text``: lines (more than one after a backslash or in quotes), or spans in backticks."""
    spans = re.findall(r"(?<!`)`(python -m [^`]+)`(?!`)", text)
    lines = re.sub(r"(?<!`)`python -m [^`]+`(?!`)", "", text.replace("\\\n", " ")).splitlines()
    first = {name: values.split()[0] for name, values in re.findall(r"for (\w+) in ([^;]+); *do\b", text)}
    lines = [*(" ".join(span.split()) for span in spans), *lines]
    for k, line in enumerate(lines):
        found = COMMAND.search(line)
        if found:
            words = words_of(re.sub(r"\$(\w+)", lambda m: first[m[1]], found[2]), lines[k + 1 :])
            end = next((i for i, word in enumerate(words) if word.endswith(";")), None)  # `for s in 0 1; do ...; done`
            yield found[1], words if end is None else [*words[:end], words[end].removesuffix(";")]


def everywhere():
    """``(where, module, words)`` of all of them."""
    for file in (*PAGES, *CONFIGS):
        yield from ((file.name, *command) for command in told(file.read_text()))
    yield from (("make digits", *command) for command in told("\n".join(digits.then_try(Path("runs/a b")))))


@pytest.fixture
def understood(monkeypatch):
    """``understood(module, words)``: runs its main as far as the flags; raises what it says of them."""
    monkeypatch.chdir(ROOT)

    def stops(parse):
        def parsed(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return parsed

    monkeypatch.setattr(overrides, "parse", stops(overrides.parse))
    monkeypatch.setattr(overrides.Parser, "parse_args", stops(overrides.Parser.parse_args))
    monkeypatch.setattr(benches, "run", stops(lambda *_: None))
    for name in LAUNCHERS:
        module = importlib.import_module(name)
        if hasattr(module, "parse"):
            monkeypatch.setattr(module, "parse", stops(module.parse))

    def run(module, words):
        monkeypatch.setattr(sys, "argv", [module, *(words if module == "benchmarks" else taken(words)[1])])  # as ``launch`` does
        with pytest.raises(Parsed):
            (benches if module == "benchmarks" else sys.modules[module]).main()

    return run


def test_every_command_that_is_told_is_understood(understood):
    """By its launcher, its configuration and variant among it; all launchers are told of somewhere."""
    commands, wrong = list(everywhere()), []
    for where, module, words in commands:
        try:
            understood(module, words)
        except (ConfigError, SystemExit) as error:
            wrong.append((where, module, shlex.join(words), str(error)))
    assert not wrong, "\n".join(map(str, wrong))
    assert {module for _, module, _ in commands} == {*LAUNCHERS, "benchmarks"} and len(commands) > 70
    assert [where for where, *_ in commands][-2:] == ["make digits"] * 2


@pytest.mark.parametrize("command", ["python -m experiments.sample --workdir x --stepz 3", "python -m experiments.train --wrkdir x",
                                     "python -m benchmarks recording", "python -m benchmarks --only recordin",
                                     "python -m experiments.snr_mismatch --config configs/mismatch.py:mixtur"])  # fmt: skip
def test_what_is_misspelt_is_not(understood, command, capsys):
    """So the test above can fail."""
    ((module, words),) = told(f"some words\n{command}    # and a remark")
    if module == "benchmarks":
        with pytest.raises((SystemExit, pytest.fail.Exception)):  # argparse exits; a bad name is status 2, without a run
            understood(module, words)
    else:
        with pytest.raises(ConfigError):
            understood(module, words)


def test_every_target_that_is_told_is_in_the_makefile():
    """``make bench`` and the like."""
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"digits", "test", "bench", "bench-samplers", "peers", "samplers-doc", "oracle", "ablate"} <= named <= there
