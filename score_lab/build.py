"""``{"target": "module:Name", **kwargs}`` -> object, with errors that name the field, show the value and suggest.

This is the only place where a configuration becomes objects.  A part that is ours may be named by its bare name
(``"DDIM"``); one from anywhere else by its import path (``"my_package.my_module:Mine"``).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import numbers
import os
import pkgutil
import sys
import traceback
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["ConfigError", "build", "closest", "find", "makes", "nearest", "refuse", "within"]


class ConfigError(ValueError):
    """A user's error: one line that names the field, shows the value and says what is allowed.  Launchers exit with 2 on it."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest of ``names``, or an empty string."""
    close = closest(name, names)
    return "" if close is None else f" (did you mean {close!r}?)"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is most like ``name``; None where none is like it."""
    names = [str(n) for n in names]
    folded, plain = {_folded(n): n for n in names}, _folded(str(name))
    close = [folded[plain]] if plain in folded else difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if not close:
        close = [folded[c] for c in difflib.get_close_matches(plain, folded, n=1, cutoff=0.5)]
    return close[0] if close else None


def _folded(name: str) -> str:
    """``dpm++2m`` and ``DPMPP2M`` are one word."""
    return name.lower().replace("+", "p")


def refuse(field: str, value: Any, allowed: str, names: Iterable[str] | None = None) -> typing.NoReturn:
    """Raises ``ConfigError("field: value; allowed: ... (did you mean ...?)")``, always on one line."""
    hint = nearest(str(value), names) if names is not None else ""
    raise ConfigError(" ".join(f"{field}: {value!r} is refused; allowed: {allowed}{hint}".split()))


def within(field: str, error: ConfigError, names: Iterable[str]) -> ConfigError:
    """``error`` of what ``field`` describes: where it is about one of its fields, ``names``, by the name that one may type."""
    return ConfigError(f"{field}.{error}" if str(error).partition(": ")[0] in names else f"{field}: {error}")


def find(name: Any, room: str | None = None, field: str = "target", needs: tuple[str, ...] = ()) -> Any:
    """The class or function behind ``"module:Name"``, or behind a bare name exported by the package ``room``.

    A ConfigError for a name that is not there lists those with the attributes ``needs`` (or whose results have them), without the bases
    that leave a method to those who derive from them.
    """
    if not isinstance(name, str):
        refuse(field, name, "a string 'module:Name'")
    module_name, colon, attribute = name.partition(":")
    if not colon:
        if room is None:
            refuse(field, name, "an import path 'module:Name'")
        module_name, attribute = room, name
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(missing + "."):
            raise ConfigError(f"{field}: {name!r} needs the module {missing!r}, which is not installed") from None
        refuse(field, name, f"a module that can be imported; {missing!r} cannot{_beside(missing)}")
    except Exception as error:  # noqa: BLE001 - whatever a module of somebody's own raises is told in one line, with the place
        place = f" ({error.filename}, line {error.lineno})" if isinstance(error, SyntaxError) else _place(error)
        refuse(field, name, f"a module that can be imported; {module_name!r} raises {type(error).__name__}: {error}{place}")
    names = list(getattr(module, "__all__", [])) or [n for n in vars(module) if not n.startswith("_")]
    if not hasattr(module, attribute) or isinstance(getattr(module, attribute), types.ModuleType):
        names = [n for n in names if makes(getattr(module, n, None), needs) and not _left_open(getattr(module, n, None))]
        public = ", ".join(sorted(names))
        refuse(field, name, f"one of {public} in {module_name}, or 'my_package.my_module:Name'{nearest(attribute, names)}")
    return getattr(module, attribute)


def _beside(missing: str) -> str:
    """Where the module ``missing`` was looked for, and the nearest that is there."""
    package, _, name = missing.rpartition(".")
    homes = list(getattr(sys.modules.get(package), "__path__", [])) if package else [os.getcwd(), *filter(None, _python_path())]
    there = [found.name for found in pkgutil.iter_modules(homes)]
    where = f"it is not in {', '.join(homes)}" if package else f"it is neither in {os.getcwd()} nor in a folder of PYTHONPATH"
    return f": {where}{nearest(name, there)}"


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)


def _place(error: BaseException) -> str:
    """`` (FILE, line N)`` of the innermost frame outside the import machinery that ``error`` came through, or an empty string."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen") and f.filename != __file__]
    frames = [f for f in frames if f.filename != importlib.__file__]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def build(spec: Any, room: str | None = None, field: str = "config", needs: tuple[str, ...] = (), **context: Any) -> Any:
    """Builds what ``spec`` describes and checks it on the host.

    Args:
      spec: ``{"target": "module:Name", **kwargs}`` (a dict or ConfigDict), a bare string (no kwargs), or an object that is built
        already, which is returned.  Nested dicts with a ``target`` and fields whose annotation is a data class are built first.
      room: the package in which bare names are looked up, for example ``"score_lab.paths"``.
      field: what error messages call the spec, for example ``"config.path"``.
      needs: attributes without which the object is of another kind than asked for.
      context: keyword arguments handed over by the caller where the target takes them; ``spec`` wins.

    Returns the object, after ``object.check()`` where it has one.

    Raises ConfigError naming the field, the value, what is allowed and the nearest name.
    """
    if isinstance(spec, str):
        spec = {"target": spec}
    if not isinstance(spec, Mapping) and not hasattr(spec, "to_dict"):
        return spec
    spec = dict(spec.items())
    if "target" not in spec:
        refuse(f"{field}.target", None, "the name or import path of what is to be built")
    chosen = spec.pop("target")
    target = find(chosen, room, f"{field}.target", needs)
    if not callable(target) or getattr(target, "_is_protocol", False):
        refuse(f"{field}.target", chosen, "a class or function that makes one, which this is not")
    parameters = inspect.signature(target).parameters
    if isinstance(target, type) and _undecorated(target):
        refuse(f"{field}.target", chosen, f"a data class: decorate {target.__name__} with @pytree_dataclass (of score_lab.types)")
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kwargs = {k: v for k, v in context.items() if k in parameters}
    hints = _hints(target)
    for name, value in spec.items():
        if name not in parameters and not open_ended:
            known = ", ".join(parameters) or "none"
            refuse(f"{field}.{name}", value, f"the fields of {target.__name__}: {known}{nearest(name, parameters)}")
        kwargs[name] = _value(value, hints.get(name), room, f"{field}.{name}")
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    missing = [n for n in needed if n not in kwargs]
    if missing:
        refuse(f"{field}.{missing[0]}", None, f"a value: {target.__name__} cannot be built without it")
    try:
        built = target(**kwargs)
        lacking = [n for n in needs if getattr(built, n, None) is None]
        if lacking:
            refuse("target", chosen, f"what has {', '.join(needs)}: {target.__name__} gives no {lacking[0]}")
        if hasattr(built, "check"):
            built.check()
    except NotImplementedError:
        refuse(f"{field}.target", chosen, f"a class that writes what {target.__name__} leaves open")
    except ConfigError as error:
        raise within(field, error, ("target", *parameters)) from None
    return built


