"""``--compilation_cache DIRECTORY`` of every launcher: compiled programs are kept there, and a later process reads what it would compile.

    DIRECTORY / MACHINE / one file for each program,      MACHINE: what the processor can do, as it says itself

JAX finds a program by its text, compiler options, devices and its own version; a CPU's instruction set is none of these, so that each kind
of machine has a folder of its own.  Nothing is kept unless it is asked for, by the flag or by JAX's own JAX_COMPILATION_CACHE_DIR.
Processes that this one starts on this machine inherit the folder.  The cells of a sweep, which may run on another machine, are told
DIRECTORY instead, and find the folder of theirs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from score_lab.build import refuse

__all__ = ["FLAG", "HELP", "VARIABLES", "elsewhere", "keep_programs", "machine", "taken"]

FLAG = "--compilation_cache"
HELP = "a directory that keeps compiled programs for later processes, of this command or of any other"
VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
"""What is set for the processes that this one starts; the first names the folder of this machine."""
_asked: list[str] = []


def taken(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """``(DIRECTORY, argv without the flag)``; ConfigError for a flag without a value."""
    directory, rest, words = None, [], list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name != FLAG:
            rest.append(word)
            continue
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else ""
        if not value:
            refuse(FLAG, None, f"{FLAG}=DIRECTORY, {HELP}")
        directory = value
    return directory, rest


def keep_programs(directory: str) -> Path:
    """Has JAX keep every program that it compiles from now on in ``directory``, made if need be; gives the folder of this machine.

    Before the first compilation.  Raises ConfigError for a directory that cannot be written.
    """
    folder = Path(directory).resolve() / machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        refuse(FLAG, directory, "a directory that can be made and written")
    for name, value in zip(VARIABLES, (str(folder), 0.0), strict=True):
        os.environ[name] = str(value)
        if "jax" in sys.modules:  # it has read its environment
            sys.modules["jax"].config.update(name.lower(), value)
    _asked[:] = [directory]
    return folder


def elsewhere() -> tuple[list[str], dict[str, None]]:
    """``(words, environment)`` of a process that may run on another machine: the flag as this process was given it, and without what is
    set here.  Both are empty where the flag was not given."""
    return [f"{FLAG}={directory}" for directory in _asked], dict.fromkeys(VARIABLES) if _asked else {}


def machine() -> str:
    """A name for what programs of this machine's processor need: its architecture, and a digest of its features."""
    try:
        said = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        said = []
    features = [line.partition(":")[2] for line in said if line.split(":")[0].strip() in ("flags", "Features", "model name")][:2]
    digest = hashlib.sha256("\n".join([platform.processor(), *features]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
