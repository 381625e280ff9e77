"""What a program costs and what bounds it: floating-point operations, bytes moved, the device's measured peaks, its trace.

Nothing of diffusion is known here: a program is a function of arrays, or what XLA compiled of it.
"""

from score_lab.cost.flops import flops_of
from score_lab.cost.peaks import Peaks, measured_peaks
from score_lab.cost.program import Memory, bytes_of_program, memory_of, xla_flops
from score_lab.cost.roofline import FAR_BELOW, Measured, reached, turning_point

__all__ = [
    "FAR_BELOW", "Measured", "Memory", "Peaks", "bytes_of_program", "flops_of", "measured_peaks", "memory_of", "reached", "turning_point",
    "xla_flops",
]  # fmt: skip