def _undecorated(target: type) -> bool:
    """Whether the class annotates fields of its own that nothing makes arguments of: ``@pytree_dataclass`` was forgotten."""
    made = "__init__" in vars(target) or "__dataclass_fields__" in vars(target) or target.__new__ is not object.__new__
    plain = target.__init__ is object.__init__ or dataclasses.is_dataclass(target)
    return bool(vars(target).get("__annotations__")) and not made and plain


def makes(target: Any, needs: tuple[str, ...]) -> bool:
    """Whether ``target`` is a class with the attributes ``needs``, or a function annotated to return one."""
    made = target if isinstance(target, type) else _hints(target).get("return")
    there = {n for c in getattr(made, "__mro__", ()) for n in vars(c)}  # hasattr would find the methods of type itself
    return not needs or (set(needs) <= there and not getattr(made, "_is_protocol", False))


def _left_open(target: Any) -> bool:
    """Whether ``target`` is a class that leaves a method to those who derive from it: one that raises NotImplementedError."""
    methods = [inspect.unwrap(getattr(target, name)) for name in dir(target)] if isinstance(target, type) else []
    return any("NotImplementedError" in method.__code__.co_names for method in methods if inspect.isfunction(method))


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if isinstance(target, type) and not dataclasses.is_dataclass(target) else target)
    except Exception:  # noqa: BLE001 - an annotation that cannot be resolved is one that is not checked
        return {}


def _value(value: Any, hint: Any, room: str | None, field: str) -> Any:
    """``value`` with nested specs built, lists made tuples, ints made floats where a float is asked, and its type checked."""
    if hasattr(value, "to_dict") or isinstance(value, Mapping):
        if "target" in value:
            return build(value, room, field)
        part = next((p for p in _parts(hint) if dataclasses.is_dataclass(p)), None)
        if _allowed(hint):
            refuse(field, dict(value.items()), _names(_allowed(hint)))
        return dict(value.items()) if part is None else build({"target": f"{part.__module__}:{part.__qualname__}", **value}, room, field)
    if isinstance(value, list):
        value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    allowed = _allowed(hint)
    if allowed is None or isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed):
        return value
    if float in allowed and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if int in allowed and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    one = tuple in allowed and isinstance(value, numbers.Number)
    refuse(field, value, _names(allowed) + (f", of one number ({value!r},)" if one else ""))


def _names(allowed: tuple[type, ...]) -> str:
    """``int or None``."""
    return " or ".join("None" if a is type(None) else a.__name__ for a in allowed)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint alone."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)


def _allowed(hint: Any) -> tuple[type, ...] | None:
    """The plain types that ``hint`` allows, or None if it says something that is not checked here."""
    plain = (int, float, str, bool, tuple, type(None))
    parts = tuple(typing.get_origin(p) or p for p in _parts(hint))
    return parts if parts and all(p in plain for p in parts) else None
