"""A folder of somebody else's, on the import path: a configuration and a package of their own, as a researcher would have them."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def folder(home: Path, package: str, files: Mapping[str, str], config: str) -> Iterator[Path]:
    """``home``/config.py of the text ``config`` beside ``package`` with ``files`` (module -> text), importable while it lasts."""
    (home / package).mkdir()
    for name, text in {"__init__": "", **files}.items():
        (home / package / f"{name}.py").write_text(text)
    (home / "config.py").write_text(config)
    sys.path.insert(0, str(home))
    try:
        yield home / "config.py"
    finally:
        sys.path.remove(str(home))
        for name in [n for n in sys.modules if n.partition(".")[0] == package]:
            del sys.modules[name]
