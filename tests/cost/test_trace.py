"""Time by instruction: own times of nested events, a real trace, and the lines of source that a compiled program names."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from score_lab.cost.hlo import Source, sources
from score_lab.cost.trace import newest_trace, own_times, slowest, times_by_instruction

TEXT = '''HloModule jit_f

FileNames
1 "/home/a/work.py"
2 "/home/a/score_lab/networks/dit.py"
3 "/site/jax/nn.py"

FunctionNames
1 "main"
2 "_Block.__call__"
3 "gelu"

FileLocations
1 {file_name_id=1 function_name_id=1 line=16 end_line=16 column=4 end_column=4}
2 {file_name_id=2 function_name_id=2 line=88 end_line=88 column=4 end_column=4}
3 {file_name_id=3 function_name_id=3 line=7 end_line=7 column=4 end_column=4}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

ENTRY %main {
  %dot.1 = f32[8]{0} dot(%a, %b), metadata={op_name="jit(f)/jvp()/dot_general" stack_frame_id=2}
  ROOT %gelu_fusion = f32[8]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(f)/transpose(jvp())/tanh" stack_frame_id=3}
  %copy.7 = f32[8]{0} copy(%a)
  %wrapped = f32[8]{0} fusion(%a), metadata={op_name="jit(f)/add" stack_frame_id=1}
}
'''


def test_an_instruction_is_named_by_the_innermost_line_of_no_library(monkeypatch):
    """As its file is imported; what a library does is its caller's, ours or a user's; where there is no caller, the library's own."""
    found = sources(TEXT, [Path("/site/jax")])
    assert found["dot.1"] == Source("dit.py:88 _Block.__call__", "dot_general", False)
    assert found["gelu_fusion"] == Source("dit.py:88 _Block.__call__", "tanh", True)
    assert found["wrapped"].place == "work.py:16 main" and "copy.7" not in found
    monkeypatch.setattr("sys.path", ["/home", "/home/a", "/site"])
    assert sources(TEXT, [Path("/site/jax")])["dot.1"].place == "score_lab/networks/dit.py:88 _Block.__call__"
    assert sources(TEXT, [])["gelu_fusion"].place == "jax/nn.py:7 gelu"
    assert sources(TEXT, [Path("/site/jax"), Path("/home/a/score_lab")])["gelu_fusion"].place == "work.py:16 main"
    assert sources(TEXT, [Path("/site"), Path("/home")])["gelu_fusion"].place == "jax/nn.py:7 gelu"


def test_libraries_in_an_environment_inside_our_own_folder_are_none_of_ours(monkeypatch):
    """An environment of `make` lies in the clone, whose folder may be called score_lab; a user's package may be installed in it, under
    Python's own modules."""
    lib = "/home/a/score_lab/.venv/lib/python3.12"
    text = TEXT.replace("/site/jax", f"{lib}/site-packages/flax/nnx").replace("/home/a/work.py", f"{lib}/site-packages/mine/work.py")
    monkeypatch.setattr("sys.path", [lib, f"{lib}/site-packages", "/home/a"])
    found = sources(text, [Path(lib), Path(f"{lib}/site-packages/flax")])
    assert found["gelu_fusion"].place == "score_lab/networks/dit.py:88 _Block.__call__" and found["wrapped"].place == "mine/work.py:16 main"


def test_a_dense_layer_of_flax_is_its_callers():
    """Of this jax and flax: the product stands in this file, below."""
    from flax import nnx

    layer = nnx.Linear(256, 256, rngs=nnx.Rngs(0))

    def step(x):
        return jnp.tanh(layer(x))

    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    found = sources(jax.jit(step).lower(x).compile().as_text()).values()
    places = {source.place for source in found if source.operation == "dot_general"}
    line = step.__code__.co_firstlineno + 1
    assert {place.rpartition("/")[2] for place in places} == {f"test_trace.py:{line} {step.__qualname__}"}


def test_own_times_leave_out_what_is_inside():
    """A loop of 10 with bodies of 3 and 4 in it has 3 of its own; an event that begins where another ends is beside it."""
    times = own_times([("loop", 0.0, 10.0), ("body", 1.0, 3.0), ("body", 4.0, 4.0), ("inner", 5.0, 1.0), ("next", 10.0, 2.0)])
    assert times == {"loop": 3.0, "body": 6.0, "inner": 1.0, "next": 2.0} and sum(times.values()) == 12.0


def test_places_add_up_and_what_has_no_source_keeps_its_name():
    where = {"a.1": Source("x.py:1 f", "add", False), "a.2": Source("x.py:1 f", "add", False)}
    parts = slowest({"a.1": 1e9, "a.2": 2e9, "copy.12": 1e9}, where, most=10)
    assert parts == [("x.py:1 f  add", 3.0, 0.75), ("copy", 1.0, 0.25)]
    assert slowest({"a.1": 1e9, "a.2": 2e9, "copy.12": 1e9}, where, most=1) == parts[:1] and slowest({}, where) == []


def test_a_trace_of_this_process_is_read(tmp_path):
    """A product of 512 takes nearly all of the time of what is traced."""
    run = jax.jit(lambda a, b: (a @ b) + 1.0)
    a = jnp.ones((512, 512))
    jax.block_until_ready(run(a, a))
    assert newest_trace(tmp_path) is None
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            jax.block_until_ready(run(a, a))
    times = times_by_instruction(newest_trace(tmp_path))
    assert sum(times.values()) > 0
    (top, seconds, share), *_ = slowest(times, sources(run.lower(a, a).compile().as_text()), most=1)
    assert "dot_general" in top or "add" in top
    assert share == pytest.approx(seconds * 1e9 / sum(times.values()))
