"""What the launchers share: a ``--config FILE[:VARIANT]`` with overrides, and one line and an exit status for whatever goes wrong.

0 done      1 a run could not go on (a loss that is not finite, a full disk, data that failed)      2 a user's error, one line on stderr
130 stopped by Ctrl-C (143: by SIGTERM)
"""

from __future__ import annotations

import atexit
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.compiled import FLAG, HELP, keep_programs, taken
from score_lab.build import ConfigError, nearest
from score_lab.specs import literal, spec_of

FAILED, REFUSED = 1, 2
_interrupted: list[int] = []
AGAIN = 0.05
"""Seconds after which a Ctrl-C that was dropped is given once more."""
INSTALLED = Path(__file__).resolve().parent.parent
"""Where this package and ``configs`` lie: the clone, or site-packages."""


def launch(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and exits: a ConfigError is one line and status 2, a run that could not go on one line and status 1, no traceback.

    ``--compilation_cache`` is taken from the command line before ``main`` reads it.
    """
    interrupt_again()
    atexit.register(leave_interrupted)  # the first to be registered is the last to be called
    try:
        directory, sys.argv[1:] = taken(sys.argv[1:])
        if directory is not None:
            keep_programs(directory)
        status = main() or 0
    except ConfigError as error:
        status = fail(str(error), REFUSED)
    except MemoryError as error:
        what = str(error) or "there is not enough"
        status = fail(f"memory: {what}; allowed: fewer samples (--n), fewer steps (--steps) or a smaller --chunk", REFUSED)
    except KeyboardInterrupt:
        print("interrupted by Ctrl-C", file=sys.stderr, flush=True)
        status = 128 + signal.SIGINT
        _interrupted.append(status)
    except RuntimeError as error:
        from score_lab.training import RunStopped

        if not isinstance(error, RunStopped):
            raise
        status = fail(str(error), FAILED)
    sys.exit(status)


def interrupt_again() -> None:
    """From now on a Ctrl-C that Python drops is given once more: one that comes while the garbage collector calls JAX back would end
    nothing, and be a warning of several lines."""
    before = sys.unraisablehook

    def hook(told: Any) -> None:
        if told.exc_type is not KeyboardInterrupt:
            before(told)
            return
        later = threading.Timer(AGAIN, os.kill, [os.getpid(), signal.SIGINT])
        later.daemon = True
        later.start()

    sys.unraisablehook = hook


def leave_interrupted() -> None:
    """After a Ctrl-C, the end of the process when all else that was to be done at its end is done: jaxlib, interrupted while it traces or
    compiles, may crash when Python takes it apart."""
    if _interrupted:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_interrupted[0])


def fail(line: str, status: int) -> int:
    """``line`` on stderr, on one line; returns ``status``."""
    print("error: " + " ".join(line.split()), file=sys.stderr, flush=True)
    return status


def again(name: str, words: Sequence[str]) -> str:
    """The line to type to run the launcher ``name`` with ``words``, quoted for a shell: of it ``shlex.split`` gives them back."""
    return shlex.join(["python", "-m", f"experiments.{name}", *words])


def parse(about: str, argv: Sequence[str], define: Callable[[flags.FlagValues], None], default: str | None = None) -> flags.FlagValues:
    """The flags of a launcher: ``--config`` and what ``define`` adds.  Prints ``about`` and the flags, and exits with 0, for ``--help``.

    ``--config.a.b=VALUE`` overrides a value of the configuration, of the same type; where it has no such value, it is set, and whoever
    builds that section refuses it if it is misspelt.  Without ``--config`` the configuration is ``default`` (FILE or FILE:VARIANT), and
    overrides are of it.

    Raises ConfigError for unknown flags, a configuration that does not exist or has no such variant, and values of a wrong type.
    """
    words = [word for word in argv[1:] if word not in ("--help", "-h", "-help")]
    overrides, others = split(words)
    if default is not None and not any(word.partition("=")[0] == "--config" for word in others):
        others = [f"--config={default}", *others]
    values = _read(define, others)
    if values.config is not None:
        known = [f"--config.{name}={value}" for name, value in overrides if _there(values.config, name, value)]
        new = [(name, value) for name, value in overrides if not _there(values.config, name, value)]
        values = _read(define, [*others, *known])
        for name, value in new:
            _set(values.config, name, value)
    if len(words) < len(argv[1:]):
        print(help_text(about, values))
        sys.exit(0)
    return values


def read_config(spec: str) -> ConfigDict:
    """The configuration ``FILE`` or ``FILE:VARIANT``, of this folder or as installed (``configs/``); ConfigError where there is none."""
    return _read(lambda values: None, [f"--config={spec}"]).config


def split(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """``--config.a.b=VALUE`` (or with a space) as pairs, and the other words."""
    overrides, others, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            others.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals and (not rest or rest[0].startswith("--")):
            raise ConfigError(f"{word}: no value; allowed: {word}=VALUE")
        overrides.append((name, value if equals else rest.pop(0)))
    return overrides, others


def _read(define: Callable[[flags.FlagValues], None], words: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    words = located(words)
    argv = ["launcher", *words]
    about = "FILE or FILE:VARIANT, for example configs/digits.py:flow"
    config_flags.DEFINE_config_file("config", None, about, flag_values=values, sys_argv=argv)
    define(values)
    try:
        rest = values(argv)[1:]
        if values.config is not None:
            values.config.to_dict()  # ml_collections tells of a file that is not there when it is first read
    except Exception as error:  # noqa: BLE001 - whatever a configuration file raises is told in one line, with the place
        raise ConfigError(explain(error, words)) from None
    if rest:
        near = nearest(rest[0], [f"--{name}" for name in values])
        raise ConfigError(f"command line: {rest[0]!r} is refused; allowed: --FLAG=VALUE{near}")
    return values


def located(words: Sequence[str]) -> list[str]:
    """``words`` with the file of ``--config`` where it is: a relative one that this folder lacks is looked for beside this package."""
    words = list(words)
    for i, word in enumerate(words):
        name, equals, spec = word.partition("=")
        at = i if equals else i + 1
        if name == "--config" and at < len(words):
            spec = spec if equals else words[at]
            file = spec.partition(":")[0]
            if not os.path.isabs(file) and not os.path.exists(file) and (INSTALLED / file).is_file():
                words[at] = (f"{name}=" if equals else "") + str(INSTALLED / spec)
    return words


def _shipped() -> list[str]:
    """The configuration files that one may name from here: ``configs/*.py`` of this folder and as installed."""
    return sorted({f"configs/{file.name}" for home in (Path(), INSTALLED) for file in home.glob("configs/[a-z]*.py")})


def _there(config: Any, name: str, text: str) -> bool:
    """Whether ``config`` has a value under the dotted ``name`` that says of what type the override ``text`` must be.

    A word says nothing where a number is given: who builds the section knows whether it takes numbers too (``sigma_data="data"``).  A part
    in one word, ``NAME(field=value)``, says what a section is.
    """
    for part in name.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return False
        config = config[part]
    if isinstance(config, ConfigDict):
        return not isinstance(literal(text), str)
    return config is not None and not (isinstance(config, str) and isinstance(literal(text), (int, float)))


def _set(config: ConfigDict, name: str, text: str) -> None:
    """Sets the dotted ``name`` to ``text``, a Python literal or a word (of a section: a part); a section that is None or absent is made."""
    *parents, last = name.split(".")
    with config.unlocked():
        for part in parents:
            if config.get(part) is None:
                config[part] = ConfigDict()
            config = config[part]
            if not isinstance(config, ConfigDict):
                raise ConfigError(f"--config.{name}: {text!r} is refused; allowed: a field of a section, and {part} is {config!r}")
        with config.unlocked(), config.ignore_type():
            part = isinstance(config.get(last), ConfigDict) and isinstance(literal(text), str)
            config[last] = spec_of(text, f"--config.{name}") if part else literal(text)


def explain(error: Exception, words: Sequence[str]) -> str:
    """One line for what absl, ml_collections or the configuration file raised."""
    text = str(error)
    if isinstance(error, ConfigError):
        return text
    given = [w.partition("=")[2] or "".join(words[i + 1 : i + 2]) for i, w in enumerate(words) if w.partition("=")[0] == "--config"]
    file = given[-1].partition(":")[0] if given else None
    if isinstance(error, OSError) and not os.path.isfile(file or ""):
        near = nearest(file, _shipped()) or nearest(f"configs/{Path(file).stem}.py", _shipped()) if file else ""
        return f"--config: {given[-1] if given else None!r} is refused; allowed: a configuration file that can be read{near}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if file and os.path.abspath(frame.filename) == os.path.abspath(file)]
    if lines:
        return f"--config: {type(error).__name__}: {text} ({file}, line {lines[-1]}); allowed: a configuration file that runs"
    if "Traceback (most recent call last)" in text:  # the configuration file raised: its last line says what, the one before where
        what = text.strip().splitlines()[-1].partition(": ")
        places = re.findall(r'File "([^"]+)", line (\d+), in get_config', text)
        where = f" ({places[-1][0]}, line {places[-1][1]})" if places and not what[0].endswith("ConfigError") else ""
        return (what[2] if what[0].endswith(("ConfigError", "ValueError")) else f"--config: {''.join(what)}") + where
    wrong = re.match(r"flag --(config\.\S+?)=(.*?): (.*)", text)
    if wrong:
        return f"{wrong[1]}: {wrong[2]!r} is refused; allowed: a value of the type that the configuration has there ({wrong[3]})"
    return f"command line: {text}"


def help_text(about: str, values: flags.FlagValues) -> str:
    """The launcher's docstring, its flags, and every value of the configuration if one was given."""
    lines = [about.strip(), "", "flags:"]
    for name in sorted(values):
        if not name.startswith("config."):
            default = "" if values[name].default is None else f" (default: {values[name].default})"
            lines.append(f"  --{name}: {values[name].help}{default}")
    lines.append(f"  {FLAG}: {HELP}")
    if isinstance(values["config"].value, ConfigDict):
        lines += ["", "the configuration, each value with the flag that overrides it:"]
        lines += [f"  --config.{name}={value!r}" for name, value in flat(values["config"].value.to_dict())]
    else:
        lines += ["", "with --config=FILE:VARIANT --help: also every value of that configuration and the flag that overrides it"]
    return "\n".join(lines)


def flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``[("training.steps", 2000), ...]``."""
    pairs = []
    for name, value in tree.items():
        pairs += flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs


def set_xla_flag(flag: str) -> None:
    """Adds ``flag`` to XLA_FLAGS, which XLA reads once, when JAX starts."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
