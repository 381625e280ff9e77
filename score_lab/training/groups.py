"""Parameter groups and frozen leaves: which leaf is updated by which settings.

    label(leaf) = frozen      where a pattern of ``config.optimizer.freeze`` matches its name
                  group_i     else, i the first of ``config.optimizer.groups`` whose ``pattern`` matches
                  main        else: the settings of ``config.optimizer``

A group is ``{"pattern": ..., **fields}``: its fields are those of ``config.optimizer`` that differ for its leaves (the rate, the weight
decay, an argument of the optimizer).  Warm-up and decay of the rate are those of the run, clipping is by the norm over all trained
gradients.  A frozen leaf has no gradient, no update, no weight decay and no memory in the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from score_lab.build import refuse
from score_lab.training.names import check_list, check_patterns, leaf_name, matches
from score_lab.types import PyTree

__all__ = ["check_groups", "grouped", "hold", "patterns_of"]

FROZEN, MAIN = "frozen", "main"


def patterns_of(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """``(freeze, [the pattern of each group])`` of ``config.optimizer``; ConfigError for what is no list of these."""
    freeze, groups = config.get("freeze") or [], config.get("groups") or []
    check_list(freeze, "config.optimizer.freeze")
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in groups):
        refuse("config.optimizer.groups", groups, "a list of dicts {'pattern': 'network.blocks.0.*', 'learning_rate': 1e-4}")
    for i, group in enumerate(groups):
        pattern = group.get("pattern")
        if not isinstance(pattern, str):
            refuse(f"config.optimizer.groups[{i}].pattern", pattern, "a pattern of leaf names, for example 'network.blocks.0.*'")
    return list(freeze), [group["pattern"] for group in groups]


def check_groups(config: Mapping[str, Any], names: Sequence[str]) -> None:
    """ConfigError for a pattern of ``config.optimizer`` that is of no leaf of ``names``, or of none that is left to it, and where nothing
    is left to train.
    """
    freeze, groups = patterns_of(config)
    check_patterns(freeze, names, "config.optimizer.freeze")
    labels = {_label(name, freeze, groups) for name in names}
    for i, pattern in enumerate(groups):
        field = f"config.optimizer.groups[{i}].pattern"
        check_patterns([pattern], names, field)
        if f"group_{i}" not in labels:
            refuse(field, pattern, "a pattern with leaves of its own: freeze or an earlier group has all that this one matches")
    if labels == {FROZEN}:
        refuse("config.optimizer.freeze", freeze, "patterns that leave a leaf to train")


def grouped(config: Mapping[str, Any], main: optax.GradientTransformation, groups: Sequence[optax.GradientTransformation]) -> Any:
    """``(the transformation of all leaves, the leaves that are trained as a tree of bools of a tree)``."""
    freeze, patterns = patterns_of(config)
    transforms = {MAIN: main} | {f"group_{i}": group for i, group in enumerate(groups)}
    if freeze:
        transforms[FROZEN] = optax.set_to_zero()
    labels = _by_name(lambda name, _: _label(name, freeze, patterns))
    return optax.partition(transforms, labels), _by_name(lambda name, _: not matches(freeze, name))


def hold(config: Mapping[str, Any], params: PyTree) -> PyTree:
    """``params``, of which those that ``config.optimizer`` freezes have no gradient."""
    freeze = config.get("freeze")
    if not freeze:
        return params
    return _by_name(lambda name, x: jax.lax.stop_gradient(x) if matches(freeze, name) else x)(params)


def _label(name: str, freeze: Sequence[str], groups: Sequence[str]) -> str:
    if matches(freeze, name):
        return FROZEN
    return next((f"group_{i}" for i, pattern in enumerate(groups) if matches([pattern], name)), MAIN)


def _by_name(function: Callable[[str, Any], Any]) -> Callable[[PyTree], PyTree]:
    """``tree -> tree`` of ``function(name, leaf)``."""
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, leaf: function(leaf_name(path), leaf), tree)
