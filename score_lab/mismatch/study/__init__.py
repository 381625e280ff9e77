"""A study of the mismatch: runs recorded beside their null, kept and resumed, measured, and said in words.

``experiments.snr_mismatch`` is its command; ``score_lab.report.mismatch.page`` its table and page.
"""

from score_lab.mismatch.study.measuring import Measured, Pair, measured
from score_lab.mismatch.study.named import READ_OUTS, Setting, estimator_of, measure_of, read_outs_of
from score_lab.mismatch.study.recording import FEWEST, Examples, Recorded, Recording, Subject
from score_lab.mismatch.study.records import Records, spectrum_of

__all__ = [
    "FEWEST", "READ_OUTS", "Examples", "Measured", "Pair", "Recorded", "Recording", "Records", "Setting", "Subject", "estimator_of",
    "measure_of", "measured", "read_outs_of", "spectrum_of",
]  # fmt: skip
