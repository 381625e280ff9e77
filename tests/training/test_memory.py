"""Buffers are kept by the process: what was freed is there for the next allocation, unmapped and unzeroed."""

import subprocess
import sys

import pytest

from score_lab.training import memory

PROGRAM = """
import resource, runpy
import numpy as np
if {kept}:
    assert runpy.run_path({file!r})["keep_buffers"]()
def faults(mega=48):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(mega * 2**20, 1, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_a_buffer_of_48_mb_is_touched_anew_only_where_it_is_not_kept():
    """12288 pages: every one of them is a page fault (or every 512th, where pages are huge) of each allocation, or none is."""

    def run(kept: bool) -> int:
        program = PROGRAM.format(kept=kept, file=memory.__file__)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    assert run(True) <= 8 < 20 <= run(False)


def test_elsewhere_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_buffers() is False
