"""The feature space of Frechet distance and KID, from a word.

    PCA            the first 32 principal components of the training images (the default; ``PCA(components=16)``: others)
    Pixels         the values themselves
    module:name    a function (n, *shape) -> (n, k), an object that is called so, or a class or factory without arguments that makes one
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from score_lab.ablation.keys import code_of_modules
from score_lab.build import build, find, refuse
from score_lab.evaluation import PCA, Pixels, digest
from score_lab.specs import name_of, spec_of

__all__ = ["Function", "check_features", "feature_space"]

COMPONENTS = 32


@dataclasses.dataclass(frozen=True)
class Function:
    """Somebody's own space: ``call`` (n, *shape) -> (n, k), known by the name and the source of what it came from."""

    name: str
    digest: str
    call: Callable[[np.ndarray], Any]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, *shape) -> (n, k) float64; ConfigError for another shape or values that are not finite."""
        found = np.asarray(self.call(np.asarray(x)), np.float64)
        if found.ndim != 2 or len(found) != len(x) or not np.isfinite(found).all():
            shown = found.shape if found.ndim != 2 or len(found) != len(x) else "values that are not finite"
            refuse("features", f"{self.name} gives {shown}", f"finite values ({len(x)}, k)")
        return found


def check_features(words: Any) -> dict[str, Any]:
    """The specification; ConfigError for what is neither of the module's three."""
    spec = spec_of(words, "features")
    target = str(spec["target"])
    if ":" in target:
        if not callable(find(target, None, "features")):
            refuse("features", target, "a function (n, *shape) -> (n, k)")
    elif target not in ("PCA", "Pixels"):
        refuse("features", target, "PCA, PCA(components=K), Pixels, or 'my_package.my_module:function'", ("PCA", "Pixels"))
    fields = {"PCA": ("components",), "Pixels": ()}.get(target)
    for name, value in spec.items():
        if name != "target" and fields is not None and (name not in fields or type(value) is not int or value < 1):
            refuse(f"features.{name}", value, "a whole number from 1" if name in fields else f"the fields of {target}: {', '.join(fields)}")
    return spec


def feature_space(words: Any, train: np.ndarray) -> Any:
    """What ``words`` say, fitted to ``train`` (n, *shape) where it needs that: (n, *shape) -> (n, k) with a ``name`` and a ``digest``."""
    spec = check_features(words)
    if spec["target"] == "PCA":
        most = min(int(np.prod(train.shape[1:])), len(train) - 1)
        return PCA.fit(train, spec.get("components", min(COMPONENTS, most)))
    if spec["target"] == "Pixels":
        return Pixels()
    found = find(spec["target"], None, "features")
    if isinstance(found, type) or not _takes_one(found) or len(spec) > 1:
        found = build(spec, None, "features")
    module = getattr(found, "__module__", None) or spec["target"].partition(":")[0]
    space = Function(name_of(spec), digest("features", name_of(spec, whole=True), code_of_modules(module)), found)
    space(train[:2])
    return space


def _takes_one(call: Callable) -> bool:
    """Whether it is called with the images: some positional argument has no default."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
