"""Time by instruction: own times of nested events, a real trace, and the lines of source that a compiled program names."""

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


def test_an_instruction_is_named_by_our_innermost_line():
    """That of jax inside it is passed over; where no frame is ours, the innermost there is."""
    found = sources(TEXT)
    assert found["dot.1"] == Source("dit.py:88 _Block.__call__", "dot_general", False)
    assert found["gelu_fusion"] == Source("dit.py:88 _Block.__call__", "tanh", True)
    assert found["wrapped"].place == "work.py:16 main" and "copy.7" not in found


def test_a_real_program_names_its_lines():
    """Of this jax: the product stands in this file, below."""

    def step(a, b):
        return jnp.tanh(a @ b)

    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    found = sources(jax.jit(step).lower(x, x).compile().as_text(), ours="tests").values()
    places = {source.place for source in found if source.operation == "dot_general"}
    line = step.__code__.co_firstlineno + 1
    assert places == {f"test_trace.py:{line} test_a_real_program_names_its_lines.<locals>.step"}


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
    (top, seconds, share), *_ = slowest(times, sources(run.lower(a, a).compile().as_text(), ours="tests"), most=1)
    assert "dot_general" in top or "add" in top
    assert share == pytest.approx(seconds * 1e9 / sum(times.values()))
