"""Data classes that are pytrees: what is a leaf, and that a class is never taken for another one by the compiler's cache."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from score_lab.paths import VP, SubVP
from score_lab.targets import X0, Eps, F, Score, V, Velocity
from score_lab.types import leaf, pytree_dataclass, static


@pytree_dataclass
class Part:
    scale: float = 2.0
    count: int = 3
    name: str = "a"
    inner: object = leaf(default=None)
    rate: float = static(default=0.5)


def test_floats_and_leaves_are_traced_and_the_rest_is_part_of_the_program():
    part = Part(inner={"w": 1.0})
    assert jax.tree.leaves(part) == [2.0, 1.0]
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(part)] == [".scale", ".inner['w']"]
    doubled = jax.tree.map(lambda v: 2 * v, part)
    assert doubled == Part(4.0, 3, "a", {"w": 2.0}, 0.5)
    assert jax.tree.structure(part) != jax.tree.structure(Part(count=4, inner={"w": 1.0}))
    assert jax.tree.structure(part) == jax.tree.structure(Part(scale=7.0, inner={"w": 3.0}))


@pytest.mark.parametrize("parts", [(X0(), Eps(), Score(), V(), Velocity()), (VP(), SubVP())], ids=["targets", "paths"])
def test_two_classes_with_the_same_fields_are_two_structures(parts):
    for a, b in itertools.combinations(parts, 2):
        assert jax.tree.structure(a) != jax.tree.structure(b)
    assert jax.tree.structure(F(0.5)) == jax.tree.structure(F(0.6))


def test_jit_never_runs_the_program_of_another_class():
    """With jax.tree_util.register_dataclass in place of ours, jax 0.10.2 ran another class's program for one class in five."""
    run = jax.jit(lambda part: part.answer())
    for number in range(100):
        cls = pytree_dataclass(type(f"C{number}", (), {"__annotations__": {"a": float}, "answer": lambda self, n=number: 0 * self.a + n}))
        assert int(run(cls(jnp.asarray(1.0)))) == number
