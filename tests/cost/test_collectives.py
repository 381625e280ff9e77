"""Collectives read in the text of a program: those of a CPU are in training/test_collectives.py, an accelerator's have two halves."""

from score_lab.cost.collectives import Collective, collectives, purposes

TEXT = """
  %all-reduce.1 = (f32[64]{0}, f32[64,2]{1,0}) all-reduce(%a, %b), metadata={op_name="jit(f)/(gradient/psum:metrics/psum)"}
  %ar = (f32[8]{0}, f32[]) all-reduce-start(%a, %c), to_apply=%add, metadata={op_name="jit(f)/gradient/psum"}
  %ag = (bf16[4]{0}, bf16[16]{0}) all-gather-start(bf16[4]{0} %d), dimensions={0}, metadata={op_name="jit(f)/forward/all_gather"}
  %cp = (f32[2], f32[2], u32[], u32[]) collective-permute-start(%e), source_target_pairs={{0,1}}
  %multiply = f32[8]{0} multiply(%a, %a)
  %ar-done = (f32[8]{0}, f32[]) all-reduce-done((f32[8]{0}, f32[]) %ar)
  %ag-done = bf16[16]{0} all-gather-done(%ag), metadata={op_name="jit(f)/forward/all_gather"}
  %cp-done = f32[2]{0} collective-permute-done(%cp)
"""


def test_one_of_two_halves_is_counted_once_by_its_results():
    """Operands and tokens, which stand in the type of a first half, are none; a second half without a scope has that of the first."""
    found = collectives(TEXT)
    assert found == [
        Collective("all-reduce", (("f32", (64,)), ("f32", (64, 2))), "jit(f)/(gradient/psum:metrics/psum)"),
        Collective("all-reduce", (("f32", (8,)), ("f32", ())), "jit(f)/gradient/psum"),
        Collective("all-gather", (("bf16", (16,)),), "jit(f)/forward/all_gather"),
        Collective("collective-permute", (("f32", (2,)),), ""),
    ]
    assert [one.moved for one in found] == [768, 36, 32, 8]
    assert purposes(found, ("gradient", "metrics")) == {
        ("all-reduce", ("gradient", "metrics")): 1, ("all-reduce", ("gradient",)): 1, ("all-gather", ()): 1, ("collective-permute", ()): 1,
    }  # fmt: skip
